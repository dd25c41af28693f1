//! Versions are kept, restored and given up, also where a daemon dies in between.

use api::ErrorKind::{NotFound, PartlyDone, Refused, Usage};
use api::pool::{
    Change, CreateSnapshot, DeleteSnapshot, DeleteVolume, JobKind, MakePrimary, Migrate, RestoreSnapshot,
    SnapshotState,
};

use super::*;

fn named(snapshot: &str) -> CreateSnapshot {
    CreateSnapshot {
        snapshot: Some(snapshot.to_owned()),
        dry_run: false,
    }
}

fn back(snapshot: &str) -> RestoreSnapshot {
    RestoreSnapshot {
        snapshot: snapshot.to_owned(),
        ..RestoreSnapshot::default()
    }
}

fn gone(snapshot: &str) -> DeleteSnapshot {
    DeleteSnapshot {
        snapshot: snapshot.to_owned(),
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_kept_and_comes_back_through_the_death_of_the_daemon() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let dry = CreateSnapshot {
        dry_run: true,
        ..named("one")
    };
    assert_eq!(
        client.volume_snapshot_create("web", &dry).await.unwrap().job,
        None
    );
    assert!(client.volume_snapshots("web").await.unwrap().snapshots.is_empty());
    let job = client.volume_snapshot_create("web", &named("one")).await.unwrap();
    hosts[0].kill().await;
    hosts[0].boot().await;
    let job = finish(&client, &job.job.unwrap(), JobState::Done).await;
    assert_eq!(
        (job.kind, job.message.as_str()),
        (JobKind::Snapshot, "kept on a, b")
    );
    let list = client.volume_snapshots("web").await.unwrap().snapshots;
    let kept = |row: &api::pool::SnapshotReplica| row.state == SnapshotState::Kept;
    assert!(list.len() == 1 && list[0].at == Some(101), "{list:?}");
    assert!(list[0].replicas.iter().all(kept), "{list:?}");
    // Without a name it gets one.
    let other = client
        .volume_snapshot_create("web", &CreateSnapshot::default())
        .await
        .unwrap();
    finish(&client, &other.job.unwrap(), JobState::Done).await;
    assert_eq!(client.volume_snapshots("web").await.unwrap().snapshots.len(), 2);

    world.set_slow(true);
    let job = client.volume_snapshot_restore("web", &back("one")).await.unwrap();
    let job = job.job.unwrap();
    until(&client, async || client.job(&job).await.unwrap().percent == 40.0).await;
    hosts[0].kill().await;
    hosts[0].boot().await;
    until(&client, async || client.job(&job).await.unwrap().percent == 40.0).await;
    // It stands in the way of others, and can be ended.
    let refused = client
        .volume_snapshot_delete("web", &gone("one"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, Refused);
    client.job_cancel(&job, &Change::default()).await.unwrap();
    finish(&client, &job, JobState::Cancelled).await;
    world.set_slow(false);
    let job = client.volume_snapshot_restore("web", &back("one")).await.unwrap();
    let job = finish(&client, &job.job.unwrap(), JobState::Done).await;
    assert_eq!((job.kind, job.percent), (JobKind::Restore, 100.0));

    client.volume_snapshot_delete("web", &gone("one")).await.unwrap();
    let again = client
        .volume_snapshot_delete("web", &gone("one"))
        .await
        .unwrap_err();
    assert_eq!(again.kind, NotFound);
    // The name is free once everybody has dropped it.
    until(&client, async || {
        client.volume_snapshot_create("web", &named("one")).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_what_is_lacking_is_told() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("abc", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let bad = client
        .volume_snapshot_create("web", &named("No/Name"))
        .await
        .unwrap_err();
    assert_eq!(bad.kind, Usage);
    let none = client
        .volume_snapshot_restore("web", &back("one"))
        .await
        .unwrap_err();
    assert_eq!(none.kind, NotFound);
    world.rot("b");
    let job = client.volume_snapshot_create("web", &named("one")).await.unwrap();
    let job = finish(&client, &job.job.unwrap(), JobState::Failed).await;
    let error = job.error.unwrap();
    assert!(
        error.kind == PartlyDone && error.message.contains("no space left"),
        "{error:?}"
    );
    let again = client
        .volume_snapshot_create("web", &named("one"))
        .await
        .unwrap_err();
    assert!(again.kind == Refused && again.hint.is_some(), "{again:?}");
    let to_b = MakePrimary {
        node: "b".to_owned(),
        ..MakePrimary::default()
    };
    // Nor may a be the one that leaves: it alone keeps it.
    let away = Migrate {
        volume: "web".to_owned(),
        to: "c".to_owned(),
        ..Migrate::default()
    };
    let refused = client.migrate(&away).await.unwrap_err();
    assert!(
        refused.kind == Refused && refused.message.contains("alone keeps"),
        "{refused:?}"
    );
    // b has none: it must not be primary to bring it back.
    let moved = client.volume_primary("web", &to_b).await.unwrap();
    finish(&client, &moved.job.unwrap(), JobState::Done).await;
    let refused = client
        .volume_snapshot_restore("web", &back("one"))
        .await
        .unwrap_err();
    assert!(
        refused.kind == Refused && refused.message.contains("is failed"),
        "{refused:?}"
    );
    let deleted = client
        .volume_delete("web", &DeleteVolume::default())
        .await
        .unwrap_err();
    assert!(
        deleted.kind == Refused && deleted.message.contains("one"),
        "{deleted:?}"
    );
}
