//! What does the engine do in the situations that have names? Scripts, each lived under several seeds.

mod common;

use common::{SECOND, all_become, lives};
use mars::{Limits, MaxLag, Notice, Switch};
use model::{Mode, ReplicaState, Role};
use sim::{Profile, Violation, World};

/// Waits until every member is up to date.
fn replicated(world: &mut World, members: &[usize]) -> Result<(), Violation> {
    all_become(world, members, 20 * SECOND, |s| s.state == ReplicaState::Uptodate)
}

fn count(world: &World, is: impl Fn(&Notice) -> bool) -> u64 {
    world.notices().iter().filter(|(_, notice)| is(notice)).count() as u64
}

#[test]
fn two_nodes_replicate() {
    let writes = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.run_for(SECOND)?;
        world.settle()?;
        assert_eq!(count(world, |n| matches!(n, Notice::SyncFinished { .. })), 1);
        Ok(world.figures().counts["guest: write"])
    });
    assert!(writes > 2000, "{writes} writes");
}

#[test]
fn links_of_an_idle_volume_stay() {
    for fetches in [true, false] {
        lives(&Profile::calm(3), |world| {
            replicated(world, &[0, 1, 2])?;
            world.switch(1, Switch::Fetch, !fetches).expect("it is up");
            world.hush();
            world.run_for(SECOND)?;
            let streams = |w: &World| count(w, |n| matches!(n, Notice::Streaming { .. }));
            let before = streams(world);
            world.run_for(60 * SECOND)?;
            assert_eq!(streams(world), before, "streams were opened again");
            Ok(0)
        });
    }
}

#[test]
fn a_killed_primary_comes_back_with_every_answered_write() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        for _ in 0..5 {
            world.run_for(SECOND / 10)?;
            world.kill(0);
            world.start_after(0, SECOND / 20);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_replica_ahead_of_a_primary_that_lost_power_is_cut_back() {
    let cuts = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        for _ in 0..5 {
            // Its appends are shipped at once, but become durable late.
            world.slow_disk(0, 30);
            world.run_for(SECOND / 5)?;
            world.power_cut(0);
            world.start_after(0, SECOND / 100);
            replicated(world, &[0, 1])?;
        }
        world.settle()?;
        Ok(count(world, |n| matches!(n, Notice::CutBack { .. })))
    });
    assert!(cuts > 0, "no replica was ever ahead");
}

#[test]
fn a_node_joins_under_load_and_holds_the_same() {
    lives(&Profile::calm(2), |world| {
        world.run_for(SECOND / 5)?;
        let third = world.join();
        replicated(world, &[0, 1, third])?;
        world.settle()?;
        for node in [0, 1, third] {
            world.checksum(node).expect("it is up");
        }
        assert!(world.run_until(SECOND, World::is_at_rest)?);
        assert_eq!(world.figures().counts["checks: digests compared"], 3);
        Ok(0)
    });
}

#[test]
fn the_primary_goes_round_under_load() {
    let gated = lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            world.run_for(SECOND / 10)?;
            world.hand_over(from, to, SECOND).expect("it is up");
            assert!(
                world.run_until(20 * SECOND, |w| w.primary() == Some(to))?,
                "h{to} is not primary"
            );
            replicated(world, &[0, 1, 2])?;
        }
        world.settle()?;
        assert_eq!(world.status(1).map(|s| s.role), Some(Role::Secondary));
        assert_eq!(world.figures().counts["operators: hand-over done"], 3);
        assert_eq!(
            count(world, |n| matches!(n, Notice::SyncFinished { .. })),
            2,
            "nobody needs a full sync again"
        );
        Ok(world.figures().gate_micros_max)
    });
    assert!(gated > 0);
}

