//! A11: do only so many full syncs go on at one time, the preferred ones first, and do the others say that they wait?

use std::time::Duration;

use rand::RngCore;
use serde_json::Value;
use tests::{Client, Cluster, Options, array, text, until};

const MIB: u64 = 1 << 20;
const VOLUMES: [&str; 3] = ["r1", "r2", "r3"];

fn replica(cluster: &Cluster, volume: &str) -> Value {
    let shown = cluster.volume(volume);
    let row = array(&shown["replicas"]).iter().find(|row| row["node"] == "s");
    row.cloned().unwrap_or_default()
}

/// The volumes whose sync goes on at s; of those that wait the reason says so.
fn going(cluster: &Cluster) -> Vec<&'static str> {
    let mut going = Vec::new();
    for volume in VOLUMES {
        let row = replica(cluster, volume);
        if row["state"] == "syncing" {
            going.push(volume);
        }
        if row["state"] == "inconsistent" && row["reason"].is_string() {
            let why = text(&row["reason"]);
            assert!(
                why.contains("turn") || why.contains("yet") || why.contains("source"),
                "{why}"
            );
        }
    }
    going
}

fn wait_until_going(cluster: &Cluster, wanted: &[&str]) {
    until(&format!("{wanted:?} sync"), || {
        let going = going(cluster);
        (going == wanted).then_some(())
    });
}

#[test]
fn a11_syncs_take_turns_by_preference() {
    let cluster = Cluster::start(&["p", "s"]);
    let ok = |arguments: &[&str]| cluster.ok("p", arguments);
    let limit = |syncs_max: &str, preferred: &str| {
        let at_one_time = ["--parallel-syncs", syncs_max, "--prefer", preferred];
        ok(&[&["limit", "set", "--node", "s"][..], &at_one_time].concat());
    };
    let mut data = vec![0; (8 * MIB) as usize];
    for volume in VOLUMES {
        cluster.create(volume, "16M", &["p"]);
        let guest = Client::open(&cluster.attach(volume, "p"), Options::default()).expect("a guest");
        rand::rng().fill_bytes(&mut data);
        guest.write(0, data.clone(), true).expect("written");
        ok(&["limit", "set", volume, "--sync-rate", "256K"]);
    }
    limit("1", "r3,r1,r2");
    // Who has begun is not interrupted; of those that wait the preferred one is next.
    ok(&["volume", "join", "r2", "s", "--no-wait"]);
    wait_until_going(&cluster, &["r2"]);
    ok(&["volume", "join", "r1", "s", "--no-wait"]);
    ok(&["volume", "join", "r3", "s", "--no-wait"]);
    until("two wait and say so", || {
        let waits = |volume| {
            replica(&cluster, volume)["reason"]
                .as_str()
                .is_some_and(|why| why.contains("turn"))
        };
        (waits("r1") && waits("r3")).then_some(())
    });
    assert_eq!(going(&cluster), ["r2"]);
    // It holds over a restart.
    cluster.host("s").marsd().kill();
    cluster.host("s").restart_marsd();
    until("one goes on", || (going(&cluster).len() == 1).then_some(()));
    for _ in 0..20 {
        assert!(going(&cluster).len() <= 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    ok(&["limit", "set", "--node", "s", "--parallel-syncs", "2"]);
    until("two go on", || (going(&cluster).len() == 2).then_some(()));
    assert!(going(&cluster).contains(&"r3"), "the first by preference");
    limit("none", "none");
    wait_until_going(&cluster, &VOLUMES);
    limit("1", "r1");
    wait_until_going(&cluster, &["r1"]);
    for volume in VOLUMES {
        ok(&["limit", "set", volume, "--sync-rate", "none"]);
    }
    for volume in VOLUMES {
        cluster.wait_for_uptodate(volume);
        cluster.assert_identical(volume);
    }
    let shown = ok(&["limit", "show"]);
    let node = array(&shown["nodes"]).iter().find(|node| node["node"] == "s");
    assert_eq!(
        node.map(|node| node["limits"]["parallel_syncs"].clone()),
        Some(1.into())
    );
}
