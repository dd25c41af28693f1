//! Who becomes primary when nobody can grant the role? The host that an operator names, who is told before what that costs.

use std::time::Duration;

use tests::{Cluster, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

#[test]
fn a_replica_takes_over_from_a_dead_host() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "32M", &["b", "c"]);
    let writer = steady_writer(&cluster.attach("web", "b"), 0, 16 * MIB, 500.0);
    wait_for_answers(&writer, 200);
    stop(writer);
    cluster.wait_for_uptodate("web");
    cluster.ok("a", &["volume", "detach", "web"]);
    // Nothing has to be forced while the primary is there.
    let refused = cluster.ctl("a", &["volume", "primary", "web", "c", "--force"]);
    assert_eq!(refused.code, 4, "{:#}", refused.json);
    cluster.host("b").marsd().kill();
    until("b is missed", || {
        (cluster.volume("web")["state"] == "unreachable").then_some(())
    });
    let refused = cluster.ctl("a", &["volume", "primary", "web", "c"]);
    assert_eq!(refused.code, 4, "{:#}", refused.json);
    let told = cluster.ok("a", &["volume", "primary", "web", "c", "--force", "--dry-run"]);
    assert_eq!(told["loss"]["bytes"], 0, "{told:#}");
    // What its primary said last counts, however it went.
    assert!(told["loss"]["seconds"].is_number(), "{told:#}");
    assert_eq!(told["loss"]["node"], "b", "{told:#}");
    assert_eq!(cluster.volume("web")["primary"], "b");
    let job = cluster.ok("a", &["volume", "primary", "web", "c", "--force"]);
    assert_eq!(
        (text(&job["kind"]), text(&job["state"])),
        ("take-over", "done"),
        "{job:#}"
    );
    let shown = cluster.volume("web");
    assert_eq!(
        (text(&shown["primary"]), &shown["epoch"]),
        ("c", &65_536.into()),
        "{shown:#}"
    );
    let writer = steady_writer(&cluster.attach("web", "c"), 16 * MIB, 16 * MIB, 500.0);
    wait_for_answers(&writer, 200);
    stop(writer);
}

#[test]
fn a_primary_steps_down_and_comes_back_elsewhere() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let target = cluster.attach("web", "a");
    let writer = steady_writer(&target, 0, 16 * MIB, 500.0);
    wait_for_answers(&writer, 100);
    let guests = |wanted: bool| {
        until("the pool sees who is connected", || {
            let shown = cluster.volume("web");
            let connected = array(&shown["doors"]).iter().any(|door| door["clients"] != 0);
            (connected == wanted).then_some(())
        });
    };
    guests(true);
    let refused = cluster.ctl("a", &["volume", "secondary", "web"]);
    assert_eq!(refused.code, 4, "{:#}", refused.json);
    stop(writer);
    guests(false);
    cluster.ok("a", &["volume", "secondary", "web"]);
    let shown = cluster.volume("web");
    assert!(shown["primary"].is_null(), "{shown:#}");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(
        cluster.volume("web")["primary"].is_null(),
        "nobody takes the role by itself"
    );
    let job = cluster.ok("a", &["volume", "primary", "web", "b"]);
    assert_eq!(text(&job["state"]), "done", "{job:#}");
    assert_eq!(cluster.volume("web")["primary"], "b");
    let writer = steady_writer(&target, 16 * MIB, 16 * MIB, 500.0);
    wait_for_answers(&writer, 100);
    stop(writer);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
