//! Are all replicas equal? The primary's marsd compares them while guests write; a job watches, tells, and remembers.
//!
//! A comparison changes nothing that others want to change, so no other job waits for it: it ends when the primary role moves.

use std::time::Instant;

use api::ApiError;
use api::control::{VerifyEndWord, VerifyStatus};
use api::pool::agent::{Action, Order, Step};
use api::pool::{Changed, DifferenceRow, JobKind, JobState, Verdict, VerifiedReplica, Verify, VerifyReport};
use model::Bytes;

use super::Leader;
use super::jobs::ORDER_PHASE;
use super::settings::RATE_MIN;
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::catalog::{Records, Tx};
use crate::clock;
use crate::inventory::Snapshot;

impl Leader {
    /// `volume verify`.
    pub fn volume_verify(&self, name: &str, request: &Verify) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        if request.bytes_per_second_max.is_some_and(|rate| rate < RATE_MIN) {
            let least = Bytes(RATE_MIN);
            return Err(
                ApiError::usage(format!("less than {least} each second never comes to an end"))
                    .hint("give a larger --rate, or none")
                    .object(object),
            );
        }
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.in_service(tx, name)?;
            let nothing = |steps: String, job: Option<String>| Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                generation: volume.generation,
                steps: vec![steps],
                job,
                loss: None,
            };
            if volume.members.len() < 2 {
                let what = "nothing: it has one replica only, there is nothing to compare it with";
                return Ok(nothing(what.to_owned(), None));
            }
            let order = Order::Verify {
                repair: request.repair,
                bytes_per_second_max: request.bytes_per_second_max,
            };
            if let Some(job) = running(&tx.records, &volume) {
                let number = job.number;
                if job.order.as_ref() == Some(&order) && job.state == JobState::Running {
                    let what = format!("nothing: job {number} compares its replicas already");
                    return Ok(nothing(what, Some(number.to_string())));
                }
                let message = format!("job {number} compares the replicas of volume `{name}` in another way");
                return Err(ApiError::refused(message)
                    .hint(format!("end it first: `poolctl volume verify {name} --cancel`"))
                    .object(object.clone()));
            }
            let now = Instant::now();
            let (primary, _) = snapshot.reachable_primary(&volume, "compares", now)?;
            let others = volume.members.iter().filter(|place| place.node != primary);
            let others: Vec<&str> = others.map(|place| place.node.as_str()).collect();
            let mut steps = vec![format!(
                "{} are compared with node {primary}, piece by piece, while guests write; one that is away for a minute is left out",
                others.join(", ")
            )];
            if request.repair {
                steps.push("what differs is copied from the primary and compared again".to_owned());
            }
            let mut job = JobRecord::new(JobKind::Verify, &volume, ORDER_PHASE);
            job.from = Some(primary.to_owned());
            job.order = Some(order);
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `volume verify --cancel`.
    pub fn volume_verify_cancel(&self, name: &str, dry_run: bool) -> Result<Changed, ApiError> {
        let job = {
            let records = self.catalog.records();
            let volume = records.volume(name)?;
            running(&records, volume).map(|job| job.number)
        };
        match job {
            Some(job) => self.job_cancel(&job.to_string(), dry_run),
            None => Ok(Changed {
                object: format!("volume {name}"),
                dry_run,
                steps: vec!["nothing: no comparison is under way".to_owned()],
                ..Changed::default()
            }),
        }
    }
}

/// The comparison of a volume that has not ended.
fn running<'a>(records: &'a Records, volume: &VolumeRecord) -> Option<&'a JobRecord> {
    let is_ours = |job: &&JobRecord| job.kind == JobKind::Verify && job.volume == volume.id;
    records.jobs.iter().filter(is_ours).find(|job| !job.state.ended())
}

/// What the primary of a job's comparison says of it, while it is the primary still.
fn seen<'a>(job: &JobRecord, snapshot: &'a Snapshot, now: Instant) -> Option<&'a VerifyStatus> {
    let (node, replica) = snapshot.primary(&job.volume, now)?;
    replica
        .verify
        .as_ref()
        .filter(|_| job.from.as_deref() == Some(node))
}

