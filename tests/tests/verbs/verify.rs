//! `volume verify`: is what differs found under load, told, and repaired?

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use tests::{Cluster, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

/// Changes a byte of the volume's disk on a host, behind everybody's back.
fn spoil(cluster: &Cluster, volume: &str, host: &str, at: u64) {
    let id = text(&cluster.volume(volume)["id"]).to_owned();
    let entries = fs::read_dir(cluster.host(host).vg_dir()).expect("the volume group can be listed");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    let disk = paths
        .find(|path| path.to_string_lossy().contains(&id))
        .expect("the volume has a disk there");
    let disk = OpenOptions::new().write(true).open(disk).expect("the disk opens");
    disk.write_all_at(b"!", at).expect("a byte can be written");
}

fn events(cluster: &Cluster) -> Vec<String> {
    let list = cluster.ok("a", &["events"]);
    let events = array(&list["events"]).iter();
    events.map(|event| text(&event["message"]).to_owned()).collect()
}

#[test]
fn what_differs_is_found_under_load_and_repaired() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.expect_in_logs("differs");
    cluster.create("web", "64M", &["a", "b", "c"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 32 * MIB, 1000.0);
    wait_for_answers(&writer, 200);
    let job = cluster.ok("a", &["volume", "verify", "web"]);
    assert_eq!(job["verify"]["verdict"], "equal", "{job:#}");
    let verified = cluster.volume("web")["last_verified"].clone();
    assert!(verified.is_string(), "{verified}");
    until("every host has told that it was compared", || {
        let rows = cluster.volume("web")["replicas"].clone();
        let told = array(&rows).iter().all(|row| row["verified"] == verified);
        told.then_some(())
    });

    spoil(&cluster, "web", "b", 48 * MIB + 7);
    let found = cluster.ctl("a", &["volume", "verify", "web"]);
    found.assert_error(1, "failed");
    assert!(text(&found.json["error"]["hint"]).contains("--repair"));
    let verify = &found.json["verify"];
    assert_eq!(verify["verdict"], "different");
    let first = &array(&verify["differences"])[0];
    let begin = first["offset_bytes"].as_u64().expect("a place");
    let end = begin + first["length_bytes"].as_u64().expect("a length");
    assert_eq!(first["node"], "b");
    assert!((begin..end).contains(&(48 * MIB + 7)), "{first:#}");
    let shown = cluster.volume("web");
    assert_eq!(shown["last_verified"], verified, "the last good time stays");
    assert!(shown["differing_bytes"]["b"].is_u64(), "{shown:#}");
    let status = cluster.ctl("a", &["status"]);
    assert_eq!(status.code, 7, "{:#}", status.json);
    assert!(
        events(&cluster)
            .iter()
            .any(|what| what.contains("node b differs"))
    );

    let job = cluster.ok("a", &["volume", "verify", "web", "--repair"]);
    assert_eq!(job["verify"]["verdict"], "repaired", "{job:#}");
    assert_eq!(cluster.volume("web")["differing_bytes"], serde_json::json!({}));
    until("the pool is healthy", || {
        (cluster.ctl("a", &["status"]).code == 0).then_some(())
    });

    // The others agree against the primary: nothing is copied from it.
    spoil(&cluster, "web", "a", 60 * MIB);
    let found = cluster.ctl("a", &["volume", "verify", "web", "--repair"]);
    found.assert_error(1, "failed");
    assert!(
        text(&found.json["error"]["hint"]).contains("volume primary web"),
        "{:#}",
        found.json
    );
    cluster.ok("a", &["volume", "primary", "web", "b"]);
    let job = cluster.ok("a", &["volume", "verify", "web", "--repair"]);
    assert_eq!(job["verify"]["verdict"], "repaired", "{job:#}");
    assert_eq!(stop(writer).reconnects, 0);
    cluster.assert_identical("web");
}

#[test]
fn a_comparison_survives_both_daemons_and_ends_when_it_is_not_wanted() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "64M", &["b", "a"]);
    let slow = ["volume", "verify", "web", "--rate", "4M", "--no-wait"];
    let job = text(&cluster.ok("a", &slow)["job"]).to_owned();
    let percent = || cluster.ok("a", &["job", "show", &job])["percent"].as_f64();
    until("it goes on", || (percent() > Some(1.0)).then_some(()));
    assert_eq!(text(&cluster.ok("a", &slow)["job"]), job, "one at a time");
    cluster.host("a").poold().kill();
    cluster.host("a").restart_poold();
    cluster.host("b").marsd().kill();
    cluster.host("b").restart_marsd();
    until("it goes on where it was", || {
        (percent() > Some(5.0)).then_some(())
    });
    cluster.ok("a", &["volume", "verify", "web", "--cancel"]);
    let ended = cluster.ctl("a", &["job", "watch", &job]);
    assert_eq!(
        (ended.code, text(&ended.json["state"])),
        (1, "cancelled"),
        "{:#}",
        ended.json
    );
    cluster.ok("a", &["volume", "verify", "web", "--cancel"]);
    // One replica: nothing to compare, and no error for a script that goes through all volumes.
    cluster.ok("a", &["volume", "leave", "web", "a"]);
    cluster.ok("a", &["volume", "verify", "web"]);
}
