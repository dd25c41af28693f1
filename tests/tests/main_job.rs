//! Does the main job work end to end? A replicated volume that moves to another host while it is written.

use std::fs;

use tests::{Cluster, make_image, run, steady_writer, stop, text, wait_for_answers};

const MIB: u64 = 1 << 20;

#[test]
fn a_volume_with_an_image_moves_while_it_is_written() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "64M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let uri = door.to_string();
    let (image, back) = (cluster.dir().join("image"), cluster.dir().join("back"));
    make_image(&image, 32 << 20);
    run("nbdcopy", &["--flush", image.to_str().unwrap(), &uri]);

    let writer = steady_writer(&door, 32 * MIB, 32 * MIB, 1000.0);
    wait_for_answers(&writer, 200);
    let job = cluster.ok("a", &["migrate", "web", "--to", "c"]);
    assert_eq!(job["state"], "done", "{job:#}");
    wait_for_answers(&writer, 200);
    let summary = stop(writer);
    println!(
        "longest pause of a request during the migration: {:.1} ms",
        summary.longest_pause_ms
    );
    assert_eq!(summary.reconnects, 0);

    let shown = cluster.volume("web");
    assert_eq!(shown["primary"], "c", "{shown:#}");
    assert_eq!(cluster.replicas("web"), ["c", "b"]);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
    // The door on a, which has no replica any more, still serves the volume.
    run("nbdcopy", &[&uri, back.to_str().unwrap()]);
    let (image, back) = (fs::read(&image).unwrap(), fs::read(&back).unwrap());
    assert!(image == back[..image.len()], "the image came back differently");

    cluster.ok("a", &["volume", "detach", "web"]);
    cluster.ok("a", &["volume", "delete", "web"]);
    cluster
        .ctl("a", &["volume", "show", "web"])
        .assert_error(3, "not-found");
    let id = text(&shown["id"]);
    for host in cluster.hosts() {
        let left = fs::read_dir(host.vg_dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(id)).collect();
        assert!(left.is_empty(), "left behind on {}: {left:?}", host.name());
        assert!(
            !host.marsd_dir().join("volumes").join(id).exists(),
            "left behind in {}'s marsd",
            host.name()
        );
    }
}

#[test]
fn replicas_come_and_go_under_load_from_one_to_three_and_back() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("db", "32M", &["a"]);
    let writer = steady_writer(&cluster.attach("db", "a"), 0, 32 * MIB, 1000.0);
    wait_for_answers(&writer, 100);
    for joining in ["b", "c"] {
        cluster.ok("a", &["volume", "join", "db", joining]);
        wait_for_answers(&writer, 100);
    }
    assert_eq!(cluster.replicas("db").len(), 3);
    cluster.ok("a", &["volume", "primary", "db", "c"]);
    wait_for_answers(&writer, 100);
    cluster.ok("a", &["volume", "leave", "db", "a"]);
    wait_for_answers(&writer, 100);
    assert_eq!(cluster.replicas("db"), ["c", "b"]);
    cluster.ok("a", &["volume", "leave", "db", "b"]);
    wait_for_answers(&writer, 100);
    assert_eq!(cluster.replicas("db"), ["c"]);
    cluster.ok("a", &["volume", "join", "db", "a"]);
    wait_for_answers(&writer, 100);
    stop(writer);
    cluster.wait_for_uptodate("db");
    cluster.assert_identical("db");
}

#[test]
fn three_replicas_from_the_start_hold_the_same_bytes() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("log", "16M", &["b", "c", "a"]);
    assert_eq!(cluster.volume("log")["primary"], "b");
    let writer = steady_writer(&cluster.attach("log", "b"), 0, 16 * MIB, 2000.0);
    wait_for_answers(&writer, 1000);
    stop(writer);
    cluster.wait_for_uptodate("log");
    cluster.assert_identical("log");
}
