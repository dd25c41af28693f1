//! H: what if the room for logs ends? MARS goes into emergency mode, and each replica then needs a full sync; here guests notice
//! nothing, and replicas copy what changed.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use tests::mount::Mounted;
use tests::{Cluster, Host, Plan, RECONNECT, Writer, array, text, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

/// A file system of its own for a host's logs, in memory; gone with the value.
struct LogFs(Mounted);

impl LogFs {
    /// `None`, with a word about it, where that is not allowed.
    fn mount(host: &Host, size: &str) -> Option<LogFs> {
        let path = host.marsd_dir().join("log");
        host.marsd().kill();
        let mounted = Mounted::memory(&path, size);
        host.restart_marsd();
        mounted.map(LogFs)
    }

    /// Takes all the room there is left.
    fn fill(&self) {
        let mut file = File::create(self.foreign()).expect("a file system that is not full yet");
        while file.write_all(&[1; 1 << 16]).is_ok() {}
    }

    /// Gives it back.
    fn make_room(&self) {
        std::fs::remove_file(self.foreign()).expect("it was put there");
    }

    fn foreign(&self) -> PathBuf {
        self.0.path().join("of-somebody-else")
    }
}

/// A pair whose first primary has its logs on a file system of so much; the second value must go first.
fn pair_with_log_on(size: &str) -> Option<(Pair, LogFs)> {
    let cluster = Cluster::start_wired(&[P, S]);
    let fs = LogFs::mount(cluster.host(P), size)?;
    cluster.create(NAME, &SIZE_BYTES.to_string(), &[P, S]);
    let door = cluster.attach(NAME, P);
    Some((Pair { cluster, door }, fs))
}

/// How much trouble the room for a volume's log gives its primary.
fn level(pair: &Pair, volume: &str) -> String {
    text(&pair.cluster.volume(volume)["pressure"]).to_owned()
}

fn wait_for_level(pair: &Pair, volume: &str, wanted: &str) {
    until(&format!("the log of {volume} is {wanted}"), || {
        (level(pair, volume) == wanted).then_some(())
    });
}

/// Whether an event says so.
fn was_told(pair: &Pair, words: &str) -> bool {
    let events = pair.ok(&["events"]);
    let told = |event: &Value| event["message"].as_str().is_some_and(|m| m.contains(words));
    array(&events["events"]).iter().any(told)
}

/// Full copies that a host's data plane has begun.
fn full_copies(host: &Host) -> usize {
    host.marsd().log().matches("full sync has begun").count()
}

fn expect_warnings(pair: &Pair) {
    for words in ["no room", "no longer keeps log", "does not follow"] {
        pair.cluster.expect_in_logs(words);
    }
}

#[test]
fn h1_a_log_that_fills_its_file_system_disturbs_no_writer() {
    let Some((pair, _fs)) = pair_with_log_on("48M") else {
        return;
    };
    expect_warnings(&pair);
    let replica = pair.cluster.host(S);
    let before = full_copies(replica);
    replica.marsd().kill();
    let plan = Plan {
        offset_bytes: 0,
        length_bytes: Some(SIZE_BYTES / 2),
        reconnect: RECONNECT,
        ..Plan::default()
    };
    let writer = Writer::start(&pair.door, plan).expect("the writer connects");
    until("the log was full", || {
        was_told(&pair, "level unlogged").then_some(())
    });
    wait_for_answers(&writer, 500);
    replica.restart_marsd();
    assert_eq!(stop(writer).reconnects, 0);
    wait_for_level(&pair, NAME, "normal");
    pair.assert_equal();
    assert_eq!(full_copies(replica), before, "what changed was remembered");
}

#[test]
fn h2_a_file_of_somebody_else_that_fills_it_disturbs_no_writer() {
    let Some((pair, fs)) = pair_with_log_on("96M") else {
        return;
    };
    expect_warnings(&pair);
    let writer = pair.writer();
    let before = full_copies(pair.cluster.host(S));
    fs.fill();
    wait_for_level(&pair, NAME, "unlogged");
    wait_for_answers(&writer, 2000);
    let shown = pair.cluster.volume(NAME);
    assert!(shown["unlogged_seconds"].as_f64().is_some(), "{shown:#}");
    assert!(
        pair.replica(S)["dirty_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0),
        "{shown:#}"
    );
    // It comes back without a log, and without having forgotten anything.
    pair.cluster.host(P).marsd().kill();
    pair.cluster.host(P).restart_marsd();
    wait_for_answers(&writer, 500);
    assert_eq!(level(&pair, NAME), "unlogged");
    fs.make_room();
    wait_for_level(&pair, NAME, "normal");
    wait_for_answers(&writer, 500);
    stop(writer);
    pair.assert_equal();
    assert_eq!(
        full_copies(pair.cluster.host(S)),
        before,
        "what changed was remembered"
    );
    assert!(was_told(&pair, "level unlogged") && was_told(&pair, "level normal"));
}

#[test]
fn h3_a_budget_of_one_volume_is_the_trouble_of_that_volume_alone() {
    let pair = Pair::new();
    expect_warnings(&pair);
    let others = ["q1", "q2"];
    for other in others {
        pair.cluster.create(other, &SIZE_BYTES.to_string(), &[P, S]);
    }
    let writer = pair.writer();
    let start = |other: &&str| {
        let plan = Plan {
            rate: Some(500.0),
            reconnect: RECONNECT,
            ..Plan::default()
        };
        Writer::start(&pair.cluster.attach(other, P), plan).expect("the writer connects")
    };
    let beside: Vec<Writer> = others.iter().map(start).collect();
    let budget = |size: &str| pair.ok(&["limit", "set", NAME, "--log-budget", size]);
    budget("4K");
    wait_for_level(&pair, NAME, "unlogged");
    wait_for_answers(&writer, 1000);
    for (other, writer) in others.iter().zip(&beside) {
        wait_for_answers(writer, 200);
        assert_eq!(level(&pair, other), "normal");
    }
    // It holds over a restart.
    pair.cluster.host(P).marsd().kill();
    pair.cluster.host(P).restart_marsd();
    wait_for_answers(&writer, 100);
    wait_for_level(&pair, NAME, "unlogged");
    budget("none");
    wait_for_level(&pair, NAME, "normal");
    stop(writer);
    beside.into_iter().for_each(|writer| drop(stop(writer)));
    pair.assert_equal();
    for other in others {
        pair.cluster.wait_for_uptodate(other);
        pair.cluster.assert_identical(other);
    }
}
