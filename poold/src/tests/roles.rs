//! Who is primary, when nobody can be asked: told what it loses, given out once, taken up again after a restart.

use api::ErrorKind::{self, Refused};
use api::pool::{
    Attach, Change, Changed, DeleteVolume, Detach, DropKept, JobKind, MakePrimary, OnNode, OnNodes,
    ResolveSplitBrain, Verify,
};

use super::*;

fn to(node: &str, force: bool) -> MakePrimary {
    MakePrimary {
        node: node.to_owned(),
        force,
        dry_run: false,
    }
}

#[track_caller]
fn refused(result: Result<Changed, ApiError>, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, Refused, "{error:?}");
    let all = format!("{} {}", error.message, error.hint.clone().unwrap_or_default());
    assert!(words.iter().all(|word| all.contains(word)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_from_a_dead_host_and_the_wish_follows() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("abc", &world).await;
    // The catalog is on a; the volume's primary on b.
    let client = hosts[0].client.clone();
    let wish = CreateVolume {
        name: "web".to_owned(),
        size_bytes: 8192,
        on: vec!["b".to_owned(), "c".to_owned()],
        ..CreateVolume::default()
    };
    let job = client.volume_create(&wish).await.unwrap().job.unwrap();
    finish(&client, &job, JobState::Done).await;
    refused(
        client.volume_primary("web", &to("c", true)).await,
        &["connected", "poolctl volume primary web c"],
    );
    hosts[1].stop_marsd();
    until(&client, async || {
        client.volume("web").await.unwrap().state == "unreachable"
    })
    .await;
    refused(
        client.volume_primary("web", &to("c", false)).await,
        &["node b", "--force"],
    );
    let dry = MakePrimary {
        dry_run: true,
        ..to("c", true)
    };
    let told = client.volume_primary("web", &dry).await.unwrap();
    assert_eq!((told.steps.len(), told.job), (2, None), "{:?}", told.steps);
    // Its marsd is dead; what it said last is known all the same.
    let loss = told.loss.unwrap();
    assert_eq!((loss.node.as_deref(), loss.seconds.is_some()), (Some("b"), true));
    let before = client.volume("web").await.unwrap();
    let job = client
        .volume_primary("web", &to("c", true))
        .await
        .unwrap()
        .job
        .unwrap();
    let job = finish(&client, &job, JobState::Done).await;
    assert_eq!(job.kind, JobKind::TakeOver);
    let shown = client.volume("web").await.unwrap();
    assert_eq!((shown.primary.as_deref(), shown.epoch), (Some("c"), 65_536));
    assert!(shown.generation > before.generation);
    // Nobody pulls the role back to where it was, and no term is given out twice.
    hosts[1].start_marsd();
    until(&client, async || {
        client.volume("web").await.unwrap().state == "uptodate"
    })
    .await;
    assert_eq!(world.hand_overs(), 0);
    hosts[2].stop_marsd();
    until(&client, async || {
        client.volume("web").await.unwrap().state == "unreachable"
    })
    .await;
    let job = client
        .volume_primary("web", &to("b", true))
        .await
        .unwrap()
        .job
        .unwrap();
    finish(&client, &job, JobState::Done).await;
    assert_eq!(client.volume("web").await.unwrap().epoch, 2 * 65_536);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_steps_down_and_another_follows_without_force() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    client.volume_attach("web", &Attach::default()).await.unwrap();
    world.set_clients("a", 1);
    until(&client, async || {
        client.volume("web").await.unwrap().doors[0].clients == 1
    })
    .await;
    refused(
        client.volume_secondary("web", &Change::default()).await,
        &["1 guests", "detach"],
    );
    client.volume_detach("web", &Detach::default()).await.unwrap();
    let job = client
        .volume_secondary("web", &Change::default())
        .await
        .unwrap()
        .job;
    finish(&client, &job.unwrap(), JobState::Done).await;
    assert_eq!(client.volume("web").await.unwrap().primary, None);
    assert_eq!(world.replicas(), "ab");
    // The wish outlives the daemon; asking again is no job.
    hosts[0].kill().await;
    hosts[0].boot().await;
    online(&client, 2).await;
    let again = client.volume_secondary("web", &Change::default()).await.unwrap();
    assert_eq!((again.job, again.steps.len()), (None, 1));
    assert_eq!(client.volume("web").await.unwrap().primary, None);
    let job = client
        .volume_primary("web", &to("b", false))
        .await
        .unwrap()
        .job
        .unwrap();
    finish(&client, &job, JobState::Done).await;
    assert_eq!(client.volume("web").await.unwrap().primary.as_deref(), Some("b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_loser_of_a_split_brain_begins_anew_and_its_log_is_kept() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("abc", &world).await;
    let client = &hosts[0].client;
    create(client, "web", 3).await;
    let nothing = client.volume_resolve("web", &ResolveSplitBrain::default()).await;
    assert!(nothing.unwrap().steps[0].contains("nothing"));
    world.part("b");
    world.part("c");
    until(client, async || {
        client.volume_split_brain("web").await.unwrap().parted
            && client
                .volume("web")
                .await
                .unwrap()
                .replicas
                .iter()
                .filter(|row| row.state == "split-brain")
                .count()
                == 2
    })
    .await;
    let wrong = ResolveSplitBrain {
        winner: Some("b".to_owned()),
        dry_run: false,
    };
    refused(
        client.volume_resolve("web", &wrong).await,
        &["primary web b --force"],
    );
    let job = client.volume_resolve("web", &ResolveSplitBrain::default()).await;
    let job = job.unwrap().job.unwrap();
    for _ in 0..2 {
        in_phase(client, &job, "sync").await;
        let before = client.job(&job).await.unwrap().to;
        world.sync_to(100.0);
        until(client, async || {
            let now = client.job(&job).await.unwrap();
            now.state.ended() || (now.to != before && now.phase == "sync")
        })
        .await;
    }
    let job = finish(client, &job, JobState::Done).await;
    assert!(job.message.contains("kept"), "{job:?}");
    let shown = client.volume_split_brain("web").await.unwrap();
    assert!(!shown.parted);
    let nodes: Vec<&str> = shown.kept.iter().map(|kept| kept.node.as_str()).collect();
    assert_eq!((nodes, shown.kept[0].bytes), (vec!["b", "c"], 4096));
    assert_eq!(client.volume("web").await.unwrap().kept_histories, 2);
    let delete = client.volume_delete("web", &DeleteVolume::default()).await;
    refused(delete, &["split-brain drop web"]);
    let drop = async |node: Option<&str>, history: Option<&str>| {
        let wish = DropKept {
            history: history.map(str::to_owned),
            node: node.map(str::to_owned),
            dry_run: false,
        };
        client.volume_drop_kept("web", &wish).await
    };
    assert_eq!(drop(None, Some("7")).await.unwrap_err().kind, ErrorKind::NotFound);
    for node in [Some("b"), None] {
        finish(
            client,
            &drop(node, None).await.unwrap().job.unwrap(),
            JobState::Done,
        )
        .await;
    }
    assert!(client.volume_split_brain("web").await.unwrap().kept.is_empty());
    assert_eq!(drop(None, None).await.unwrap().job, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_looked_after_beside_other_work_and_without_hosts_that_are_away() {
    let world = Arc::new(World::default());
    let mut hosts = pool("abc", &world).await;
    let client = hosts[0].client.clone();
    world.sync_all();
    create(&client, "web", 2).await;
    let other = client
        .volume_join(
            "web",
            &OnNode {
                node: "c".to_owned(),
                dry_run: false,
            },
        )
        .await;
    let trim = OnNodes::default();
    let job = client.volume_log_trim("web", &trim).await.unwrap().job.unwrap();
    let job = finish(&client, &job, JobState::Done).await;
    assert!(job.message.contains("a gave 8 KiB back"), "{job:?}");
    // Nobody waits for a comparison, and it waits for nobody.
    let job = client.volume_verify("web", &Verify::default()).await;
    let job = job.unwrap().job.unwrap();
    finish(&client, &other.unwrap().job.unwrap(), JobState::Done).await;
    finish(&client, &job, JobState::Done).await;
    hosts[1].stop_marsd();
    until(&client, async || {
        client.node("b").await.unwrap().state == NodeState::MarsdDown
    })
    .await;
    let changed = client.volume_log_rotate("web", &trim).await.unwrap();
    assert!(
        changed
            .steps
            .iter()
            .any(|step| step.contains("node b is left out")),
        "{changed:?}"
    );
    finish(&client, &changed.job.unwrap(), JobState::Done).await;
    let only = OnNodes {
        node: Some("b".to_owned()),
        dry_run: false,
    };
    refused(client.volume_log_rotate("web", &only).await, &["left out"]);
}
