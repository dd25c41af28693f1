//! Does a virtual machine find its disk behind a vhost-user-blk door, whatever happens to marsd, and whatever it sends?

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does")]

mod driver;
mod machine;
mod malice;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::vhost::{FEATURES, Guest, Op, RING};
use driver::{Driver, PATIENCE};
use rand::Rng;
use tests::Cluster;

const SECTOR: usize = 512;

fn guest(path: &Path, features: u64) -> Guest {
    let mut guest = Guest::new(1, features).unwrap();
    guest.connect(path, PATIENCE).unwrap();
    guest
}

fn done(guest: &mut Guest, op: Op) -> Vec<u8> {
    let answer = guest.call(&op).unwrap();
    assert_eq!(answer.status, 0, "{op:?}");
    answer.data
}

fn refused(guest: &mut Guest, op: Op, status: u8) {
    assert_eq!(guest.call(&op).unwrap().status, status, "{op:?}");
}

#[test]
fn a_guest_finds_every_request_of_virtio_blk() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "8M", &["a", "b"]);
    let path = cluster.attach_vhost("web", "a");
    assert!(path.ends_with("run/web.vhost.sock"), "{}", path.display());
    let mut guest = guest(&path, FEATURES);
    let last = (8 << 20) / 512 - 8;
    assert_eq!(guest.size_bytes().unwrap(), 8 << 20);
    assert!(done(&mut guest, Op::Id).starts_with(b"web\0"));
    let written: Vec<u8> = (0..8 * SECTOR).map(|n| n as u8).collect();
    let write = |sector| Op::Write {
        sector,
        data: written.clone(),
    };
    let read = |sector| Op::Read { sector, count: 8 };
    for sector in [0, 3, last] {
        done(&mut guest, write(sector));
        assert_eq!(done(&mut guest, read(sector)), written);
    }
    done(&mut guest, Op::Flush);
    done(&mut guest, Op::Discard { sector: 0, count: 2 });
    done(&mut guest, Op::Zeroes { sector: 9, count: 1 });
    let back = done(&mut guest, read(2));
    assert_eq!(back[SECTOR..7 * SECTOR], written[..6 * SECTOR]);
    assert_eq!(back[7 * SECTOR..], [0; SECTOR]);
    refused(&mut guest, read(last + 1), 1);
    refused(&mut guest, write(u64::MAX), 1);
    refused(
        &mut guest,
        Op::Discard {
            sector: last,
            count: 9,
        },
        1,
    );
    refused(
        &mut guest,
        Op::Zeroes {
            sector: u64::MAX,
            count: u32::MAX,
        },
        1,
    );
    // The same volume behind another door.
    let target = cluster.attach("web", "b");
    let client = tests::Client::open(&target, tests::Options::default()).unwrap();
    assert_eq!(client.read(last * 512, 8 * 512).unwrap(), written);
    assert_eq!(guest.stop(0).unwrap(), 15, "every request was taken and answered");
    cluster.assert_identical("web");
}

#[test]
fn a_guest_may_not_write_through_a_door_for_reading() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "8M", &["a"]);
    let door = ["volume", "attach", "web", "--door", "vhost-user-blk"];
    let attached = cluster.ok("a", &[&door[..], &["--read-only"]].concat());
    let path = PathBuf::from(tests::text(&attached["path"]));
    assert_eq!(attached["kind"], "vhost-user-blk");
    // The same again is the same; the same place otherwise is refused.
    cluster.ok("a", &[&door[..], &["--read-only"]].concat());
    cluster.ctl("a", &door).assert_error(4, "refused");
    let tcp = ["--tcp", "127.0.0.1:0"];
    cluster
        .ctl("a", &[&door[..], &tcp].concat())
        .assert_error(2, "usage");
    let mut guest = guest(&path, FEATURES);
    done(&mut guest, Op::Read { sector: 0, count: 8 });
    refused(
        &mut guest,
        Op::Write {
            sector: 0,
            data: vec![1; SECTOR],
        },
        1,
    );
    refused(&mut guest, Op::Discard { sector: 0, count: 8 }, 1);
    // An NBD door beside it is no contradiction.
    cluster.attach("web", "a");
    let shown = cluster.volume("web");
    let kinds: BTreeSet<&str> = tests::array(&shown["doors"])
        .iter()
        .map(|door| tests::text(&door["kind"]))
        .collect();
    assert_eq!(kinds, BTreeSet::from(["nbd", "vhost-user-blk"]));
    cluster.ok("a", &["volume", "detach", "web"]);
    assert!(!path.exists(), "the socket is still there");
}

