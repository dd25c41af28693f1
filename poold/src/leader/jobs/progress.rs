//! How far is a job, how fast, and what does it wait for? Measured at each look; nothing of it is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use api::ErrorKind;
use api::pool::{Job, JobKind, JobState};
use migrate::job::{Next, Phase, advance};

use crate::catalog::Records;
use crate::catalog::records::JobRecord;
use crate::inventory::Snapshot;
use crate::leader::Leader;
use crate::leader::drain::drain_words;
use crate::leader::jobs::COMPARE_PHASE;
use crate::leader::orders::order_words;
use crate::leader::reconcile::plan_of;
use crate::leader::resize::waits_for;
use crate::leader::restore::{restore_words, restored};
use crate::leader::snapshots::snapshot_words;
use crate::leader::verify::{compare_words, compared_percent};

/// How much of the newest speed goes into the one that is shown.
const RATE_WEIGHT: f64 = 0.3;

/// Below this many bytes per second a sync stands still, and an end that is years away tells nobody anything.
const RATE_MIN: f64 = 4096.0;

/// How far jobs are; nothing of it is kept.
#[derive(Clone, Debug, Default)]
pub struct Board {
    pub(super) progress: BTreeMap<u64, Progress>,
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) revision: u64,
    pub(super) job: Job,
    rate: f64,
    measured: Instant,
}

impl Leader {
    /// Shows how far every running job is.
    pub(in crate::leader) fn show_progress(&self, records: &Records, snapshot: &Snapshot, now: Instant) {
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
    let percent = match job.kind {
        JobKind::Verify => compared_percent(job, snapshot, now),
        JobKind::Restore => {
            let run = restored(job, snapshot, now);
            shown.copied_bytes = shown.copied_bytes.max(run.map_or(0, |run| run.restored_bytes));
            run.filter(|run| run.ended.is_none()).map(|run| run.percent)
        }
        _ => slowest.filter(|_| job.phase == Phase::Sync.word()),
    };
    if let Some(percent) = percent {
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
    if let Some(words) = job.last_words() {
        return words;
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
    if job.kind == JobKind::Drain {
        return drain_words(records, job, snapshot, now);
    }
    let Some(volume) = records.volumes.get(&job.volume) else {
        return "ends".to_owned();
    };
    if job.phase == COMPARE_PHASE {
        return compare_words(job, snapshot, now);
    }
    match job.kind {
        JobKind::Resize => return waits_for(volume, snapshot, now),
        JobKind::Snapshot => return snapshot_words(job, volume, snapshot, now),
        JobKind::Restore => return restore_words(job, volume, snapshot, now),
        _ => {}
    }
    if let Some(order) = &job.order {
        let node = job.order_node().unwrap_or_default();
        return format!("node {node} is to {}", order_words(order));
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
