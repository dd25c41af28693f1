//! What happens to guests and to long work when poold dies? Nothing; it goes on when poold is back.

use std::thread;
use std::time::Duration;

use rand::Rng;
use tests::{Cluster, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

#[test]
fn a_migration_goes_on_after_any_poold_was_killed() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "64M", &["a", "b"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 64 * MIB, 500.0);
    wait_for_answers(&writer, 500);
    // The volume goes round, so that each poold is once the source's, the target's and the catalog's.
    for (to, victim) in [
        ("c", "a"),
        ("a", "a"),
        ("b", "c"),
        ("c", "b"),
        ("a", "a"),
        ("b", "a"),
    ] {
        let from = text(&cluster.volume("web")["primary"]).to_owned();
        if cluster.replicas("web").iter().any(|node| node == to) {
            cluster.ok("a", &["volume", "leave", "web", to]);
        }
        let started = cluster.ok("a", &["migrate", "web", "--to", to, "--from", &from, "--no-wait"]);
        let job = text(&started["job"]).to_owned();
        thread::sleep(Duration::from_millis(rand::rng().random_range(0..600)));
        cluster.host(victim).poold().kill();
        wait_for_answers(&writer, 50);
        cluster.host(victim).restart_poold();
        let ended = cluster.ok("a", &["job", "watch", &job]);
        assert_eq!(ended["state"], "done", "{ended:#}");
        let shown = cluster.volume("web");
        assert_eq!(shown["primary"], to, "{shown:#}");
        if cluster.replicas("web").len() == 1 {
            cluster.ok("a", &["volume", "join", "web", &from]);
        }
    }
    assert_eq!(stop(writer).reconnects, 0);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn guests_and_replicas_need_no_poold() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "32M", &["a", "b"]);
    let near = steady_writer(&cluster.attach("web", "a"), 0, 16 * MIB, 1000.0);
    let far = steady_writer(&cluster.attach("web", "c"), 16 * MIB, 16 * MIB, 1000.0);
    wait_for_answers(&near, 100);
    cluster.hosts().iter().for_each(|host| host.poold().kill());
    for guest in [&near, &far] {
        wait_for_answers(guest, 500);
    }
    // A replica's marsd comes back by itself too.
    cluster.host("b").marsd().kill();
    cluster.host("b").restart_marsd();
    for guest in [&near, &far] {
        wait_for_answers(guest, 500);
    }
    cluster.hosts().iter().for_each(|host| host.restart_poold());
    for guest in [near, far] {
        assert_eq!(stop(guest).reconnects, 0);
    }
    until("the pool is healthy again", || {
        (cluster.ctl("a", &["status"]).code == 0).then_some(())
    });
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
