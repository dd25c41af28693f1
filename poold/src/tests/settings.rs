//! How a volume is replicated, and what stands still: wishes that reach every marsd, also one that was down.

use api::ErrorKind::{Refused, Usage};
use api::control::{ModeSpec, SwitchWord};
use api::pool::{JobKind, OnNode, SetLimits, SetNodeLimits, SetVolume, SwitchVolume};

use super::*;

fn switch(switch: SwitchWord, on: bool, node: Option<&str>) -> SwitchVolume {
    SwitchVolume {
        switch,
        on,
        node: node.map(str::to_owned),
        dry_run: false,
    }
}

fn on(node: &str) -> OnNode {
    OnNode {
        node: node.to_owned(),
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switches_stay_as_wished_over_restarts_and_reach_a_marsd_that_was_down() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let dry = SwitchVolume {
        dry_run: true,
        ..switch(SwitchWord::Replay, false, None)
    };
    assert_eq!(client.volume_switch("web", &dry).await.unwrap().steps.len(), 2);
    assert!(world.paused("b").is_empty());
    client
        .volume_switch("web", &switch(SwitchWord::Replay, false, Some("b")))
        .await
        .unwrap();
    assert_eq!(world.paused("b"), [SwitchWord::Replay]);
    assert!(world.paused("a").is_empty());
    let again = client
        .volume_switch("web", &switch(SwitchWord::Replay, false, Some("b")))
        .await
        .unwrap();
    assert!(again.steps[0].contains("nothing"), "{again:?}");
    let down = client
        .volume_switch("web", &switch(SwitchWord::All, false, None))
        .await
        .unwrap_err();
    assert_eq!(down.kind, Refused, "{down:?}");
    hosts[1].stop_marsd();
    until(&client, async || {
        client.node("b").await.unwrap().state != NodeState::Online
    })
    .await;
    let told = client
        .volume_switch("web", &switch(SwitchWord::Fetch, false, Some("b")))
        .await
        .unwrap();
    assert!(told.steps[0].contains("away"), "{told:?}");
    hosts[0].kill().await;
    hosts[0].boot().await;
    hosts[1].start_marsd();
    until(&client, async || world.paused("b").contains(&SwitchWord::Fetch)).await;
    let shown = client.volume("web").await.unwrap();
    let row = shown.replicas.iter().find(|row| row.node == "b").unwrap();
    assert_eq!(row.paused, [SwitchWord::Fetch, SwitchWord::Replay]);
    client
        .volume_switch("web", &switch(SwitchWord::All, true, None))
        .await
        .unwrap();
    assert!(world.paused("b").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_out_of_service_hears_of_switches_when_it_is_back_and_nobody_waits_for_it() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("ab", &world).await;
    let client = &hosts[0].client;
    create(client, "web", 2).await;
    world.set_failed("b", true);
    until(client, async || {
        let shown = client.volume("web").await.unwrap();
        shown
            .replicas
            .iter()
            .any(|row| row.node == "b" && row.state == "detached")
    })
    .await;
    let began = std::time::Instant::now();
    let told = client
        .volume_switch("web", &switch(SwitchWord::Replay, false, Some("b")))
        .await
        .unwrap();
    assert!(told.steps[1].contains("in service again"), "{told:?}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "nobody waits"
    );
    assert!(world.paused("b").is_empty());
    // Its disk can be taken out all the same.
    client
        .volume_switch("web", &switch(SwitchWord::Attach, false, Some("b")))
        .await
        .unwrap();
    assert_eq!(world.paused("b"), [SwitchWord::Attach]);
    client
        .volume_switch("web", &switch(SwitchWord::Attach, true, Some("b")))
        .await
        .unwrap();
    world.set_failed("b", false);
    until(client, async || world.paused("b") == [SwitchWord::Replay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_host_and_compression_reach_marsd_and_are_kept() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let wish = SetNodeLimits {
        parallel_syncs: Some(2),
        prefer: Some(vec!["web".to_owned()]),
        bytes_per_second: Some(5 << 20),
        log_budget_bytes: Some(20 << 30),
        ..SetNodeLimits::default()
    };
    client.node_limits("b", &wish).await.unwrap();
    let to_a = SetNodeLimits {
        peer: Some("a".to_owned()),
        ..wish.clone()
    };
    client.node_limits("b", &to_a).await.unwrap();
    let of_log = |bytes| SetLimits {
        log_budget_bytes: Some(bytes),
        ..SetLimits::default()
    };
    client.volume_limits("web", &of_log(4 << 30)).await.unwrap();
    let id = client.volume("web").await.unwrap().id;
    until(&client, async || {
        let told = world.host_limits("b");
        told.parallel_syncs == Some(2) && told.prefer == [id.clone()] && told.peer_bytes_per_second.len() == 1
    })
    .await;
    assert_eq!(world.host_limits("a"), Default::default());
    assert_eq!(world.host_limits("b").log_bytes_max, Some(20 << 30));
    hosts[0].kill().await;
    hosts[0].boot().await;
    until(&client, async || {
        ["a", "b"]
            .iter()
            .all(|node| world.log_budget(node) == Some(4 << 30))
    })
    .await;
    assert_eq!(
        client.volume("web").await.unwrap().log_budget_bytes,
        Some(4 << 30)
    );
    client.volume_limits("web", &of_log(0)).await.unwrap();
    until(&client, async || {
        ["a", "b"].iter().all(|node| world.log_budget(node).is_none())
    })
    .await;
    let shown = client.node("b").await.unwrap().limits;
    assert_eq!(
        (shown.prefer, shown.send_bytes_per_second),
        (vec!["web".to_owned()], Some(5 << 20))
    );
    for bad in [
        SetNodeLimits {
            bytes_per_second: Some(7),
            ..SetNodeLimits::default()
        },
        SetNodeLimits {
            peer: Some("b".to_owned()),
            ..wish
        },
    ] {
        assert_eq!(client.node_limits("b", &bad).await.unwrap_err().kind, Usage);
    }
    let set = |word: &str| SetVolume {
        compression: Some(word.to_owned()),
        ..SetVolume::default()
    };
    client.volume_set("web", &set("lz4")).await.unwrap();
    until(&client, async || world.compressed("a")).await;
    assert_eq!(client.volume("web").await.unwrap().compression, "lz4");
    assert_eq!(
        client.volume_set("web", &set("zip")).await.unwrap_err().kind,
        Usage
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_is_kept_and_follows_the_primary() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("abc", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let set = |mode: &str, flush_replicas| SetVolume {
        mode: Some(mode.to_owned()),
        flush_replicas,
        lag_millis_max: Some(5000),
        ..SetVolume::default()
    };
    for bad in [set("fast", None), set("sync", Some(2)), set("async", Some(1))] {
        let error = client.volume_set("web", &bad).await.unwrap_err();
        assert_eq!(error.kind, Usage, "{error:?}");
        assert!(error.hint.is_some(), "{error:?}");
    }
    client.volume_set("web", &set("sync", None)).await.unwrap();
    let wanted = ModeSpec::Sync { replicas: 1 };
    until(&client, async || world.settings("a").mode == wanted).await;
    let shown = client.volume("web").await.unwrap();
    assert_eq!((shown.mode.as_str(), shown.settings.mode), ("sync", wanted));
    let slow = SetLimits {
        sync_bytes_per_second: Some(1 << 20),
        ..SetLimits::default()
    };
    client.volume_limits("web", &slow).await.unwrap();
    until(&client, async || {
        world.limits("a").sync_bytes_per_second == Some(1 << 20)
    })
    .await;
    let crawl = SetLimits {
        ship_bytes_per_second: Some(1),
        ..SetLimits::default()
    };
    let error = client.volume_limits("web", &crawl).await.unwrap_err();
    assert_eq!(error.kind, Usage, "{error:?}");
    // Whatever a marsd is told by others, the wish wins.
    world.forget_settings();
    until(&client, async || world.settings("a").lag_millis_max == Some(5000)).await;
    let more = SetVolume {
        replicas: Some(3),
        mode: Some("near-sync".to_owned()),
        flush_replicas: Some(2),
        ..SetVolume::default()
    };
    let job = client.volume_set("web", &more).await.unwrap().job.unwrap();
    let job = finish(&client, &job, JobState::Done).await;
    assert_eq!(job.kind, JobKind::Replicas);
    assert_eq!(world.replicas(), "Abc");
    let fewer = SetVolume {
        replicas: Some(1),
        ..SetVolume::default()
    };
    let error = client.volume_set("web", &fewer).await.unwrap_err();
    assert_eq!(error.kind, Usage, "the mode waits for two: {error:?}");
    let fewer = SetVolume {
        mode: Some("async".to_owned()),
        ..fewer
    };
    let job = client.volume_set("web", &fewer).await.unwrap().job.unwrap();
    finish(&client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "A");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_invalidated_and_one_is_called_whole() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let error = client.volume_invalidate("web", &on("a")).await.unwrap_err();
    assert_eq!(error.kind, Refused, "{error:?}");
    let job = client
        .volume_invalidate("web", &on("b"))
        .await
        .unwrap()
        .job
        .unwrap();
    in_phase(&client, &job, "sync").await;
    world.sync_to(100.0);
    finish(&client, &job, JobState::Done).await;
    let whole = client.volume_fake_sync("web", &on("b")).await;
    until(&client, async || {
        client.volume("web").await.unwrap().state == "uptodate"
    })
    .await;
    drop(whole);
    world.sync_to(50.0);
    until(&client, async || {
        client.volume("web").await.unwrap().state == "syncing"
    })
    .await;
    let job = client
        .volume_fake_sync("web", &on("b"))
        .await
        .unwrap()
        .job
        .unwrap();
    finish(&client, &job, JobState::Done).await;
    until(&client, async || {
        let shown = client.volume("web").await.unwrap();
        shown.replicas.iter().any(|row| row.node == "b" && row.faked)
    })
    .await;
}
