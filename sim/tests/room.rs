//! What happens when the room for a log runs short? One script per level, each lived under several seeds.

mod common;

use common::{SECOND, all_become, lives};
use mars::{Level, Limits, MaxLag, Notice};
use model::{Mode, ReplicaState};
use sim::{Profile, Violation, World};

fn replicated(world: &mut World, members: &[usize]) -> Result<(), Violation> {
    all_become(world, members, 60 * SECOND, |s| {
        s.state == ReplicaState::Uptodate && s.pressure == Level::Normal
    })
}

fn level(world: &World, node: usize) -> Level {
    world.status(node).map_or(Level::Normal, |status| status.pressure)
}

fn is_straight(world: &World) -> bool {
    world
        .primary()
        .and_then(|node| world.status(node))
        .is_some_and(|s| s.straight)
}

/// Partial and full copies that have begun so far.
fn copies(world: &World) -> (usize, usize) {
    let begun = world.notices().iter().filter_map(|(_, notice)| match notice {
        Notice::SyncStarted { partial, .. } => Some(partial.is_some()),
        _ => None,
    });
    let (partial, full): (Vec<bool>, Vec<bool>) = begun.partition(|partial| *partial);
    (partial.len(), full.len())
}

fn writes(world: &World) -> u64 {
    let counts = world.figures().counts;
    counts.get("guest: write").copied().unwrap_or(0)
}

/// Room for three replicas, of a volume that is used at its beginning only.
fn three() -> Profile {
    Profile::calm(3).with_sectors(8192, 512)
}

#[test]
fn guests_are_slowed_before_a_laggard_is_dropped_and_only_for_one_that_takes_log() {
    let profile = Profile::calm(2).with_log_bytes_max(4 << 20);
    let slowed = lives(&profile, |world| {
        replicated(world, &[0, 1])?;
        let limits = Limits {
            ship_bytes_per_second: Some(1 << 20),
            sync_bytes_per_second: None,
        };
        world.set_limits(0, limits).expect("it is up");
        let throttled = |w: &World| w.status(0).is_some_and(|s| s.pace_bytes_per_second.is_some());
        assert!(world.run_until(60 * SECOND, throttled)?, "nobody was slowed");
        assert_eq!(level(world, 0), Level::Throttled);
        let (at, dropped) = (world.notices().len(), |(_, n): &(usize, Notice)| {
            matches!(n, Notice::PeerDropped { .. })
        });
        assert!(!world.notices()[..at].iter().any(dropped));
        world.cut_link(0, 1, false);
        let free = |w: &World| w.status(0).is_some_and(|s| s.pace_bytes_per_second.is_none());
        assert!(world.run_until(5 * SECOND, free)?, "slowed for one that is gone");
        assert!(
            world.run_until(60 * SECOND, |w| w.notices().iter().any(dropped))?,
            "the log grew without end"
        );
        world.heal(0, 1);
        world.settle()?;
        Ok(1)
    });
    assert_eq!(slowed, 20);
}

/// A primary whose log has no room has `trouble`, then there is room; how many partial and full copies that costs.
fn without_room(trouble: impl Fn(&mut World) -> Result<(), Violation>) -> (usize, usize) {
    let sum = std::cell::Cell::new((0, 0));
    lives(&three(), |world| {
        replicated(world, &[0, 1, 2])?;
        world.run_for(SECOND / 2)?;
        let before = copies(world);
        world.fill_log(0, 8 << 10);
        assert!(world.run_until(20 * SECOND, is_straight)?, "it still has a log");
        let (from, had) = (world.take_write_micros_max(), writes(world));
        world.run_for(2 * SECOND)?;
        assert!(writes(world) > had + 500, "guests stand still: {from}");
        assert_eq!(level(world, 0), Level::Unlogged);
        trouble(world)?;
        world.run_for(2 * SECOND)?;
        world.make_room(0);
        replicated(world, &[0, 1, 2])?;
        assert!(!is_straight(world));
        world.settle()?;
        let after = copies(world);
        let (partial, full) = sum.get();
        sum.set((partial + after.0 - before.0, full + after.1 - before.1));
        Ok(0)
    });
    sum.get()
}

#[test]
fn without_room_changes_go_straight_and_what_changed_is_copied() {
    let (partial, full) = without_room(|_| Ok(()));
    assert!(partial >= 40 && full == 0, "{partial} partial, {full} full");
}

