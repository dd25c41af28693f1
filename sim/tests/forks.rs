//! What becomes of histories that part? Scripts for forced takeovers, each lived under several seeds.

mod common;

use common::{SECOND, all_become};
use mars::{Notice, SplitBrain, Status, Switch};
use model::{Lsn, ReplicaState, Role, Tick};
use sim::{Profile, Violation, World};

fn lives(profile: &Profile, script: impl Fn(&mut World) -> Result<(), Violation>) {
    common::lives(profile, |world| script(world).map(|()| 0));
}

fn replicated(world: &mut World, members: &[usize]) -> Result<(), Violation> {
    all_become(world, members, 30 * SECOND, |s| s.state == ReplicaState::Uptodate)
}

fn count(world: &World, is: impl Fn(&Notice) -> bool) -> usize {
    world.notices().iter().filter(|(_, notice)| is(notice)).count()
}

fn split(world: &World, node: usize, peer: usize) -> Option<SplitBrain> {
    let peer = model::NodeId::new(&format!("h{peer}")).ok()?;
    world.status(node)?.split_brain.get(&peer).cloned()
}

fn cut_off(world: &mut World, node: usize, others: &[usize]) {
    others
        .iter()
        .for_each(|other| world.cut_link(node, *other, false));
}

/// h0 is cut off, h1 takes over, both write; then they meet.
fn part(world: &mut World, others: &[usize]) -> Result<(), Violation> {
    world.run_for(SECOND / 10)?;
    cut_off(world, 0, others);
    world.run_for(SECOND / 10)?;
    world.take_over(1).expect("it is up");
    assert!(world.run_until(5 * SECOND, |w| w.status(1).is_some_and(|s| s.serving))?);
    assert_eq!(
        world.status(0).map(|s| s.serving),
        Some(true),
        "nobody has told it"
    );
    world.move_guest_to(1);
    let until = Tick(world.now().0 + SECOND / 5);
    world.ghost(0, until);
    world.run_for(SECOND / 2)?;
    others.iter().for_each(|other| world.heal(0, *other));
    Ok(())
}

#[test]
fn a_primary_that_starts_again_asks_first_and_never_serves_beside_its_successor() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        world.kill(0);
        world.run_for(SECOND / 10)?;
        world.take_over(1).expect("it is up");
        assert!(world.run_until(5 * SECOND, |w| w.primary() == Some(1))?);
        world.start_after(0, 1);
        world.run_for(5 * SECOND)?;
        let zero =
            |(node, notice): &&(usize, Notice)| *node == 0 && matches!(notice, Notice::BecamePrimary { .. });
        assert_eq!(
            world.notices().iter().filter(zero).count(),
            1,
            "only when it was born"
        );
        assert_eq!(world.status(0).map(|s| s.role), Some(Role::Secondary));
        world.settle()
    });
}

#[test]
fn two_that_wrote_find_the_very_batch_and_report_it_on_both_sides() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        part(world, &[1])?;
        let both = |w: &World| {
            let told = |s: Option<SplitBrain>| s.is_some_and(|s| s.theirs.is_some());
            told(split(w, 0, 1)) && told(split(w, 1, 0))
        };
        assert!(world.run_until(20 * SECOND, both)?, "nobody noticed");
        for (node, role) in [(0, Role::Secondary), (1, Role::Primary)] {
            let status = world.status(node).expect("it is up");
            assert_eq!((status.role, status.state), (role, ReplicaState::SplitBrain));
        }
        let (zero, one) = (
            split(world, 0, 1).expect("seen"),
            split(world, 1, 0).expect("seen"),
        );
        assert_eq!(zero.at, one.at);
        assert_eq!(one.theirs, Some(zero.ours));
        assert!(zero.ours.complete && zero.ours.records > 0 && one.ours.records > 0);
        assert!(zero.ours.first_unix_micros <= zero.ours.last_unix_micros);
        world.run_for(20 * SECOND)?;
        assert_eq!(
            world.status(0).map(|s| s.state),
            Some(ReplicaState::SplitBrain),
            "nobody chooses"
        );
        world.settle()
    });
}

fn dials(world: &World) -> u64 {
    let counts = world.figures().counts;
    counts.get("links: dials").copied().unwrap_or(0)
}

fn both_know(world: &World) -> bool {
    let told = |s: Option<SplitBrain>| s.is_some_and(|s| s.theirs.is_some());
    told(split(world, 0, 1)) && told(split(world, 1, 0))
}