/// Cuts off the third node until its log is given up, has `trouble`, and lets it come back.
fn a_laggard_comes_back(trouble: impl Fn(&mut World) -> Result<(), Violation>) -> Vec<Notice> {
    let seen = std::cell::RefCell::new(Vec::new());
    let profile = Profile::calm(3)
        .with_log_bytes_max(256 << 10)
        .with_sectors(8192, 512);
    lives(&profile, |world| {
        replicated(world, &[0, 1, 2])?;
        world.cut_link(0, 2, true);
        world.cut_link(1, 2, true);
        let dropped = |w: &World| count(w, |n| matches!(n, Notice::PeerDropped { .. })) > 0;
        assert!(world.run_until(30 * SECOND, dropped)?, "the log grew without end");
        world.run_for(SECOND)?;
        trouble(world)?;
        let before = world.notices().len();
        world.heal(0, 2);
        world.heal(1, 2);
        world.settle()?;
        let news = world.notices()[before..].iter().filter(|(node, _)| *node == 2);
        seen.borrow_mut().extend(news.map(|(_, notice)| notice.clone()));
        Ok(0)
    });
    seen.into_inner()
}

/// How many syncs have begun, partial ones and full ones.
fn syncs(notices: &[Notice]) -> (usize, usize) {
    let begun = notices.iter().filter_map(|notice| match notice {
        Notice::SyncStarted { partial, .. } => Some(*partial),
        _ => None,
    });
    let (partial, full): (Vec<_>, Vec<_>) = begun.partition(Option::is_some);
    // What was never written is not compared: the guest works on 512 of 8192 sectors.
    assert!(
        partial.iter().flatten().all(|sectors| sectors.0 <= 1024),
        "{partial:?}"
    );
    (partial.len(), full.len())
}

#[test]
fn a_laggard_is_dropped_and_what_changed_is_copied() {
    let (partial, full) = syncs(&a_laggard_comes_back(|_| Ok(())));
    assert!(partial >= 20 && full == 0, "{partial} partial, {full} full");
}

#[test]
fn what_a_laggard_lacks_is_remembered_over_a_crash_of_the_primary() {
    let news = a_laggard_comes_back(|world| {
        for round in 0..4 {
            if round % 2 == 0 {
                world.power_cut(0);
            } else {
                world.kill(0);
            }
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
            world.run_for(SECOND / 2)?;
        }
        Ok(())
    });
    let (partial, full) = syncs(&news);
    assert!(partial >= 20 && full == 0, "{partial} partial, {full} full");
}

#[test]
fn another_primary_does_not_know_what_a_laggard_lacks() {
    let news = a_laggard_comes_back(|world| {
        for (from, to) in [(0, 1), (1, 0)] {
            world.hand_over(from, to, SECOND).expect("it is up");
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(to))?);
            world.run_for(SECOND)?;
        }
        Ok(())
    });
    let (partial, full) = syncs(&news);
    assert!(partial == 0 && full >= 20, "{partial} partial, {full} full");
}

#[test]
fn a_torn_tail_is_cut_and_no_more_than_that() {
    let torn = lives(&Profile::calm(2), |world| {
        for _ in 0..10 {
            world.run_for(SECOND / 20)?;
            world.power_cut(0);
            world.power_cut(1);
            world.start_after(0, 1000);
            world.start_after(1, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
        }
        world.settle()?;
        Ok(count(
            world,
            |n| matches!(n, Notice::Recovered { torn_bytes, .. } if *torn_bytes > 0),
        ))
    });
    assert!(torn > 20, "{torn} torn tails");
}

#[test]
fn a_bit_flipped_in_a_log_never_reaches_the_disk() {
    let found = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        loop {
            world.run_for(SECOND / 10)?;
            world.kill(1);
            if world.flip_bit(1) {
                break;
            }
            world.start_after(1, 1000);
        }
        world.start_after(1, 1000);
        let told = |w: &World| count(w, |n| matches!(n, Notice::DefectiveLog { .. })) > 0;
        assert!(world.run_until(20 * SECOND, told)?, "nobody noticed");
        assert_eq!(world.status(1).map(|s| s.state), Some(ReplicaState::DefectiveLog));
        world.settle()?;
        Ok(1)
    });
    assert_eq!(found, 20);
}

