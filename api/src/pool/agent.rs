//! What do the catalog's daemon and the agents of the hosts say to each other?
//!
//! An agent polls `GET /v1/agent/NODE?after=REVISION` for all steps of its node and reports to
//! `POST /v1/agent/NODE`. Steps are idempotent and leave no choice; steps of one volume are done in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LvmLayout, VgKind};
use crate::ApiError;
use crate::control::{
    BirthKind, DoorSpec, HostLimits, HostStatus, Member, SwitchWord, VolumeLimits, VolumeSettings,
};

/// All that an agent has to do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// Changes with everything below.
    pub revision: u64,
    /// In order; those of different volumes may be done at the same time.
    pub steps: Vec<Step>,
    /// The volume groups of this node, to be reported on.
    pub vgs: Vec<VgRef>,
    /// Serial numbers of certificates that count no more, in order.
    pub revoked: Vec<String>,
    /// What replication may take of this node.
    pub limits: HostLimits,
}

/// A volume group of the agent's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgRef {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: VgKind,
    /// The directory; of an LVM group, where its devices are.
    pub path: String,
    /// How an LVM group is used.
    #[serde(default)]
    pub layout: LvmLayout,
    /// How much of it may be used.
    pub size_bytes: u64,
    /// How much its disks may have together.
    pub promise_bytes: u64,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Volume id.
    pub volume: String,
    /// Generation of the volume's desired state that asks for it; an agent refuses older ones than it has seen.
    pub generation: u64,
    /// What to do.
    pub action: Action,
}

/// What an agent can do. Every action succeeds at once where things are so already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Make the disk.
    DiskCreate {
        /// Where.
        vg: VgRef,
        /// Exact length.
        size_bytes: u64,
    },
    /// Make the disk longer; one that is as long already stays as it is.
    DiskResize {
        /// Where it lies.
        vg: VgRef,
        /// How long it is to be at least.
        size_bytes: u64,
    },
    /// Let guests use the volume up to here; of the primary.
    Resize {
        /// How long it is to be.
        size_bytes: u64,
    },
    /// Let marsd take care of the replica on that disk.
    ReplicaCreate {
        /// Where the disk lies.
        vg: VgRef,
        /// The volume's name.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// How it comes into the world.
        birth: BirthKind,
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Let marsd know a volume without a replica.
    RemoteCreate {
        /// The volume's name.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Tell marsd the members.
    SetMembers {
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Give the primary role to another host.
    HandOver {
        /// The successor.
        to: String,
        /// How long guests may wait.
        gate_millis_max: u64,
    },
    /// Open a door.
    DoorOpen {
        /// Which.
        door: DoorSpec,
    },
    /// Close a door.
    DoorClose {
        /// Which.
        door: DoorSpec,
    },
    /// Let marsd forget the volume; the disk is left alone.
    Forget,
    /// Remove the disk.
    DiskRemove {
        /// Where it lies.
        vg: VgRef,
    },
    /// Let these decisions hold for the volume; of the primary.
    Settings {
        /// All of them.
        settings: VolumeSettings,
    },
    /// Let the log here take no more than this.
    LogBudget {
        /// In bytes; the usual budget when absent.
        bytes: Option<u64>,
    },
    /// Let the volume take no more of the network than this; of the primary.
    Limits {
        /// All of them.
        limits: VolumeLimits,
    },
    /// Compress the log, or not; of the primary.
    Compression {
        /// Whether.
        compressed: bool,
    },
    /// Stop something at the replica, or let it go on.
    Switch {
        /// What.
        switch: SwitchWord,
        /// Whether it goes on.
        on: bool,
    },
    /// Get the replica's log from these hosts rather than from the primary.
    Sources {
        /// Best first; none: from the primary.
        sources: Vec<String>,
    },
    /// End the comparison of all replicas; of the primary.
    VerifyCancel,
    /// Let every replica keep this version; of the primary. A name that is known there already is not taken again.
    SnapshotTake {
        /// What it is called.
        snapshot: String,
    },
    /// Give up what the replica keeps of a version.
    SnapshotDrop {
        /// What it is called.
        snapshot: String,
        /// Its position.
        at_lsn: u64,
        /// Of which history.
        at_digest: String,
    },
    /// Bring the contents of a snapshot back; of the primary.
    Restore {
        /// What it is called.
        snapshot: String,
        /// Its position.
        at_lsn: u64,
        /// Of which history.
        at_digest: String,
        /// The job that wants it.
        job: u64,
    },
    /// End that; of the primary.
    RestoreCancel,
    /// Do something once.
    Order {
        /// The job that gives the order, and the order's name: an agent that has done it does not do it again.
        job: u64,
        /// What.
        order: Order,
    },
}

/// What a job has done once on one replica. Each is as good as not done again where things are so already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Become primary without a grant.
    TakeOver {
        /// In this term, which the catalog has given out once.
        term: u32,
    },
    /// Be primary no more, without a successor.
    StepDown,
    /// Throw the contents away and take them anew from a source.
    Invalidate {
        /// Whether the log that is thrown away is put aside.
        keep: bool,
    },
    /// Be whole by an operator's word.
    FakeSync,
    /// Compare all replicas while guests write; of the primary.
    Verify {
        /// Whether what differs is copied from the primary.
        repair: bool,
        /// Bytes to compare in a second at most.
        bytes_per_second_max: Option<u64>,
    },
    /// Let the log go over to another file.
    LogRotate,
    /// Give back what nobody needs of the log.
    LogTrim,
    /// Remove histories that were put aside.
    DropKept {
        /// Only this one.
        history: Option<String>,
    },
}

/// What an agent has seen and done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the reporting poold.
    pub program_version: String,
    /// Where other hosts reach it.
    pub address: String,
    /// Where peers reach its marsd.
    pub peer_address: String,
    /// How marsd stands, or why it does not say.
    pub marsd: Result<HostStatus, String>,
    /// Newest generation taken up, per volume id; read before everything below was looked at.
    pub generations: BTreeMap<String, u64>,
    /// The disks in each volume group.
    pub vgs: Vec<VgReport>,
    /// What became of steps since the last report.
    pub results: Vec<StepResult>,
}

