//! What is done once on several hosts, one after the other, without changing what the volume is? Errands: jobs that nobody waits for
//! but who asked.
//!
//! A host that is away, or that cannot do it, does not keep the others from doing theirs; the job says so in the end.

use std::collections::BTreeSet;
use std::time::Instant;

use api::control::KeptStatus;
use api::pool::agent::Order;
use api::pool::{Changed, DropKept, JobKind, JobState, KeptHistory, OnNodes};
use api::{ApiError, ErrorKind};
use model::{Bytes, ReplicaState};

use super::Leader;
use super::jobs::ORDER_PHASE;
use super::split::side;
use crate::catalog::Tx;
use crate::catalog::records::{JobRecord, PlaceRecord, VolumeRecord};
use crate::clock;
use crate::inventory::{Snapshot, replica_state};

impl Leader {
    /// `volume log rotate`.
    pub fn volume_log_rotate(&self, name: &str, request: &OnNodes) -> Result<Changed, ApiError> {
        self.log_errand(
            name,
            request,
            JobKind::LogRotate,
            "goes on in another file of its log",
        )
    }

    /// `volume log trim`.
    pub fn volume_log_trim(&self, name: &str, request: &OnNodes) -> Result<Changed, ApiError> {
        self.log_errand(
            name,
            request,
            JobKind::LogTrim,
            "gives back what nobody needs of its log",
        )
    }

    fn log_errand(
        &self,
        name: &str,
        request: &OnNodes,
        kind: JobKind,
        what: &str,
    ) -> Result<Changed, ApiError> {
        let order = match kind {
            JobKind::LogTrim => Order::LogTrim,
            _ => Order::LogRotate,
        };
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.in_service(tx, name)?;
            let now = Instant::now();
            let mut nodes = super::settings::chosen(tx, &volume, request.node.as_deref())?;
            // The primary first: the others keep what it may still need until they hear that it does not.
            let primary = snapshot.primary(&volume.id, now).map(|(node, _)| node);
            nodes.sort_by_key(|node| Some(node.as_str()) != primary);
            let mut steps = Vec::new();
            nodes.retain(|node| {
                let why = out_of_service(&volume, node, &snapshot, now);
                steps.push(match &why {
                    None => format!("node {node} {what}"),
                    Some(why) => format!("node {node} is left out: {why}"),
                });
                why.is_none()
            });
            if nodes.is_empty() {
                return Err(ApiError::refused(steps.join("; "))
                    .hint(format!(
                        "`poolctl volume show {name}` says how its replicas stand"
                    ))
                    .object(format!("volume {name}")));
            }
            self.send_out(tx, request.dry_run, &volume, kind, order, &nodes, steps)
        })
    }

    /// `volume split-brain drop`.
    pub fn volume_drop_kept(&self, name: &str, request: &DropKept) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = tx.records.volume(name)?.clone();
            let mut kept = kept(&volume, &snapshot);
            let wanted = |row: &KeptHistory| {
                request
                    .history
                    .as_ref()
                    .is_none_or(|history| *history == row.history)
                    && request.node.as_ref().is_none_or(|node| *node == row.node)
            };
            kept.retain(wanted);
            let object = format!("volume {name}");
            match (&request.history, kept.is_empty()) {
                (Some(history), true) => {
                    let message = format!("no history `{history}` of volume `{name}` is kept anywhere");
                    return Err(ApiError::not_found(message)
                        .hint(format!(
                            "`poolctl volume split-brain show {name}` lists what is kept"
                        ))
                        .object(object));
                }
                (None, true) => {
                    return Ok(Changed {
                        object,
                        dry_run: request.dry_run,
                        generation: volume.generation,
                        steps: vec!["nothing: no history of it is kept".to_owned()],
                        ..Changed::default()
                    });
                }
                (_, false) => {}
            }
            let step = |row: &KeptHistory| {
                let bytes = Bytes(row.bytes);
                format!(
                    "node {} removes history {} ({bytes}), put aside at {}; nothing can bring it back",
                    row.node, row.history, row.kept
                )
            };
            let steps = kept.iter().map(step).collect();
            let nodes: BTreeSet<String> = kept.into_iter().map(|row| row.node).collect();
            let nodes: Vec<String> = nodes.into_iter().collect();
            let history = request.history.clone();
            let (kind, order) = (JobKind::DropKept, Order::DropKept { history });
            self.send_out(tx, request.dry_run, &volume, kind, order, &nodes, steps)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one errand")]
    fn send_out(
        &self,
        tx: &mut Tx,
        dry_run: bool,
        volume: &VolumeRecord,
        kind: JobKind,
        order: Order,
        nodes: &[String],
        steps: Vec<String>,
    ) -> Result<Changed, ApiError> {
        let (first, rest) = nodes.split_first().expect("callers name at least one host");
        let mut job = JobRecord::new(kind, volume, ORDER_PHASE);
        job.to = Some(PlaceRecord {
            node: first.clone(),
            vg: String::new(),
        });
        job.losers = rest.to_vec();
        job.order = Some(order);
        self.begin(tx, dry_run, volume, job, steps)
    }
}