#[test]
fn near_sync_degrades_loudly_and_comes_back_by_itself() {
    let short = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        let mode = Mode::NearSync {
            replicas: 1,
            wait_millis_max: 200,
        };
        world.set_mode(0, mode, MaxLag::default()).expect("it is up");
        world.run_for(SECOND)?;
        let flushes = world.figures().counts["checks: flushes looked for at replicas"];
        assert!(flushes > 10, "{flushes} flushes");
        world.cut_link(0, 1, true);
        let degraded = |w: &World| w.status(0).is_some_and(|s| s.short_micros.is_some());
        assert!(world.run_until(5 * SECOND, degraded)?, "nobody noticed");
        let before = world.figures().counts["guest: flush"];
        world.run_for(SECOND)?;
        assert!(
            world.figures().counts["guest: flush"] > before,
            "guests stand still"
        );
        world.heal(0, 1);
        let back = |w: &World| w.status(0).is_some_and(|s| s.short_micros.is_none());
        assert!(world.run_until(30 * SECOND, back)?, "it stays degraded");
        world.settle()?;
        Ok(count(world, |n| matches!(n, Notice::Short { .. })))
    });
    assert_eq!(short, 20);
}

#[test]
fn sync_waits_for_its_replicas_and_goes_on_when_told_otherwise() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        let mode = Mode::Sync { replicas: 2 };
        world.set_mode(0, mode, MaxLag::default()).expect("it is up");
        world.run_for(SECOND)?;
        world.kill(2);
        let held = |w: &World| w.status(0).is_some_and(|s| s.short_micros.is_some());
        assert!(
            world.run_until(20 * SECOND, held)?,
            "flushes are answered by nobody knows whom"
        );
        world
            .set_mode(0, Mode::Sync { replicas: 1 }, MaxLag::default())
            .expect("it is up");
        let free = |w: &World| w.status(0).is_some_and(|s| s.short_micros.is_none());
        assert!(world.run_until(5 * SECOND, free)?, "one replica is there");
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn the_mode_goes_with_the_primary() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        let mode = Mode::Sync { replicas: 1 };
        world.set_mode(0, mode, MaxLag::default()).expect("it is up");
        world.run_for(SECOND / 10)?;
        world.hand_over(0, 1, SECOND).expect("it is up");
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.kill(1);
        world.start_after(1, 1000);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        assert_eq!(world.status(1).map(|s| s.settings.mode), Some(mode));
        world.settle()?;
        assert_eq!(world.status(0).map(|s| s.settings.mode), Some(mode));
        Ok(0)
    });
}

#[test]
fn guests_are_slowed_down_while_a_replica_is_too_far_behind_and_never_stand_still() {
    let slowed = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        let max_lag = MaxLag {
            millis: Some(50),
            bytes: None,
            throttle: true,
        };
        world.set_mode(0, Mode::Async, max_lag).expect("it is up");
        world.run_for(SECOND / 10)?;
        world.slow_disk(1, 300);
        let mut slowed = 0;
        for _ in 0..30 {
            let before = world.figures().counts["guest: write"];
            world.run_for(SECOND)?;
            let status = world.status(0).expect("it is up");
            slowed += u64::from(status.pace_bytes_per_second.is_some());
            assert!(
                world.figures().counts["guest: write"] > before,
                "guests stand still"
            );
        }
        world.settle()?;
        let alarms = count(world, |n| matches!(n, Notice::LagExceeded { .. }));
        assert_eq!(alarms, count(world, |n| matches!(n, Notice::LagCleared { .. })));
        Ok(slowed.min(alarms))
    });
    assert!(slowed > 20, "{slowed}");
}

