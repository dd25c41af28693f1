//! Does a guest stay served behind a door on another host, whatever becomes of primary, door and what is between them?

mod common;

use common::{SECOND, all_become, lives};
use model::ReplicaState;
use sim::{Profile, Violation, World};

/// Memory for copies that no guest here comes near.
const PLENTY: u64 = 64 << 20;

/// Attaches the guest through a host, and waits until it is served and everybody is up to date.
fn attached(world: &mut World, host: usize, members: &[usize]) -> Result<(), Violation> {
    world.attach_through(host, PLENTY);
    all_become(world, members, 20 * SECOND, |s| s.state == ReplicaState::Uptodate)?;
    served_by(world, 0)
}

fn served_by(world: &mut World, node: usize) -> Result<(), Violation> {
    let served = world.run_until(20 * SECOND, |w| w.door_served_by() == Some(node))?;
    assert!(served, "the door never reaches h{node}");
    Ok(())
}

#[test]
fn what_was_answered_survives_a_kill_of_either_end() {
    let found = lives(&Profile::calm(2), |world| {
        attached(world, 3, &[0, 1])?;
        for _ in 0..4 {
            world.run_for(SECOND / 20)?;
            world.kill(0);
            world.start_after(0, SECOND / 50);
            world.run_for(SECOND / 10)?;
            // A host without a replica comes back by itself.
            world.kill(3);
            served_by(world, 0)?;
        }
        world.settle()?;
        Ok(world.figures().counts["doors: sessions served"])
    });
    assert!(found > 100, "{found} times served");
}

#[test]
fn what_only_the_session_has_is_written_again_before_it_is_read() {
    let copied = lives(&Profile::calm(2), |world| {
        attached(world, 3, &[0, 1])?;
        // What is answered becomes durable late.
        world.slow_disk(0, 20);
        let mut copied = 0;
        for _ in 0..4 {
            world.run_for(SECOND / 20)?;
            copied += world.door_copies_bytes();
            world.power_cut(0);
            world.start_after(0, SECOND / 50);
            served_by(world, 0)?;
            world.run_for(SECOND / 5)?;
        }
        world.settle()?;
        Ok(copied)
    });
    assert!(copied > 0, "nothing was ever only copied");
}

#[test]
fn a_takeover_loses_nothing_that_was_not_flushed() {
    let moved = lives(&Profile::calm(3), |world| {
        attached(world, 4, &[0, 1, 2])?;
        world.run_for(SECOND / 10)?;
        world.power_cut(0);
        world.take_over(1).expect("it is up");
        served_by(world, 1)?;
        world.run_for(SECOND / 10)?;
        world.start_after(0, 1000);
        world.settle()?;
        Ok(world.figures().counts["doors: guests that lived through a takeover"])
    });
    assert_eq!(moved, 20);
}

#[test]
fn the_role_comes_to_the_doors_host_and_leaves_it() {
    lives(&Profile::calm(3), |world| {
        attached(world, 2, &[0, 1, 2])?;
        for (from, to) in [(0, 2), (2, 1), (1, 2), (2, 0)] {
            world.run_for(SECOND / 20)?;
            world.hand_over(from, to, SECOND).expect("it is up");
            served_by(world, to)?;
            all_become(world, &[0, 1, 2], 20 * SECOND, |s| {
                s.state == ReplicaState::Uptodate
            })?;
        }
        // What the local primary answered, its successor must have durably.
        world.power_cut(0);
        world.start_after(0, 1000);
        served_by(world, 0)?;
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_connection_that_is_dead_without_a_word_is_given_up() {
    lives(&Profile::calm(2), |world| {
        attached(world, 3, &[0, 1])?;
        world.run_for(SECOND / 20)?;
        world.cut_link(3, 0, true);
        world.run_for(SECOND)?;
        world.hand_over(0, 1, SECOND).expect("it is up");
        served_by(world, 1)?;
        world.heal(3, 0);
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_replica_at_the_door_leaves_while_its_guest_works() {
    lives(&Profile::calm(3), |world| {
        attached(world, 1, &[0, 1, 2])?;
        world.run_for(SECOND / 20)?;
        world.leave(1);
        world.run_for(SECOND / 2)?;
        world.hand_over(0, 2, SECOND).expect("it is up");
        served_by(world, 2)?;
        world.rejoin(0);
        world.run_for(SECOND / 2)?;
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn what_a_guest_had_asked_before_its_host_lost_power_is_not_done_later() {
    let profile = Profile::calm(2).with_sectors(64, 8);
    lives(&profile, |world| {
        attached(world, 3, &[0, 1])?;
        world.run_for(SECOND / 50)?;
        // The successor never has everything: what waits at the gate goes on here.
        world.cut_link(0, 1, true);
        world.hand_over(0, 1, 4 * SECOND).expect("it is up");
        world.run_for(SECOND / 20)?;
        world.power_cut(3);
        world.run_for(6 * SECOND)?;
        world.heal(0, 1);
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_door_that_starts_anew_is_not_served_by_a_primary_of_the_past() {
    lives(&Profile::calm(3), |world| {
        attached(world, 4, &[0, 1, 2])?;
        world.cut_link(0, 1, false);
        world.cut_link(0, 2, false);
        world.cut_link(0, 4, false);
        world.take_over(1).expect("it is up");
        served_by(world, 1)?;
        world.run_for(SECOND / 20)?;
        // Now the old primary can be reached from the door, and from nowhere else.
        world.heal(0, 4);
        world.kill(4);
        served_by(world, 1)?;
        world.settle()?;
        Ok(0)
    });
}
