//! Long work to its end, over the death of daemons at every phase, and back again.

use api::pool::{
    Attach, Change, DeleteVolume, Detach, DrainNode, JobKind, MakePrimary, Migrate, OnNode, PoolState,
    Verdict, Verify,
};

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

fn migrate(to: &str) -> Migrate {
    Migrate {
        volume: "web".to_owned(),
        to: to.to_owned(),
        from: None,
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_through_everything() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("abc", &world).await;
    let client = &hosts[1].client;
    create(client, "web", 2).await;
    assert_eq!(world.replicas(), "Ab");
    let shown = client.volume("web").await.unwrap();
    assert_eq!(
        (shown.state.as_str(), shown.primary.as_deref()),
        ("uptodate", Some("a"))
    );
    let dry = client
        .migrate(&Migrate {
            dry_run: true,
            ..migrate("c")
        })
        .await
        .unwrap();
    assert_eq!((dry.steps.len(), dry.job), (4, None));
    let attached = client.volume_attach("web", &Attach::default()).await.unwrap();
    assert_eq!(
        (attached.node.as_str(), attached.path.as_str()),
        ("a", "/run/marsd/web.nbd.sock")
    );
    let far = Attach {
        node: Some("c".to_owned()),
        ..Attach::default()
    };
    assert!(client.volume_attach("web", &far).await.unwrap().remote);
    let job = client.migrate(&migrate("c")).await.unwrap().job.unwrap();
    let job = finish(client, &job, JobState::Done).await;
    assert_eq!(
        (job.kind, job.percent, job.gate_micros_max),
        (JobKind::Migrate, 100.0, Some(1234))
    );
    assert_eq!(job.phases, ["join", "sync", "hand-over", "leave"]);
    assert_eq!(world.replicas(), "bC");
    assert_eq!((hosts[0].disks(), hosts[1].disks(), hosts[2].disks()), (0, 1, 1));
    let shown = client.volume("web").await.unwrap();
    assert_eq!(
        shown.doors.iter().filter(|door| door.open).count(),
        2,
        "{shown:?}"
    );
    assert!(
        shown.doors.iter().any(|door| door.node == "a" && door.remote),
        "{shown:?}"
    );
    let job = client.volume_join("web", &on("a")).await.unwrap().job.unwrap();
    finish(client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "abC");
    let job = client
        .volume_primary("web", &primary("b"))
        .await
        .unwrap()
        .job
        .unwrap();
    let job = finish(client, &job, JobState::Done).await;
    assert_ne!(
        job.gate_micros_max,
        Some(1234),
        "the gate of the hand-over before"
    );
    assert_eq!(world.replicas(), "aBc");
    let job = client.volume_leave("web", &on("a")).await.unwrap().job.unwrap();
    finish(client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "Bc");
    let job = client
        .volume_verify("web", &Verify::default())
        .await
        .unwrap()
        .job
        .unwrap();
    let job = finish(client, &job, JobState::Done).await;
    assert_eq!(job.verify.unwrap().verdict, Verdict::Equal);
    let shown = client.volume("web").await.unwrap();
    assert!(shown.last_verified.is_some());
    assert_eq!(client.volume_log("web").await.unwrap().replicas.len(), 2);
    world.set_clients("a", 1);
    client.volume_detach("web", &Detach::default()).await.unwrap();
    assert!(client.volume("web").await.unwrap().doors.is_empty());
    let job = client
        .volume_delete("web", &DeleteVolume::default())
        .await
        .unwrap()
        .job
        .unwrap();
    finish(client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "");
    assert!(hosts.iter().all(|host| host.disks() == 0));
    assert!(client.volumes().await.unwrap().volumes.is_empty());
    assert_eq!(client.status().await.unwrap().state, PoolState::Healthy);
    let events = client.events(0, Duration::ZERO).await.unwrap();
    assert!(
        events.events.iter().any(|event| event.message == "is deleted"),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_after_the_death_of_the_daemon_in_each_phase() {
    let world = Arc::new(World::default());
    let mut hosts = pool("ab", &world).await;
    create(&hosts[0].client, "web", 1).await;
    let client = hosts[0].client.clone();
    let job = client.migrate(&migrate("b")).await.unwrap().job.unwrap();
    hosts[0].kill().await;
    hosts[0].boot().await;
    in_phase(&client, &job, "sync").await;
    until(&client, async || world.replicas() == "Ab").await;
    hosts[0].kill().await;
    world.sync_to(40.0);
    hosts[0].boot().await;
    until(&client, async || client.job(&job).await.unwrap().percent == 40.0).await;
    hosts[1].kill().await;
    hosts[1].boot().await;
    // The primary's marsd is away, so the hand-over has to wait.
    hosts[0].stop_marsd();
    until(&client, async || {
        client.nodes().await.unwrap().nodes[0].state == NodeState::MarsdDown
    })
    .await;
    world.sync_to(100.0);
    in_phase(&client, &job, "hand-over").await;
    hosts[0].kill().await;
    hosts[0].start_marsd();
    hosts[0].boot().await;
    let job = finish(&client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "B");
    assert_eq!(
        (world.hand_overs(), hosts[0].disks(), hosts[1].disks()),
        (1, 0, 1)
    );
    assert_eq!(job.gate_micros_max, Some(1234));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_migration_leaves_no_trace() {
    let world = Arc::new(World::default());
    let hosts = pool("ab", &world).await;
    let client = &hosts[0].client;
    create(client, "web", 1).await;
    let job = client.migrate(&migrate("b")).await.unwrap().job.unwrap();
    until(client, async || world.replicas() == "Ab").await;
    client.job_cancel(&job, &Change { dry_run: true }).await.unwrap();
    assert_eq!(client.job(&job).await.unwrap().state, JobState::Running);
    client.job_cancel(&job, &Change::default()).await.unwrap();
    finish(client, &job, JobState::Cancelled).await;
    assert_eq!((world.replicas().as_str(), hosts[1].disks()), ("A", 0));
    assert_eq!(client.volume("web").await.unwrap().replicas.len(), 1);
    assert!(client.job_cancel(&job, &Change::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_tells_what_differs_and_gives_way() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let verify = async |repair: bool| {
        let wish = Verify {
            repair,
            ..Verify::default()
        };
        client.volume_verify("web", &wish).await.unwrap().job.unwrap()
    };
    world.rot("b");
    let job = finish(&client, &verify(false).await, JobState::Done).await;
    assert_eq!(job.verify.unwrap().verdict, Verdict::Different);
    let shown = client.volume("web").await.unwrap();
    assert_eq!(shown.last_verified, None);
    assert_eq!(shown.differing_bytes, [("b".to_owned(), 4096)].into());
    assert_eq!(client.status().await.unwrap().state, PoolState::Degraded);
    let events = client.events(0, Duration::ZERO).await.unwrap().events;
    assert!(
        events
            .iter()
            .any(|event| event.message.contains("node b differs")),
        "{events:?}"
    );
    let job = finish(&client, &verify(true).await, JobState::Done).await;
    assert_eq!(job.verify.unwrap().verdict, Verdict::Repaired);
    let shown = client.volume("web").await.unwrap();
    assert_eq!(shown.last_verified.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(shown.differing_bytes.is_empty());
    // It survives the daemon, and does not stand in the way of others.
    world.set_slow(true);
    let job = verify(false).await;
    in_phase(&client, &job, "compare").await;
    assert_eq!(verify(false).await, job);
    hosts[0].kill().await;
    hosts[0].boot().await;
    until(&client, async || client.job(&job).await.unwrap().percent == 40.0).await;
    let other = client.volume_primary("web", &primary("b")).await.unwrap();
    finish(&client, &other.job.unwrap(), JobState::Done).await;
    let job = finish(&client, &job, JobState::Failed).await;
    assert!(job.error.unwrap().message.contains("the primary role moved"));
    let job = verify(false).await;
    in_phase(&client, &job, "compare").await;
    client
        .volume_verify_cancel("web", &Change::default())
        .await
        .unwrap();
    finish(&client, &job, JobState::Cancelled).await;
    let none = client
        .volume_verify_cancel("web", &Change::default())
        .await
        .unwrap();
    assert_eq!(none.job, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_drained_by_jobs_that_survive_the_daemon() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("abc", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    assert_eq!(world.replicas(), "Ab");
    let drain = |evacuate, dry_run| DrainNode { evacuate, dry_run };
    let check = client.node_reboot_check("a").await.unwrap();
    assert!(
        !check.may_reboot && check.reasons[0].contains("its primary is here"),
        "{check:?}"
    );
    let dry = client.node_drain("a", &drain(true, true)).await.unwrap();
    assert_eq!((dry.steps.len(), dry.job), (3, None));
    assert!(!client.node("a").await.unwrap().drained);
    let job = client
        .node_drain("a", &drain(true, false))
        .await
        .unwrap()
        .job
        .unwrap();
    hosts[0].kill().await;
    hosts[0].boot().await;
    let job = finish(&client, &job, JobState::Done).await;
    assert_eq!((job.volume.as_str(), job.from.as_deref()), ("", Some("a")));
    assert_eq!(world.replicas(), "Bc");
    until(&client, async || {
        client.node_reboot_check("a").await.unwrap().may_reboot
    })
    .await;
    let again = client.node_drain("a", &drain(true, false)).await.unwrap();
    assert_eq!(again.job, None);
    // b's role could go to c, its replica nowhere.
    let refused = client.node_drain("b", &drain(true, false)).await.unwrap_err();
    assert!(refused.message.contains("node a is drained"), "{refused:?}");
    assert!(!client.node("b").await.unwrap().drained);
    let job = client
        .node_drain("b", &drain(false, false))
        .await
        .unwrap()
        .job
        .unwrap();
    finish(&client, &job, JobState::Done).await;
    assert_eq!(world.replicas(), "bC");
    client.node_undrain("a", &Change::default()).await.unwrap();
    client.node_undrain("b", &Change::default()).await.unwrap();
    assert!(!client.node("b").await.unwrap().drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_degrades_the_pool_and_its_age_is_shown() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    hosts[1].stop_marsd();
    until(&client, async || {
        client.status().await.unwrap().state == PoolState::Degraded
    })
    .await;
    let shown = client.volume("web").await.unwrap();
    assert_eq!(
        (shown.state.as_str(), shown.replicas[1].state.as_str()),
        ("unreachable", "unreachable")
    );
    assert!(shown.replicas[1].reason.is_some() && shown.replicas[1].age_seconds.is_some());
    hosts[1].start_marsd();
    until(&client, async || {
        client.status().await.unwrap().state == PoolState::Healthy
    })
    .await;
    let events = client.events(0, Duration::ZERO).await.unwrap().events;
    assert!(
        events
            .iter()
            .any(|event| event.object == "node b" && event.message == "is online again")
    );
}