/// Waits until no comparison is under way.
fn compared(world: &mut World) -> Result<(), Violation> {
    let ended = |w: &World| {
        let serving = w.primary().and_then(|node| w.status(node));
        serving.is_some_and(|s| s.verify.as_ref().is_some_and(|run| !run.is_active()))
    };
    assert!(world.run_until(80 * SECOND, ended)?, "a comparison never ends");
    Ok(())
}

#[test]
fn rot_is_found_and_repaired_while_guests_write() {
    let found = lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        for round in 0..12 {
            let victim = 1 + round % 2;
            world.kill(victim);
            world.rot(victim);
            world.start_after(victim, SECOND / 100);
            replicated(world, &[0, 1, 2])?;
            if round % 3 == 0 {
                world.slow_disk(victim, 20);
            }
            world.verify(0, true, 0).expect("it is up");
            if round % 4 == 3 {
                // In the middle of the copy, or near it.
                world.run_for(2000 * round as u64)?;
                world.kill(victim);
                world.start_after(victim, SECOND / 50);
            }
            compared(world)?;
            world.slow_disk(victim, 1);
        }
        world.settle()?;
        let known = world.status(1).and_then(|s| s.verified);
        assert!(known.is_some(), "every replica remembers");
        Ok(count(world, |n| matches!(n, Notice::Difference { .. })))
    });
    assert!(found > 100, "{found} differences");
}

#[test]
fn a_comparison_goes_on_after_restarts_and_ends_with_the_role() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        // 256 KiB at 64 KiB/s: it lives through what follows.
        world.verify(0, false, 64 << 10).expect("it is up");
        for node in [1, 0] {
            world.run_for(SECOND)?;
            world.kill(node);
            world.start_after(node, SECOND / 10);
            replicated(world, &[0, 1])?;
        }
        compared(world)?;
        let run = world.status(0).and_then(|s| s.verify.clone()).expect("kept");
        assert_eq!(run.ended, Some(mars::VerifyEnd::Finished));
        assert_eq!(run.equal_nodes().len(), 2);
        world.verify(0, false, 64 << 10).expect("it is up");
        world.run_for(SECOND)?;
        world.hand_over(0, 1, SECOND).expect("it is up");
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        let ended = |n: &Notice| matches!(n, Notice::VerifyEnded { run } if run.ended == Some(mars::VerifyEnd::RoleMoved));
        assert_eq!(count(world, ended), 1);
        world.settle()?;
        let known = world.status(1).and_then(|s| s.verified);
        assert!(known.is_some(), "found equal before the role moved");
        Ok(0)
    });
}

#[test]
fn a_paused_replay_does_not_hold_up_fetch_and_keeps_the_disk_at_one_version() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.switch(1, Switch::Replay, true).expect("it is up");
        world.run_for(SECOND / 2)?;
        let before = world.status(1).expect("it is up").watermarks;
        world.kill(1);
        world.start_after(1, 1000);
        world.run_for(3 * SECOND)?;
        let status = world.status(1).expect("it is up");
        assert_eq!(status.state, ReplicaState::Paused, "switches survive a restart");
        let marks = status.watermarks;
        assert_eq!(
            (marks.written_back(), marks.touched()),
            (before.touched(), before.touched())
        );
        assert!(marks.committed() > before.committed(), "fetch stands still");
        world.switch(1, Switch::Replay, false).expect("it is up");
        replicated(world, &[0, 1])?;
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_paused_fetch_keeps_a_version_and_refuses_the_role() {
    lives(&Profile::calm(3).with_log_bytes_max(256 << 10), |world| {
        replicated(world, &[0, 1, 2])?;
        world.switch(2, Switch::Fetch, true).expect("it is up");
        let told = |w: &World| {
            let peers = w.status(0).map(|s| s.peers.clone()).unwrap_or_default();
            peers.iter().any(|peer| peer.state == ReplicaState::Paused)
        };
        assert!(world.run_until(SECOND, told)?, "its primary does not know");
        world.hand_over(0, 2, SECOND).expect("it is up");
        world.run_for(SECOND / 2)?;
        assert_eq!(world.figures().counts["operators: hand-over not ready"], 1);
        let kept = |w: &World| w.status(2).map(|s| s.tip.lsn);
        let before = kept(world);
        let dropped = |w: &World| count(w, |n| matches!(n, Notice::PeerDropped { .. })) > 0;
        assert!(world.run_until(60 * SECOND, dropped)?, "the log grew without end");
        world.run_for(20 * SECOND)?;
        assert_eq!(
            (kept(world), world.status(2).map(|s| s.state)),
            (before, Some(ReplicaState::Paused))
        );
        world.switch(2, Switch::Fetch, false).expect("it is up");
        world.settle()?;
        assert_eq!(count(world, |n| matches!(n, Notice::SyncFinished { .. })), 3);
        Ok(0)
    });
}

