//! A14: does a volume of more than 4 TiB work, on hosts that have a hundredth of that?

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;
use tests::{Cluster, array, text, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, stop, write_to};

const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

/// 4.3 TiB.
const LARGE: &str = "4403G";
const LARGE_BYTES: u64 = 4403 << 30;

/// Where it is written: at the beginning, across each place where an address gets another bit, and at the end.
const WINDOWS: [u64; 4] = [
    0,
    2 * TIB - 8 * MIB,
    4 * TIB - 8 * MIB,
    LARGE_BYTES - WINDOW_BYTES,
];
const WINDOW_BYTES: u64 = 16 * MIB;

/// The name of the groups that promise more than they have.
const THIN: &str = "thin";

fn thin_dir(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.dir().join(format!("thin-{node}"))
}

/// Both replicas hold the same where anything was written.
fn assert_same(pair: &Pair) {
    pair.cluster.wait_for_uptodate(NAME);
    let shown = until("everything is on the disks", || {
        let shown = pair.cluster.volume(NAME);
        let done = |row: &Value| row["written_back"] == row["appended"];
        array(&shown["replicas"]).iter().all(done).then_some(shown)
    });
    let image = |node: &str| {
        let name = format!("{}.img", text(&shown["id"]));
        File::open(thin_dir(&pair.cluster, node).join(name)).expect("a replica has a disk")
    };
    let window = |file: &File, at: u64| {
        let mut bytes = vec![0; WINDOW_BYTES as usize];
        file.read_exact_at(&mut bytes, at).expect("the disk is so long");
        bytes
    };
    let (p, s) = (image(P), image(S));
    for at in WINDOWS {
        let bytes = window(&p, at);
        assert!(bytes.iter().any(|byte| *byte != 0), "nothing was written at {at}");
        assert!(bytes == window(&s, at), "replicas differ at {at}");
    }
}

#[test]
fn a14_a_volume_of_more_than_4_tib_on_groups_that_promise_more_than_they_have() {
    let cluster = Cluster::start_wired(&[P, S]);
    let first = &cluster.hosts()[0];
    let dir = |node: &str| thin_dir(&cluster, node).display().to_string();
    let refused = |arguments: &[&str], words: &str| {
        let answer = first.ctl(arguments);
        assert_eq!(answer.code, 4, "{answer:?}");
        let error = &answer.json["error"];
        let told = format!("{} {}", text(&error["message"]), text(&error["hint"]));
        assert!(told.contains(words), "{told}");
    };
    refused(
        &["vg", "add", THIN, "--dir", &dir(P), "--size", "2P"],
        "--overcommit",
    );
    refused(&["volume", "create", NAME, LARGE, "--replicas", "2"], "node s");
    for node in [P, S] {
        let host = cluster.host(node);
        let told = host.ok(&[
            "vg",
            "add",
            THIN,
            "--dir",
            &dir(node),
            "--size",
            "20G",
            "--overcommit",
            "300",
        ]);
        assert!(
            array(&told["steps"])
                .iter()
                .any(|step| text(step).contains("promised")),
            "{told:#}"
        );
    }
    cluster.create(NAME, LARGE, &[P, S]);
    let door = cluster.attach(NAME, P);
    let pair = Pair { cluster, door };
    let writers = WINDOWS.map(|at| write_to(&pair.door, at, WINDOW_BYTES, 300.0));
    // The replica misses something and gets it, wherever it lies.
    let replica = pair.cluster.host(S);
    replica.marsd().kill();
    writers.iter().for_each(|writer| wait_for_answers(writer, 200));
    replica.restart_marsd();
    pair.cluster.wait_for_uptodate(NAME);
    pair.ok(&["volume", "primary", NAME, S]);
    writers.into_iter().for_each(|writer| drop(stop(writer)));
    assert_same(&pair);
    // A full sync reads what is there, not 4.3 TiB.
    pair.ok(&["volume", "invalidate", NAME, P]);
    assert_same(&pair);
    let groups = pair.ok(&["vg", "list"]);
    for group in array(&groups["vgs"]).iter().filter(|group| group["name"] == THIN) {
        assert_eq!(group["reserved_bytes"], LARGE_BYTES);
        assert!(
            group["used_bytes"].as_u64().is_some_and(|used| used < 1 << 30),
            "{group:#}"
        );
        assert!(group["problem"].is_null(), "{group:#}");
    }
}
