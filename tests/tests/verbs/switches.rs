//! `volume set`, `pause`, `resume`, `invalidate`, `limit`: does each do what it says while a guest writes, and stay so?

use std::time::Instant;

use rand::RngCore;
use tests::{Client, Cluster, Options, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

fn state(cluster: &Cluster, node: &str) -> String {
    let shown = cluster.volume("web");
    let row = array(&shown["replicas"]).iter().find(|row| row["node"] == node);
    row.map_or_else(String::new, |row| text(&row["state"]).to_owned())
}

fn wait_for(cluster: &Cluster, node: &str, wanted: &str) {
    until(&format!("{node} is {wanted}"), || {
        (state(cluster, node) == wanted).then_some(())
    });
}

#[test]
fn settings_are_changed_in_use_and_survive_both_daemons() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 16 * MIB, 500.0);
    let set = [
        "volume",
        "set",
        "web",
        "--compression",
        "lz4",
        "--mode",
        "sync",
        "--max-lag",
        "64M",
    ];
    cluster.ok("b", &set);
    let again = cluster.ok("a", &set);
    assert!(text(&again["steps"][0]).contains("nothing"), "{again:#}");
    wait_for_answers(&writer, 300);
    cluster.host("a").poold().kill();
    cluster.host("a").restart_poold();
    until("the catalog answers", || {
        (cluster.ctl("a", &["status"]).code == 0).then_some(())
    });
    let shown = cluster.volume("web");
    assert_eq!(
        (text(&shown["mode"]), text(&shown["compression"])),
        ("sync", "lz4"),
        "{shown:#}"
    );
    // A flush waits for the replica, and goes on when it needs none.
    cluster.ok("a", &["volume", "pause", "web", "fetch", "--node", "b"]);
    let guest = Client::open(&cluster.attach("web", "a"), Options::default()).expect("a guest");
    let flushed = std::thread::scope(|scope| {
        let flush = scope.spawn(|| guest.write(24 * MIB, vec![7; 4096], true));
        until("the pool says that flushes wait", || {
            let status = cluster.ctl("a", &["status"]);
            let problems = array(&status.json["problems"]).to_vec();
            problems
                .iter()
                .any(|what| text(what).contains("flushes wait"))
                .then_some(())
        });
        assert!(!flush.is_finished(), "it does not wait");
        cluster.ok(
            "a",
            &["volume", "set", "web", "--mode", "async", "--max-lag", "none"],
        );
        flush.join().expect("it ends")
    });
    flushed.expect("a good answer");
    cluster.ok("a", &["volume", "resume", "web", "fetch"]);
    cluster.ok("a", &["volume", "set", "web", "--compression", "none"]);
    assert_eq!(stop(writer).reconnects, 0);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    let bad = cluster.ctl(
        "a",
        &["volume", "set", "web", "--mode", "sync", "--flush-replicas", "2"],
    );
    bad.assert_error(2, "usage");
}

#[test]
fn what_is_paused_stands_still_and_what_is_invalidated_is_whole_again() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 16 * MIB, 500.0);
    cluster.ok("a", &["volume", "pause", "web", "replay", "--node", "b"]);
    wait_for(&cluster, "b", "paused");
    cluster.host("b").marsd().kill();
    cluster.host("b").restart_marsd();
    wait_for(&cluster, "b", "paused");
    wait_for_answers(&writer, 200);
    assert_eq!(cluster.ctl("a", &["status"]).code, 0, "it is so on purpose");
    cluster.ok("a", &["volume", "resume", "web", "replay", "--node", "b"]);
    wait_for(&cluster, "b", "uptodate");
    cluster
        .ctl("a", &["volume", "invalidate", "web", "a"])
        .assert_error(4, "refused");
    let job = cluster.ok("a", &["volume", "invalidate", "web", "b"]);
    assert_eq!(
        (text(&job["kind"]), text(&job["state"])),
        ("invalidate", "done"),
        "{job:#}"
    );
    assert_eq!(stop(writer).reconnects, 0);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_limit_of_a_host_slows_what_it_sends_and_nothing_else() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let guest = Client::open(&cluster.attach("web", "a"), Options::default()).expect("a guest");
    cluster.ok(
        "a",
        &["limit", "set", "--node", "a", "--peer", "b", "--rate", "2M"],
    );
    let shown = cluster.ok("a", &["node", "show", "a"]);
    assert_eq!(
        shown["limits"]["peer_bytes_per_second"]["b"],
        2 * MIB,
        "{shown:#}"
    );
    let mut data = vec![0; (12 * MIB) as usize];
    rand::rng().fill_bytes(&mut data);
    let mut end = 0;
    // It takes a moment until marsd has heard of it.
    until("what a sends to b is slowed, and its guest is not", || {
        let begin = Instant::now();
        guest.write(0, data.clone(), true).expect("written");
        let written = begin.elapsed();
        end += 12 * MIB;
        until("b has it", || {
            let shown = cluster.volume("web");
            let row = &shown["replicas"][1];
            (row["appended"].as_u64() > Some(end)
                && row["appended"] == shown["replicas"][0]["appended"]
                && row["lag_bytes"] == 0)
                .then_some(())
        });
        let took = begin.elapsed();
        (took.as_secs_f64() > 4.0 && written < took / 2).then_some(())
    });
    cluster.ok(
        "a",
        &["limit", "set", "--node", "a", "--peer", "b", "--rate", "none"],
    );
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    cluster
        .ctl("a", &["limit", "set", "--node", "a", "--rate", "1K"])
        .assert_error(2, "usage");
    cluster
        .ctl("a", &["limit", "set", "--node", "nobody", "--rate", "2M"])
        .assert_error(3, "not-found");
}