/// A volume group as its host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgReport {
    /// Its name.
    pub name: String,
    /// Bytes that its disks take; `problem` when this cannot be told.
    pub used_bytes: u64,
    /// Bytes that they can still take.
    pub left_bytes: u64,
    /// Volume ids with a disk in it, and how long that is.
    pub disks: BTreeMap<String, u64>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// The step.
    pub step: Step,
    /// Its end.
    pub outcome: Result<StepOutcome, ApiError>,
}

/// The good end of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StepOutcome {
    /// Done, or already so.
    Done,
    /// The role was granted.
    HandedOver {
        /// How long the gate was closed, in microseconds.
        gate_micros: u64,
    },
    /// The order was carried out.
    Ordered {
        /// Of which job.
        job: u64,
        /// What came of it, in words.
        note: String,
    },
}

/// Asked of the daemon of a host directly: make a directory or an LVM group ready for the pool, or check that it could be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareVg {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: VgKind,
    /// The directory; of an LVM group, where its devices are.
    pub path: String,
    /// How an LVM group is used.
    #[serde(default)]
    pub layout: LvmLayout,
    /// How much the pool may use; all that is free when absent.
    pub size_bytes: Option<u64>,
    /// Only check.
    pub dry_run: bool,
}

/// The answer to [`PrepareVg`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreparedVg {
    /// How much the pool may use.
    pub size_bytes: u64,
}

/// Asked of the daemon of a host directly: make a directory or an LVM group foreign again; refused while disks lie in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseVg {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: VgKind,
    /// The directory; of an LVM group, where its devices are.
    pub path: String,
    /// Only check.
    pub dry_run: bool,
}
