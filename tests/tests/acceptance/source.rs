//! Does a replica get its log from another replica when an operator says so, and from the primary when that one is gone?

use serde_json::Value;
use tests::{array, text, until};

use crate::pair::{NAME, P, Pair, S, stop};

/// The third host.
const T: &str = "t";

/// Through whom a replica gets its log.
fn path(pair: &Pair, node: &str) -> Vec<String> {
    let row = pair.replica(node);
    array(&row["path"])
        .iter()
        .map(|node| text(node).to_owned())
        .collect()
}

fn wait_for_path(pair: &Pair, node: &str, wanted: &[&str]) {
    until(&format!("{node} gets its log through {wanted:?}"), || {
        (path(pair, node) == wanted).then_some(())
    });
}

#[test]
fn a_replica_follows_its_neighbour_falls_back_and_may_become_primary() {
    let pair = Pair::of(&[P, S, T]);
    let writer = pair.writer();
    pair.ok(&["volume", "join", NAME, T]);
    assert_eq!(path(&pair, T), [P]);

    let strange = pair.cluster.hosts()[0].ctl(&["volume", "source", NAME, T, T]);
    strange.assert_error(4, "refused");
    let tried = pair.ok(&["volume", "source", NAME, T, S, "--dry-run"]);
    assert_eq!(tried["dry_run"], Value::Bool(true));
    assert_eq!(path(&pair, T), [P]);

    pair.ok(&["volume", "source", NAME, T, S]);
    wait_for_path(&pair, T, &[P, S]);
    // Once it has been heard of, it is as good as one that is followed itself.
    pair.cluster.wait_for_uptodate(NAME);
    pair.cluster.host(S).marsd().kill();
    wait_for_path(&pair, T, &[P]);
    pair.cluster.host(S).restart_marsd();
    wait_for_path(&pair, T, &[P, S]);

    // It comes to the primary when it is to become one itself, whatever sources it would rather have.
    pair.ok(&["volume", "primary", NAME, T]);
    wait_for_path(&pair, S, &[T]);
    pair.cluster.wait_for_uptodate(NAME);
    pair.ok(&["volume", "primary", NAME, P]);
    wait_for_path(&pair, T, &[P, S]);
    pair.ok(&["volume", "source", NAME, T]);
    wait_for_path(&pair, T, &[P]);
    assert_eq!(stop(writer).reconnects, 0);
    pair.assert_equal();
}