#[test]
fn a_paused_sync_copies_nothing_until_it_is_resumed() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        let third = world.join();
        world.run_for(1000)?;
        world.switch(third, Switch::Sync, true).expect("it is up");
        world.run_for(5 * SECOND)?;
        let status = world.status(third).expect("it is up");
        assert_eq!(status.state, ReplicaState::Paused, "{:?}", status.reason);
        assert!(
            status
                .reason
                .as_deref()
                .is_some_and(|r| r.contains("sync") && r.contains("resume"))
        );
        world.switch(third, Switch::Sync, false).expect("it is up");
        replicated(world, &[0, 1, third])?;
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn replicas_share_what_may_be_sent_and_nobody_starves() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        let limits = Limits {
            ship_bytes_per_second: Some(100_000),
            sync_bytes_per_second: Some(100_000),
        };
        world.set_limits(0, limits).expect("it is up");
        world.run_for(SECOND)?;
        let sent = |w: &World| w.figures().counts["links: bytes of log"];
        let tips = |w: &World| [1, 2].map(|node| w.status(node).expect("it is up").tip.lsn.0);
        let (bytes, tip) = (sent(world), tips(world));
        world.run_for(10 * SECOND)?;
        let bytes = sent(world) - bytes;
        assert!(
            (800_000..=1_100_000).contains(&bytes),
            "{bytes} bytes in ten seconds"
        );
        for (before, after) in tip.iter().zip(tips(world)) {
            assert!(after - before > 200_000, "one of them starves");
        }
        let status = world.status(0).expect("it is up");
        assert!(
            status
                .peers
                .iter()
                .all(|peer| (10_000..200_000).contains(&peer.ship_bytes_per_second))
        );
        world.hand_over(0, 1, SECOND).expect("it is up");
        world.set_limits(0, Limits::default()).expect("it is up");
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_limited_full_sync_comes_to_its_end() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        let limits = Limits {
            ship_bytes_per_second: None,
            sync_bytes_per_second: Some(20_000),
        };
        world.set_limits(0, limits).expect("it is up");
        world.run_for(SECOND / 10)?;
        let third = world.join();
        world.run_for(6 * SECOND)?;
        assert_eq!(world.status(0).map(|s| s.settings.limits), Some(limits));
        world.settle()?;
        assert_eq!(world.status(third).and_then(|s| s.sync_micros_left), None);
        Ok(0)
    });
}

