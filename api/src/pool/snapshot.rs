//! What is kept of former versions of a volume, and what can be asked for?

use serde::{Deserialize, Serialize};

/// `volume snapshot create`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CreateSnapshot {
    /// What it is called; the present time when absent.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume snapshot delete`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeleteSnapshot {
    /// Which.
    pub snapshot: String,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume snapshot restore`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RestoreSnapshot {
    /// Which.
    pub snapshot: String,
    /// Although guests are connected: they see contents change under them.
    #[serde(default)]
    pub force: bool,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume snapshot list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotList {
    /// The volume.
    pub name: String,
    /// The oldest first.
    pub snapshots: Vec<SnapshotRow>,
}

/// One version that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// What it is called.
    pub snapshot: String,
    /// When it was asked for (RFC 3339).
    pub created: String,
    /// The volume's length then; `null` until that is known.
    pub size_bytes: Option<u64>,
    /// Its position in the log; `null` until that is known.
    pub at: Option<u64>,
    /// One per replica.
    pub replicas: Vec<SnapshotReplica>,
}

/// What one replica has of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReplica {
    /// The host.
    pub node: String,
    /// In one word.
    pub state: SnapshotState,
    /// Why, where that needs a reason.
    pub reason: Option<String>,
    /// The file on that host.
    pub path: Option<String>,
    /// What it takes there; blocks shared with the disk count too.
    pub used_bytes: u64,
}

/// What one replica has of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// It is there.
    Kept,
    /// It is being taken, or the replica has not come to it.
    Pending,
    /// The disk refused.
    Failed,
    /// The replica was no version when it came to it, or never came to it.
    Missing,
    /// One of this name is there, of a history that was given up.
    Parted,
    /// Its host cannot be asked.
    Unreachable,
}

impl SnapshotState {
    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            SnapshotState::Kept => "kept",
            SnapshotState::Pending => "pending",
            SnapshotState::Failed => "failed",
            SnapshotState::Missing => "missing",
            SnapshotState::Parted => "parted",
            SnapshotState::Unreachable => "unreachable",
        }
    }
}
