//! When does a job go on? Decided by the planner or by the kind's own rule, written down before anything follows from it.

use std::time::Instant;

use api::ApiError;
use api::pool::{JobKind, JobState};
use migrate::job::{Next, Phase, advance};

use super::refusal;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::inventory::Snapshot;
use crate::leader::Leader;
use crate::leader::restore::advance_restore;
use crate::leader::snapshots::advance_snapshot;
use crate::leader::verify::note_compared;

impl Leader {
    /// Moves jobs on as far as what is seen allows. Answers whether anything changed.
    pub(in crate::leader) fn advance_jobs(
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
        if job.kind == JobKind::Drain {
            return self.advance_drain(records, job, snapshot, now);
        }
        let volume = records.volumes.get(&job.volume);
        let work = match job.work() {
            Ok(Some(work)) => work,
            Ok(None) if job.kind == JobKind::Resize => {
                let Some(next) = self.advance_resize(job, volume, snapshot, now) else {
                    return Ok(false);
                };
                return self.write_job(job, next, None);
            }
            Ok(None) if job.kind == JobKind::Snapshot => {
                let Some((next, volume)) = advance_snapshot(job, volume, snapshot, now) else {
                    return Ok(false);
                };
                return self.write_job(job, next, volume);
            }
            Ok(None) if job.kind == JobKind::Restore => {
                let Some(next) = advance_restore(job, volume, snapshot, now) else {
                    return Ok(false);
                };
                return self.write_job(job, next, None);
            }
            Ok(None) => {
                let Some((next, volume)) = self.advance_order(job, volume, snapshot, now) else {
                    return Ok(false);
                };
                return self.write_job(job, next, volume);
            }
            Err(what) => {
                return self.write_job(
                    job,
                    job.ended(JobState::Failed, Some(ApiError::failed(what))),
                    None,
                );
            }
        };
        let desired = match volume.map(VolumeRecord::desired).transpose() {
            Ok(desired) => desired,
            Err(what) => {
                return self.write_job(
                    job,
                    job.ended(JobState::Failed, Some(ApiError::failed(what))),
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
        // The new primary may be heard of before the old one has told how long its gate was closed.
        if let Some(gate) = snapshot
            .gates
            .get(&job.volume)
            .filter(|_| matches!(phase, Phase::HandOver | Phase::Leave))
        {
            next.gate_micros_max = Some(next.gate_micros_max.unwrap_or(0).max(*gate));
        }
        let enter = |next: Phase| {
            if next == Phase::HandOver || phase == Phase::Sync {
                // Only the gate of this hand-over counts, if there is one.
                self.inventory.forget_gate(&job.volume);
            }
            next.word().to_owned()
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
            Next::Done => self.write_job(job, next.ended(JobState::Done, None), None),
            Next::Cancelled => self.write_job(job, next.ended(JobState::Cancelled, None), None),
            Next::Fail(error) => {
                let error = refusal(&error, &job.volume_name);
                self.write_job(job, next.ended(JobState::Failed, Some(error)), None)
            }
        }
    }

    /// Writes a job, and the volume it changed, unless either was changed meanwhile: then the next look decides anew.
    pub(in crate::leader) fn write_job(
        &self,
        read: &JobRecord,
        job: JobRecord,
        volume: Option<VolumeRecord>,
    ) -> Result<bool, ApiError> {
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
            let object = job.object();
            if job.state.ended() {
                let why = job
                    .error
                    .as_ref()
                    .map(|error| format!(": {error}"))
                    .or_else(|| {
                        let note = job.note.as_ref().filter(|note| !note.is_empty());
                        note.map(|note| format!(": {} {note}", job.order_node().unwrap_or_default()))
                    })
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
            if let Some(report) = job.verify.as_ref().filter(|_| before.verify != job.verify) {
                note_compared(tx, &job, before.verify.as_ref(), report)?;
            }
            tx.put(job)?;
            Ok(true)
        })
    }
}
