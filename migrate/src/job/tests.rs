//! Every phase of every job, decided from what is seen.

use model::NodeId;

use super::*;
use crate::plan::tests::{desired, observed};

fn place(name: &str) -> Placement {
    Placement {
        node: NodeId::new(name).unwrap(),
        vg: "vg".to_owned(),
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn migrate() -> Work {
    Work::Migrate {
        from: node("a"),
        to: place("c"),
    }
}

fn show(next: &Next) -> String {
    match next {
        Next::Wait(_) => "wait".to_owned(),
        Next::Change(next, phase) => {
            let names =
                |places: &[Placement]| places.iter().map(|place| place.node.as_str()).collect::<String>();
            let (primary, members, leaving) = (&next.primary, names(&next.members), names(&next.leaving));
            format!("{} {primary} {members} {leaving}", phase.word())
                .trim()
                .to_owned()
        }
        Next::Enter(phase) => format!("enter {}", phase.word()),
        Next::Done => "done".to_owned(),
        Next::Cancelled => "cancelled".to_owned(),
        Next::GoOn => "go on".to_owned(),
        Next::Fail(error) => format!("fail: {error}"),
    }
}

fn check(work: &Work, phase: Phase, cancelling: bool, should: &str, is: &str, want: &str) {
    let next = advance(work, phase, cancelling, Some(&desired(should)), &observed(is));
    assert_eq!(
        show(&next),
        want,
        "{work:?} {phase:?} cancelling={cancelling} {should} | {is}"
    );
}

const AB: &str = "a disk primary:uptodate ab\n b disk secondary:uptodate ab";
const SYNCING: &str =
    "a disk primary:uptodate abc\n b disk secondary:uptodate abc\n c disk secondary:syncing abc";
const SYNCED: &str =
    "a disk primary:uptodate abc\n b disk secondary:uptodate abc\n c disk secondary:behind abc";
const MOVED: &str =
    "a disk secondary:uptodate abc\n b disk secondary:uptodate abc\n c disk primary:uptodate abc";

#[test]
fn a_migration_goes_through_its_phases_and_each_may_be_repeated() {
    let go = |phase, should, is, want| check(&migrate(), phase, false, should, is, want);
    go(Phase::Join, "live a ab - -", AB, "sync a abc");
    go(Phase::Join, "live a abc - -", AB, "enter sync");
    go(Phase::Join, "live a ab c -", AB, "wait");
    go(Phase::Sync, "live a abc - -", SYNCING, "wait");
    go(
        Phase::Sync,
        "live a abc - -",
        "a disk primary:uptodate abc",
        "wait",
    );
    go(Phase::Sync, "live a abc - -", SYNCED, "enter hand-over");
    go(Phase::Sync, "live b abc - -", SYNCED, "enter leave");
    go(Phase::HandOver, "live a abc - -", SYNCED, "hand-over c abc");
    go(Phase::HandOver, "live c abc - -", SYNCED, "wait");
    go(Phase::HandOver, "live c abc - -", MOVED, "enter leave");
    let both = "a disk primary:uptodate abc\n c disk primary:uptodate abc";
    go(Phase::HandOver, "live c abc - -", both, "wait");
    go(Phase::Leave, "live c abc - -", MOVED, "leave c bc a");
    go(Phase::Leave, "live c bc a -", MOVED, "wait");
    go(Phase::Leave, "live c bc - -", MOVED, "done");
    go(
        Phase::Leave,
        "deleting c - bc -",
        MOVED,
        "fail: the volume is being deleted",
    );
}

#[test]
fn a_cancelled_migration_is_undone_before_the_hand_over_and_finished_after_it() {
    let cancel = |phase, should, is, want| check(&migrate(), phase, true, should, is, want);
    cancel(Phase::Join, "live a ab - -", AB, "cancelled");
    cancel(Phase::Sync, "live a abc - -", SYNCING, "undo a ab c");
    cancel(Phase::Undo, "live a ab c -", SYNCING, "wait");
    cancel(Phase::Undo, "live a ab - -", AB, "cancelled");
    cancel(Phase::HandOver, "live a abc - -", SYNCED, "undo a ab c");
    cancel(Phase::HandOver, "live c abc - -", SYNCED, "undo a abc");
    cancel(Phase::HandOver, "live c abc - -", MOVED, "go on");
    cancel(Phase::Undo, "live a abc - -", MOVED, "wait");
    cancel(Phase::Undo, "live a abc - -", SYNCED, "undo a ab c");
    cancel(Phase::Leave, "live c bc a -", MOVED, "go on");
}

#[test]
fn the_short_jobs() {
    let primary = Work::Primary {
        from: node("a"),
        to: node("b"),
    };
    check(
        &primary,
        Phase::HandOver,
        false,
        "live a ab - -",
        AB,
        "hand-over b ab",
    );
    check(&primary, Phase::HandOver, false, "live b ab - -", AB, "wait");
    check(&primary, Phase::HandOver, true, "live b ab - -", AB, "undo a ab");
    check(&primary, Phase::Undo, true, "live a ab - -", AB, "cancelled");
    let leave = Work::Leave { from: node("b") };
    check(&leave, Phase::Leave, false, "live a ab - -", AB, "leave a a b");
    check(
        &leave,
        Phase::Leave,
        false,
        "live b ab - -",
        AB,
        "fail: node b is the volume's primary",
    );
    check(&leave, Phase::Leave, true, "live a a b -", AB, "go on");
    check(
        &Work::Create,
        Phase::Start,
        false,
        "new a ab - -",
        "a\n b",
        "wait",
    );
    check(
        &Work::Create,
        Phase::Start,
        false,
        "new a ab - -",
        AB,
        "enter sync",
    );
    check(
        &Work::Create,
        Phase::Sync,
        false,
        "live a abc - -",
        SYNCING,
        "wait",
    );
    check(&Work::Create, Phase::Sync, false, "live a ab - -", AB, "done");
    check(
        &Work::Delete,
        Phase::Remove,
        false,
        "deleting a - ab -",
        AB,
        "wait",
    );
    assert_eq!(
        advance(
            &Work::Delete,
            Phase::Remove,
            false,
            None,
            &VolumeObserved::default()
        ),
        Next::Done
    );
}

#[test]
fn the_last_replica_and_the_primary_stay() {
    let alone = desired("live a a - -");
    assert_eq!(alone.leave(&node("a")), Err(Unsafe::LeaveLast(node("a"))));
    let two = desired("live a ab - -");
    assert_eq!(two.leave(&node("a")), Err(Unsafe::LeavePrimary(node("a"))));
    assert_eq!(two.leave(&node("x")), Err(Unsafe::NotMember(node("x"))));
    assert_eq!(two.join(place("b")), Err(Unsafe::AlreadyMember(node("b"))));
    assert_eq!(two.with_primary(&node("x")), Err(Unsafe::NotMember(node("x"))));
    assert_eq!(
        desired("live a abcdefgh - -").join(place("i")),
        Err(Unsafe::TooMany(8))
    );
    let gone = two.deleting();
    assert_eq!(
        (gone.members.len(), gone.leaving.len(), gone.generation),
        (0, 2, 8)
    );
}
