//! How does a volume get longer? The disks of all replicas first, then the volume at its primary, then doors elsewhere.
//!
//! The wish is the length in the volume's record. Room for it is taken at once, on every member; a host that is away makes its
//! disk longer when it is back, and until then its replica waits with what is behind the growth: one dead host holds nobody up.

use std::time::Instant;

use api::ApiError;
use api::control::Member;
use api::pool::agent::{Action, Step};
use api::pool::{Changed, JobKind, JobState, ResizeVolume};
use model::{Bytes, VolumeSize};

use super::Leader;
use super::reconcile::vg_ref;
use super::view::View;
use super::volumes::size_refusal;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, LifeRecord, VolumeRecord};
use crate::inventory::Snapshot;

/// The phase of a resize, which is none of the planner's.
pub const GROW_PHASE: &str = "grow";

/// The steps that bring disks and volumes to the wished length.
pub fn resize_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let live = records.live_volumes();
    live.flat_map(|volume| steps_of(records, volume, snapshot, now))
        .collect()
}

fn steps_of(
    records: &Records,
    volume: &VolumeRecord,
    snapshot: &Snapshot,
    now: Instant,
) -> Vec<(String, Step)> {
    let size_bytes = volume.size_bytes;
    let step = |node: &str, action| {
        let (id, generation) = (volume.id.clone(), volume.generation);
        (
            node.to_owned(),
            Step {
                volume: id,
                generation,
                action,
            },
        )
    };
    let mut steps = Vec::new();
    for place in &volume.members {
        let vg = records.vg(&place.node, &place.vg);
        let has = disk_bytes(snapshot, &place.node, &place.vg, &volume.id, now);
        if let (Some(vg), Some(has)) = (vg, has)
            && has < size_bytes
        {
            let vg = vg_ref(vg);
            steps.push(step(&place.node, Action::DiskResize { vg, size_bytes }));
        }
    }
    // Below first, on everybody who is there.
    if !steps.is_empty() {
        return steps;
    }
    let Some((primary, replica)) = snapshot.primary(&volume.id, now) else {
        return steps;
    };
    if replica.size_bytes < size_bytes {
        steps.push(step(primary, Action::Resize { size_bytes }));
        return steps;
    }
    for node in snapshot.hosts.keys() {
        let known = snapshot.volume(node, &volume.id, now);
        if known.is_some_and(|known| known.replica.is_none() && known.size_bytes < size_bytes) {
            let (name, members) = (volume.name.clone(), members(records, volume));
            steps.push(step(
                node,
                Action::RemoteCreate {
                    name,
                    size_bytes,
                    members,
                },
            ));
        }
    }
    steps
}

fn members(records: &Records, volume: &VolumeRecord) -> Vec<Member> {
    let member = |node: &String| {
        let addr = records.nodes.get(node)?.peer_address.clone();
        let node = node.clone();
        Some(Member { node, addr })
    };
    volume
        .members
        .iter()
        .filter_map(|place| member(&place.node))
        .collect()
}

/// How long a replica's disk is, if its host is seen and it is there.
fn disk_bytes(snapshot: &Snapshot, node: &str, vg: &str, volume: &str, now: Instant) -> Option<u64> {
    snapshot.marsd(node, now).ok()?;
    let report = &snapshot.hosts.get(node)?.report;
    let group = report.vgs.iter().find(|group| group.name == vg)?;
    group.disks.get(volume).copied()
}

/// How long the volume is for guests now; the wished length where nobody knows.
pub fn served_bytes(volume: &VolumeRecord, snapshot: &Snapshot, now: Instant) -> u64 {
    let primary = snapshot.primary(&volume.id, now);
    let served = primary
        .map(|(_, replica)| replica.size_bytes)
        .filter(|bytes| *bytes > 0);
    served.map_or(volume.size_bytes, |bytes| bytes.min(volume.size_bytes))
}

/// The members that are seen and whose replica is still shorter than wished.
fn shorter<'a>(volume: &'a VolumeRecord, snapshot: &Snapshot, now: Instant) -> Vec<&'a str> {
    let is_shorter = |node: &&str| {
        let known = snapshot.volume(node, &volume.id, now);
        let replica = known.and_then(|known| known.replica.as_ref());
        // One that is out of service says nothing, and catches up when it is back.
        replica.is_some_and(|replica| (1..volume.size_bytes).contains(&replica.size_bytes))
    };
    let nodes = volume.members.iter().map(|place| place.node.as_str());
    nodes.filter(is_shorter).collect()
}

