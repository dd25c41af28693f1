//! How far is long work?

use serde::{Deserialize, Serialize};

use crate::ApiError;

/// `migrate NAME --to NODE [--from NODE]`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Migrate {
    /// The volume.
    pub volume: String,
    /// The host that gets a replica.
    pub to: String,
    /// The host that gives its replica up; the primary's when absent.
    #[serde(default)]
    pub from: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// Kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Phases `start`, `sync`.
    Create,
    /// Phase `remove`.
    Delete,
    /// Phases `join`, `sync`.
    Join,
    /// Phase `leave`.
    Leave,
    /// Phase `hand-over`.
    Primary,
    /// Phases `join`, `sync`, `hand-over` (if the replica that leaves is the primary), `leave`.
    Migrate,
    /// Phase `checksum`.
    Verify,
    /// Phase `order`: a replica becomes primary without a grant.
    TakeOver,
    /// Phase `order`: the primary steps down for nobody.
    Secondary,
    /// Phases `order`, `sync`: a replica's contents are thrown away and filled again.
    Invalidate,
    /// Phases `order`, `sync`, for each replica on the losing side of a split brain: as `invalidate`, but its log is kept.
    Resolve,
    /// Phase `order`: a replica is declared whole.
    FakeSync,
    /// Phase `sync`: as many replicas as wanted are whole, and no others are left.
    Replicas,
}

impl JobKind {
    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            JobKind::Create => "create",
            JobKind::Delete => "delete",
            JobKind::Join => "join",
            JobKind::Leave => "leave",
            JobKind::Primary => "primary",
            JobKind::Migrate => "migrate",
            JobKind::Verify => "verify",
            JobKind::TakeOver => "take-over",
            JobKind::Secondary => "secondary",
            JobKind::Invalidate => "invalidate",
            JobKind::Resolve => "resolve",
            JobKind::FakeSync => "fake-sync",
            JobKind::Replicas => "replicas",
        }
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// At work.
    Running,
    /// Being undone.
    Cancelling,
    /// Came to its end.
    Done,
    /// Gave up; `error` says why.
    Failed,
    /// Undone.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub const fn ended(self) -> bool {
        match self {
            JobState::Running | JobState::Cancelling => false,
            JobState::Done | JobState::Failed | JobState::Cancelled => true,
        }
    }

    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Cancelling => "cancelling",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// Long work on a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, as `job show` takes it.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// The volume.
    pub volume: String,
    /// Where it is in its life.
    pub state: JobState,
    /// What it does now, one of `phases`; the last one when it ended.
    pub phase: String,
    /// All its phases in order.
    pub phases: Vec<String>,
    /// The host that gives its replica or role up.
    pub from: Option<String>,
    /// The host that gets a replica or the role.
    pub to: Option<String>,
    /// Percent of the bytes of the present sync; 100 afterwards.
    pub percent: f64,
    /// Bytes of the volume gone through by the sync.
    pub done_bytes: u64,
    /// Bytes of the volume to go through.
    pub total_bytes: u64,
    /// Bytes that differed and were copied.
    pub copied_bytes: u64,
    /// Present speed.
    pub rate_bytes_per_second: u64,
    /// Time to the end of the sync at this speed; `null` when unknown.
    pub eta_seconds: Option<f64>,
    /// Longest time the gate was closed during the hand-over, in microseconds; `null` before it.
    pub gate_micros_max: Option<u64>,
    /// What it waits for, in words.
    pub message: String,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// Result of `volume verify`.
    pub verify: Option<VerifyReport>,
    /// When it was asked for (RFC 3339).
    pub created: String,
    /// When it ended (RFC 3339).
    pub ended: Option<String>,
    /// Changes with everything above; give it to a long poll as `after`.
    pub revision: u64,
}

/// `job list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// The newest first.
    pub jobs: Vec<Job>,
}

/// What a comparison of replicas found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The same contents at the same position everywhere.
    Equal,
    /// Different contents at the same position.
    Different,
    /// Writes never paused for long enough.
    Busy,
}

/// Result of `volume verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// What was found.
    pub verdict: Verdict,
    /// One per replica.
    pub replicas: Vec<ReplicaDigest>,
}

/// The contents of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDigest {
    /// The host.
    pub node: String,
    /// 32 hex digits.
    pub digest: String,
    /// Log position that the digest stands for, when nothing was written meanwhile.
    pub from_lsn: u64,
    /// Log position when it ended.
    pub to_lsn: u64,
}