#[test]
fn a_full_sync_that_goes_on_at_another_primary_waits_for_nothing_that_is_lost() {
    lives(&Profile::calm(2).with_log_bytes_max(256 << 20), |world| {
        replicated(world, &[0, 1])?;
        let limits = Limits {
            ship_bytes_per_second: None,
            sync_bytes_per_second: Some(5_000),
        };
        world.set_limits(0, limits).expect("it is up");
        world.run_for(SECOND / 10)?;
        let third = world.join();
        let state = |w: &World| w.status(third).map(|s| s.state);
        assert!(world.run_until(5 * SECOND, |w| state(w).is_some())?);
        world.switch(third, Switch::Sync, true).expect("it is up");
        world.run_for(SECOND / 5)?;
        // The copy begins with what neither replica has in its log, and the primary dies.
        for node in [third, 1] {
            world.switch(node, Switch::Fetch, true).expect("it is up");
            world.run_for(SECOND / 10)?;
        }
        world.switch(third, Switch::Sync, false).expect("it is up");
        world.run_for(2 * SECOND)?;
        world.kill(0);
        world.hush();
        for node in [1, third] {
            world.switch(node, Switch::Fetch, false).expect("it is up");
        }
        world.run_for(SECOND / 10)?;
        world.take_over(1).expect("it is up");
        let whole = |w: &World| state(w) == Some(ReplicaState::Uptodate);
        assert!(world.run_until(120 * SECOND, whole)?, "it is never whole");
        Ok(0)
    });
}

#[test]
fn compression_is_switched_under_load_and_goes_with_the_primary() {
    let saved = lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        let tip = |w: &World| w.status(0).map_or(0, |s| s.tip.lsn.0);
        let mut grown = [0; 2];
        for round in 0..6 {
            let compressed = round % 2 == 1;
            world.set_compression(0, compressed).expect("it is up");
            world.run_for(SECOND / 100)?;
            let before = tip(world);
            world.run_for(SECOND / 5)?;
            grown[usize::from(compressed)] += tip(world) - before;
        }
        assert!(grown[1] < grown[0], "the log grows by {grown:?} bytes");
        world.hand_over(0, 1, SECOND).expect("it is up");
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.kill(1);
        world.start_after(1, 1000);
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        let before = world.figures().counts["engine: batches compressed"];
        world.run_for(SECOND / 5)?;
        let here = world.figures().counts["engine: batches compressed"];
        assert!(here > before, "the successor does not compress");
        world.settle()?;
        Ok(grown[0] / grown[1])
    });
    assert!(saved >= 20, "{saved}");
}

fn is_straight(world: &World) -> bool {
    world
        .primary()
        .and_then(|node| world.status(node))
        .is_some_and(|status| status.straight)
}

#[test]
fn a_lone_replica_has_no_log_and_loses_nothing() {
    let writes = lives(&Profile::calm(1), |world| {
        for round in 0..6 {
            world.run_for(SECOND / 5)?;
            assert!(is_straight(world));
            if round % 2 == 0 {
                world.kill(0);
            } else {
                world.power_cut(0);
            }
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
        }
        world.settle()?;
        let figures = world.figures();
        assert_eq!(figures.counts["engine: batches"], 0);
        Ok(figures.counts["guest: write"])
    });
    assert!(writes > 2000, "{writes} writes");
}

