//! Does a volume grow as its story says, with crashes, laggards and disks without room? Scripts, each lived under several seeds.

mod common;

use common::{SECOND, all_become};
use mars::Notice;
use model::ReplicaState;
use sim::{Profile, Violation, World};

fn lives(profile: &Profile, script: impl Fn(&mut World) -> Result<(), Violation>) {
    common::lives(profile, |world| script(world).map(|()| 0));
}

fn replicated(world: &mut World, members: &[usize]) -> Result<(), Violation> {
    all_become(world, members, 30 * SECOND, |s| s.state == ReplicaState::Uptodate)
}

const LONGER: u64 = 2048;

fn is_long(world: &World, node: usize) -> bool {
    world.status(node).is_some_and(|s| s.size.sectors().0 == LONGER)
}

#[test]
fn a_volume_grows_under_load_through_crashes_of_both_sides() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.grow(0, LONGER);
        world.run_for(2000)?;
        world.kill(0);
        world.start_after(0, SECOND / 50);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
        // Whether the first wish had come into the log or not.
        world.grow(0, LONGER);
        world.run_for(1000)?;
        world.power_cut(1);
        world.start_after(1, SECOND / 10);
        assert!(world.run_until(20 * SECOND, |w| is_long(w, 0) && is_long(w, 1))?);
        replicated(world, &[0, 1])?;
        world.hand_over(0, 1, SECOND);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.run_for(SECOND)?;
        world.settle()?;
        Ok(())
    });
}

#[test]
fn a_replica_without_room_waits_for_it_and_never_holds_up_the_others() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        world.fill_disk(2, true);
        world.grow(0, LONGER);
        assert!(world.run_until(5 * SECOND, |w| is_long(w, 0) && is_long(w, 1))?);
        world.run_for(3 * SECOND)?;
        let behind = world.status(2).expect("it is up");
        assert_eq!(behind.state, ReplicaState::Behind);
        assert!(
            behind
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("cannot grow"))
        );
        // It has the whole log all the same.
        assert!(
            world
                .status(0)
                .is_some_and(|s| s.peers.iter().all(|peer| peer.lag_micros < SECOND))
        );
        world.fill_disk(2, false);
        assert!(world.run_until(5 * SECOND, |w| is_long(w, 2))?);
        world.settle()?;
        Ok(())
    });
}

#[test]
fn a_laggard_that_missed_a_growth_compares_what_was_written_and_not_the_new_part() {
    let small = Profile::calm(2)
        .with_log_bytes_max(128 << 10)
        .with_sectors(4096, 64);
    lives(&small, |world| {
        replicated(world, &[0, 1])?;
        world.run_for(SECOND)?;
        world.power_cut(1);
        world.run_for(SECOND / 10)?;
        world.grow(0, 65_536);
        let dropped = |w: &World| {
            w.notices()
                .iter()
                .any(|(_, n)| matches!(n, Notice::PeerDropped { .. }))
        };
        assert!(world.run_until(30 * SECOND, dropped)?);
        world.run_for(SECOND)?;
        world.start_after(1, 1000);
        replicated(world, &[0, 1])?;
        world.settle()?;
        let partial = world.notices().iter().find_map(|(_, notice)| match notice {
            Notice::SyncStarted { partial, .. } => *partial,
            _ => None,
        });
        let compared = partial.expect("what it lacked was known").0;
        assert!(compared < 4096, "{compared} sectors compared");
        Ok(())
    });
}
