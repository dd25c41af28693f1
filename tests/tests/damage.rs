//! What happens when files below are damaged? It is noticed, named, harms nobody else, and can be healed.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rand::{Rng, RngCore};
use tests::spoil::{files, flip_bits, log_end};
use tests::{
    Client, Cluster, Options, Plan, RECONNECT, Request, Writer, steady_writer, stop, text, until,
    wait_for_answers,
};

const MIB: u64 = 1 << 20;
const KILLED_IN_TIME: Duration = Duration::from_secs(20);

fn state_of(cluster: &Cluster, volume: &str, node: &str) -> String {
    let shown = cluster.volume(volume);
    let replicas = shown["replicas"].as_array().unwrap().clone();
    let row = replicas.iter().find(|row| row["node"] == node);
    row.map_or_else(String::new, |row| text(&row["state"]).to_owned())
}

#[test]
fn a_damaged_log_stops_its_replica_only_and_a_rejoin_heals_it() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.expect_in_logs("log");
    cluster.create("web", "64M", &["a", "b", "c"]);
    let writer = steady_writer(&cluster.attach("web", "a"), 0, 64 * MIB, 3000.0);
    // While c is away, a keeps its log for c: b can fetch again what it lost, and nothing else hides the damage.
    cluster.host("c").marsd().kill();
    wait_for_answers(&writer, 1000);
    let host = cluster.host("b");
    // What is on its disk already is not read again, so the damage is felt only when b dies with a part in between.
    let defective = (0..20).any(|_| {
        wait_for_answers(&writer, 500);
        host.marsd().kill();
        let log = log_end(&cluster, host, "web");
        flip_bits(&log, 0, fs::metadata(&log).unwrap().len(), 512);
        host.restart_marsd();
        until("b follows or says why not", || {
            match state_of(&cluster, "web", "b").as_str() {
                "defective-log" => Some(true),
                "uptodate" | "behind" => Some(false),
                _ => None,
            }
        })
    });
    assert!(defective, "no damage was ever noticed");
    cluster.host("c").restart_marsd();
    let shown = cluster.volume("web");
    let replicas = shown["replicas"].as_array().unwrap();
    let reason = &replicas.iter().find(|row| row["node"] == "b").unwrap()["reason"];
    assert!(
        reason.as_str().is_some_and(|words| !words.is_empty()),
        "no reason: {shown:#}"
    );
    assert_eq!(cluster.ctl("a", &["status"]).code, 7, "the pool is degraded");

    // The others live, and the primary can move between them.
    wait_for_answers(&writer, 500);
    cluster
        .ctl("a", &["volume", "primary", "web", "b"])
        .assert_error(4, "refused");
    until("c has caught up", || {
        ["uptodate", "behind"]
            .contains(&state_of(&cluster, "web", "c").as_str())
            .then_some(())
    });
    cluster.ok("a", &["volume", "primary", "web", "c"]);
    wait_for_answers(&writer, 200);
    cluster.ok("a", &["volume", "leave", "web", "b"]);
    cluster.ok("a", &["volume", "join", "web", "b"]);
    wait_for_answers(&writer, 200);
    assert_eq!(stop(writer).reconnects, 0);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    until("the pool is healthy", || {
        (cluster.ctl("a", &["status"]).code == 0).then_some(())
    });
}

#[test]
fn a_primary_with_a_damaged_log_serves_nobody_instead_of_old_data() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.expect_in_logs("log");
    cluster.create("web", "64M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let writer = Writer::start(&door, Plan::default()).unwrap();
    wait_for_answers(&writer, 2000);
    let host = cluster.host("a");
    host.marsd().kill();
    writer.finish();
    let log = log_end(&cluster, host, "web");
    flip_bits(&log, 0, fs::metadata(&log).unwrap().len() - 64 * 1024, 512);
    host.restart_marsd();
    until("the damage is reported", || {
        (state_of(&cluster, "web", "a") == "defective-log").then_some(())
    });
    let (answer_to, answers) = std::sync::mpsc::channel();
    let opened = Client::open(&door, Options::default());
    if let Ok(guest) = &opened {
        guest.submit(
            Request::Read {
                offset: 0,
                length: 4096,
            },
            &answer_to,
        );
        let answer = answers.recv_timeout(Duration::from_secs(2));
        assert!(
            answer.is_err() || answer.is_ok_and(|answer| answer.result.is_err()),
            "old data was served"
        );
    }
    assert!(host.marsd().is_running());
}

