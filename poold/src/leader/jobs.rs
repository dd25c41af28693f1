//! How does long work get done? Jobs: asked for here, moved on by the reconciling task, watched by whoever waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::pool::{Changed, Job, JobKind, JobList, JobState};
use api::{ApiError, ErrorKind};
use migrate::desired::{Placement, Unsafe};
use migrate::job::{Next, Phase, Work, advance};
use model::NodeId;

use super::reconcile::plan_of;
use super::{Leader, WAIT_MAX};
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::catalog::{Records, Tx};
use crate::clock;
use crate::inventory::Snapshot;

/// The phase of a verification; the only one that is not the planner's.
pub const CHECKSUM_PHASE: &str = "checksum";

/// How much of the newest speed goes into the one that is shown.
const RATE_WEIGHT: f64 = 0.3;

/// Below this many bytes per second a sync stands still, and an end that is years away tells nobody anything.
const RATE_MIN: f64 = 4096.0;

/// How far jobs are; nothing of it is kept.
#[derive(Clone, Debug, Default)]
pub struct Board {
    progress: BTreeMap<u64, Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    revision: u64,
    job: Job,
    rate: f64,
    measured: Instant,
}

impl JobRecord {
    /// A job at its first phase; its number comes with [`Tx::add_job`].
    pub fn new(kind: JobKind, volume: &VolumeRecord, phase: &str) -> JobRecord {
        JobRecord {
            number: 0,
            kind,
            volume: volume.id.clone(),
            volume_name: volume.name.clone(),
            state: JobState::Running,
            phase: phase.to_owned(),
            from: None,
            to: None,
            moves_primary: false,
            gate_micros_max: None,
            limit_seconds: 0,
            verify: None,
            error: None,
            created: clock::now(),
            ended: None,
        }
    }

    /// What the planner has to decide about; `None` for a verification. Errors: what in the record makes no sense.
    fn work(&self) -> Result<Option<Work>, String> {
        let node = |name: &Option<String>| {
            let name = name.as_deref().ok_or("the job lacks a node")?;
            NodeId::new(name).map_err(|error| error.to_string())
        };
        let to = || {
            let to = self.to.as_ref().ok_or("the job lacks its target")?;
            let node = NodeId::new(&to.node).map_err(|error| error.to_string())?;
            Ok::<_, String>(Placement {
                node,
                vg: to.vg.clone(),
            })
        };
        Ok(match self.kind {
            JobKind::Create => Some(Work::Create),
            JobKind::Delete => Some(Work::Delete),
            JobKind::Join => Some(Work::Join { to: to()? }),
            JobKind::Leave => Some(Work::Leave {
                from: node(&self.from)?,
            }),
            JobKind::Primary => Some(Work::Primary {
                from: node(&self.from)?,
                to: to()?.node,
            }),
            JobKind::Migrate => Some(Work::Migrate {
                from: node(&self.from)?,
                to: to()?,
            }),
            JobKind::Verify => None,
        })
    }

    fn phases(&self) -> Vec<String> {
        match self.work() {
            Ok(Some(work)) => work
                .phases(self.moves_primary)
                .iter()
                .map(|phase| phase.word().to_owned())
                .collect(),
            Ok(None) | Err(_) => vec![CHECKSUM_PHASE.to_owned()],
        }
    }

    /// As the API shows it, without progress.
    fn show(&self, total_bytes: u64) -> Job {
        let done = self.state == JobState::Done;
        Job {
            id: self.number.to_string(),
            kind: self.kind,
            volume: self.volume_name.clone(),
            state: self.state,
            phase: self.phase.clone(),
            phases: self.phases(),
            from: self.from.clone(),
            to: self.to.as_ref().map(|to| to.node.clone()),
            percent: if done { 100.0 } else { 0.0 },
            done_bytes: if done { total_bytes } else { 0 },
            total_bytes,
            copied_bytes: 0,
            rate_bytes_per_second: 0,
            eta_seconds: None,
            gate_micros_max: self.gate_micros_max,
            message: String::new(),
            error: self.error.clone(),
            verify: self.verify.clone(),
            created: self.created.clone(),
            ended: self.ended.clone(),
            revision: 0,
        }
    }
}