/// What a resize waits for, in words.
pub fn waits_for(volume: &VolumeRecord, snapshot: &Snapshot, now: Instant) -> String {
    let shorter = shorter(volume, snapshot, now);
    if shorter.is_empty() {
        return "its primary must be reachable".to_owned();
    }
    format!("grows on {}", shorter.join(", "))
}

impl Leader {
    /// `volume resize`.
    pub fn volume_resize(&self, name: &str, request: &ResizeVolume) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let about = |error: ApiError| error.object(object.clone());
        let size = VolumeSize::new(request.size_bytes).map_err(|error| about(size_refusal(&error)))?;
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            let before = volume.size_bytes;
            if size.bytes() == before && volume.life == LifeRecord::Live {
                let job = tx
                    .records
                    .job_at(&volume.id)
                    .filter(|job| job.kind == JobKind::Resize);
                let steps = match job {
                    None => vec!["nothing: it is so already".to_owned()],
                    Some(_) => vec!["it is growing already".to_owned()],
                };
                return Ok(Changed {
                    object: object.clone(),
                    dry_run: request.dry_run,
                    generation: volume.generation,
                    steps,
                    job: job.filter(|_| !request.dry_run).map(|job| job.number.to_string()),
                    ..Changed::default()
                });
            }
            let idle = self.idle(tx, name)?;
            if size.bytes() < before {
                let message = format!(
                    "a volume does not shrink: `{name}` has {} ({before} bytes)",
                    Bytes(before)
                );
                let hint = format!(
                    "make a smaller one and copy: `poolctl volume create {name}-small {}`",
                    size.bytes()
                );
                return Err(about(ApiError::refused(message).hint(hint)));
            }
            let view = View {
                leader: &self.node,
                records: &tx.records,
                snapshot: &snapshot,
                now: Instant::now(),
            };
            let more = size.bytes() - before;
            let mut lacking = Vec::new();
            let mut steps = Vec::new();
            for place in &idle.members {
                let group = tx.records.vg(&place.node, &place.vg);
                let free_bytes = group.map_or(0, |group| view.vg(group).free_bytes);
                if free_bytes < more {
                    lacking.push(format!(
                        "volume group {} on node {} has {} free",
                        place.vg,
                        place.node,
                        Bytes(free_bytes)
                    ));
                }
                steps.push(format!(
                    "the disk on node {} in volume group {} grows to {size}",
                    place.node, place.vg
                ));
            }
            if !lacking.is_empty() {
                let message = format!("{} more are needed: {}", Bytes(more), lacking.join("; "));
                let hint = "give the groups more room, or migrate the replicas there to other nodes: \
                            `poolctl vg list`";
                return Err(about(ApiError::refused(message).hint(hint)));
            }
            steps.push(
                "then guests can use it; those that are connected see it when they connect again".to_owned(),
            );
            volume.size_bytes = size.bytes();
            volume.generation += 1;
            tx.event(&object, format!("is to grow from {} to {size}", Bytes(before)))?;
            tx.put(volume.clone())?;
            let job = JobRecord::new(JobKind::Resize, &volume, GROW_PHASE);
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// Decides about a resize. Answers the changed job, if it changed.
    pub fn advance_resize(
        &self,
        job: &JobRecord,
        volume: Option<&VolumeRecord>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<JobRecord> {
        let end = |state, note| JobRecord {
            note,
            ..job.ended(state, None)
        };
        let Some(volume) = volume else {
            let error = ApiError::not_found("the volume was deleted");
            return Some(job.ended(JobState::Failed, Some(error)));
        };
        let (_, primary) = match snapshot.primary(&volume.id, now) {
            Some(primary) => primary,
            None => {
                let cancelled = job.state == JobState::Cancelling;
                return cancelled.then(|| end(JobState::Cancelled, None));
            }
        };
        let awaits = volume
            .members
            .iter()
            .any(|place| snapshot.awaits(&place.node, now));
        if primary.size_bytes >= volume.size_bytes && shorter(volume, snapshot, now).is_empty() && !awaits {
            let away = volume.members.iter().map(|place| place.node.as_str());
            let away: Vec<&str> = away.filter(|node| snapshot.marsd(node, now).is_err()).collect();
            let note = (!away.is_empty()).then(|| format!("{} will follow when reachable", away.join(", ")));
            return Some(end(JobState::Done, note));
        }
        (job.state == JobState::Cancelling).then(|| end(JobState::Cancelled, None))
    }
}
