//! What is, as far as it has been seen?

use std::collections::{BTreeMap, BTreeSet};

use model::{NodeId, ReplicaState, Role};

use crate::desired::{Door, Member};

/// A replica on a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Its role.
    pub role: Role,
    /// Its state as it sees itself.
    pub state: ReplicaState,
    /// Its primary's term.
    pub term: u32,
    /// Percent of its full sync.
    pub sync_percent: f64,
    /// Bytes copied by its full sync.
    pub sync_copied_bytes: u64,
}

impl Replica {
    /// Whether its disk and log make a version of the volume, so that it may become primary.
    pub fn is_whole(&self) -> bool {
        match self.state {
            ReplicaState::Uptodate | ReplicaState::Behind => true,
            ReplicaState::Syncing
            | ReplicaState::Inconsistent
            | ReplicaState::Paused
            | ReplicaState::Unreachable
            | ReplicaState::SplitBrain
            | ReplicaState::DefectiveLog
            | ReplicaState::Detached => false,
        }
    }
}

/// What a marsd knows of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeSeen {
    /// The members it was told.
    pub members: Vec<Member>,
    /// Its replica.
    pub replica: Option<Replica>,
    /// Its open doors.
    pub doors: Vec<Door>,
}

/// What a host has of a volume. Only hosts that report, and whose marsd answers, are seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSeen {
    /// Newest generation of the volume that its agent has taken up; it refuses older ones.
    pub generation: u64,
    /// Names of the volume groups with a disk of the volume.
    pub disks: BTreeSet<String>,
    /// What marsd knows of it; `None` when it does not know it.
    pub volume: Option<VolumeSeen>,
}

/// The observed state of one volume: every host that is seen, with or without a trace of the volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeObserved {
    /// By name.
    pub hosts: BTreeMap<NodeId, HostSeen>,
}

impl VolumeObserved {
    /// The replica on `node`, if the host is seen and has one.
    pub fn replica(&self, node: &NodeId) -> Option<&Replica> {
        self.hosts.get(node)?.volume.as_ref()?.replica.as_ref()
    }

    /// Where the primary is: the replica in that role with the highest term.
    pub fn primary(&self) -> Option<&NodeId> {
        let primaries = self.hosts.keys().filter_map(|node| {
            let replica = self.replica(node)?;
            (replica.role == Role::Primary).then_some((replica.term, node))
        });
        primaries.max().map(|(_, node)| node)
    }
}
