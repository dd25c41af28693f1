//! Everything that is refused: the right kind, a hint, and nothing changed.

use api::ErrorKind::{NotFound, Refused, Usage};
use api::pool::{Attach, DeleteVolume, Detach, MakePrimary, Migrate, OnNode, RemoveNode, RemoveVg, Verify};

use super::*;

fn on(node: &str) -> OnNode {
    OnNode {
        node: node.to_owned(),
        dry_run: false,
    }
}

fn primary(node: &str) -> MakePrimary {
    MakePrimary {
        node: node.to_owned(),
        ..MakePrimary::default()
    }
}

fn wish(name: &str, size_bytes: u64, replicas: u32) -> CreateVolume {
    CreateVolume {
        name: name.to_owned(),
        size_bytes,
        replicas: Some(replicas),
        ..CreateVolume::default()
    }
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, ApiError>, kind: api::ErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{error:?}");
    assert!(error.object.is_some() || error.hint.is_some(), "{error:?}");
    for word in words {
        let all = format!("{} {}", error.message, error.hint.clone().unwrap_or_default());
        assert!(all.contains(word), "`{word}` is missing in: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_wishes_are_refused_and_change_nothing() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("abc", &world).await;
    let client = &hosts[0].client;
    check(
        client.volume_create(&wish("web", 5000, 1)).await,
        Usage,
        &["5000", "8192"],
    );
    check(client.volume_create(&wish("web", 0, 1)).await, Usage, &[]);
    check(
        client.volume_create(&wish("Web!", 8192, 1)).await,
        Usage,
        &["Web!"],
    );
    check(
        client.volume_create(&wish("all", 8192, 1)).await,
        Usage,
        &["reserved"],
    );
    check(client.volume_create(&wish("web", 8192, 0)).await, Usage, &[]);
    check(
        client.volume_create(&wish("web", 8192, 9)).await,
        Usage,
        &["1 to 8"],
    );
    check(
        client.volume_create(&wish("web", 8192, 4)).await,
        Refused,
        &["4", "3"],
    );
    let room = VG_BYTES.to_string();
    check(
        client.volume_create(&wish("web", 2 * VG_BYTES, 1)).await,
        Refused,
        &["node a", "node b", "node c", &room],
    );
    let mut named = wish("web", 8192, 1);
    named.on = vec!["x".to_owned()];
    check(client.volume_create(&named).await, NotFound, &["`x`"]);
    (named.on, named.replicas) = (vec!["a".to_owned(), "a".to_owned()], None);
    check(client.volume_create(&named).await, Usage, &["twice"]);
    check(
        client
            .volume_create(&CreateVolume {
                mode: Some("sync".to_owned()),
                ..wish("web", 8192, 1)
            })
            .await,
        Usage,
        &[],
    );
    assert!(client.volumes().await.unwrap().volumes.is_empty());
    assert!(client.jobs().await.unwrap().jobs.is_empty());
    let dry = CreateVolume {
        dry_run: true,
        ..wish("web", 8192, 2)
    };
    assert_eq!(client.volume_create(&dry).await.unwrap().steps.len(), 2);
    assert!(client.volumes().await.unwrap().volumes.is_empty());

    create(client, "web", 2).await;
    let before = client.volume("web").await.unwrap().generation;
    check(
        client.volume_create(&wish("web", 8192, 1)).await,
        Refused,
        &["exists already"],
    );
    check(client.volume("none").await, NotFound, &["`none`"]);
    check(client.volume("../nodes").await, NotFound, &[]);
    check(
        client.volume_delete("none", &DeleteVolume::default()).await,
        NotFound,
        &[],
    );
    check(client.volume_join("web", &on("x")).await, NotFound, &["`x`"]);
    check(
        client.volume_join("web", &on("a")).await,
        Refused,
        &["has a replica"],
    );
    check(client.volume_leave("web", &on("a")).await, Refused, &["primary"]);
    check(
        client.volume_leave("web", &on("c")).await,
        Refused,
        &["no replica"],
    );
    check(
        client.volume_primary("web", &primary("c")).await,
        Refused,
        &["no replica"],
    );
    let migrate = |to: &str, from: Option<&str>| Migrate {
        volume: "web".to_owned(),
        to: to.to_owned(),
        from: from.map(str::to_owned),
        dry_run: false,
    };
    check(
        client.migrate(&migrate("b", None)).await,
        Refused,
        &["has a replica"],
    );
    check(client.migrate(&migrate("x", None)).await, NotFound, &[]);
    check(client.migrate(&migrate("c", Some("x"))).await, NotFound, &[]);
    check(
        client.migrate(&migrate("c", Some("c"))).await,
        Refused,
        &["no replica"],
    );
    check(client.job("77").await, NotFound, &["77"]);
    check(client.node("x").await, NotFound, &[]);
    assert_eq!(client.volume("web").await.unwrap().generation, before);

    create(client, "one", 1).await;
    let place = client.volume("one").await.unwrap().primary.unwrap();
    check(
        client.volume_leave("one", &on(&place)).await,
        Refused,
        &["only replica"],
    );
    check(
        client.node_remove("a", &RemoveNode::default()).await,
        Refused,
        &["catalog"],
    );
    check(
        client.node_remove("b", &RemoveNode::default()).await,
        Refused,
        &["web"],
    );
    check(
        client.node_remove("x", &RemoveNode::default()).await,
        NotFound,
        &[],
    );
    let of = |node: &str| RemoveVg {
        node: Some(node.to_owned()),
        dry_run: false,
    };
    check(client.vg_remove("vg", &of("b")).await, Refused, &["web"]);
    check(client.vg_remove("none", &of("b")).await, NotFound, &[]);
    let dir = hosts[1].dir.path().join("vg").display().to_string();
    let again = AddVg {
        name: "more".to_owned(),
        node: Some("b".to_owned()),
        dir: Some(dir),
        layout: LvmLayout::default(),
        size_bytes: None,
        overcommit_percent: None,
        dry_run: false,
    };
    check(client.vg_add(&again).await, Refused, &["already"]);
    let foreign = AddVg {
        dir: Some(hosts[1].dir.path().display().to_string()),
        ..again.clone()
    };
    check(client.vg_add(&foreign).await, Refused, &["not empty"]);
    check(
        client
            .vg_add(&AddVg {
                dir: Some("relative".to_owned()),
                ..again.clone()
            })
            .await,
        Usage,
        &["absolute"],
    );
    let half = AddVg {
        overcommit_percent: Some(50),
        ..again
    };
    check(client.vg_add(&half).await, Refused, &["already"]);
    let half = AddVg {
        dir: Some(hosts[1].dir.path().join("other").display().to_string()),
        ..half
    };
    check(client.vg_add(&half).await, Usage, &["50 %"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_doors_and_replicas_out_of_sync_are_protected() {
    let world = Arc::new(World::default());
    let hosts = pool("ab", &world).await;
    let client = &hosts[0].client;
    create(client, "web", 1).await;
    let attach = |tcp: &str| Attach {
        tcp: Some(tcp.to_owned()),
        ..Attach::default()
    };
    check(
        client.volume_attach("web", &attach("0.0.0.0:10809")).await,
        Refused,
        &["loopback"],
    );
    check(
        client.volume_attach("web", &attach("nonsense")).await,
        Usage,
        &["10809"],
    );
    let taken = Attach {
        path: Some("/run/taken".to_owned()),
        ..Attach::default()
    };
    check(
        client.volume_attach("web", &taken).await,
        api::ErrorKind::Failed,
        &["taken"],
    );
    assert!(
        client.volume("web").await.unwrap().doors.is_empty(),
        "a door that did not open is not wanted"
    );
    client.volume_attach("web", &Attach::default()).await.unwrap();
    client.volume_attach("web", &Attach::default()).await.unwrap();
    assert_eq!(client.volume("web").await.unwrap().doors.len(), 1);
    let other = Attach {
        read_only: true,
        ..Attach::default()
    };
    check(client.volume_attach("web", &other).await, Refused, &["detach"]);
    world.set_clients("a", 1);
    check(
        client.volume_delete("web", &DeleteVolume::default()).await,
        Refused,
        &["detach"],
    );
    client.volume_detach("web", &Detach::default()).await.unwrap();

    let job = client.volume_join("web", &on("b")).await.unwrap().job.unwrap();
    until(client, async || world.replicas() == "Ab").await;
    check(
        client.volume_primary("web", &primary("b")).await,
        Refused,
        &["job"],
    );
    check(
        client.volume_delete("web", &DeleteVolume::default()).await,
        Refused,
        &["job"],
    );
    world.sync_to(100.0);
    finish(client, &job, JobState::Done).await;
    world.sync_to(50.0);
    until(client, async || {
        client.volume("web").await.unwrap().state == "syncing"
    })
    .await;
    // The state is the replica's word, the figure its primary's: they arrive with different reports.
    until(client, async || {
        let refused = client.volume_primary("web", &primary("b")).await.unwrap_err();
        refused.message.contains("50 %")
    })
    .await;
    check(
        client.volume_primary("web", &primary("b")).await,
        Refused,
        &["not in sync", "50 %"],
    );
    check(
        client
            .volume_verify(
                "web",
                &Verify {
                    bytes_per_second_max: Some(1),
                    ..Default::default()
                },
            )
            .await,
        Usage,
        &["never comes to an end"],
    );
    assert_eq!(world.hand_overs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_no_longer_heard() {
    let world = Arc::new(World::default());
    let hosts = pool("ab", &world).await;
    let client = &hosts[0].client;
    client
        .node_remove("b", &RemoveNode { dry_run: true })
        .await
        .unwrap();
    client.node_remove("b", &RemoveNode::default()).await.unwrap();
    check(
        hosts[1].client.status().await,
        Refused,
        &["no longer in the pool"],
    );
    assert_eq!(client.nodes().await.unwrap().nodes.len(), 1);
    assert_eq!(client.vgs().await.unwrap().vgs.len(), 1);
    // Its certificate is refused by the marsds too, which hear of it, also those that were down.
    until(client, async || world.revoked().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_forgets_its_door_of_a_volume_that_is_no_more() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 1).await;
    let home = client.volume("web").await.unwrap().primary.unwrap();
    let far = if home == "a" { "b" } else { "a" };
    let door = Attach {
        node: Some(far.to_owned()),
        ..Attach::default()
    };
    assert!(client.volume_attach("web", &door).await.unwrap().remote);
    assert!(world.knows(far));
    let index = usize::from(far == "b");
    hosts[index].stop_marsd();
    until(&client, async || {
        client.node(far).await.unwrap().state != NodeState::Online
    })
    .await;
    client.volume_detach("web", &Detach::default()).await.unwrap();
    let job = client.volume_delete("web", &DeleteVolume::default()).await;
    finish(&client, &job.unwrap().job.unwrap(), JobState::Done).await;
    hosts[index].start_marsd();
    until(&client, async || !world.knows(far)).await;
}