/// Ends the comparisons that nobody wants any more.
pub fn cancel_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let unwanted = |job: &&JobRecord| job.kind == JobKind::Verify && job.state == JobState::Cancelling;
    let step = |job: &JobRecord| {
        let node = job.from.clone()?;
        let generation = records.volumes.get(&job.volume)?.generation;
        seen(job, snapshot, now).filter(|run| run.ended.is_none())?;
        let (volume, action) = (job.volume.clone(), Action::VerifyCancel);
        Some((
            node,
            Step {
                volume,
                generation,
                action,
            },
        ))
    };
    records.jobs.iter().filter(unwanted).filter_map(step).collect()
}

/// Decides about a comparison under way. Answers the changed job, if it changed.
pub fn advance_compare(
    job: &JobRecord,
    volume: &VolumeRecord,
    snapshot: &Snapshot,
    now: Instant,
) -> Option<JobRecord> {
    let end = |state, verify, error: Option<ApiError>| JobRecord {
        verify,
        ..job.ended(
            state,
            error.map(|error| error.object(format!("volume {}", volume.name))),
        )
    };
    let cancelling = job.state == JobState::Cancelling;
    let Some(run) = seen(job, snapshot, now) else {
        let moved = snapshot
            .primary(&volume.id, now)
            .is_some_and(|(node, _)| job.from.as_deref() != Some(node));
        // A primary that is away goes on by itself when it is back; it is asked then how far it came.
        return match (cancelling, moved) {
            (true, _) => Some(end(JobState::Cancelled, job.verify.clone(), None)),
            (false, true) => Some(end(
                JobState::Failed,
                job.verify.clone(),
                Some(role_moved(volume)),
            )),
            (false, false) => None,
        };
    };
    let report = report(run, volume, job.from.as_deref().unwrap_or_default());
    match run.ended {
        None if differing(&report) == job.verify.iter().flat_map(differing).collect::<Vec<_>>() => None,
        None => Some(JobRecord {
            verify: Some(report),
            ..job.clone()
        }),
        Some(VerifyEndWord::Finished) => Some(end(JobState::Done, Some(report), None)),
        Some(VerifyEndWord::Cancelled) => Some(end(JobState::Cancelled, Some(report), None)),
        Some(VerifyEndWord::RoleMoved) => Some(end(JobState::Failed, Some(report), Some(role_moved(volume)))),
    }
}

fn role_moved(volume: &VolumeRecord) -> ApiError {
    ApiError::failed("the primary role moved, and a comparison ends with the primary that makes it")
        .hint(format!("begin anew: `poolctl volume verify {}`", volume.name))
}

/// Hosts whose replica was found different, whatever became of that.
fn differing(report: &VerifyReport) -> Vec<&str> {
    let different = report.replicas.iter().filter(|row| row.different_bytes > 0);
    different.map(|row| row.node.as_str()).collect()
}

fn report(run: &VerifyStatus, volume: &VolumeRecord, primary: &str) -> VerifyReport {
    let row = |node: &str| {
        let known = run.nodes.iter().find(|known| known.node == node);
        VerifiedReplica {
            node: node.to_owned(),
            // One that joined after the beginning did not take part.
            compared: known.is_some_and(|known| !known.left_out),
            different_bytes: known.map_or(0, |known| known.different_bytes),
            repaired_bytes: known.map_or(0, |known| known.repaired_bytes),
        }
    };
    let replicas: Vec<VerifiedReplica> = volume.members.iter().map(|place| row(&place.node)).collect();
    let difference = |row: &api::control::DifferenceStatus| DifferenceRow {
        node: row.node.clone(),
        offset_bytes: row.offset_bytes,
        length_bytes: row.length_bytes,
        repaired: row.repaired,
    };
    VerifyReport {
        verdict: verdict(run.ended, &replicas),
        began: clock::from_unix_seconds(run.began.unix_seconds),
        repair: run.repair,
        primary: primary.to_owned(),
        replicas,
        differences: run.differences.iter().map(difference).collect(),
    }
}

