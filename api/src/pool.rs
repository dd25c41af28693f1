//! Which requests and answers does the pool's HTTP API have? JSON, schema 1, one object per answer.
//!
//! Keys are snake_case with the unit last and are never renamed without a new [`SCHEMA`]. Times are RFC 3339 in UTC.
//! Every request that changes something has `dry_run`: all checks are made, nothing is changed.

pub mod agent;
mod event;
mod job;
mod node;
mod snapshot;
mod status;
mod vg;
mod volume;

pub use event::{Event, EventList};
pub use job::{
    DifferenceRow, Job, JobKind, JobList, JobState, Migrate, Verdict, VerifiedReplica, VerifyReport,
};
pub use node::{
    DrainNode, IssueToken, JoinAnswer, JoinPool, JoinRequest, Node, NodeList, NodeState, PoolInfo, PoolInit,
    RebootCheck, RemoveNode, Token,
};
pub use snapshot::{
    CreateSnapshot, DeleteSnapshot, RestoreSnapshot, SnapshotList, SnapshotReplica, SnapshotRow,
    SnapshotState,
};
pub use status::{PoolState, Status};
pub use vg::{AddVg, LvmLayout, RemoveVg, Vg, VgKind, VgList};
pub use volume::{
    Attach, Attached, CreateVolume, DeleteVolume, Detach, DoorKind, DoorRow, DropKept, KeptHistory, LogRoom,
    LogRow, MakePrimary, OnNode, OnNodes, ReplicaRow, ResizeVolume, ResolveSplitBrain, SetLimits,
    SetNodeLimits, SetSource, SetVolume, SplitBrain, SplitPair, SplitSide, SwitchVolume, Verify, Volume,
    VolumeList, VolumeLog,
};

use serde::{Deserialize, Serialize};

/// Version of the JSON that this module describes.
pub const SCHEMA: u32 = 1;

/// Longest body that a daemon reads, in bytes.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Most replicas that a volume can have.
pub const REPLICAS_MAX: usize = 8;

/// An answer with its version: `{"schema":1, …}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The answer itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Versioned<T> {
    /// An answer of the present version.
    pub fn new(body: T) -> Versioned<T> {
        Versioned { schema: SCHEMA, body }
    }
}

/// What a change did, or, with `dry_run`, would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// On which object: `volume web-1`, `node a`.
    pub object: String,
    /// Whether it was only tried.
    pub dry_run: bool,
    /// Generation of the object's desired state afterwards; 0 for objects without one.
    pub generation: u64,
    /// What is done, one sentence per step.
    pub steps: Vec<String>,
    /// The job that does it, when it takes longer than the request.
    pub job: Option<String>,
    /// What guests lose by it, where they may lose something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// What a forced change costs guests: as much of it as is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Log that another member is known to have and the winner has not.
    pub bytes: u64,
    /// How far back in time guests are set, at most: writes before that are all there; `null` when nobody can tell.
    pub seconds: Option<f64>,
    /// Who has what is lost.
    pub node: Option<String>,
}

/// A change that needs nothing but its object's name (job cancel …).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Change {
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}
