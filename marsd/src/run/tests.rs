use bytes::Bytes;
use mars::{Command, GuestError, GuestRequest, Reply};
use model::{Epoch, Role, SectorRange, VolumeId, VolumeSize};

use super::*;
use crate::disk::MemoryDisk;

fn config() -> mars::Config {
    let node = NodeId::new("a").unwrap();
    mars::Config {
        volume: VolumeId(1),
        members: vec![node.clone()],
        node,
        size: VolumeSize::new(1 << 20).unwrap(),
        shadow_bytes_max: 1 << 20,
        log_bytes_max: 1 << 20,
    }
}

fn shared() -> Shared {
    Shared {
        turns: Arc::default(),
        length: Length::new(config().size),
    }
}

fn start(begin: Begin, disk: impl FnOnce(Inbox) -> MemoryDisk) -> Running {
    let (inbox, inputs) = Inbox::new();
    let disk = Box::new(disk(inbox.clone()));
    let dial = Box::new(|_| {});
    Running::start(config(), begin, inbox, inputs, disk, dial, shared()).unwrap()
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).unwrap()
}

async fn write(handle: &VolumeHandle, start: u64, fill: u8) -> Result<Reply, GuestError> {
    let data = Bytes::from(vec![fill; 4096]);
    handle
        .call(GuestRequest::Write {
            range: range(start, 8),
            data,
            fua: false,
        })
        .await
}

#[tokio::test]
async fn guests_are_served_and_an_answered_write_survives_the_loop() {
    let (sender, disks) = std::sync::mpsc::channel();
    let running = start(
        Begin::Create(Birth::Primary {
            epoch: Epoch::NONE.next_term(),
        }),
        |inbox| {
            let disk = MemoryDisk::new(config().size, inbox);
            sender.send(disk.clone()).unwrap();
            disk
        },
    );
    let disk = disks.recv().unwrap();
    let handle = running.handle().clone();
    for n in 0..200 {
        assert_eq!(write(&handle, 8 * (n % 16), n as u8).await, Ok(Reply::Done));
    }
    let status = handle.status().await.unwrap();
    assert_eq!((status.role, status.serving), (Role::Primary, true));
    running.stop();

    assert!(handle.status().await.is_none());
    assert!(matches!(write(&handle, 0, 0).await, Err(GuestError::Disk(_))));

    let mut meta = None;
    let (inbox, inputs) = Inbox::new();
    let (disk, found) = disk.reopen(inbox.clone());
    meta.clone_from(&found);
    let begin = Begin::Open(Box::new(meta.unwrap()));
    let (disk, dial) = (Box::new(disk), Box::new(|_| {}));
    let running = Running::start(config(), begin, inbox, inputs, disk, dial, shared()).unwrap();
    let read = running
        .handle()
        .call(GuestRequest::Read { range: range(0, 8) })
        .await;
    assert_eq!(read, Ok(Reply::Data(Bytes::from(vec![192; 4096]))));
    running.stop();
}

#[tokio::test]
async fn a_command_is_answered_and_a_foreign_node_refused() {
    let running = start(
        Begin::Create(Birth::Primary {
            epoch: Epoch::NONE.next_term(),
        }),
        |inbox| MemoryDisk::new(config().size, inbox),
    );
    let handle = running.handle();
    write(handle, 0, 1).await.unwrap();
    let checksum = handle.command(Command::Checksum).await;
    assert!(matches!(checksum, Ok(Answer::Checksum { from, to, .. }) if from == to));
    let node = NodeId::new("b").unwrap();
    let refused = handle
        .command(Command::HandOver {
            to: node.clone(),
            gate_micros_max: 1,
        })
        .await;
    assert_eq!(refused, Err(CommandError::NotMember { node }));
    running.stop();
}