#[test]
fn junk_behind_the_log_of_a_killed_primary_is_cut_off() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let plan = Plan {
        reconnect: RECONNECT,
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    let writer = Writer::start(&cluster.attach("web", "a"), plan).unwrap();
    let host = cluster.host("a");
    for _ in 0..8 {
        wait_for_answers(&writer, 300);
        host.marsd().kill();
        let log = log_end(&cluster, host, "web");
        let length = fs::metadata(&log).unwrap().len();
        let mut junk = vec![0; rand::rng().random_range(1..20_000)];
        rand::rng().fill_bytes(&mut junk);
        OpenOptions::new()
            .write(true)
            .open(&log)
            .unwrap()
            .write_all_at(&junk, length)
            .unwrap();
        host.restart_marsd();
    }
    wait_for_answers(&writer, 300);
    stop(writer);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_torn_tail_costs_nothing_that_was_flushed() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let host = cluster.host("a");
    for round in 0..8 {
        // A new seed each time: what earlier rounds left is nobody's business.
        let writer = Writer::start(&door, Plan::default()).unwrap();
        wait_for_answers(&writer, 300);
        host.marsd().kill();
        // The end of the last append never reached the medium, as when the power fails.
        let log = log_end(&cluster, host, "web");
        let file = OpenOptions::new().write(true).open(&log).unwrap();
        let length = fs::metadata(&log).unwrap().len();
        file.set_len(length - rand::rng().random_range(1..64)).unwrap();
        let (summary, model) = writer.finish();
        assert!(!summary.is_clean(), "round {round}: the guest must have noticed");
        host.restart_marsd();
        let checked = until("the door is open again", || {
            match bench::writer::check(&door, &model, 8, true) {
                Ok(checked) => Some(checked),
                Err(tests::Error::Disconnected(_) | tests::Error::Refused(_)) => None,
                Err(error) => panic!("{error}"),
            }
        });
        assert!(checked.is_clean(), "round {round}: {checked:#?}");
    }
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_damaged_catalog_stops_poold_in_clear_words_and_no_guest() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "16M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let writer = steady_writer(&door, 0, 16 * MIB, 500.0);
    let host = cluster.host("a");
    assert!(host.poold().terminate(), "poold ends when asked");
    let catalog = files(&host.poold_dir(), &|name| name.contains("catalog"))
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .expect("poold keeps a catalog");
    let whole = fs::read(&catalog).unwrap();

    for what in ["bits", "half of it", "another file"] {
        match what {
            "bits" => flip_bits(&catalog, 0, whole.len() as u64, 64),
            "half of it" => fs::write(&catalog, &whole[..whole.len() / 2]).unwrap(),
            _ => fs::write(&catalog, b"nothing of the kind").unwrap(),
        }
        let lines = host.poold().log().lines().count();
        host.start_poold_again().unwrap();
        let code = host.poold().wait(KILLED_IN_TIME);
        let said = host
            .poold()
            .log()
            .lines()
            .skip(lines)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            code.is_some_and(|code| code > 0),
            "{what}: poold must refuse to start, not {code:?}: {said}"
        );
        assert!(
            said.contains(catalog.to_str().unwrap()),
            "{what}: the file is not named: {said}"
        );
        assert!(!said.contains("panicked"), "{what}: {said}");
        wait_for_answers(&writer, 100);
        // A damaged file is evidence: it is left as it is, and the whole one can be put back.
        fs::write(&catalog, &whole).unwrap();
    }
    cluster.expect_in_logs("catalog");
    host.restart_poold();
    assert_eq!(stop(writer).reconnects, 0);
    let guest = Client::open(&door, Options::default()).unwrap();
    guest.flush().unwrap();
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
