//! A: does administration under load do what it says and nothing else?

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

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