#[test]
fn two_that_have_parted_leave_one_another_in_peace_until_something_changes() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        part(world, &[1])?;
        assert!(world.run_until(20 * SECOND, both_know)?, "nobody noticed");
        // Until hails have become rare.
        world.run_for(30 * SECOND)?;
        let before = dials(world);
        world.run_for(60 * SECOND)?;
        let more = dials(world) - before;
        assert!((6..=20).contains(&more), "{more} dials in a minute");
        // It serves again, and says so: they meet at once.
        let theirs = |w: &World| split(w, 0, 1).and_then(|s| s.theirs);
        let known = theirs(world);
        world.run_for(SECOND)?;
        world.kill(1);
        world.start_after(1, SECOND / 10);
        assert!(
            world.run_until(4 * SECOND, |w| theirs(w) != known)?,
            "nobody looks again"
        );
        world.settle()
    });
}

#[test]
fn a_side_that_takes_longer_to_count_than_links_live_is_counted() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.run_for(SECOND / 10)?;
        cut_off(world, 0, &[1]);
        world.run_for(SECOND / 10)?;
        world.take_over(1).expect("it is up");
        assert!(world.run_until(5 * SECOND, |w| w.status(1).is_some_and(|s| s.serving))?);
        world.move_guest_to(1);
        let until = Tick(world.now().0 + 2 * SECOND);
        world.ghost(0, until);
        world.run_for(5 * SECOND / 2)?;
        world.heal(0, 1);
        let fenced = |w: &World| w.status(0).is_some_and(|s| s.role == Role::Secondary);
        assert!(world.run_until(20 * SECOND, fenced)?);
        // Links end meanwhile, for no log is kept for one that takes none.
        world.slow_log_reads(0, 3 * SECOND);
        assert!(world.run_until(150 * SECOND, both_know)?, "nobody waits for it");
        world.slow_log_reads(0, 0);
        world.settle()
    });
}

#[test]
fn what_has_parted_is_known_after_a_restart_without_the_other_side() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        part(world, &[1])?;
        let told = |w: &World, node, peer| split(w, node, peer).is_some_and(|s| s.theirs.is_some());
        let both = |w: &World| told(w, 0, 1) && told(w, 1, 0);
        assert!(world.run_until(20 * SECOND, both)?, "nobody noticed");
        // What is told is on disk a moment later.
        cut_off(world, 0, &[1]);
        world.run_for(SECOND)?;
        let before = (split(world, 0, 1), split(world, 1, 0));
        for node in [0, 1] {
            world.kill(node);
            world.start_after(node, 1);
        }
        assert!(world.run_until(20 * SECOND, |w| w.status(1).is_some_and(|s| s.serving))?);
        world.run_for(SECOND)?;
        assert_eq!((split(world, 0, 1), split(world, 1, 0)), before);
        for node in [0, 1] {
            let state = world.status(node).map(|s| s.state);
            assert_eq!(state, Some(ReplicaState::SplitBrain), "h{node}");
        }
        world.heal(0, 1);
        world.settle()
    });
}

#[test]
fn a_primary_that_wrote_nothing_beside_its_successor_just_follows_it() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.hush();
        world.run_for(SECOND)?;
        world.kill(0);
        cut_off(world, 0, &[1]);
        world.take_over(1).expect("it is up");
        world.start_after(0, 1);
        assert!(world.run_until(10 * SECOND, |w| w.status(0).is_some_and(|s| s.serving))?);
        world.run_for(SECOND)?;
        world.heal(0, 1);
        assert!(
            world.run_until(10 * SECOND, |w| w.primary() == Some(1))?,
            "it was not fenced"
        );
        let cuts = |w: &World| count(w, |n| matches!(n, Notice::CutBack { .. }));
        // What it is told while the end of its log goes is done, too.
        for sources in [&[][..], &[1]].iter().cycle().take(200) {
            world.set_sources(0, sources);
            world.run_for(SECOND / 20_000)?;
        }
        world.set_sources(0, &[]);
        assert!(
            world.run_until(10 * SECOND, |w| cuts(w) == 1)?,
            "it keeps what nobody needs"
        );
        replicated(world, &[0, 1])?;
        assert_eq!(count(world, |n| matches!(n, Notice::SplitBrain { .. })), 0);
        assert_eq!(
            count(world, |n| matches!(n, Notice::SyncFinished { .. })),
            1,
            "no full sync again"
        );
        world.settle()
    });
}

#[test]
fn the_loser_may_be_made_the_winner() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        part(world, &[1])?;
        let parted = |w: &World| split(w, 0, 1).is_some() && split(w, 1, 0).is_some();
        assert!(world.run_until(20 * SECOND, parted)?);
        world.take_over(0).expect("it is up");
        let turned = |w: &World| {
            let serves = |node| w.status(node).is_some_and(|s| s.serving);
            serves(0) && !serves(1) && split(w, 1, 0).is_some()
        };
        assert!(
            world.run_until(30 * SECOND, turned)?,
            "the former winner does not give way"
        );
        world.settle()
    });
}

