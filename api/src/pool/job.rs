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
    /// Phases `order`, `compare`.
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
    /// Phase `drain`: primary roles leave a host, and with `--evacuate` replicas too, by jobs of their own.
    Drain,
    /// Phase `order`, for each replica: its log goes over to another file.
    LogRotate,
    /// Phase `order`, for each replica: what nobody needs of its log is given back.
    LogTrim,
    /// Phase `order`, for each host that keeps some: histories that were put aside are removed.
    DropKept,
    /// Phase `grow`: the disks, then the volume.
    Resize,
    /// Phase `take`: each replica keeps the version, or says why it does not.
    Snapshot,
    /// Phase `restore`: what differs from a snapshot is written.
    Restore,
}

impl JobKind {
    /// Whether it changes nothing that another job on the same volume relies on: neither waits for the other.
    pub const fn stands_beside(self) -> bool {
        matches!(
            self,
            JobKind::Verify | JobKind::LogRotate | JobKind::LogTrim | JobKind::DropKept
        )
    }

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
            JobKind::Drain => "drain",
            JobKind::LogRotate => "log-rotate",
            JobKind::LogTrim => "log-trim",
            JobKind::DropKept => "drop-kept",
            JobKind::Resize => "resize",
            JobKind::Snapshot => "snapshot",
            JobKind::Restore => "restore",
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

/// Long work on a volume, or on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, as `job show` takes it.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// The volume; empty for work on a host, which is `from` then.
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
    /// Percent of the bytes of the present sync, comparison or restore; 100 afterwards.
    pub percent: f64,
    /// Bytes of the volume gone through by it.
    pub done_bytes: u64,
    /// Bytes of the volume to go through.
    pub total_bytes: u64,
    /// Bytes that differed and were copied.
    pub copied_bytes: u64,
    /// Present speed.
    pub rate_bytes_per_second: u64,
    /// Time to its end at this speed; `null` when unknown.
    pub eta_seconds: Option<f64>,
    /// Longest time the gate was closed during the hand-over, in microseconds; `null` before it.
    pub gate_micros_max: Option<u64>,
    /// What it waits for, in words.
    pub message: String,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// What `volume verify` has found so far.
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
    /// Nothing is different so far; the comparison goes on.
    Running,
    /// The same contents on every replica.
    Equal,
    /// There were differences; the same contents on every replica now.
    Repaired,
    /// Different contents.
    Different,
    /// Nothing is different where it was compared, but some replicas were not compared.
    Incomplete,
}

/// Result of `volume verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// What was found.
    pub verdict: Verdict,
    /// When it began (RFC 3339): each sector was compared as it was at some moment from then on.
    pub began: String,
    /// Whether differences are repaired.
    pub repair: bool,
    /// The primary's host: what others are compared with.
    pub primary: String,
    /// One per replica.
    pub replicas: Vec<VerifiedReplica>,
    /// The first differences.
    pub differences: Vec<DifferenceRow>,
}

/// What a comparison found out about one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedReplica {
    /// The host.
    pub node: String,
    /// Whether it took part; one that was away or had no version for too long is left out.
    pub compared: bool,
    /// Length of the extents that were different.
    pub different_bytes: u64,
    /// Of these, length of those that are equal now.
    pub repaired_bytes: u64,
}

/// An extent that was different on one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The host.
    pub node: String,
    /// Where in the volume.
    pub offset_bytes: u64,
    /// How much.
    pub length_bytes: u64,
    /// Whether it is equal now.
    pub repaired: bool,
}
