//! S: does it come back by itself? Crashed primaries and cut networks, under a writer.

use std::thread;
use std::time::Duration;

use bench::writer::check;
use tests::{Condition, Plan, Writer, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

#[test]
fn s1_a_crashed_primary_is_primary_again_by_itself() {
    let pair = Pair::new();
    let writer = pair.writer();
    let primary = pair.cluster.host(P);
    primary.marsd().kill();
    primary.poold().kill();
    thread::sleep(Duration::from_millis(500));
    primary.restart_marsd();
    primary.restart_poold();
    until("the volume has its primary again", || {
        let shown = pair.cluster.ctl(P, &["volume", "show", NAME]).json;
        (shown["primary"] == P && shown["replicas"][0]["state"] == "uptodate").then_some(())
    });
    assert!(stop(writer).reconnects > 0, "its door was closed by the crash");
    pair.assert_equal();
}

/// MARS's completion semantics and sync modes are ours when a flush is answered: at the primary, or at a replica too. So the
/// crash is for ever, and the replica must have every flush that was answered.
#[test]
fn s2_s3_s4_in_waiting_modes_a_primary_that_is_lost_takes_no_answered_flush_with_it() {
    for mode in ["sync", "near-sync"] {
        let pair = Pair::of(&["c", P, S]);
        pair.ok(&["volume", "set", NAME, "--mode", mode]);
        until("the mode is lived by", || {
            (pair.cluster.volume(NAME)["mode"] == mode).then_some(())
        });
        let plan = Plan {
            length_bytes: Some(SIZE_BYTES / 2),
            rate: Some(2000.0),
            trim: true,
            ..Plan::default()
        };
        let writer = Writer::start(&pair.door, plan).expect("the writer connects");
        wait_for_answers(&writer, 2000);
        pair.cluster.host(P).marsd().kill();
        let (_, model) = writer.finish();
        until("P is missed", || (pair.state(P) == "unreachable").then_some(()));
        pair.ok(&["volume", "primary", NAME, S, "--force"]);
        let door = pair.cluster.attach(NAME, S);
        let checked = check(&door, &model, 8, true).expect("the door is open");
        assert!(checked.is_clean(), "{mode}: {checked:#?}");
        // Back again, it follows; what it was alone with was promised to nobody.
        pair.ok(&["volume", "set", NAME, "--mode", "async"]);
        pair.cluster.expect_in_logs("histories have parted");
        pair.cluster.host(P).restart_marsd();
        let parted = until("P follows, or says that it has parted", || {
            match pair.state(P).as_str() {
                "uptodate" => Some(false),
                "split-brain" => Some(true),
                _ => None,
            }
        });
        if parted {
            pair.ok(&["volume", "split-brain", "resolve", NAME]);
        }
        stop(pair.writer_at(&door, 1));
        pair.assert_equal();
    }
}

#[test]
fn s5_a_cut_network_disturbs_no_writer_and_heals_by_itself() {
    for condition in [Condition::Cut, Condition::Silent] {
        let pair = Pair::new();
        let writer = pair.writer();
        pair.cluster.set_network(condition);
        wait_for_answers(&writer, 2000);
        let cut_off = pair.state(S);
        assert!(
            ["unreachable", "behind", "uptodate"].contains(&cut_off.as_str()),
            "{cut_off}"
        );
        pair.cluster.set_network(Condition::Whole);
        assert_eq!(stop(writer).reconnects, 0);
        pair.assert_equal();
    }
}
