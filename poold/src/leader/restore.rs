//! How do the contents of a snapshot come back? The primary's marsd writes what differs; a job sees to it that somebody does.
//!
//! A restore remembers nothing. Where its marsd starts again, or the role moves, the job asks whoever is primary then, and what is equal
//! already costs a comparison only.

use std::time::Instant;

use api::ApiError;
use api::control::{RestoreEndWord, RestoreStatus};
use api::pool::agent::{Action, Step};
use api::pool::{Changed, JobKind, JobState, RestoreSnapshot, SnapshotState};
use model::Bytes;

use super::Leader;
use super::snapshots::{has, no_such};
use super::volumes::open_doors;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, SnapshotAt, VolumeRecord};
use crate::inventory::Snapshot;

/// The phase in which what differs is written.
pub const RESTORE_PHASE: &str = "restore";

impl Leader {
    /// `volume snapshot restore`.
    pub fn volume_snapshot_restore(
        &self,
        name: &str,
        request: &RestoreSnapshot,
    ) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let about = |error: ApiError| error.object(object.clone());
        let wanted = request.snapshot.as_str();
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            let now = Instant::now();
            let Some(record) = volume.snapshots.get(wanted) else {
                return Err(no_such(name, wanted));
            };
            let (primary, replica) = snapshot.reachable_primary(&volume, "writes", now)?;
            let (state, why) = has(replica, wanted, record.at.as_ref());
            if record.at.is_none() || state != SnapshotState::Kept {
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                let message = format!(
                    "snapshot `{wanted}` of volume `{name}` is {}{why} on node {primary}, which is primary",
                    state.word()
                );
                return Err(about(ApiError::refused(message).hint(format!(
                    "hand the role to a node that keeps it: `poolctl volume snapshot list {name}`, then `poolctl volume primary {name} NODE`"
                ))));
            }
            let (clients, _) = open_doors(&volume, &snapshot);
            if clients > 0 && !request.force {
                let message = format!("{clients} guests are connected to volume `{name}`: they would see contents change under them");
                return Err(about(ApiError::refused(message)
                    .hint("shut the guests down, or disconnect them, first; or give --force".to_owned())));
            }
            let steps = vec![
                format!("node {primary} compares its contents with snapshot `{wanted}` and writes what differs"),
                "all replicas follow, as with every write; what was written since the snapshot is gone".to_owned(),
            ];
            tx.event(&object, format!("is to get the contents of snapshot {wanted} back"))?;
            let mut job = JobRecord::new(JobKind::Restore, &volume, RESTORE_PHASE);
            job.snapshot = Some(wanted.to_owned());
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }
}

fn place<'a>(job: &JobRecord, volume: &'a VolumeRecord) -> Option<&'a SnapshotAt> {
    volume.snapshots.get(job.snapshot.as_deref()?)?.at.as_ref()
}

/// What the primary says of a job's restore.
pub fn restored<'a>(job: &JobRecord, snapshot: &'a Snapshot, now: Instant) -> Option<&'a RestoreStatus> {
    let (_, replica) = snapshot.primary(&job.volume, now)?;
    replica.restore.as_ref().filter(|run| run.run == job.number)
}

/// Asks primaries for the restores that jobs want, and to end those that nobody wants.
pub fn restore_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let step = |job: &JobRecord| {
        let volume = records.volumes.get(&job.volume)?;
        let (primary, replica) = snapshot.primary(&job.volume, now)?;
        let run = restored(job, snapshot, now);
        let action = match (job.state, run) {
            (JobState::Cancelling, Some(run)) if run.ended.is_none() => Action::RestoreCancel,
            (JobState::Running, None) => {
                let at = place(job, volume)?;
                let name = job.snapshot.clone()?;
                // One that cannot is told to nobody: the job ends by itself.
                (has(replica, &name, Some(at)).0 == SnapshotState::Kept).then(|| Action::Restore {
                    snapshot: name,
                    at_lsn: at.lsn,
                    at_digest: at.digest.clone(),
                    job: job.number,
                })?
            }
            _ => return None,
        };
        let (volume, generation) = (volume.id.clone(), volume.generation);
        Some((
            primary.to_owned(),
            Step {
                volume,
                generation,
                action,
            },
        ))
    };
    let restores = records.jobs.iter().filter(|job| job.kind == JobKind::Restore);
    restores
        .filter(|job| !job.state.ended())
        .filter_map(step)
        .collect()
}

/// Decides about a restore. Answers the changed job, if it changed.
pub fn advance_restore(
    job: &JobRecord,
    volume: Option<&VolumeRecord>,
    snapshot: &Snapshot,
    now: Instant,
) -> Option<JobRecord> {
    let end = |state, note, error: Option<ApiError>| {
        let error = error.map(|error| error.object(format!("volume {}", job.volume_name)));
        Some(JobRecord {
            note,
            ..job.ended(state, error)
        })
    };
    let name = job.snapshot.as_deref()?;
    let Some(volume) = volume else {
        let error = ApiError::not_found("the volume was deleted");
        return end(JobState::Failed, None, Some(error));
    };
    let again = format!(
        "begin again: `poolctl volume snapshot restore {} {name}`",
        volume.name
    );
    let cancelling = job.state == JobState::Cancelling;
    let primary = snapshot.primary(&volume.id, now);
    let Some(run) = restored(job, snapshot, now) else {
        if cancelling {
            return end(JobState::Cancelled, None, None);
        }
        // Whoever is primary now may have none: then the job waits for nothing.
        let (node, replica) = primary?;
        return match has(replica, name, place(job, volume)).0 {
            SnapshotState::Kept | SnapshotState::Pending => None,
            state => {
                let message = format!(
                    "contents are a mixture of before and after: snapshot `{name}` is {} on node {node}, which is primary now",
                    state.word()
                );
                let hint = format!("hand the role to a node that keeps it, then {again}");
                end(JobState::Failed, None, Some(ApiError::failed(message).hint(hint)))
            }
        };
    };
    let written = format!("wrote {}", Bytes(run.restored_bytes));
    match run.ended? {
        RestoreEndWord::Finished => end(JobState::Done, Some(written), None),
        RestoreEndWord::Cancelled => end(JobState::Cancelled, Some(written), None),
        RestoreEndWord::Failed => {
            let why = run.reason.clone().unwrap_or_default();
            let message = format!("contents are a mixture of before and after: {why}");
            end(
                JobState::Failed,
                Some(written),
                Some(ApiError::failed(message).hint(again)),
            )
        }
    }
}

/// What a restore waits for, in words.
pub fn restore_words(job: &JobRecord, volume: &VolumeRecord, snapshot: &Snapshot, now: Instant) -> String {
    let name = job.snapshot.as_deref().unwrap_or_default();
    match (restored(job, snapshot, now), snapshot.primary(&volume.id, now)) {
        (Some(run), _) => format!("{} of snapshot {name} written back", Bytes(run.restored_bytes)),
        (None, Some((primary, _))) => format!("node {primary} is to write snapshot {name} back"),
        (None, None) => "its primary must be reachable".to_owned(),
    }
}
