//! How does long work get done? Jobs: asked for here, moved on by the reconciling task, watched by whoever waits.

mod advance;
mod progress;
mod record;

use std::time::Duration;

use api::ApiError;
use api::pool::{Changed, Job, JobKind, JobList, JobState};
use migrate::desired::Unsafe;
use migrate::job::Phase;

use super::{Leader, WAIT_MAX};
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::catalog::{Records, Tx};

pub use progress::Board;

/// The phase in which a comparison is watched.
pub const COMPARE_PHASE: &str = "compare";

/// The phase in which a host is drained.
pub const DRAIN_PHASE: &str = "drain";

/// The phase in which something is done once.
pub const ORDER_PHASE: &str = "order";

impl Tx {
    /// Refuses when a job is at work on the volume that changes it.
    pub fn no_job_at(&self, volume: &VolumeRecord) -> Result<(), ApiError> {
        match self.records.job_at(&volume.id) {
            None => Ok(()),
            Some(job) if job.kind.stands_beside() => Ok(()),
            Some(job) => Err(ApiError::refused(format!(
                "job {} ({}) is at work on volume `{}`",
                job.number,
                job.kind.word(),
                volume.name
            ))
            .hint(format!(
                "wait for it: `poolctl job watch {0}`, or undo it: `poolctl job cancel {0}`",
                job.number
            ))
            .object(format!("volume {}", volume.name))),
        }
    }
}

/// A change of intent that the planner does not allow, as people should hear of it.
pub fn refusal(error: &Unsafe, volume: &str) -> ApiError {
    let hint = match error {
        Unsafe::NotMember(node) => format!("`poolctl volume join {volume} {node}` gives it one"),
        Unsafe::AlreadyMember(node) => {
            format!(
                "`poolctl volume primary {volume} {node}` makes it primary; choose another node to add a replica"
            )
        }
        Unsafe::StillLeaving(_) => format!("wait until `poolctl volume show {volume}` no longer lists it"),
        Unsafe::LeavePrimary(_) => {
            format!(
                "hand the role over first: `poolctl volume primary {volume} NODE`, or use `poolctl migrate`"
            )
        }
        Unsafe::LeaveLast(_) => {
            format!(
                "`poolctl migrate {volume} --to NODE` moves it; `poolctl volume delete {volume}` deletes it"
            )
        }
        Unsafe::Deleting => "`poolctl job list` shows how far that is".to_owned(),
        Unsafe::TooMany(_) => format!("take one away first: `poolctl volume leave {volume} NODE`"),
    };
    ApiError::refused(error.to_string())
        .hint(hint)
        .object(format!("volume {volume}"))
}

impl Leader {
    /// All jobs that are remembered, the newest first.
    pub fn jobs(&self) -> JobList {
        let records = self.catalog.records();
        JobList {
            jobs: records
                .jobs
                .iter()
                .rev()
                .map(|job| self.show_job(&records, job))
                .collect(),
        }
    }

    /// A job as it is now.
    pub fn show_job(&self, records: &Records, job: &JobRecord) -> Job {
        let total_bytes = records
            .volumes
            .get(&job.volume)
            .map_or(0, |volume| volume.size_bytes);
        let board = self.board.borrow();
        match board.progress.get(&job.number) {
            // The catalog may be ahead of the board: it decides, the board adds the figures.
            Some(progress) if progress.job.state == job.state && progress.job.phase == job.phase => {
                progress.job.clone()
            }
            Some(progress) => Job {
                revision: progress.revision + 1,
                ..job.show(total_bytes)
            },
            None => job.show(total_bytes),
        }
    }

    /// A job once its revision is not `after`, or after `wait`.
    pub async fn job_wait(&self, id: &str, after: Option<u64>, wait: Duration) -> Result<Job, ApiError> {
        let look = || {
            let records = self.catalog.records();
            records.job(id).map(|job| self.show_job(&records, job))
        };
        let mut board = self.board.subscribe();
        let mut job = look()?;
        if let Some(after) = after {
            let newer = async {
                while job.revision == after && !job.state.ended() && board.changed().await.is_ok() {
                    job = look()?;
                }
                Ok(())
            };
            if let Ok(result) = tokio::time::timeout(wait.min(WAIT_MAX), newer).await {
                result?;
            }
        }
        Ok(job)
    }

    /// Asks for a job to be undone.
    pub fn job_cancel(&self, id: &str, dry_run: bool) -> Result<Changed, ApiError> {
        self.change(dry_run, |tx| {
            let mut job = tx.records.job(id)?.clone();
            let object = format!("job {id}");
            if job.state.ended() {
                let message = format!("job {id} ended already ({})", job.state.word());
                return Err(ApiError::refused(message)
                    .hint("start the opposite of it, if it is to be undone")
                    .object(object));
            }
            let steps = match (
                job.kind,
                Phase::ALL.into_iter().find(|phase| phase.word() == job.phase),
            ) {
                (JobKind::Delete | JobKind::Leave, _) | (JobKind::Migrate, Some(Phase::Leave)) => {
                    let message = format!("job {id} ({}) cannot be undone any more", job.kind.word());
                    let hint = format!("`poolctl job watch {id}` waits for its end");
                    return Err(ApiError::refused(message).hint(hint).object(object));
                }
                (JobKind::Join | JobKind::Migrate, _) => "the new replica is removed again",
                (JobKind::Primary, _) => "the primary role stays where it is",
                (JobKind::Create, _) => "the volume stays as it is; nobody waits for it any more",
                (JobKind::Verify, _) => "the comparison ends here; what it has found stays known",
                (JobKind::Drain, _) => {
                    "nothing more is taken away; the node stays drained until `poolctl node undrain`"
                }
                (JobKind::Snapshot, _) => {
                    "the snapshot is given up again; replicas that have it drop it"
                }
                (JobKind::Restore, _) => {
                    "the restore ends here; contents are a mixture of before and after until another has finished"
                }
                (JobKind::Resize, _) => "the volume grows all the same; nobody waits for it any more",
                (JobKind::Replicas, _) => "the replicas stay as they are; nobody waits for them any more",
                (JobKind::Invalidate | JobKind::Resolve, Some(Phase::Sync)) => {
                    let message = format!("job {id} ({}) cannot be undone any more", job.kind.word());
                    let hint = format!("`poolctl job watch {id}` waits for the end of the full sync");
                    return Err(ApiError::refused(message).hint(hint).object(object));
                }
                (
                    JobKind::TakeOver
                    | JobKind::Secondary
                    | JobKind::Invalidate
                    | JobKind::Resolve
                    | JobKind::FakeSync
                    | JobKind::LogRotate
                    | JobKind::LogTrim
                    | JobKind::DropKept,
                    _,
                ) => "it is not ordered any more; where it was done already, it stays done",
            };
            job.state = JobState::Cancelling;
            tx.event(&object, "is to be undone")?;
            tx.put(job)?;
            Ok(Changed {
                object,
                dry_run,
                generation: 0,
                steps: vec![steps.to_owned()],
                job: Some(id.to_owned()),
                loss: None,
            })
        })
    }
}
