//! Is every bad request turned down in clear words, with the right exit code, and without changing anything?

use tests::{Client, Cluster, Options, Request, Target, standing, text, until};

/// What is asked of host `a`, and the exit code and kind of the answer.
type Case = (&'static [&'static str], i32, &'static str);

fn check(cluster: &Cluster, cases: &[Case]) {
    let before = standing(cluster);
    let mut complaints = Vec::new();
    for (arguments, code, kind) in cases {
        let answer = cluster.ctl("a", arguments);
        complaints.extend(answer.complaints(*code, kind));
        assert_eq!(standing(cluster), before, "changed by {}", answer.command);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn bad_requests_change_nothing() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "16M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).unwrap();
    guest.write(0, vec![7; 4096], true).unwrap();
    cluster.wait_for_uptodate("web");
    until("the guest is counted", || {
        (cluster.volume("web")["doors"][0]["clients"] == 1).then_some(())
    });
    check(
        &cluster,
        &[
            // Names, sizes, numbers.
            (&["volume", "create", "Web!", "16M"], 2, "usage"),
            (&["volume", "create", "-web", "16M"], 2, "usage"),
            (&["volume", "create", "", "16M"], 2, "usage"),
            (&["volume", "create", "x", "1000"], 2, "usage"),
            (&["volume", "create", "x", "0"], 2, "usage"),
            (&["volume", "create", "x", "much"], 2, "usage"),
            (&["volume", "create", "x", "16M", "--replicas", "0"], 2, "usage"),
            (&["volume", "create", "x", "16M", "--on", "a,a"], 2, "usage"),
            (
                &["volume", "create", "x", "16M", "--replicas", "3", "--on", "a,b"],
                2,
                "usage",
            ),
            (&["volume", "create"], 2, "usage"),
            (&["volumes"], 2, "usage"),
            // More than there is.
            (&["volume", "create", "x", "900T"], 4, "refused"),
            (&["volume", "create", "x", "900T", "--on", "b"], 4, "refused"),
            (&["volume", "create", "x", "16M", "--replicas", "4"], 4, "refused"),
            // What is not there.
            (&["volume", "create", "x", "16M", "--on", "z"], 3, "not-found"),
            (&["volume", "show", "x"], 3, "not-found"),
            (&["volume", "delete", "x"], 3, "not-found"),
            (&["volume", "join", "x", "c"], 3, "not-found"),
            (&["volume", "join", "web", "z"], 3, "not-found"),
            (&["volume", "leave", "x", "a"], 3, "not-found"),
            (&["volume", "leave", "web", "z"], 3, "not-found"),
            (&["volume", "primary", "x", "a"], 3, "not-found"),
            (&["volume", "primary", "web", "z"], 3, "not-found"),
            (&["volume", "attach", "x"], 3, "not-found"),
            (&["volume", "attach", "web", "--node", "z"], 3, "not-found"),
            (&["volume", "verify", "x"], 3, "not-found"),
            (&["volume", "log", "show", "x"], 3, "not-found"),
            (&["migrate", "x", "--to", "c"], 3, "not-found"),
            (&["migrate", "web", "--to", "z"], 3, "not-found"),
            (&["node", "show", "z"], 3, "not-found"),
            (&["node", "remove", "z"], 3, "not-found"),
            (&["vg", "remove", "vg9"], 3, "not-found"),
            (&["job", "show", "999"], 3, "not-found"),
            (&["job", "cancel", "999"], 3, "not-found"),
            // What would endanger somebody.
            (&["volume", "create", "web", "32M"], 4, "refused"),
            (&["volume", "delete", "web"], 4, "refused"),
            (&["volume", "leave", "web", "a"], 4, "refused"),
            (&["volume", "primary", "web", "c"], 4, "refused"),
            (&["migrate", "web", "--to", "b"], 4, "refused"),
            (&["migrate", "web", "--to", "c", "--from", "c"], 4, "refused"),
            (&["pool", "init", "--name", "other"], 4, "refused"),
            (&["node", "remove", "b"], 4, "refused"),
            (&["vg", "remove", "vg0"], 4, "refused"),
            (
                &["volume", "attach", "web", "--tcp", "0.0.0.0:10809"],
                4,
                "refused",
            ),
        ],
    );
    let sized = cluster.ctl("a", &["volume", "create", "x", "5000"]);
    assert!(
        sized.json.to_string().contains("8192"),
        "the next good size is named: {}",
        sized.json
    );
    assert_eq!(guest.read(0, 4096).unwrap(), [7; 4096]);
}

#[test]
fn the_primary_does_not_go_where_the_data_is_not() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "16M", &["a", "b"]);
    let guest = Client::open(&cluster.attach("web", "a"), Options::default()).unwrap();
    cluster.host("b").marsd().kill();
    guest.write(0, vec![1; 65536], true).unwrap();
    until("the loss of b is noticed", || {
        let shown = cluster.volume("web");
        let state = shown["replicas"][1]["state"].clone();
        (state != "uptodate" && state != "behind").then_some(())
    });
    cluster
        .ctl("a", &["volume", "primary", "web", "b"])
        .assert_error(4, "refused");
    assert_eq!(cluster.volume("web")["primary"], "a");
    guest.write(4096, vec![2; 4096], true).unwrap();
    cluster.host("b").restart_marsd();
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}

