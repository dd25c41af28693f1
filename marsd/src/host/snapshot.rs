//! How do snapshots read on the control socket, and what can be asked of them?

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use api::control::{Outcome, SnapshotStatus, SnapshotWord};
use mars::{Command, Digest, Position, Snapshot, SnapshotState};
use model::{Lsn, SnapshotName, VolumeId};

use super::{Host, Reply, answered, usage};
use crate::disk::Snapshots;

/// A snapshot, as it is named from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Which {
    pub name: SnapshotName,
    pub at: Position,
}

/// Checks what came from outside.
pub(super) fn which(name: &str, at_lsn: u64, at_digest: &str) -> Reply<Which> {
    let name = snapshot_name(name)?;
    match u128::from_str_radix(at_digest, 16) {
        Ok(digest) if at_digest.len() == 32 => {
            let (lsn, digest) = (Lsn(at_lsn), Digest(digest));
            let at = Position { lsn, digest };
            Ok(Which { name, at })
        }
        _ => usage(format!("`{at_digest}` is not a digest: 32 hex digits")),
    }
}

fn snapshot_name(name: &str) -> Reply<SnapshotName> {
    SnapshotName::new(name).or_else(|e| usage(e.to_string()))
}

impl Host {
    pub(super) async fn take_snapshot(&self, id: VolumeId, name: &str) -> Reply<Outcome> {
        let name = snapshot_name(name)?;
        let handle = self.replica_handle(id)?;
        answered(handle.command(Command::Snapshot { name }).await)
    }

    pub(super) async fn drop_snapshot(&self, id: VolumeId, which: Which) -> Reply<Outcome> {
        let Which { name, at } = which;
        let handle = self.replica_handle(id)?;
        answered(handle.command(Command::DropSnapshot { name, at }).await)
    }
}

/// As the engine says; what the file takes is looked at.
pub(super) fn shown(snapshot: &Snapshot, disk: &Path) -> SnapshotStatus {
    let (state, reason) = match &snapshot.state {
        SnapshotState::Pending => (SnapshotWord::Pending, None),
        SnapshotState::Kept => (SnapshotWord::Kept, None),
        SnapshotState::Failed { reason } => (SnapshotWord::Failed, Some(reason.clone())),
        SnapshotState::Missing { why } => (SnapshotWord::Missing, Some(why.to_string())),
        SnapshotState::Dropping => (SnapshotWord::Dropping, None),
    };
    let path = Snapshots::beside(disk).path(&snapshot.name, snapshot.at);
    let kept = state == SnapshotWord::Kept;
    let used = std::fs::metadata(&path).map_or(0, |metadata| metadata.blocks() * 512);
    SnapshotStatus {
        name: snapshot.name.to_string(),
        at_lsn: snapshot.at.lsn.0,
        at_digest: snapshot.at.digest.to_string(),
        size_bytes: snapshot.size.bytes(),
        unix_seconds: snapshot.unix_micros / 1_000_000,
        state,
        reason,
        path: kept.then(|| path.display().to_string()),
        used_bytes: if kept { used } else { 0 },
    }
}
