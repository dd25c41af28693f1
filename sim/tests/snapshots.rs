//! Do all replicas keep the same version, with crashes, laggards, hand-overs and disks without room? Scripts, each lived under several
//! seeds; that contents are those of the position is checked by the world.

mod common;

use common::{SECOND, all_become};
use mars::{Absence, Snapshot, SnapshotState};
use model::ReplicaState;
use sim::{Profile, Violation, World};

const NAME: &str = "before";

fn lives(profile: &Profile, script: impl Fn(&mut World) -> Result<(), Violation>) {
    common::lives(profile, |world| script(world).map(|()| 0));
}

fn replicated(world: &mut World, members: &[usize]) -> Result<(), Violation> {
    all_become(world, members, 30 * SECOND, |s| s.state == ReplicaState::Uptodate)?;
    // Until that is durable, and known to the primary.
    world.run_for(SECOND / 4)
}

fn entry(world: &World, node: usize) -> Option<&Snapshot> {
    let mut known = world.status(node)?.snapshots.iter().rev();
    known.find(|snapshot| snapshot.name.as_str() == NAME)
}

fn writes(world: &World) -> u64 {
    let counts = world.figures().counts;
    counts.get("guest: write").copied().unwrap_or(0)
}

fn is(world: &World, node: usize, state: &SnapshotState) -> bool {
    entry(world, node).is_some_and(|snapshot| snapshot.state == *state)
}

/// Both have it, and it is the same.
fn kept_by(world: &mut World, nodes: &[usize]) -> Result<(), Violation> {
    let all = |w: &World| nodes.iter().all(|node| is(w, *node, &SnapshotState::Kept));
    let kept = world.run_until(30 * SECOND, all)?;
    let states: Vec<_> = nodes.iter().map(|node| entry(world, *node)).collect();
    assert!(kept, "not kept by {nodes:?}: {states:?}");
    let first = world.snapshot_contents(nodes[0], NAME).map(<[u8]>::to_vec);
    for node in nodes {
        assert_eq!(
            entry(world, *node).map(|s| s.at),
            entry(world, nodes[0]).map(|s| s.at)
        );
        assert!(world.snapshot_contents(*node, NAME) == first.as_deref());
    }
    Ok(())
}

#[test]
fn a_crash_between_record_and_snapshot_or_in_the_middle_of_it_loses_none() {
    for micros in [300, 2_000, 20_000, 120_000] {
        lives(&Profile::calm(2), |world| {
            replicated(world, &[0, 1])?;
            world.snapshot(0, NAME);
            assert!(world.run_until(SECOND, |w| entry(w, 1).is_some() || w.now().0 > SECOND)?);
            world.run_for(micros)?;
            world.power_cut(0);
            world.start_after(0, SECOND / 50);
            world.run_for(micros)?;
            world.kill(1);
            world.start_after(1, SECOND / 20);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
            // Whether the first wish had come into the log or not.
            world.snapshot(0, NAME);
            kept_by(world, &[0, 1])?;
            world.run_for(SECOND)?;
            world.settle()?;
            kept_by(world, &[0, 1])
        });
    }
}

#[test]
fn a_pending_snapshot_is_taken_again_from_a_disk_that_has_not_changed() {
    for node in [0, 1] {
        lives(&Profile::calm(2), |world| {
            replicated(world, &[0, 1])?;
            world.snapshot(0, NAME);
            let pending = |w: &World| is(w, node, &SnapshotState::Pending);
            assert!(world.run_until(SECOND, pending)?, "h{node} never takes it");
            world.power_cut(node);
            world.start_after(node, SECOND / 10);
            kept_by(world, &[0, 1])?;
            world.settle()
        });
    }
}

#[test]
fn a_takeover_in_the_middle_of_a_snapshot_has_it_too() {
    let roomy = Profile::calm(3).with_log_bytes_max(64 << 20);
    lives(&roomy, |world| {
        replicated(world, &[0, 1, 2])?;
        world.snapshot(0, NAME);
        let pending = |w: &World| is(w, 1, &SnapshotState::Pending);
        assert!(world.run_until(SECOND, pending)?);
        world.power_cut(0);
        world.take_over(1);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.move_guest_to(1);
        // Whoever has more than that of the old primary's has parted, and has the snapshot all the same.
        kept_by(world, &[1, 2])?;
        world.start_after(0, 1000);
        world.settle()?;
        kept_by(world, &[1])
    });
}

#[test]
fn a_follower_far_behind_comes_to_it_later_and_keeps_the_same() {
    let roomy = Profile::calm(2).with_log_bytes_max(64 << 20);
    lives(&roomy, |world| {
        replicated(world, &[0, 1])?;
        world.cut_link(0, 1, false);
        world.run_for(SECOND)?;
        world.snapshot(0, NAME);
        kept_by(world, &[0])?;
        world.run_for(3 * SECOND)?;
        assert!(entry(world, 1).is_none());
        world.heal(0, 1);
        kept_by(world, &[0, 1])?;
        world.settle()
    });
}

#[test]
fn the_role_moves_around_a_snapshot() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.snapshot(0, NAME);
        world.hand_over(0, 1, SECOND);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.run_for(SECOND)?;
        // Whether the wish had come into the log before the role moved or not.
        world.snapshot(1, NAME);
        kept_by(world, &[0, 1])?;
        world.settle()
    });
}