fn out_of_service(volume: &VolumeRecord, node: &str, snapshot: &Snapshot, now: Instant) -> Option<String> {
    if let Err(blind) = snapshot.marsd(node, now) {
        return Some(format!("it {blind}"));
    }
    let replica = snapshot.volume(node, &volume.id, now)?.replica.as_ref();
    match replica.map(|replica| replica_state(&replica.state)) {
        None | Some(ReplicaState::Detached) => Some("its replica is not in service".to_owned()),
        Some(_) => None,
    }
}

/// Decides about an errand whose present host has answered, or is away. Answers the changed job, if it changed.
pub fn advance_errand(
    job: &JobRecord,
    came: Option<&Result<String, ApiError>>,
    snapshot: &Snapshot,
    now: Instant,
) -> Option<JobRecord> {
    let node = job.order_node()?.to_owned();
    let mut next = job.clone();
    let away = || match snapshot.marsd(&node, now) {
        Err(blind) => Some(Err(ApiError::failed(format!("it {blind}")))),
        Ok(_) => None,
    };
    if came.is_none() && job.state == JobState::Cancelling {
        let (state, ended) = (JobState::Cancelled, Some(clock::now()));
        return Some(JobRecord { state, ended, ..next });
    }
    match came.cloned().or_else(away)? {
        Ok(note) => {
            let before = next
                .note
                .take()
                .map(|before| format!("{before}; "))
                .unwrap_or_default();
            next.note = Some(format!("{before}{node} {note}"));
        }
        Err(error) => {
            let before = next.error.take().map(|before| format!("{}; ", before.message));
            let message = format!("{}node {node}: {}", before.unwrap_or_default(), error.message);
            next.error = Some(ApiError { message, ..error });
        }
    }
    if job.state == JobState::Running
        && let Some(on) = next.next_loser()
    {
        return Some(on);
    }
    next.state = match (&next.error, job.state) {
        (Some(_), _) => JobState::Failed,
        (None, JobState::Cancelling) => JobState::Cancelled,
        (None, _) => JobState::Done,
    };
    if let (Some(error), Some(_)) = (&mut next.error, &next.note) {
        error.kind = ErrorKind::PartlyDone;
    }
    next.ended = Some(clock::now());
    Some(next)
}

/// The histories of a volume that hosts keep, as far as they have said.
pub fn kept(volume: &VolumeRecord, snapshot: &Snapshot) -> Vec<KeptHistory> {
    let mut rows = Vec::new();
    for (node, seen) in &snapshot.hosts {
        let Ok(status) = &seen.report.marsd else { continue };
        let ours = status.kept.iter().filter(|kept| kept.volume == volume.id);
        rows.extend(ours.map(|kept| row(node, kept)));
    }
    rows
}

fn row(node: &str, kept: &KeptStatus) -> KeptHistory {
    let split = kept.split.as_ref();
    KeptHistory {
        node: node.to_owned(),
        history: kept.history.clone(),
        path: kept.path.clone(),
        bytes: kept.bytes,
        kept: clock::from_unix_seconds(kept.unix_seconds),
        parted_from: split.map(|split| split.node.clone()),
        at: split.map(|split| split.at_lsn),
        here: split.map(|split| side(&split.here)),
    }
}
