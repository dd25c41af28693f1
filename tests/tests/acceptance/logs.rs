//! A1, A2: is a log looked after under load, and does nothing of it go before everybody has it?

use serde_json::Value;
use tests::{array, text, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, stop};

fn log(pair: &Pair, node: &str) -> Value {
    let shown = pair.ok(&["volume", "log", "show", NAME]);
    let row = array(&shown["replicas"]).iter().find(|row| row["node"] == node);
    row.unwrap_or_else(|| panic!("{node} has no log: {shown:#}"))
        .clone()
}

fn at(row: &Value, field: &str) -> u64 {
    row[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no {field}: {row:#}"))
}

/// Where the files of a replica's log begin.
fn files(pair: &Pair, node: &str) -> Vec<String> {
    let id = text(&pair.cluster.volume(NAME)["id"]).to_owned();
    let dir = pair.cluster.host(node).marsd_dir().join("log").join(id);
    let entries = std::fs::read_dir(dir).expect("there is a log");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("log-"))
        .collect();
    names.sort();
    names
}

#[test]
fn a1_rotation_succeeds_again_and_again_under_load() {
    let pair = Pair::new();
    let writer = pair.writer();
    let mut newest = files(&pair, P).pop();
    for _ in 0..10 {
        wait_for_answers(&writer, 50);
        pair.ok(&["volume", "log", "rotate", NAME]);
        let now = files(&pair, P).pop();
        assert!(now > newest, "no new file: {now:?}");
        newest = now;
    }
    // Wherever it dies between two files, everything is found again.
    pair.cluster.host(S).marsd().kill();
    pair.cluster.host(S).restart_marsd();
    until("S has caught up", || (pair.state(S) == "uptodate").then_some(()));
    assert_eq!(stop(writer).reconnects, 0);
    pair.assert_equal();
}

#[test]
fn a2_what_is_given_back_is_needed_by_nobody() {
    let pair = Pair::new();
    let writer = pair.writer();
    for _ in 0..3 {
        wait_for_answers(&writer, 200);
        pair.ok(&["volume", "log", "rotate", NAME]);
        pair.ok(&["volume", "log", "trim", NAME]);
        assert!(files(&pair, P).len() <= 3, "{:?}", files(&pair, P));
    }
    // What S does not have stays at P, and P says for whom.
    pair.ok(&["volume", "pause", NAME, "fetch", "--node", S]);
    until("S has stopped", || (pair.state(S) == "paused").then_some(()));
    wait_for_answers(&writer, 500);
    pair.ok(&["volume", "log", "rotate", NAME]);
    pair.ok(&["volume", "log", "trim", NAME]);
    let held = log(&pair, P);
    let has = at(&log(&pair, S), "committed");
    assert!(at(&held, "trimmed") <= has, "S has {has}: {held:#}");
    assert!(text(&held["held_by"]).contains(S), "{held:#}");
    assert_eq!(stop(writer).reconnects, 0);
    pair.ok(&["volume", "resume", NAME, "fetch", "--node", S]);
    pair.assert_equal();
    until("nothing is kept that nobody needs", || {
        pair.ok(&["volume", "log", "trim", NAME]);
        let of = |node| at(&log(&pair, node), "kept_bytes");
        (of(P) == 0 && of(S) == 0 && files(&pair, P).len() == 1).then_some(())
    });
    stop(pair.writer());
    pair.assert_equal();
}