fn verdict(ended: Option<VerifyEndWord>, replicas: &[VerifiedReplica]) -> Verdict {
    let any = |what: fn(&VerifiedReplica) -> bool| replicas.iter().any(what);
    if any(|row| row.different_bytes > row.repaired_bytes) {
        return Verdict::Different;
    }
    match ended {
        None => Verdict::Running,
        Some(VerifyEndWord::Cancelled | VerifyEndWord::RoleMoved) => Verdict::Incomplete,
        Some(VerifyEndWord::Finished) if any(|row| !row.compared) => Verdict::Incomplete,
        Some(VerifyEndWord::Finished) if any(|row| row.different_bytes > 0) => Verdict::Repaired,
        Some(VerifyEndWord::Finished) => Verdict::Equal,
    }
}

/// Tells what a comparison has found out since it was asked last, and remembers it with the volume.
pub fn note_compared(
    tx: &mut Tx,
    job: &JobRecord,
    before: Option<&VerifyReport>,
    report: &VerifyReport,
) -> Result<(), ApiError> {
    let object = format!("volume {}", job.volume_name);
    let known = before.map(differing).unwrap_or_default();
    for node in differing(report).into_iter().filter(|node| !known.contains(node)) {
        let first = report.differences.iter().find(|row| row.node == node);
        let place = first.map(|row| format!(", first at byte {}", row.offset_bytes));
        tx.event(
            &object,
            format!(
                "the replica on node {node} differs from the others{}",
                place.unwrap_or_default()
            ),
        )?;
    }
    let Some(mut volume) = tx.records.volumes.get(&job.volume).cloned() else {
        return Ok(());
    };
    let finished = job.state == JobState::Done;
    for row in &report.replicas {
        let left = row.different_bytes.saturating_sub(row.repaired_bytes);
        if left > 0 {
            volume.differing_bytes.insert(row.node.clone(), left);
        } else if finished && row.compared {
            volume.differing_bytes.remove(&row.node);
        }
    }
    if finished && matches!(report.verdict, Verdict::Equal | Verdict::Repaired) {
        volume.last_verified = Some(report.began.clone());
    }
    tx.put(volume)
}

/// How much of the volume a job's comparison has gone through, in percent.
pub fn compared_percent(job: &JobRecord, snapshot: &Snapshot, now: Instant) -> Option<f64> {
    seen(job, snapshot, now)
        .filter(|run| run.ended.is_none())
        .map(|run| run.percent)
}

/// What a comparison waits for or has found, in words.
pub fn compare_words(job: &JobRecord, snapshot: &Snapshot, now: Instant) -> String {
    let from = job.from.as_deref().unwrap_or_default();
    match (&job.verify, seen(job, snapshot, now)) {
        (_, None) => format!("node {from} is away; it goes on when it is back"),
        (Some(report), _) if !differing(report).is_empty() => {
            format!("different: {}", differing(report).join(", "))
        }
        _ => format!("node {from} compares the others with itself"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_no_better_than_what_was_compared() {
        let row = |compared, different_bytes, repaired_bytes| VerifiedReplica {
            node: "b".to_owned(),
            compared,
            different_bytes,
            repaired_bytes,
        };
        let finished = Some(VerifyEndWord::Finished);
        let check = |ended, row: VerifiedReplica, want| {
            let good = VerifiedReplica {
                compared: true,
                different_bytes: 0,
                repaired_bytes: 0,
                ..row.clone()
            };
            assert_eq!(verdict(ended, &[good, row]), want);
        };
        check(None, row(true, 0, 0), Verdict::Running);
        check(None, row(true, 8, 0), Verdict::Different);
        check(finished, row(true, 0, 0), Verdict::Equal);
        check(finished, row(true, 8, 8), Verdict::Repaired);
        check(finished, row(true, 8, 4), Verdict::Different);
        check(finished, row(false, 0, 0), Verdict::Incomplete);
        check(finished, row(false, 8, 0), Verdict::Different);
        check(
            Some(VerifyEndWord::Cancelled),
            row(true, 0, 0),
            Verdict::Incomplete,
        );
    }
}