#[test]
fn a_stranger_does_not_come_in() {
    let cluster = Cluster::start(&["a", "b"]);
    let stranger = Cluster::bare(&["z"]);
    let before = standing(&cluster);
    let token = cluster.ok("a", &["node", "token"]);
    let (url, token) = (text(&token["url"]), text(&token["token"]).to_owned());
    let mut wrong = token.clone().into_bytes();
    let middle = wrong.len() / 2;
    wrong[middle] = if wrong[middle] == b'A' { b'B' } else { b'A' };
    let wrong = String::from_utf8(wrong).unwrap();
    for bad in [wrong.as_str(), "", "nonsense", &token[..token.len() - 4]] {
        let answer = stranger.ctl("z", &["node", "join", url, "--token", bad]);
        assert!([2, 4].contains(&answer.code), "{answer:?}");
        answer.assert_error(answer.code, if answer.code == 2 { "usage" } else { "refused" });
        assert_eq!(standing(&cluster), before, "changed by the token {bad}");
    }
    // Good for one host only.
    stranger.ok("z", &["node", "join", url, "--token", &token]);
    let second = Cluster::bare(&["y"]);
    second
        .ctl("y", &["node", "join", url, "--token", &token])
        .assert_error(4, "refused");
    cluster.ok("a", &["node", "show", "z"]);
    cluster
        .ctl("a", &["node", "show", "y"])
        .assert_error(3, "not-found");
}

#[test]
fn without_a_daemon_or_a_pool_the_next_step_is_named() {
    let cluster = Cluster::bare(&["a"]);
    cluster
        .ctl("a", &["volume", "create", "web", "16M"])
        .assert_error(4, "refused");
    cluster.ctl("a", &["status"]).assert_error(4, "refused");
    cluster.host("a").poold().kill();
    cluster.ctl("a", &["status"]).assert_error(1, "unavailable");
}

#[test]
fn a_guest_that_asks_for_nonsense_gets_an_error_and_harms_nobody() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "16M", &["a"]);
    let door = cluster.attach("web", "a");
    let guest = Client::open(&door, Options::default()).unwrap();
    let size = guest.export().size_bytes;
    guest.write(0, vec![5; 4096], false).unwrap();
    for request in [
        Request::Read {
            offset: size,
            length: 4096,
        },
        Request::Read {
            offset: size - 4096,
            length: 8192,
        },
        Request::Read {
            offset: u64::MAX - 100,
            length: 4096,
        },
        Request::Write {
            offset: size,
            data: vec![1; 4096].into(),
            fua: false,
        },
        Request::Write {
            offset: size - 512,
            data: vec![1; 1024].into(),
            fua: true,
        },
        Request::Trim {
            offset: size - 4096,
            length: 8192,
        },
        Request::WriteZeroes {
            offset: u64::MAX,
            length: 4096,
            no_hole: false,
            fua: false,
        },
    ] {
        let answer = guest.call(request.clone());
        assert!(
            matches!(answer, Err(tests::Error::Server(_))),
            "{request:?} was answered by {answer:?}"
        );
    }
    assert_eq!(guest.read(0, 4096).unwrap(), [5; 4096]);

    let wrong = Target {
        export: "other".into(),
        ..door.clone()
    };
    assert!(matches!(
        Client::open(&wrong, Options::default()),
        Err(tests::Error::Refused(_))
    ));

    cluster.ok("a", &["volume", "detach", "web"]);
    let attached = cluster.ok("a", &["volume", "attach", "web", "--read-only"]);
    let reader = Client::open(&text(&attached["uri"]).parse().unwrap(), Options::default()).unwrap();
    assert!(reader.export().read_only());
    assert!(matches!(
        reader.write(0, vec![9; 4096], false),
        Err(tests::Error::Server(1))
    ));
    assert_eq!(reader.read(0, 4096).unwrap(), [5; 4096]);
}
