//! S: does it come back by itself? Crashed primaries and cut networks, under a writer.

use std::thread;
use std::time::Duration;

use tests::{Condition, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, stop};

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
