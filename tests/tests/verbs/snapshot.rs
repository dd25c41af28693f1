//! `volume snapshot`: is the same version kept on every host while a guest writes, whatever dies, and does it come back?

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::mount::Mounted;
use tests::{Client, Cluster, Options, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;

fn list(cluster: &Cluster) -> Vec<Value> {
    let shown = cluster.ok("a", &["volume", "snapshot", "list", "web"]);
    array(&shown["snapshots"]).to_vec()
}

/// What each host keeps of a snapshot, once all keep it; the same bytes everywhere.
fn kept(cluster: &Cluster, name: &str) -> Vec<u8> {
    let files = until(&format!("all keep {name}"), || {
        let rows = list(cluster);
        let row = rows.iter().find(|row| row["snapshot"] == name)?;
        let path = |replica: &Value| (replica["state"] == "kept").then(|| text(&replica["path"]).to_owned());
        array(&row["replicas"])
            .iter()
            .map(path)
            .collect::<Option<Vec<String>>>()
    });
    let contents: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).expect("a snapshot can be read"))
        .collect();
    assert!(contents.len() > 1);
    assert!(
        contents.iter().all(|other| *other == contents[0]),
        "{files:?} differ"
    );
    contents.into_iter().next().expect("there are two")
}

fn wait_until_nobody_is_connected(cluster: &Cluster) {
    until("nobody is connected", || {
        let plan = ["volume", "snapshot", "restore", "web", "one", "--dry-run"];
        (cluster.ctl("a", &plan).code == 0).then_some(())
    });
}

#[test]
fn a_version_is_kept_under_load_on_all_hosts_and_comes_back_on_all() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "64M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).expect("a guest");
    let writer = steady_writer(&door, 0, 16 * MIB, 500.0);
    wait_for_answers(&writer, 200);
    // Answered, not flushed.
    guest
        .write(32 * MIB, vec![0x11; 4096], false)
        .expect("a good answer");
    let plan = cluster.ok("b", &["volume", "snapshot", "create", "web", "one", "--dry-run"]);
    assert!(text(&plan["steps"][0]).contains("node a"), "{plan:#}");
    assert!(list(&cluster).is_empty());
    let job = cluster.ok("b", &["volume", "snapshot", "create", "web", "one"]);
    assert_eq!(
        (text(&job["kind"]), text(&job["state"])),
        ("snapshot", "done"),
        "{job:#}"
    );
    guest
        .write(32 * MIB, vec![0x22; 8192], true)
        .expect("a good answer");
    wait_for_answers(&writer, 200);
    let one = kept(&cluster, "one");
    let place = (32 * MIB) as usize;
    assert_eq!(one.len() as u64, 64 * MIB);
    assert!(one[place..place + 4096].iter().all(|byte| *byte == 0x11));
    assert!(one[place + 4096..place + 8192].iter().all(|byte| *byte == 0));
    let again = cluster.ctl("a", &["volume", "snapshot", "create", "web", "one"]);
    again.assert_error(4, "refused");
    cluster.ok("a", &["volume", "snapshot", "create", "web", "two"]);
    let two = kept(&cluster, "two");
    assert!(two[place..place + 8192].iter().all(|byte| *byte == 0x22));

    let refused = cluster.ctl("a", &["volume", "snapshot", "restore", "web", "one"]);
    refused.assert_error(4, "refused");
    assert_eq!(stop(writer).reconnects, 0);
    drop(guest);
    wait_until_nobody_is_connected(&cluster);
    let unknown = cluster.ctl("a", &["volume", "snapshot", "restore", "web", "none-such"]);
    unknown.assert_error(3, "not-found");
    let job = cluster.ok("a", &["volume", "snapshot", "restore", "web", "one"]);
    assert_eq!(
        (text(&job["kind"]), text(&job["state"])),
        ("restore", "done"),
        "{job:#}"
    );
    let guest = Client::open(&door, Options::default()).expect("a guest");
    for at in (0..64 * MIB).step_by(MIB as usize) {
        let found = guest.read(at, MIB as u32).expect("a good answer");
        assert!(found == one[at as usize..(at + MIB) as usize], "at {at}");
    }
    drop(guest);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    // What was taken before stays what it is.
    assert!(kept(&cluster, "two") == two);

    cluster.ok("a", &["volume", "detach", "web"]);
    cluster
        .ctl("a", &["volume", "delete", "web"])
        .assert_error(4, "refused");
    let files: Vec<String> = list(&cluster)
        .iter()
        .flat_map(|row| array(&row["replicas"]).to_vec())
        .map(|replica| text(&replica["path"]).to_owned())
        .collect();
    assert_eq!(files.len(), 4);
    for name in ["one", "two"] {
        cluster.ok("b", &["volume", "snapshot", "delete", "web", name]);
    }
    until("the files are gone", || {
        let gone = |file: &String| !std::path::Path::new(file).exists();
        files.iter().all(gone).then_some(())
    });
    cluster
        .ctl("a", &["volume", "snapshot", "delete", "web", "one"])
        .assert_error(3, "not-found");
    cluster.ok("a", &["volume", "delete", "web"]);
}

fn watch_until_done(cluster: &Cluster, job: &Value) {
    let ended = cluster.ctl("a", &["job", "watch", text(&job["job"])]);
    assert_eq!(
        (ended.code, text(&ended.json["state"])),
        (0, "done"),
        "{:#}",
        ended.json
    );
}