#[test]
fn the_first_join_turns_the_log_on_and_the_last_leave_turns_it_off() {
    lives(&Profile::calm(1), |world| {
        // What a write waits for is then the road, not the disk.
        world.steady_disk(0);
        for _ in 0..3 {
            world.run_for(SECOND / 2)?;
            world.take_write_micros_max();
            let second = world.join();
            replicated(world, &[0, second])?;
            let waited_micros = world.take_write_micros_max();
            assert!(waited_micros < 50_000, "a write took {waited_micros} us");
            assert!(!is_straight(world));
            world.run_for(SECOND / 2)?;
            world.leave(second);
            assert!(
                world.run_until(20 * SECOND, is_straight)?,
                "the log stays for nobody"
            );
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_crash_while_the_log_is_turned_on_or_off_loses_nothing() {
    let straight = lives(&Profile::calm(1), |world| {
        let mut straight = 0;
        world.run_for(SECOND / 2)?;
        for round in 0..12 {
            world.slow_disk(0, 1 + round * 3);
            let second = world.join();
            // Somewhere between being told and having done so.
            world.run_for(round * 37_000 + 1000)?;
            world.power_cut(0);
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
            world.slow_disk(0, 1);
            replicated(world, &[0, second])?;
            world.leave(second);
            world.run_for(round * 37_000)?;
            world.kill(0);
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(0))?);
            straight += u64::from(is_straight(world));
            assert!(world.run_until(20 * SECOND, is_straight)?);
        }
        world.settle()?;
        Ok(straight)
    });
    assert!(straight > 20, "{straight}");
}

#[test]
fn a_batch_in_the_wrong_place_is_damage_and_no_split_brain() {
    let spoiled = lives(&Profile::calm(2), |world| {
        let mut spoiled = false;
        for _ in 0..4 {
            replicated(world, &[0, 1])?;
            // What the replica has is not durable at its primary, which loses it; so it will be asked to cut it off.
            world.slow_disk(0, 8);
            world.run_for(SECOND / 5)?;
            world.power_cut(0);
            world.cut_link(0, 1, false);
            world.start_after(0, SECOND / 100);
            let serves = |w: &World| w.status(0).is_some_and(|s| s.serving);
            assert!(world.run_until(20 * SECOND, serves)?);
            // The very batch at which it is to be cut is not the one that belongs there.
            let begun = world
                .status(0)
                .and_then(|s| s.lineage.last().map(|stretch| stretch.from.lsn));
            spoiled = world.misdirect_log_write(1, begun.expect("it serves"));
            world.heal(0, 1);
            if spoiled {
                break;
            }
        }
        let told = |w: &World| count(w, |n| matches!(n, Notice::DefectiveLog { .. })) > 0;
        assert!(!spoiled || world.run_until(30 * SECOND, told)?, "nobody noticed");
        world.settle()?;
        Ok(u64::from(spoiled))
    });
    assert!(spoiled > 0, "{spoiled} logs were spoiled");
}

#[test]
fn damage_in_what_only_a_replica_needs_costs_it_a_copy_and_nobody_else_anything() {
    let found = lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.power_cut(1);
        world.run_for(2 * SECOND)?;
        assert!(world.flip_served_bit(0), "nothing was kept for the replica");
        world.start_after(1, SECOND / 100);
        replicated(world, &[0, 1])?;
        // Whether the replica had the damaged batch already, or not.
        let found = count(world, |n| matches!(n, Notice::LogDamaged { .. }));
        let copies = count(world, |n| matches!(n, Notice::SyncFinished { .. }));
        assert_eq!(copies, 1 + found);
        world.settle()?;
        Ok(found)
    });
    assert!(found > 10, "damage was met {found} times");
}

#[test]
fn a_log_that_a_crash_left_behind_a_jump_goes_at_the_next_start() {
    lives(&Profile::calm(1), |world| {
        for round in 0..10 {
            let second = world.join();
            replicated(world, &[0, second])?;
            world.leave(second);
            // Somewhere between being told and having dropped it.
            world.run_for(500 + round * 500)?;
            world.kill(0);
            world.start_after(0, 1000);
            assert!(world.run_until(20 * SECOND, is_straight)?);
            world.run_for(SECOND / 10)?;
            assert_eq!(world.log_bytes(0), 0, "nobody will ever trim it");
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_disk_that_refuses_takes_its_replica_out_of_service_until_it_is_restarted() {
    for lane in 0..3 {
        lives(&Profile::calm(3), |world| {
            replicated(world, &[0, 1, 2])?;
            for node in [1, 0] {
                let failed = |w: &World| count(w, |n| matches!(n, Notice::Failed { .. }));
                let before = failed(world);
                world.fail_disk(node, lane);
                assert!(
                    world.run_until(20 * SECOND, |w| failed(w) > before)?,
                    "h{node} goes on"
                );
                replicated(world, &[0, 1, 2])?;
            }
            world.settle()?;
            Ok(0)
        });
    }
}

#[test]
fn a_clock_that_jumps_breaks_no_promise() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            world.jump_clock(from, 3600 * SECOND);
            world.run_for(SECOND / 10)?;
            replicated(world, &[0, 1, 2])?;
            world.hand_over(from, to, SECOND).expect("it is up");
            world.jump_clock(to, 10 * SECOND);
            assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(to))?);
            replicated(world, &[0, 1, 2])?;
        }
        world.settle()?;
        Ok(0)
    });
}