#[test]
fn what_changed_without_a_log_is_known_after_crashes() {
    let (partial, full) = without_room(|world| {
        for round in 0..4 {
            match round % 2 {
                0 => world.power_cut(0),
                _ => world.kill(0),
            }
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
            world.run_for(SECOND / 2)?;
            assert!(is_straight(world));
        }
        Ok(())
    });
    assert!(partial >= 40 && full == 0, "{partial} partial, {full} full");
}

#[test]
fn a_log_that_fills_again_and_again_is_no_error() {
    lives(&three(), |world| {
        replicated(world, &[0, 1, 2])?;
        for left in [0, 4 << 10, 300 << 10, 1 << 10, 40 << 10] {
            world.fill_log(0, left);
            world.run_for(SECOND)?;
            world.make_room(0);
            world.run_for(3 * SECOND / 2)?;
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn crashes_while_a_log_fills_or_comes_back_lose_nothing() {
    lives(&three(), |world| {
        replicated(world, &[0, 1, 2])?;
        for millis in [1, 3, 10, 30, 100, 300] {
            world.fill_log(0, millis * 100);
            world.run_for(millis * 1000)?;
            match millis % 3 {
                0 => world.power_cut(0),
                _ => world.kill(0),
            }
            world.start_after(0, 1000);
            world.run_for(2 * SECOND)?;
            world.make_room(0);
            world.run_for(millis * 1000 + SECOND)?;
            world.kill(0);
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_replica_without_room_takes_nothing_in_and_goes_on_by_itself() {
    let held = lives(&Profile::calm(2).with_log_bytes_max(16 << 20), |world| {
        replicated(world, &[0, 1])?;
        let before = copies(world);
        world.fill_log(1, 2 << 10);
        let seen = |w: &World| {
            let peer = w.status(0).and_then(|s| s.peers.first());
            level(w, 1) == Level::Stalled && peer.is_some_and(|p| p.state == ReplicaState::Paused)
        };
        assert!(world.run_until(20 * SECOND, seen)?, "nobody says so");
        assert_eq!(level(world, 0), Level::Normal);
        world.make_room(1);
        replicated(world, &[0, 1])?;
        world.settle()?;
        assert_eq!(copies(world), before, "it had all that it needed");
        Ok(1)
    });
    assert_eq!(held, 20);
}

#[test]
fn a_replica_without_room_for_long_is_dropped_to_a_map() {
    lives(&three().with_log_bytes_max(512 << 10), |world| {
        replicated(world, &[0, 1, 2])?;
        let before = copies(world);
        world.fill_log(2, 0);
        let dropped = |w: &World| {
            w.notices()
                .iter()
                .any(|(_, n)| matches!(n, Notice::PeerDropped { .. }))
        };
        assert!(world.run_until(60 * SECOND, dropped)?, "the log grew without end");
        world.run_for(SECOND)?;
        world.make_room(2);
        replicated(world, &[0, 1, 2])?;
        world.settle()?;
        assert_eq!(copies(world).1, before.1, "what changed was known");
        Ok(0)
    });
}

#[test]
fn in_sync_mode_changes_wait_for_room_and_in_near_sync_mode_they_do_not() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world
            .set_mode(0, Mode::Sync { replicas: 1 }, MaxLag::default())
            .expect("it is up");
        world.run_for(SECOND / 10)?;
        world.fill_log(0, 0);
        let stalled = |w: &World| level(w, 0) == Level::Stalled;
        assert!(world.run_until(5 * SECOND, stalled)?);
        world.run_for(5 * SECOND)?;
        assert!(!is_straight(world));
        let near = Mode::NearSync {
            replicas: 1,
            wait_millis_max: 100,
        };
        world.set_mode(0, near, MaxLag::default()).expect("it is up");
        assert!(world.run_until(5 * SECOND, is_straight)?);
        let short = world.status(0).and_then(|s| s.short_micros);
        assert!(short.is_some(), "flushes are answered without replicas");
        world.run_for(SECOND)?;
        world.make_room(0);
        replicated(world, &[0, 1])?;
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_budget_of_nothing_is_no_log_and_a_budget_brings_it_back() {
    lives(&three(), |world| {
        replicated(world, &[0, 1, 2])?;
        world.set_log_budget(0, 0);
        assert!(world.run_until(20 * SECOND, is_straight)?, "it still has a log");
        world.run_for(2 * SECOND)?;
        world.kill(0);
        world.start_after(0, 1000);
        world.run_for(2 * SECOND)?;
        assert!(is_straight(world));
        world.set_log_budget(0, 1 << 20);
        replicated(world, &[0, 1, 2])?;
        assert!(!is_straight(world));
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_log_over_its_budget_is_kept_for_nobody_while_the_role_is_about_to_move() {
    let dropped = lives(&three(), |world| {
        replicated(world, &[0, 1, 2])?;
        world.kill(2);
        let limits = Limits {
            ship_bytes_per_second: Some(10_000),
            sync_bytes_per_second: None,
        };
        world.set_limits(0, limits).expect("it is up");
        let much = |w: &World| w.status(0).is_some_and(|s| s.log_bytes > 256 << 10);
        assert!(world.run_until(60 * SECOND, much)?, "the log is short");
        // Until the other has all of it, which takes long, the log is not given up for lack of room.
        world.step_down(0).expect("it is up");
        world.set_log_budget(0, 0);
        let is_dropped = |(_, notice): &(usize, Notice)| matches!(notice, Notice::PeerDropped { .. });
        let begun = world.notices().len();
        assert!(
            world.run_until(SECOND / 10, |w| w.notices()[begun..].iter().any(is_dropped))?,
            "the log is kept for one that is away"
        );
        world.start_after(2, 1);
        world.set_limits(0, Limits::default()).expect("it is up");
        world.set_log_budget(0, 1 << 20);
        world.settle()?;
        Ok(1)
    });
    assert_eq!(dropped, 20);
}

#[test]
fn a_flush_without_room_holds_guests_up_and_takes_nothing_back() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.fill_log_late(0);
        let stalled = |w: &World| level(w, 0) == Level::Stalled;
        assert!(world.run_until(2 * SECOND, stalled)?, "nobody noticed");
        world.run_for(SECOND)?;
        let before = writes(world);
        world.run_for(SECOND)?;
        assert_eq!(
            writes(world),
            before,
            "what cannot become durable is not answered for ever"
        );
        // What was answered is still there for whoever starts again.
        world.kill(0);
        world.start_after(0, SECOND / 10);
        world.run_for(SECOND)?;
        world.make_room(0);
        replicated(world, &[0, 1])?;
        assert!(writes(world) > before);
        // At a replica it is nobody else's trouble.
        world.fill_log_late(1);
        let waits = |w: &World| w.status(1).is_some_and(|s| s.state == ReplicaState::Paused);
        assert!(world.run_until(2 * SECOND, waits)?, "nobody noticed");
        let before = writes(world);
        world.run_for(2 * SECOND)?;
        assert!(writes(world) > before, "guests wait for a replica");
        assert!(level(world, 0) < Level::Unlogged, "the primary is in trouble too");
        world.make_room(1);
        replicated(world, &[0, 1])?;
        let failed = |(_, notice): &(usize, Notice)| matches!(notice, Notice::Failed { .. });
        assert!(!world.notices().iter().any(failed));
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn who_takes_over_with_a_log_that_was_never_flushed_may_lose_its_power() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        // All that it has is on its disk, and then more comes.
        world.cut_link(0, 1, false);
        world.run_for(SECOND / 5)?;
        world.fill_log_late(1);
        world.heal(0, 1);
        let waits = |w: &World| w.status(1).is_some_and(|s| s.state == ReplicaState::Paused);
        assert!(world.run_until(20 * SECOND, waits)?, "nobody noticed");
        world.kill(0);
        world.take_over(1).expect("it is up");
        world.run_for(SECOND / 2)?;
        world.power_cut(1);
        world.make_room(1);
        world.start_after(1, 1);
        world.run_for(SECOND)?;
        let state = world.status(1).map(|s| s.state);
        assert_ne!(
            state,
            Some(ReplicaState::DefectiveLog),
            "what was not flushed is no damage"
        );
        if world.primary() == Some(1) {
            world.move_guest_to(1);
        }
        world.start_after(0, 1);
        world.settle()?;
        Ok(0)
    });
}