#[test]
fn a_snapshot_and_a_restore_go_on_after_the_death_of_marsd_and_of_the_catalog() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "64M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).expect("a guest");
    let fill = |guest: &Client, byte: u8| {
        for at in (0..48 * MIB).step_by(MIB as usize) {
            guest
                .write(at, vec![byte; MIB as usize], false)
                .expect("a good answer");
        }
    };
    fill(&guest, 1);
    guest.flush().expect("a good answer");
    for (name, host) in [("one", "b"), ("two", "a")] {
        let job = cluster.ok("a", &["volume", "snapshot", "create", "web", name, "--no-wait"]);
        cluster.host(host).marsd().kill();
        cluster.host(host).restart_marsd();
        if host == "b" {
            cluster.host("a").poold().kill();
            cluster.host("a").restart_poold();
        }
        watch_until_done(&cluster, &job);
        let contents = kept(&cluster, name);
        assert!(
            contents[..(48 * MIB) as usize].iter().all(|byte| *byte == 1),
            "{name}"
        );
    }
    drop(guest);
    let guest = Client::open(&door, Options::default()).expect("a guest");
    fill(&guest, 2);
    drop(guest);
    wait_until_nobody_is_connected(&cluster);
    let job = cluster.ok("a", &["volume", "snapshot", "restore", "web", "one", "--no-wait"]);
    cluster.host("a").marsd().kill();
    cluster.host("a").restart_marsd();
    watch_until_done(&cluster, &job);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    let guest = Client::open(&door, Options::default()).expect("a guest");
    for at in [0, 47 * MIB, 48 * MIB] {
        let found = guest.read(at, MIB as u32).expect("a good answer");
        let want = u8::from(at < 48 * MIB);
        assert!(found.iter().all(|byte| *byte == want), "at {at}");
    }
}

#[test]
fn a_file_system_that_can_share_blocks_keeps_a_version_without_a_copy() {
    let cluster = Cluster::start(&["a", "b"]);
    let host = cluster.host("a");
    host.ok(&["vg", "remove", "vg0"]);
    let Some(fs) = Mounted::sharing(&host.vg_dir(), 512 * MIB) else {
        return;
    };
    host.add_vg(None);
    cluster.create("web", "128M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).expect("a guest");
    for at in (8 * MIB..104 * MIB).step_by(MIB as usize) {
        guest
            .write(at, vec![(at / MIB) as u8; MIB as usize], false)
            .expect("a good answer");
    }
    guest.flush().expect("a good answer");
    let writer = steady_writer(&door, 0, 4 * MIB, 500.0);
    wait_for_answers(&writer, 500);
    cluster.wait_for_uptodate("web");
    // Everything is on the disks.
    cluster.assert_identical("web");
    let before = fs.used_bytes();
    assert!(before >= 96 * MIB, "{before}");
    for name in ["one", "two"] {
        cluster.ok("a", &["volume", "snapshot", "create", "web", name]);
        wait_for_answers(&writer, 500);
        let contents = kept(&cluster, name);
        let right = |at: u64| {
            contents[(at * MIB) as usize..((at + 1) * MIB) as usize]
                .iter()
                .all(|byte| *byte == at as u8)
        };
        assert!((8..104).all(right), "{name}");
    }
    // What the writer has changed since is there more than once, and nothing else.
    let grown = fs.used_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "two snapshots of {before} bytes took {grown}");
    assert_eq!(stop(writer).reconnects, 0);
    guest
        .write(8 * MIB, vec![0xff; (32 * MIB) as usize], true)
        .expect("a good answer");
    drop(guest);
    wait_until_nobody_is_connected(&cluster);
    cluster.ok("a", &["volume", "snapshot", "delete", "web", "two"]);
    let one = kept(&cluster, "one");
    cluster.ok("a", &["volume", "snapshot", "restore", "web", "one"]);
    let guest = Client::open(&door, Options::default()).expect("a guest");
    for at in (0..128 * MIB).step_by(MIB as usize) {
        let found = guest.read(at, MIB as u32).expect("a good answer");
        assert!(found == one[at as usize..(at + MIB) as usize], "at {at}");
    }
    drop(guest);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    cluster.ok("a", &["volume", "snapshot", "delete", "web", "one"]);
    cluster.ok("a", &["volume", "detach", "web"]);
    cluster.ok("a", &["volume", "delete", "web"]);
    until("its room is free again", || {
        (fs.used_bytes() < before - 96 * MIB).then_some(())
    });
}

#[test]
fn a_guest_goes_on_while_a_large_volume_is_copied() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "1G", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).expect("a guest");
    let write = |at: u64, byte: u8| {
        let written = guest.write(at, vec![byte; MIB as usize], false);
        written.expect("a good answer");
    };
    for at in 0..1024 {
        write(at * MIB, 1);
    }
    guest.flush().expect("a good answer");
    cluster.wait_for_uptodate("web");
    let job = cluster.ok("a", &["volume", "snapshot", "create", "web", "one", "--no-wait"]);
    let state = || {
        let rows = list(&cluster);
        let row = rows.iter().find(|row| row["snapshot"] == "one")?;
        let mut replicas = array(&row["replicas"]).iter();
        let here = replicas.find(|replica| replica["node"] == "a")?;
        Some(text(&here["state"]).to_owned())
    };
    until("the snapshot has begun", state);
    let (mut written, began) = (0, Instant::now());
    while state().as_deref() == Some("pending") && written < 1024 {
        for _ in 0..16 {
            write(1023 * MIB - written * MIB, 2);
            written += 1;
        }
    }
    // The memory for answered writes has room for 64, and as much may be on its way. A copy that took no time says nothing.
    let copied_fast = began.elapsed() < Duration::from_secs(1);
    assert!(
        written > 160 || copied_fast,
        "{written} MiB were written while 1 GiB was copied"
    );
    watch_until_done(&cluster, &job);
    let contents = kept(&cluster, "one");
    assert!(contents.iter().all(|byte| *byte == 1));
}