impl Tx {
    /// Refuses when a job is at work on the volume.
    pub fn no_job_at(&self, volume: &VolumeRecord) -> Result<(), ApiError> {
        match self.records.job_at(&volume.id) {
            None => Ok(()),
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
                (JobKind::Verify, _) => "the comparison ends without a result",
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
            })
        })
    }

    /// Moves jobs on as far as what is seen allows. Answers whether anything changed.
    pub(super) fn advance_jobs(
        &self,
        records: &Records,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<bool, ApiError> {
        let mut any = false;
        for job in records.jobs.iter().filter(|job| !job.state.ended()) {
            any |= self.advance_job(records, job, snapshot, now)?;
        }
        Ok(any)
    }

    fn advance_job(
        &self,
        records: &Records,
        job: &JobRecord,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<bool, ApiError> {
        let volume = records.volumes.get(&job.volume);
        let work = match job.work() {
            Ok(Some(work)) => work,
            Ok(None) => {
                let Some(next) = self.advance_verify(job, volume, snapshot) else {
                    return Ok(false);
                };
                return self.write_job(job, next, None);
            }
            Err(what) => {
                return self.write_job(
                    job,
                    ended(job, JobState::Failed, Some(ApiError::failed(what))),
                    None,
                );
            }
        };
        let desired = match volume.map(VolumeRecord::desired).transpose() {
            Ok(desired) => desired,
            Err(what) => {
                return self.write_job(
                    job,
                    ended(job, JobState::Failed, Some(ApiError::failed(what))),
                    None,
                );
            }
        };
        let phase = Phase::ALL
            .into_iter()
            .find(|phase| phase.word() == job.phase)
            .unwrap_or(Phase::Undo);
        let observed = snapshot.observed(&job.volume, now);
        let mut next = job.clone();
        if let Some(gate) = snapshot
            .gates
            .get(&job.volume)
            .filter(|_| phase == Phase::HandOver)
        {
            next.gate_micros_max = Some(next.gate_micros_max.unwrap_or(0).max(*gate));
        }
        let enter = |phase: Phase| {
            if phase == Phase::HandOver {
                // Only the gate of this hand-over counts.
                self.inventory.forget_gate(&job.volume);
            }
            phase.word().to_owned()
        };
        match advance(
            &work,
            phase,
            job.state == JobState::Cancelling,
            desired.as_ref(),
            &observed,
        ) {
            Next::Wait(_) if next.gate_micros_max == job.gate_micros_max => Ok(false),
            Next::Wait(_) => self.write_job(job, next, None),
            Next::Enter(phase) => self.write_job(
                job,
                JobRecord {
                    phase: enter(phase),
                    ..next
                },
                None,
            ),
            Next::Change(desired, phase) => {
                let volume = volume.cloned().map(|mut volume| {
                    volume.set(&desired);
                    volume
                });
                self.write_job(
                    job,
                    JobRecord {
                        phase: enter(phase),
                        ..next
                    },
                    volume,
                )
            }
            Next::GoOn => self.write_job(
                job,
                JobRecord {
                    state: JobState::Running,
                    ..next
                },
                None,
            ),
            Next::Done => self.write_job(job, ended(&next, JobState::Done, None), None),
            Next::Cancelled => self.write_job(job, ended(&next, JobState::Cancelled, None), None),
            Next::Fail(error) => {
                let error = refusal(&error, &job.volume_name);
                self.write_job(job, ended(&next, JobState::Failed, Some(error)), None)
            }
        }
    }

    /// Writes a job, and the volume it changed, unless either was changed meanwhile: then the next look decides anew.
    fn write_job(
        &self,
        read: &JobRecord,
        job: JobRecord,
        volume: Option<VolumeRecord>,
    ) -> Result<bool, ApiError> {
        let equal = job
            .verify
            .as_ref()
            .is_some_and(|verify| verify.verdict == api::pool::Verdict::Equal);
        self.catalog.change(false, |tx| {
            let id = job.number.to_string();
            let before = tx.records.job(&id)?.clone();
            if before.state != read.state {
                return Ok(true);
            }
            if let Some(volume) = volume {
                let current = tx
                    .records
                    .volumes
                    .get(&volume.id)
                    .map(|current| current.generation);
                if current.is_none_or(|generation| generation >= volume.generation) {
                    return Ok(true);
                }
                tx.put(volume)?;
            }
            if before.state == JobState::Cancelling
                && job.state == JobState::Running
                && before.phase == job.phase
            {
                tx.event(format!("job {id}"), "can no longer be undone; it goes on")?;
            }
            let object = format!("volume {}", job.volume_name);
            if job.state.ended() {
                let why = job
                    .error
                    .as_ref()
                    .map(|error| format!(": {error}"))
                    .unwrap_or_default();
                tx.event(
                    &object,
                    format!("job {id} ({}) is {}{why}", job.kind.word(), job.state.word()),
                )?;
            } else if before.phase != job.phase {
                tx.event(
                    &object,
                    format!("job {id} ({}) enters phase {}", job.kind.word(), job.phase),
                )?;
            }
            if let Some(mut volume) = tx.records.volumes.get(&job.volume).filter(|_| equal).cloned() {
                volume.last_verified = Some(clock::now());
                tx.put(volume)?;
            }
            tx.put(job)?;
            Ok(true)
        })
    }

    /// Shows how far every running job is.
    pub(super) fn show_progress(&self, records: &Records, snapshot: &Snapshot, now: Instant) {
        let before = self.board.borrow().clone();
        let mut progress = BTreeMap::new();
        for job in records.jobs.iter() {
            let last = before.progress.get(&job.number);
            if job.state.ended() && last.is_none() {
                continue;
            }
            progress.insert(job.number, measure(records, job, snapshot, now, last));
        }
        // An ended job stays on the board for whoever waits for it; a restart forgets it.
        let same = progress.len() == before.progress.len()
            && progress.iter().all(|(number, now)| {
                before
                    .progress
                    .get(number)
                    .is_some_and(|before| before.revision == now.revision)
            });
        if !same {
            self.board.send_replace(Arc::new(Board { progress }));
        }
    }
}

fn ended(job: &JobRecord, state: JobState, error: Option<ApiError>) -> JobRecord {
    JobRecord {
        state,
        error,
        ended: Some(clock::now()),
        ..job.clone()
    }
}

fn measure(
    records: &Records,
    job: &JobRecord,
    snapshot: &Snapshot,
    now: Instant,
    last: Option<&Progress>,
) -> Progress {
    let total_bytes = records
        .volumes
        .get(&job.volume)
        .map_or(last.map_or(0, |last| last.job.total_bytes), |v| v.size_bytes);
    let mut shown = job.show(total_bytes);
    let mut rate = last.map_or(0.0, |last| last.rate);
    let mut measured = last.map_or(now, |last| last.measured);
    if let Some(last) = last {
        (shown.percent, shown.done_bytes) = (shown.percent.max(last.job.percent), last.job.done_bytes);
        shown.copied_bytes = last.job.copied_bytes;
        if job.state == JobState::Done {
            shown.done_bytes = total_bytes;
        }
    }
    let replicas = receiving(records, job, snapshot, now);
    // A short sync may be over before it was seen once: what was copied is asked for until the job ends.
    let copied_bytes = replicas.iter().map(|replica| replica.1).sum();
    shown.copied_bytes = shown.copied_bytes.max(copied_bytes);
    let slowest = replicas.iter().map(|replica| replica.0).reduce(f64::min);
    if let Some(percent) = slowest.filter(|_| job.phase == Phase::Sync.word()) {
        shown.percent = percent;
        shown.done_bytes = (total_bytes as f64 * percent / 100.0) as u64;
        let seconds = now.saturating_duration_since(measured).as_secs_f64();
        let gone = shown
            .done_bytes
            .saturating_sub(last.map_or(shown.done_bytes, |last| last.job.done_bytes));
        if seconds >= 0.2 || last.is_none() {
            let newest = if seconds > 0.0 { gone as f64 / seconds } else { 0.0 };
            rate = if rate == 0.0 {
                newest
            } else {
                rate * (1.0 - RATE_WEIGHT) + newest * RATE_WEIGHT
            };
            measured = now;
        } else if let Some(last) = last {
            // Too short to measure: show what was measured before.
            (shown.percent, shown.done_bytes) = (last.job.percent, last.job.done_bytes);
        }
        shown.rate_bytes_per_second = rate as u64;
        let left = total_bytes.saturating_sub(shown.done_bytes);
        shown.eta_seconds = (rate >= RATE_MIN).then(|| (left as f64 / rate * 10.0).round() / 10.0);
    }
    shown.message = message(records, job, snapshot, now);
    let revision = match last {
        None => 1,
        Some(last)
            if Job {
                revision: last.revision,
                ..shown.clone()
            } == last.job =>
        {
            last.revision
        }
        Some(last) => last.revision + 1,
    };
    shown.revision = revision;
    Progress {
        revision,
        job: shown,
        rate,
        measured,
    }
}

/// Percent and copied bytes of the replicas that a job fills; none once it has ended, or where it fills none.
fn receiving(records: &Records, job: &JobRecord, snapshot: &Snapshot, now: Instant) -> Vec<(f64, u64)> {
    let fills = job.phases().iter().any(|phase| phase == Phase::Sync.word());
    let Some(volume) = records
        .volumes
        .get(&job.volume)
        .filter(|_| fills && !job.state.ended())
    else {
        return Vec::new();
    };
    let nodes: Vec<&str> = match &job.to {
        Some(to) => vec![&to.node],
        None => volume.members.iter().map(|member| member.node.as_str()).collect(),
    };
    let replicas = nodes.iter().map(|node| {
        let replica = snapshot
            .volume(node, &volume.id, now)
            .and_then(|known| known.replica.as_ref());
        replica.map_or((0.0, 0), |replica| {
            (replica.sync_percent, replica.sync_copied_bytes)
        })
    });
    replicas.collect()
}

/// What a job waits for, in words: a step that failed before everything else.
fn message(records: &Records, job: &JobRecord, snapshot: &Snapshot, now: Instant) -> String {
    if job.state.ended() {
        return job
            .error
            .as_ref()
            .map_or_else(|| job.state.word().to_owned(), |error| error.message.clone());
    }
    let trouble = snapshot.troubles.iter().find(|((volume, _), trouble)| {
        let current = records.volumes.get(volume).map_or(0, |volume| volume.generation);
        // Marsd is busy: no trouble, only not yet.
        *volume == job.volume
            && trouble.step.generation == current
            && trouble.error.kind != ErrorKind::Unavailable
    });
    if let Some(((_, node), trouble)) = trouble {
        return format!("node {node}: {}", trouble.error.message);
    }
    let Some(volume) = records.volumes.get(&job.volume) else {
        return "ends".to_owned();
    };
    if job.kind == JobKind::Verify {
        return "digests of all replicas are taken at a moment without writes".to_owned();
    }
    let planned = plan_of(records, volume, snapshot, now);
    let (Some((desired, plan)), Ok(Some(work))) = (planned, job.work()) else {
        return String::new();
    };
    if let Some(wait) = plan.waits.first() {
        return wait.clone();
    }
    let phase = Phase::ALL
        .into_iter()
        .find(|phase| phase.word() == job.phase)
        .unwrap_or(Phase::Undo);
    let observed = snapshot.observed(&job.volume, now);
    match advance(
        &work,
        phase,
        job.state == JobState::Cancelling,
        Some(&desired),
        &observed,
    ) {
        Next::Wait(what) => what,
        _ => "goes on".to_owned(),
    }
}
