//! How do snapshots read on the control socket?

use serde::{Deserialize, Serialize};

/// A version that was to be kept on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// What it is called.
    pub name: String,
    /// Its position: equal positions of one history are equal contents.
    pub at_lsn: u64,
    /// 32 hex digits: of which history.
    pub at_digest: String,
    /// The volume's length there.
    pub size_bytes: u64,
    /// When it was asked for, in seconds since 1970, by the primary's clock.
    pub unix_seconds: u64,
    /// What became of it.
    pub state: SnapshotWord,
    /// Why, where that needs a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The file, if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the file takes below; blocks that it shares with the disk count too.
    #[serde(default)]
    pub used_bytes: u64,
}

/// What became of a snapshot on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotWord {
    /// Not yet there: it is being taken, or the replica has not come to it.
    Pending,
    /// It is there.
    Kept,
    /// The disk refused.
    Failed,
    /// The replica was not this version when it came to it.
    Missing,
    /// It is being given up.
    Dropping,
}

/// A restore of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreStatus {
    /// As it was asked for.
    pub run: u64,
    /// Of which.
    pub name: String,
    /// Its position.
    pub at_lsn: u64,
    /// How much is compared.
    pub percent: f64,
    /// What differed and was written.
    pub restored_bytes: u64,
    /// What is compared in a second, lately.
    pub bytes_per_second: u64,
    /// When it will have ended at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// How it ended; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<RestoreEndWord>,
    /// Why, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a restore ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreEndWord {
    /// The contents are those of the snapshot, durably.
    Finished,
    /// An operator ended it.
    Cancelled,
    /// It cannot go on here.
    Failed,
}
