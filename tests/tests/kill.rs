//! Is anything acknowledged lost when marsd is killed at any moment? `kill -9`, a hundred times, under a verified writer.

use std::thread;
use std::time::Duration;

use rand::Rng;
use tests::{Cluster, Plan, RECONNECT, Writer, stop, wait_for_answers};

const MIB: u64 = 1 << 20;
const KILLS: usize = 100;

fn random_moment() -> Duration {
    Duration::from_millis(rand::rng().random_range(0..250))
}

#[test]
fn nothing_acknowledged_is_lost_when_the_primary_is_killed_a_hundred_times() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "64M", &["a", "b"]);
    let plan = Plan {
        reconnect: RECONNECT,
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    let writer = Writer::start(&cluster.attach("web", "a"), plan).unwrap();
    let (primary, replica) = (cluster.host("a"), cluster.host("b"));
    for kill in 0..KILLS {
        // Mostly under full load, sometimes while it still comes back from the last time.
        if kill % 4 != 0 {
            wait_for_answers(&writer, 50);
        }
        thread::sleep(random_moment());
        primary.marsd().kill();
        if kill % 5 == 0 {
            replica.marsd().kill();
            replica.restart_marsd();
        }
        primary.restart_marsd();
    }
    wait_for_answers(&writer, 200);
    let summary = stop(writer);
    println!("{KILLS} kills: {summary:?}");
    assert!(summary.reconnects >= KILLS as u64 / 2, "{summary:?}");
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_single_replica_loses_nothing_either() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "32M", &["a"]);
    let plan = Plan {
        reconnect: RECONNECT,
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    let writer = Writer::start(&cluster.attach("web", "a"), plan).unwrap();
    for _ in 0..20 {
        wait_for_answers(&writer, 50);
        thread::sleep(random_moment());
        cluster.host("a").marsd().kill();
        cluster.host("a").restart_marsd();
    }
    wait_for_answers(&writer, 100);
    stop(writer);
}

#[test]
fn a_remote_door_holds_its_guests_until_a_killed_primary_is_back() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "32M", &["a", "b"]);
    let plan = Plan {
        length_bytes: Some(32 * MIB),
        rate: Some(2000.0),
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    let writer = Writer::start(&cluster.attach("web", "c"), plan).unwrap();
    for _ in 0..10 {
        wait_for_answers(&writer, 50);
        thread::sleep(random_moment());
        cluster.host("a").marsd().kill();
        cluster.host("a").restart_marsd();
    }
    wait_for_answers(&writer, 100);
    let summary = stop(writer);
    assert_eq!(
        summary.reconnects, 0,
        "the guest of a remote door stays connected"
    );
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