#[test]
fn a_far_replica_follows_its_neighbour_and_falls_back_and_returns() {
    lives(&Profile::calm(3).with_log_bytes_max(256 << 20), |world| {
        replicated(world, &[0, 1, 2])?;
        world.set_sources(2, &[1]).expect("it is up");
        let via = |w: &World| w.status(2).map_or(0, |s| s.path.len());
        assert!(
            world.run_until(10 * SECOND, |w| via(w) == 2)?,
            "it does not follow h1"
        );
        // The only way to the primary is through the neighbour; the primary keeps log for it all the same.
        world.cut_link(0, 2, false);
        world.run_for(5 * SECOND)?;
        replicated(world, &[0, 1, 2])?;
        let peer = world.status(0).expect("it is up").peers[1].clone();
        assert_eq!((peer.state, peer.via.is_some()), (ReplicaState::Uptodate, true));
        world.hand_over(0, 2, SECOND).expect("it is up");
        world.run_for(12 * SECOND)?;
        assert_eq!(world.figures().counts["operators: hand-over not ready"], 1);
        world.heal(0, 2);
        // A dial into the cut network may still be waited for, and who does that follows nobody.
        let follows = |w: &World| {
            w.status(0)
                .is_some_and(|s| s.peers[1].state == ReplicaState::Uptodate)
        };
        assert!(world.run_until(20 * SECOND, follows)?, "it follows nobody");
        // It comes when it is asked, and the role may come back; then it follows its neighbour again.
        for (from, to) in [(0, 2), (2, 0)] {
            world.hand_over(from, to, SECOND).expect("it is up");
            assert!(world.run_until(5 * SECOND, |w| w.primary() == Some(to))?);
            replicated(world, &[0, 1, 2])?;
        }
        assert!(
            world.run_until(30 * SECOND, |w| via(w) == 2)?,
            "it does not return"
        );
        world.kill(1);
        assert!(
            world.run_until(30 * SECOND, |w| via(w) == 1)?,
            "it does not fall back"
        );
        world.start_after(1, SECOND);
        assert!(
            world.run_until(60 * SECOND, |w| via(w) == 2)?,
            "it does not return"
        );
        world.hand_over(0, 1, SECOND).expect("it is up");
        assert!(world.run_until(20 * SECOND, |w| w.primary() == Some(1))?);
        world.settle()?;
        assert_eq!(count(world, |n| matches!(n, Notice::SyncFinished { .. })), 2);
        Ok(0)
    });
}

#[test]
fn a_comparison_that_began_before_an_operators_word_does_not_prove_it() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.verify(0, true, 64 << 10).expect("it is up");
        world.run_for(2 * SECOND)?;
        // So long that a part has to be copied, and an operator does not wait for that.
        world.cut_link(0, 1, false);
        world.run_for(2 * SECOND)?;
        world.heal(0, 1);
        let copies = |w: &World| w.status(1).is_some_and(|s| s.state == ReplicaState::Inconsistent);
        assert!(world.run_until(10 * SECOND, copies)?, "nothing to copy");
        world.fake_sync(1).expect("it is up");
        compared(world)?;
        world.run_for(SECOND)?;
        let faked = count(world, |n| matches!(n, Notice::SyncFaked));
        assert_eq!(faked, 1, "it was whole already");
        assert_eq!(world.status(1).map(|s| s.faked), Some(true));
        Ok(0)
    });
}
