//! How is something done once on one replica? A job gives an order; the host's agent carries it out and says what came of it.

use std::time::Instant;

use api::ApiError;
use api::pool::agent::{Action, Order, Step};
use api::pool::{JobKind, JobState};
use migrate::job::Phase;
use model::{NodeId, ReplicaState};

use super::Leader;
use super::errands::advance_errand;
use super::jobs::{COMPARE_PHASE, ORDER_PHASE};
use super::verify::advance_compare;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::inventory::{Snapshot, replica_state};

/// The orders that running jobs still wait for; those to hosts that are not seen wait until they are.
pub fn order_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let step = |job: &JobRecord| {
        let order = job.order.clone().filter(|_| job.phase == ORDER_PHASE)?;
        let volume = records.volumes.get(&job.volume)?;
        let node = job.order_node()?;
        let waits =
            job.state == JobState::Running && !snapshot.orders.contains_key(&(job.number, node.to_owned()));
        // What was put aside may be of a volume that the host knows no more.
        let is_there = match order {
            Order::DropKept { .. } => snapshot.marsd(node, now).is_ok(),
            _ => snapshot.volume(node, &volume.id, now).is_some(),
        };
        (waits && is_there).then(|| {
            let action = Action::Order {
                job: job.number,
                order,
            };
            let (volume, generation) = (volume.id.clone(), volume.generation);
            (
                node.to_owned(),
                Step {
                    volume,
                    generation,
                    action,
                },
            )
        })
    };
    records.jobs.iter().filter_map(step).collect()
}

impl Leader {
    /// Decides about a job that gives an order. Answers the changed job, if it changed, and the volume changed by it.
    pub fn advance_order(
        &self,
        job: &JobRecord,
        volume: Option<&VolumeRecord>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<(JobRecord, Option<VolumeRecord>)> {
        let Some(volume) = volume else {
            let error = ApiError::not_found("the volume was deleted");
            return Some((job.ended(JobState::Failed, Some(error)), None));
        };
        if job.phase == Phase::Sync.word() {
            let observed = snapshot.observed(&volume.id, now);
            let node = NodeId::new(job.order_node()?).ok()?;
            let whole = observed.replica(&node).is_some_and(|replica| replica.is_whole());
            // What a comparison had found different is gone with the old contents.
            let mut cleared = volume.clone();
            let cleared = cleared.differing_bytes.remove(node.as_str()).is_some().then(|| {
                cleared.generation += 1;
                cleared
            });
            let next = || {
                job.next_loser()
                    .unwrap_or_else(|| job.ended(JobState::Done, None))
            };
            return whole.then(|| (next(), cleared));
        }
        if job.phase == COMPARE_PHASE {
            return advance_compare(job, volume, snapshot, now).map(|job| (job, None));
        }
        let came = snapshot.orders.get(&(job.number, job.order_node()?.to_owned()));
        let order = job.order.as_ref()?;
        if job.kind.stands_beside() && job.kind != JobKind::Verify {
            return advance_errand(job, came, snapshot, now).map(|job| (job, None));
        }
        if came.is_none() && !is_seen(order, job, volume, snapshot, now) {
            return (job.state == JobState::Cancelling).then(|| (job.ended(JobState::Cancelled, None), None));
        }
        if let Some(Err(error)) = came {
            let error = error.clone().object(format!("volume {}", volume.name));
            return Some((job.ended(JobState::Failed, Some(error)), None));
        }
        let done = JobRecord {
            note: came.and_then(|came| came.clone().ok()),
            ..job.ended(JobState::Done, None)
        };
        let mut next = volume.clone();
        next.generation += 1;
        match order {
            Order::TakeOver { .. } => {
                next.primary = job.order_node()?.to_owned();
                next.stepped_down = false;
            }
            Order::StepDown => next.stepped_down = true,
            Order::FakeSync | Order::LogRotate | Order::LogTrim | Order::DropKept { .. } => {
                return Some((done, None));
            }
            Order::Invalidate { .. } | Order::Verify { .. } => {
                let phase = match order {
                    Order::Verify { .. } => COMPARE_PHASE,
                    _ => Phase::Sync.word(),
                };
                let phase = phase.to_owned();
                let note = done.note;
                return Some((
                    JobRecord {
                        phase,
                        note,
                        ..job.clone()
                    },
                    None,
                ));
            }
        }
        Some((done, Some(next)))
    }
}

/// Whether what was ordered can be seen to be so, also where the agent's word was lost.
fn is_seen(order: &Order, job: &JobRecord, volume: &VolumeRecord, snapshot: &Snapshot, now: Instant) -> bool {
    match order {
        // One that recovers, or has failed in the middle, may know its new role and serves nobody.
        Order::TakeOver { term } => snapshot.primary(&volume.id, now).is_some_and(|(node, replica)| {
            let serves = !matches!(
                replica_state(&replica.state),
                ReplicaState::Detached | ReplicaState::DefectiveLog
            );
            job.order_node() == Some(node) && replica.epoch >= *term && serves
        }),
        Order::StepDown
        | Order::Invalidate { .. }
        | Order::FakeSync
        | Order::Verify { .. }
        | Order::LogRotate
        | Order::LogTrim
        | Order::DropKept { .. } => false,
    }
}

/// What an order means, after "node N is to".
pub fn order_words(order: &Order) -> &'static str {
    match order {
        Order::TakeOver { .. } => "become primary by itself",
        Order::StepDown => "give the primary role up",
        Order::Invalidate { .. } => "throw its contents away",
        Order::FakeSync => "call its replica whole",
        Order::Verify { .. } => "compare all replicas",
        Order::LogRotate => "go on in another file of its log",
        Order::LogTrim => "give back what nobody needs of its log",
        Order::DropKept { .. } => "remove histories that it put aside",
    }
}
