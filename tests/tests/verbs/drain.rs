//! `node drain`, `undrain`, `reboot-check`: does a host become free while guests write, and is it told when it may go?

use serde_json::Value;
use tests::{Cluster, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

fn check(cluster: &Cluster, node: &str) -> (i32, Value) {
    let answer = cluster.ctl("a", &["node", "reboot-check", node]);
    (answer.code, answer.json)
}

#[test]
fn a_host_is_drained_rebooted_and_taken_back() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "16M", &["b", "c"]);
    cluster.create("db", "16M", &["b"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 16 * MIB, 500.0);
    wait_for_answers(&writer, 100);
    let (code, told) = check(&cluster, "b");
    assert_eq!((code, &told["may_reboot"]), (4, &false.into()), "{told:#}");
    assert!(array(&told["reasons"]).len() >= 2, "{told:#}");
    assert_eq!(check(&cluster, "c").0, 0);

    // db is nowhere else: named, and nothing is changed.
    let refused = cluster.ctl("a", &["node", "drain", "b"]);
    refused.assert_error(4, "refused");
    assert!(
        text(&refused.json["error"]["message"]).contains("volume db"),
        "{:#}",
        refused.json
    );
    assert_eq!(cluster.ok("a", &["node", "show", "b"])["drained"], false);

    let plan = cluster.ok("a", &["node", "drain", "b", "--evacuate", "--dry-run"]);
    assert!(array(&plan["steps"]).len() >= 3, "{plan:#}");
    let job = cluster.ok("a", &["node", "drain", "b", "--evacuate"]);
    assert_eq!(
        (text(&job["kind"]), text(&job["state"])),
        ("drain", "done"),
        "{job:#}"
    );
    for volume in ["web", "db"] {
        assert!(!cluster.replicas(volume).contains(&"b".to_owned()), "{volume}");
    }
    assert_eq!(cluster.replicas("web").len(), 2);
    until("b may be rebooted", || {
        (check(&cluster, "b").0 == 0).then_some(())
    });
    cluster
        .ctl("a", &["volume", "join", "db", "b"])
        .assert_error(4, "refused");
    cluster.host("b").marsd().kill();
    wait_for_answers(&writer, 200);
    until("nothing is known of b", || {
        (check(&cluster, "b").0 == 4).then_some(())
    });
    cluster.host("b").restart_marsd();
    until("b is back", || {
        (cluster.ok("a", &["node", "show", "b"])["state"] == "online").then_some(())
    });
    cluster.ok("a", &["node", "undrain", "b"]);
    cluster.ok("a", &["volume", "join", "db", "b"]);
    assert_eq!(stop(writer).reconnects, 0);
    for volume in ["web", "db"] {
        cluster.wait_for_uptodate(volume);
        cluster.assert_identical(volume);
    }
}

#[test]
fn a_drain_goes_on_after_the_death_of_the_daemon_that_carries_it_out() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let volumes = ["v1", "v2", "v3", "v4"];
    for volume in volumes {
        cluster.create(volume, "8M", &["b", "c"]);
    }
    let job = cluster.ok("a", &["node", "drain", "b", "--no-wait"]);
    let job = text(&job["job"]).to_owned();
    cluster.host("a").poold().kill();
    cluster.host("a").restart_poold();
    let ended = cluster.ctl("a", &["job", "watch", &job]);
    assert_eq!(
        (ended.code, text(&ended.json["state"])),
        (0, "done"),
        "{:#}",
        ended.json
    );
    for volume in volumes {
        assert_eq!(cluster.volume(volume)["primary"], "c");
    }
    // Nobody is left who could take c's.
    cluster
        .ctl("a", &["node", "drain", "c"])
        .assert_error(4, "refused");
}
