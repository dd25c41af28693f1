//! A volume gets longer: disks first, then the volume, also where a daemon dies in between; it never gets shorter.

use api::ErrorKind::{Refused, Usage};
use api::pool::{JobKind, ResizeVolume};

use super::*;

fn to(size_bytes: u64) -> ResizeVolume {
    ResizeVolume {
        size_bytes,
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_below_first_and_on_every_replica() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let before = client.volume("web").await.unwrap().size_bytes;
    let dry = ResizeVolume {
        dry_run: true,
        ..to(2 * before)
    };
    let told = client.volume_resize("web", &dry).await.unwrap();
    assert_eq!((told.steps.len(), told.job), (3, None), "{:?}", told.steps);
    assert_eq!(client.volume("web").await.unwrap().size_bytes, before);
    let changed = client.volume_resize("web", &to(2 * before)).await.unwrap();
    // Whoever asks again gets the same job.
    let again = client.volume_resize("web", &to(2 * before)).await.unwrap();
    assert!(again.job.is_none() || again.job == changed.job, "{again:?}");
    hosts[0].kill().await;
    hosts[0].boot().await;
    let job = finish(&client, &changed.job.unwrap(), JobState::Done).await;
    assert_eq!(job.kind, JobKind::Resize);
    let shown = client.volume("web").await.unwrap();
    assert_eq!(shown.size_bytes, 2 * before);
    assert!(
        shown.replicas.iter().all(|row| row.size_bytes == 2 * before),
        "{shown:?}"
    );
    let nothing = client.volume_resize("web", &to(2 * before)).await.unwrap();
    assert!(nothing.steps[0].contains("nothing"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_neither_shrinks_nor_grows_beyond_its_groups() {
    let world = Arc::new(World::default());
    world.sync_all();
    let hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    let before = client.volume("web").await.unwrap();
    let refused = client.volume_resize("web", &to(4096)).await.unwrap_err();
    assert_eq!(refused.kind, Refused, "{refused:?}");
    assert!(
        refused.message.contains("does not shrink") && refused.hint.is_some(),
        "{refused:?}"
    );
    let odd = client
        .volume_resize("web", &to(before.size_bytes + 1))
        .await
        .unwrap_err();
    assert_eq!(odd.kind, Usage, "{odd:?}");
    let huge = client.volume_resize("web", &to(16 * VG_BYTES)).await.unwrap_err();
    assert_eq!(huge.kind, Refused, "{huge:?}");
    assert!(
        huge.message.contains("node a") && huge.message.contains("node b"),
        "{huge:?}"
    );
    let after = client.volume("web").await.unwrap();
    assert_eq!(
        (after.size_bytes, after.generation),
        (before.size_bytes, before.generation)
    );
}