#[test]
fn a_third_replica_that_followed_the_loser_is_not_robbed_of_it() {
    lives(&Profile::calm(3), |world| {
        replicated(world, &[0, 1, 2])?;
        world.run_for(SECOND / 10)?;
        // h2 stays with h0 and gets what h1 does not.
        world.cut_link(0, 1, false);
        world.cut_link(1, 2, false);
        world.run_for(SECOND / 5)?;
        world.kill(0);
        world.take_over(1).expect("it is up");
        world.run_for(SECOND / 5)?;
        world.heal(0, 1);
        world.heal(1, 2);
        let parted = |w: &World| split(w, 2, 1).is_some() && split(w, 1, 2).is_some();
        assert!(
            world.run_until(30 * SECOND, parted)?,
            "its writes went without a word"
        );
        world.start_after(0, 1);
        assert!(world.run_until(30 * SECOND, |w| split(w, 0, 1).is_some()
            && split(w, 1, 0).is_some())?);
        world.settle()
    });
}

#[test]
fn a_takeover_on_a_damaged_log_is_refused_and_changes_nothing() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        world.switch(1, Switch::Replay, true).expect("it is up");
        loop {
            world.run_for(SECOND / 5)?;
            world.kill(1);
            if world.flip_bit(1) {
                break;
            }
            world.start_after(1, 1000);
        }
        cut_off(world, 0, &[1]);
        world.start_after(1, 1000);
        world.run_for(SECOND)?;
        world.take_over(1).expect("it is up");
        world.run_for(SECOND)?;
        let status = world.status(1).expect("it is up");
        assert_eq!(
            (status.role, status.state),
            (Role::Secondary, ReplicaState::DefectiveLog)
        );
        assert_eq!(world.figures().counts["operators: takeover refused"], 1);
        assert_eq!(world.primary(), Some(0));
        world.heal(0, 1);
        world.settle()
    });
}

#[test]
fn a_takeover_whose_disk_refuses_is_not_called_failed_when_it_may_be_durable() {
    // Its meta is about to be written, being written, or written: whichever, the word that is given holds.
    for (lane, micros) in [0, 200, 1000]
        .into_iter()
        .flat_map(|micros| [(0, micros), (1, micros), (2, micros)])
    {
        lives(&Profile::calm(2), |world| {
            replicated(world, &[0, 1])?;
            world.switch(1, Switch::Replay, true).expect("it is up");
            world.run_for(SECOND / 5)?;
            world.kill(0);
            world.take_over(1).expect("it is up");
            world.run_for(micros)?;
            world.fail_disk(1, lane);
            world.run_for(5 * SECOND)?;
            if world.primary() == Some(1) {
                world.move_guest_to(1);
            }
            world.start_after(0, 1000);
            world.settle()
        });
    }
}

#[test]
fn what_is_asked_of_a_replica_that_begins_anew_further_back_is_done() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        cut_off(world, 0, &[1]);
        world.run_for(SECOND / 2)?;
        let third = world.join();
        let copies = |w: &World| {
            let begun = |s: &Status| s.state == ReplicaState::Inconsistent && s.watermarks.trimmed() > Lsn(0);
            w.status(third).is_some_and(begun)
        };
        assert!(world.run_until(10 * SECOND, copies)?, "it does not join");
        world.kill(0);
        world.take_over(1).expect("it is up");
        let is_whole = |w: &World| w.status(third).is_some_and(|s| s.state == ReplicaState::Uptodate);
        for sources in [&[][..], &[1]].iter().cycle().take(5000) {
            world.set_sources(third, sources);
            if world.run_until(SECOND / 300, is_whole)? {
                break;
            }
        }
        world.set_sources(third, &[]);
        replicated(world, &[1, third])?;
        world.start_after(0, 1);
        world.settle()
    });
}

/// A side is still being counted for a link that nobody knows to be dead, when the other side is back without any history.
#[test]
fn a_side_counted_for_one_that_has_given_in_meanwhile_is_no_split() {
    lives(&Profile::calm(2), |world| {
        replicated(world, &[0, 1])?;
        part(world, &[1])?;
        assert!(world.run_until(20 * SECOND, both_know)?, "nobody noticed");
        let primary = world.primary().expect("one serves");
        let loser = 1 - primary;
        world.slow_log_reads(primary, SECOND);
        world.kill(loser);
        world.run_for(SECOND)?;
        world.start_after(loser, 1);
        // It dials, and is being counted; then it is gone without a word.
        world.run_for(SECOND)?;
        world.rejoin(loser);
        let whole = |w: &World| w.status(loser).is_some_and(|s| s.state == ReplicaState::Uptodate);
        assert!(world.run_until(60 * SECOND, whole)?, "it is not whole again");
        world.run_for(10 * SECOND)?;
        assert_eq!(split(world, primary, loser), None, "it follows, and has parted");
        world.slow_log_reads(primary, 0);
        world.settle()
    });
}
