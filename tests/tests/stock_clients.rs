//! Do programs that know nothing of us get along with our door? libnbd's and QEMU's.

use serde_json::Value;
use tests::{Client, Cluster, Options, Request, make_image, run, text};

#[test]
fn libnbd_and_qemu_agree_on_what_is_in_a_volume() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let uri = cluster.attach("web", "a").to_string();
    let path = |name: &str| cluster.dir().join(name).to_str().unwrap().to_owned();

    let info: Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])).unwrap();
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 32 << 20, "{info:#}");
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(export[can], true, "{can}: {info:#}");
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(info["structured"], true);

    // Several connections at once, there and back, by libnbd and by QEMU.
    make_image(path("image").as_ref(), 32 << 20);
    run("nbdcopy", &["--connections=4", "--flush", &path("image"), &uri]);
    run("nbdcopy", &["--connections=4", &uri, &path("back")]);
    run("cmp", &[path("image"), path("back")]);
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &path("image"), &uri],
    );
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, &path("copy.qcow2")],
    );
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            &path("image"),
            &path("copy.qcow2"),
        ],
    );

    // Patterns, zeroes, discards.
    let commands = [
        "write -P 0x5a 1M 2M",
        "write -z -u 5M 1M",
        "discard 7M 1M",
        "write -f -P 0x11 4096 512",
        "flush",
    ];
    let checks = [
        "read -P 0x5a 1M 2M",
        "read -P 0 5M 1M",
        "read -P 0 7M 1M",
        "read -P 0x11 4096 512",
    ];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(
        commands
            .iter()
            .chain(&checks)
            .flat_map(|command| ["-c", *command]),
    );
    arguments.push(&uri);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("Pattern verification failed"), "{said}");

    // Holes are told.
    run(
        "qemu-io",
        &["-f", "raw", "-c", "discard 16M 8M", "-c", "flush", &uri],
    );
    let map: Value = serde_json::from_str(&run("nbdinfo", &["--map", "--json", &uri])).unwrap();
    let zero_bytes: u64 = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["type"] != 0)
        .filter_map(|extent| extent["length"].as_u64())
        .sum();
    assert!(zero_bytes >= 8 << 20, "{map:#}");

    // The same through another door: the image of the replica's host.
    let other = cluster.attach("web", "b").to_string();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &other]);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_write_on_one_connection_is_seen_on_all_others() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "16M", &["a", "b"]);
    let near = cluster.attach("web", "a");
    let far = cluster.attach("web", "b");
    let attached = cluster.ok(
        "a",
        &["volume", "attach", "web", "--node", "a", "--tcp", "127.0.0.1:0"],
    );
    let tcp = text(&attached["uri"]).parse().unwrap();
    let open = |target| Client::open(target, Options::default()).unwrap();
    let simple = Client::open(
        &near,
        Options {
            structured: false,
            ..Options::default()
        },
    )
    .unwrap();
    assert!(!simple.export().structured);
    let clients = [open(&near), open(&near), simple, open(&far), open(&tcp)];
    for round in 0..20u8 {
        for (number, writer) in clients.iter().enumerate() {
            let byte = round * 5 + number as u8 + 1;
            writer.write(8192, vec![byte; 4096], round % 2 == 0).unwrap();
            for reader in &clients {
                assert_eq!(
                    reader.read(8192, 4096).unwrap(),
                    [byte; 4096],
                    "round {round}, writer {number}"
                );
            }
        }
    }
    clients[4]
        .call(Request::Trim {
            offset: 8192,
            length: 4096,
        })
        .unwrap();
    assert_eq!(clients[3].read(8192, 4096).unwrap(), [0; 4096]);
}