#[test]
fn nothing_answered_is_lost_when_marsd_is_killed_under_a_guest() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let mut driver = Driver::new(cluster.attach_vhost("web", "a"), 3, 32 << 20);
    for kill in 0..40 {
        driver.work(if kill % 4 == 0 { 10 } else { 300 });
        std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..20_000)));
        cluster.host("a").marsd().kill();
        cluster.host("a").restart_marsd();
    }
    driver.work(500);
    let connections = driver.finish();
    assert!(connections >= 30, "{connections}");
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_front_end_that_comes_and_goes_loses_nothing() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "16M", &["a"]);
    let mut driver = Driver::new(cluster.attach_vhost("web", "a"), 2, 16 << 20);
    for _ in 0..60 {
        driver.work(100);
        driver.disconnect();
    }
    driver.work(200);
    driver.finish();
}

#[test]
fn a_remote_door_keeps_its_guest_while_the_primary_moves_and_dies() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "16M", &["a", "b"]);
    let mut driver = Driver::new(cluster.attach_vhost("web", "c"), 2, 16 << 20);
    for primary in ["b", "a", "b"] {
        driver.work(200);
        cluster.wait_for_uptodate("web");
        cluster.ok("a", &["volume", "primary", "web", primary]);
    }
    driver.work(200);
    cluster.host("b").marsd().kill();
    cluster.host("b").restart_marsd();
    driver.work(200);
    assert_eq!(driver.finish(), 1, "a guest of a remote door stays connected");
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_guest_hears_that_its_disk_has_grown() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "8M", &["a", "b"]);
    let mut guest = guest(&cluster.attach_vhost("web", "a"), FEATURES);
    assert!(!guest.hears_of_change(Duration::from_millis(100)).unwrap());
    cluster.ok("a", &["volume", "resize", "web", "16M"]);
    assert!(guest.hears_of_change(PATIENCE).unwrap());
    assert_eq!(guest.size_bytes().unwrap(), 16 << 20);
    let sector = (16 << 20) / 512 - 1;
    let data = vec![7; SECTOR];
    done(&mut guest, Op::Write { sector, data });
}

#[test]
fn every_page_that_the_door_writes_is_marked_for_a_migration() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "8M", &["a"]);
    let mut guest = guest(&cluster.attach_vhost("web", "a"), FEATURES);
    guest.log_writes().unwrap();
    let slot = guest.free(0).unwrap();
    let op = Op::Read { sector: 0, count: 24 };
    guest.submit(slot, &op).unwrap();
    guest.answers(PATIENCE).unwrap();
    let marked: BTreeSet<u64> = guest.marked().unwrap().into_iter().collect();
    let data = Guest::data_at(slot) / 4096;
    // The used ring, the status, and three pages of data.
    assert_eq!(marked, BTreeSet::from([2, 4, data, data + 1, data + 2]));
}

#[test]
fn a_guest_with_few_features_is_served_too() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "8M", &["a"]);
    // Neither flush nor event index: every write is durable before its answer, every answer an interrupt.
    let few = FEATURES & !(1 << 9) & !(1 << 29);
    let mut guest = guest(&cluster.attach_vhost("web", "a"), few);
    let data = vec![9; SECTOR];
    for sector in 0..u64::from(RING) * 2 {
        let data = data.clone();
        done(&mut guest, Op::Write { sector, data });
    }
    assert_eq!(
        done(
            &mut guest,
            Op::Read {
                sector: 255,
                count: 1
            }
        ),
        data
    );
}
