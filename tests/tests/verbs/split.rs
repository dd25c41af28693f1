//! `volume split-brain`: is a parting remembered, and what becomes of the loser's history?

use serde_json::Value;
use tests::{Cluster, Condition, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

fn shown(cluster: &Cluster) -> Value {
    cluster.ok("a", &["volume", "split-brain", "show", "web"])
}

fn wait_until_parted(cluster: &Cluster) {
    until("both have parted, and both say so", || {
        let shown = shown(cluster);
        let pairs = array(&shown["pairs"]);
        let told = pairs.iter().filter(|pair| pair["there"].is_object()).count();
        (shown["parted"] == true && told == 2).then_some(())
    });
}

/// a is cut off, b takes over, both are written.
fn part(cluster: &Cluster) {
    cluster.create("web", "64M", &["a", "b"]);
    let (old, new) = (cluster.attach("web", "a"), cluster.attach("web", "b"));
    cluster.set_network(Condition::Cut);
    until("a misses b", || {
        (cluster.volume("web")["state"] == "unreachable").then_some(())
    });
    cluster.ok("a", &["volume", "primary", "web", "b", "--force"]);
    for (door, offset) in [(old, 0), (new, 32 * MIB)] {
        let writer = steady_writer(&door, offset, 16 * MIB, 500.0);
        wait_for_answers(&writer, 100);
        stop(writer);
    }
    cluster.set_network(Condition::Whole);
    wait_until_parted(cluster);
}

#[test]
fn a_parting_is_remembered_and_the_losers_log_is_kept_until_it_is_dropped() {
    let cluster = Cluster::start_wired(&["a", "b"]);
    cluster.expect_in_logs("split brain");
    part(&cluster);
    let before = shown(&cluster)["pairs"].clone();
    // Neither side can ask the other after a restart.
    cluster.set_network(Condition::Cut);
    for host in ["a", "b"] {
        cluster.host(host).marsd().kill();
        cluster.host(host).restart_marsd();
    }
    until("both are back", || {
        let rows = cluster.volume("web")["replicas"].clone();
        let parted = |row: &Value| row["state"] == "split-brain";
        array(&rows).iter().all(parted).then_some(())
    });
    assert_eq!(shown(&cluster)["pairs"], before);
    cluster.set_network(Condition::Whole);

    cluster.ok("a", &["volume", "split-brain", "resolve", "web", "--winner", "b"]);
    cluster.ok("a", &["volume", "detach", "web"]);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    let kept = shown(&cluster)["kept"].clone();
    assert_eq!(array(&kept).len(), 1, "{kept:#}");
    let kept = &array(&kept)[0];
    assert_eq!(
        (text(&kept["node"]), text(&kept["parted_from"])),
        ("a", "b"),
        "{kept:#}"
    );
    assert!(
        kept["bytes"].as_u64() > Some(0) && kept["here"]["records"].as_u64() > Some(0),
        "{kept:#}"
    );
    assert!(
        kept["here"]["first"].is_string() && kept["kept"].is_string(),
        "{kept:#}"
    );
    assert_eq!(cluster.volume("web")["kept_histories"], 1);
    cluster
        .ctl("a", &["volume", "delete", "web"])
        .assert_error(4, "refused");

    let history = text(&kept["history"]);
    let unknown = cluster.ctl("a", &["volume", "split-brain", "drop", "web", "1"]);
    unknown.assert_error(3, "not-found");
    cluster.ok(
        "a",
        &["volume", "split-brain", "drop", "web", history, "--dry-run"],
    );
    assert_eq!(array(&shown(&cluster)["kept"]).len(), 1);
    cluster.ok("a", &["volume", "split-brain", "drop", "web", history]);
    until("it is gone", || {
        (cluster.volume("web")["kept_histories"] == 0).then_some(())
    });
    assert!(!std::path::Path::new(text(&kept["path"])).exists());
    cluster.ok("a", &["volume", "split-brain", "drop", "web"]);
    cluster.ok("a", &["volume", "delete", "web"]);
}