#[test]
fn a_replica_in_sync_has_none_and_says_so() {
    let large = Profile::calm(1).with_sectors(16_384, 1024);
    lives(&large, |world| {
        world.run_for(SECOND)?;
        let joiner = world.join();
        let copies = |w: &World| w.status(joiner).is_some_and(|s| s.state == ReplicaState::Syncing);
        assert!(world.run_until(10 * SECOND, copies)?);
        world.snapshot(0, NAME);
        kept_by(world, &[0])?;
        replicated(world, &[0, joiner])?;
        if let Some(snapshot) = entry(world, joiner).filter(|s| s.state != SnapshotState::Kept) {
            let why = Absence::Copying;
            assert_eq!(snapshot.state, SnapshotState::Missing { why });
            assert!(world.snapshot_contents(joiner, NAME).is_none());
        }
        world.settle()
    });
}

#[test]
fn a_disk_without_room_has_none_and_goes_on() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.fill_disk(1, true);
        world.snapshot(0, NAME);
        let failed = |w: &World| {
            let state = entry(w, 1).map(|snapshot| &snapshot.state);
            matches!(state, Some(SnapshotState::Failed { reason }) if reason.contains("no space"))
        };
        assert!(world.run_until(5 * SECOND, failed)?);
        kept_by(world, &[0])?;
        world.run_for(SECOND)?;
        replicated(world, &[0, 1])?;
        // It is given up there, and taken under the same name once there is room.
        world.fill_disk(1, false);
        world.drop_snapshots(0, NAME);
        world.drop_snapshots(1, NAME);
        let gone = |w: &World| entry(w, 0).is_none() && entry(w, 1).is_none();
        assert!(world.run_until(5 * SECOND, gone)?);
        world.snapshot(0, NAME);
        kept_by(world, &[0, 1])?;
        world.settle()
    });
}

#[test]
fn a_lone_volume_without_a_log_is_kept_between_two_writes() {
    lives(&Profile::calm(1), |world| {
        world.run_for(SECOND)?;
        assert!(world.status(0).is_some_and(|s| s.straight));
        world.snapshot(0, NAME);
        kept_by(world, &[0])?;
        world.run_for(SECOND)?;
        world.snapshot(0, "struck");
        world.run_for(20_000)?;
        world.kill(0);
        world.start_after(0, SECOND / 10);
        world.run_for(SECOND)?;
        world.settle()
    });
}

#[test]
fn a_disk_that_takes_long_neither_stops_guests_for_ever_nor_the_log() {
    let tight = Profile::calm(2).with_log_bytes_max(128 << 10);
    lives(&tight, |world| {
        replicated(world, &[0, 1])?;
        // A copy of seconds, a log that is full meanwhile, and no room for more of it.
        world.slow_disk(0, 30);
        world.fill_log(0, 256 << 10);
        world.snapshot(0, NAME);
        world.run_for(10 * SECOND)?;
        world.slow_disk(0, 1);
        world.make_room(0);
        // Where the log was given up before the record came into it, it was refused.
        replicated(world, &[0, 1])?;
        world.snapshot(0, NAME);
        kept_by(world, &[0])?;
        world.settle()
    });
}

#[test]
fn write_back_goes_on_while_a_disk_copies_and_a_crash_in_the_middle_loses_nothing() {
    for micros in [10_000, 300_000, SECOND] {
        lives(&Profile::calm(2), |world| {
            replicated(world, &[0, 1])?;
            for node in [0, 1] {
                world.slow_copies(node, 1000);
            }
            world.snapshot(0, NAME);
            for node in [0, 1] {
                let on = |w: &World| {
                    let at = entry(w, node).map(|snapshot| snapshot.at.lsn);
                    let ahead =
                        at.is_some_and(|at| w.status(node).is_some_and(|s| s.watermarks.written_back() > at));
                    ahead && is(w, node, &SnapshotState::Pending)
                };
                assert!(world.run_until(SECOND, on)?, "h{node} waits for its copy");
            }
            world.run_for(micros)?;
            world.power_cut(0);
            world.kill(1);
            world.start_after(0, SECOND / 10);
            world.start_after(1, SECOND / 10);
            world.run_for(micros)?;
            for node in [0, 1] {
                world.slow_copies(node, 1);
            }
            // Whoever has begun the slow one again begins it once more.
            world.kill(0);
            world.kill(1);
            world.start_after(0, SECOND / 10);
            world.start_after(1, SECOND / 10);
            kept_by(world, &[0, 1])?;
            world.settle()
        });
    }
}

#[test]
fn a_copy_that_is_refused_in_the_middle_has_held_up_nothing_for_long() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.slow_copies(1, 20);
        world.snapshot(0, NAME);
        let pending = |w: &World| is(w, 1, &SnapshotState::Pending);
        assert!(world.run_until(SECOND, pending)?);
        world.fill_disk(1, true);
        let failed = |w: &World| matches!(entry(w, 1).map(|s| &s.state), Some(SnapshotState::Failed { .. }));
        assert!(world.run_until(60 * SECOND, failed)?);
        kept_by(world, &[0])?;
        replicated(world, &[0, 1])?;
        world.fill_disk(1, false);
        world.settle()
    });
}

#[test]
fn a_lone_volume_without_a_log_changes_while_it_is_copied() {
    lives(&Profile::calm(1), |world| {
        world.run_for(SECOND)?;
        assert!(world.status(0).is_some_and(|s| s.straight));
        world.slow_copies(0, 5000);
        world.snapshot(0, NAME);
        assert!(world.run_until(SECOND, |w| is(w, 0, &SnapshotState::Pending))?);
        let before = writes(world);
        world.run_for(SECOND)?;
        assert!(writes(world) > before + 50, "the guest waits for the copy");
        assert!(is(world, 0, &SnapshotState::Pending));
        world.power_cut(0);
        world.slow_copies(0, 1);
        world.start_after(0, SECOND / 10);
        kept_by(world, &[0])?;
        world.settle()
    });
}
