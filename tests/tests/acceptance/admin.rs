//! A: does administration under load do what it says and nothing else?

use tests::{Condition, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

/// Where a replica's log ends, as its own host knows it.
fn log_end(pair: &Pair, node: &str) -> u64 {
    let row = pair.replica(node);
    row["appended"]
        .as_u64()
        .unwrap_or_else(|| panic!("no log end: {row:#}"))
}

fn wait_for_state(pair: &Pair, node: &str, wanted: &str) {
    until(&format!("{node} is {wanted}"), || {
        (pair.state(node) == wanted).then_some(())
    });
}

#[test]
fn a3_paused_replay_goes_on_to_the_end_of_what_was_fetched() {
    let pair = Pair::new();
    let writer = pair.writer();
    pair.ok(&["volume", "pause", NAME, "replay", "--node", S]);
    wait_for_state(&pair, S, "paused");
    let before = log_end(&pair, S);
    wait_for_answers(&writer, 500);
    until("fetching goes on", || (log_end(&pair, S) > before).then_some(()));
    pair.ok(&["volume", "pause", NAME, "fetch", "--node", S]);
    wait_for_answers(&writer, 500);
    stop(writer);
    pair.ok(&["volume", "resume", NAME, "replay", "--node", S]);
    until("replay ends where the fetched log ends", || {
        let row = pair.replica(S);
        (row["written_back"] == row["appended"]).then_some(())
    });
    assert!(log_end(&pair, S) < log_end(&pair, P), "it fetched nothing more");
    pair.ok(&["volume", "resume", NAME, "fetch", "--node", S]);
    pair.assert_equal();
}

#[test]
fn a4_resumed_fetch_brings_the_whole_log_and_changes_no_disk() {
    let pair = Pair::new();
    let writer = pair.writer();
    pair.ok(&["volume", "pause", NAME, "replay", "--node", S]);
    pair.ok(&["volume", "pause", NAME, "fetch", "--node", S]);
    wait_for_answers(&writer, 500);
    stop(writer);
    let replayed = pair.replica(S)["written_back"].clone();
    pair.ok(&["volume", "resume", NAME, "fetch", "--node", S]);
    until("the log is as long as at P", || {
        (log_end(&pair, S) == log_end(&pair, P)).then_some(())
    });
    assert_eq!(pair.state(S), "paused");
    assert_eq!(pair.replica(S)["written_back"], replayed);
    pair.ok(&["volume", "resume", NAME, "replay", "--node", S]);
    pair.assert_equal();
}

/// MARS must refuse; ours moves the role while the device is open, and the writer only notices a pause.
#[test]
fn a7_the_role_moves_although_the_device_is_open() {
    let pair = Pair::new();
    let writer = pair.writer();
    pair.ok(&["volume", "primary", NAME, S]);
    assert_eq!(stop(writer).reconnects, 0);
    pair.assert_equal();
    assert_eq!(pair.cluster.volume(NAME)["primary"], S);
}

#[test]
fn a9_a10_everybody_leaves_and_the_volume_stands_alone_or_begins_anew() {
    let pair = Pair::new();
    stop(pair.writer());
    // A10: alone, then replicated again.
    pair.ok(&["volume", "leave", NAME, S]);
    stop(pair.writer());
    pair.ok(&["volume", "join", NAME, S]);
    pair.assert_equal();
    // A9: from scratch.
    pair.ok(&["volume", "detach", NAME]);
    pair.ok(&["volume", "delete", NAME]);
    pair.cluster.create(NAME, &SIZE_BYTES.to_string(), &[P, S]);
    let pair = Pair {
        door: pair.cluster.attach(NAME, P),
        ..pair
    };
    stop(pair.writer());
    pair.assert_equal();
}

#[test]
fn a13_three_hosts_hold_the_same() {
    let pair = Pair::of(&[P, S, "t"]);
    let writer = pair.writer();
    pair.ok(&["volume", "join", NAME, "t"]);
    stop(writer);
    assert_eq!(pair.cluster.replicas(NAME).len(), 3);
    pair.assert_equal();
}

#[test]
fn a8_a_replica_leaves_in_the_middle_of_its_sync() {
    for cut in [false, true] {
        let pair = Pair::new();
        let writer = pair.writer();
        pair.ok(&["volume", "invalidate", NAME, S]);
        if cut {
            pair.cluster.set_network(Condition::Cut);
        }
        pair.ok(&["volume", "leave", NAME, S]);
        wait_for_answers(&writer, 200);
        pair.cluster.set_network(Condition::Whole);
        pair.ok(&["volume", "join", NAME, S]);
        assert_eq!(stop(writer).reconnects, 0);
        pair.assert_equal();
    }
}
