//! What role and state can a replica have? One honest word each.

use std::fmt;

/// What a replica does in its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves the guest and writes the log; at most one per volume and epoch.
    Primary,
    /// Follows the log of a source.
    Secondary,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Secondary => "secondary",
        })
    }
}

/// When a guest's flush may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Once committed at the primary; replicas follow as fast as they can.
    #[default]
    Async,
    /// Once committed at so many replicas too; when that takes too long, without them, loudly, until they keep up again.
    NearSync {
        /// How many.
        replicas: u8,
        /// How long a flush that is committed at the primary waits for them.
        wait_millis_max: u32,
    },
    /// Once committed at so many replicas too, however long that takes.
    Sync {
        /// How many.
        replicas: u8,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Async => "async",
            Mode::NearSync { .. } => "near-sync",
            Mode::Sync { .. } => "sync",
        })
    }
}

/// The state of a replica in one honest word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaState {
    /// Whole, and everything its source has announced is durable in its log.
    Uptodate,
    /// Whole, a consistent older version, catching up.
    Behind,
    /// A full sync is under way; the disk is not yet a version.
    Syncing,
    /// Not whole, and no sync is under way.
    Inconsistent,
    /// Stopped by an administrator.
    Paused,
    /// No link to any source (or, seen from the primary, to this replica).
    Unreachable,
    /// Its history and that of the primary have parted.
    SplitBrain,
    /// Its own log is damaged where it was once whole.
    DefectiveLog,
    /// Recovery or detach: the disk is not in use.
    Detached,
}

impl ReplicaState {
    /// Every state, for tables and parsers.
    pub const ALL: [ReplicaState; 9] = [
        ReplicaState::Uptodate,
        ReplicaState::Behind,
        ReplicaState::Syncing,
        ReplicaState::Inconsistent,
        ReplicaState::Paused,
        ReplicaState::Unreachable,
        ReplicaState::SplitBrain,
        ReplicaState::DefectiveLog,
        ReplicaState::Detached,
    ];
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReplicaState::Uptodate => "uptodate",
            ReplicaState::Behind => "behind",
            ReplicaState::Syncing => "syncing",
            ReplicaState::Inconsistent => "inconsistent",
            ReplicaState::Paused => "paused",
            ReplicaState::Unreachable => "unreachable",
            ReplicaState::SplitBrain => "split-brain",
            ReplicaState::DefectiveLog => "defective-log",
            ReplicaState::Detached => "detached",
        })
    }
}
