//! A5, A6: does a volume grow under its guests, on every host, and end where it should?

use std::path::Path;

use tests::{
    Client, Cluster, Error, Options, Plan, Target, Writer, make_image, run, text, until, wait_for_answers,
};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

/// The new length.
const GROWN_BYTES: u64 = 2 * SIZE_BYTES;

const ENOSPC: u32 = 28;
const EINVAL: u32 = 22;

fn open(door: &Target) -> Client {
    Client::open(door, Options::default()).expect("the door lets in")
}

fn size_of(door: &Target) -> u64 {
    open(door).export().size_bytes
}

/// What the pool says of the volume and of each replica of it.
fn sizes(pair: &Pair) -> Vec<u64> {
    let shown = pair.cluster.volume(NAME);
    let replicas = tests::array(&shown["replicas"]).iter();
    let sizes = [&shown].into_iter().chain(replicas).map(|row| &row["size_bytes"]);
    sizes.map(|size| size.as_u64().expect("a number")).collect()
}

#[test]
fn a5_a_volume_grows_under_load_on_every_host() {
    let pair = Pair::of(&[P, S, "t"]);
    let far = pair.cluster.attach(NAME, "t");
    let writer = pair.writer();
    let early = open(&pair.door);
    let grown = GROWN_BYTES.to_string();
    pair.ok(&["volume", "resize", NAME, &grown, "--dry-run"]);
    assert_eq!(sizes(&pair)[0], SIZE_BYTES, "a dry run changes nothing");
    pair.ok(&["volume", "resize", NAME, &grown]);
    pair.ok(&["volume", "resize", NAME, &grown]);
    assert_eq!(sizes(&pair), [GROWN_BYTES; 3]);
    // Who is connected keeps what it was told; who connects now sees the new length, wherever it comes in.
    assert_eq!(
        early.write(SIZE_BYTES, vec![1; 4096], false),
        Err(Error::Server(ENOSPC))
    );
    assert_eq!(size_of(&pair.door), GROWN_BYTES);
    until("the remote door knows", || {
        (size_of(&far) == GROWN_BYTES).then_some(())
    });
    let late = open(&far);
    assert_eq!(
        late.read(SIZE_BYTES, 4096).expect("the new part is served"),
        vec![0; 4096]
    );
    assert_eq!(
        late.write(GROWN_BYTES, vec![1; 512], false),
        Err(Error::Server(ENOSPC))
    );
    assert_eq!(late.read(GROWN_BYTES, 512), Err(Error::Server(EINVAL)));
    let plan = Plan {
        offset_bytes: SIZE_BYTES,
        length_bytes: Some(SIZE_BYTES),
        rate: Some(2000.0),
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    let tail = Writer::start(&far, plan).expect("the writer connects");
    wait_for_answers(&tail, 500);
    stop(tail);
    assert_eq!(stop(writer).reconnects, 0);
    pair.assert_equal();
    // A new start of everything finds the volume as long as it was.
    for host in pair.cluster.hosts() {
        host.marsd().kill();
        host.restart_marsd();
        host.poold().kill();
        host.restart_poold();
    }
    until("the volume is back", || {
        Client::open(&pair.door, Options::default())
            .ok()
            .filter(|c| c.export().size_bytes == GROWN_BYTES)
    });
    pair.cluster.wait_for_uptodate(NAME);
    pair.ok(&["volume", "primary", NAME, S]);
    assert_eq!(size_of(&pair.door), GROWN_BYTES);
    pair.assert_equal();
}

#[test]
fn a6_the_device_is_full_then_grows_and_its_file_system_with_it() {
    let pair = Pair::new();
    let path = |name: &str| pair.cluster.dir().join(name).display().to_string();
    let (files, image, after) = (path("files"), path("image"), path("after"));
    std::fs::create_dir(&files).expect("made");
    make_image(&Path::new(&files).join("data"), 8 << 20);
    let size = format!("{}K", SIZE_BYTES >> 10);
    run("mke2fs", &["-q", "-t", "ext4", "-F", "-d", &files, &image, &size]);
    run("nbdcopy", &[&image, &pair.door.to_string()]);
    let device = open(&pair.door);
    let beyond = device.write(SIZE_BYTES - 4096, vec![7; 8192], false);
    assert_eq!(beyond, Err(Error::Server(ENOSPC)));
    drop(device);
    let smaller = pair.cluster.hosts()[0].ctl(&["volume", "resize", NAME, "4096"]);
    assert_eq!(smaller.code, 4, "{smaller:?}");
    assert!(text(&smaller.json["error"]["message"]).contains("does not shrink"));
    let huge = pair.cluster.hosts()[0].ctl(&["volume", "resize", NAME, "1P"]);
    assert_eq!(huge.code, 4, "{huge:?}");
    let why = text(&huge.json["error"]["message"]);
    assert!(why.contains("node p") && why.contains("node s"), "{why}");
    assert_eq!(sizes(&pair), [SIZE_BYTES; 3]);
    pair.ok(&["volume", "resize", NAME, &GROWN_BYTES.to_string()]);
    run("nbdcopy", &[&pair.door.to_string(), &after]);
    run("resize2fs", &[&after]);
    run("nbdcopy", &[&after, &pair.door.to_string()]);
    pair.assert_equal();
    for disk in disks(&pair.cluster) {
        run("e2fsck", &["-fn", &disk]);
        let compare = ["-n", &GROWN_BYTES.to_string(), &after, &disk];
        run("cmp", &compare);
    }
}

/// The images of both replicas; everything must be on them.
fn disks(cluster: &Cluster) -> Vec<String> {
    let id = text(&cluster.volume(NAME)["id"]).to_owned();
    until("everything is on the disks", || {
        let shown = cluster.volume(NAME);
        let done = |row: &serde_json::Value| row["written_back"] == row["appended"];
        tests::array(&shown["replicas"]).iter().all(done).then_some(())
    });
    let disk = |node: &&str| cluster.host(node).vg_dir().join(format!("{id}.img"));
    [P, S]
        .iter()
        .map(|node| disk(node).display().to_string())
        .collect()
}
