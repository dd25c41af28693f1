//! How does a host become free? Its primary roles go to replicas elsewhere, and its replicas too, if wanted: by the same jobs
//! that people would ask for, a few at a time.
//!
//! The drain itself is a job that begins others and remembers which. What cannot be taken away is named before anything begins.

use std::time::Instant;

use api::pool::{Changed, DrainNode, JobKind, JobState, MakePrimary, Migrate};
use api::{ApiError, ErrorKind};
use migrate::desired::Placement;
use migrate::place::{Request, choose};

use super::Leader;
use super::jobs::DRAIN_PHASE;
use super::snapshots::keep_the_last;
use super::volumes::{desired, in_sync, no_room};
use crate::catalog::records::{JobRecord, LifeRecord, VolumeRecord};
use crate::catalog::{Records, Tx};
use crate::clock;
use crate::inventory::Snapshot;

/// Jobs of one drain under way at one time: copies share the host's disks and network.
const CHILDREN_MAX: usize = 2;

/// What takes a volume a step further away from a host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// The primary role goes there.
    HandOver(String),
    /// The replica, with the role if it has it, goes there.
    Migrate(Placement),
}

impl Leader {
    /// `node drain`.
    pub fn node_drain(&self, name: &str, request: &DrainNode) -> Result<Changed, ApiError> {
        let object = format!("node {name}");
        let snapshot = self.inventory.snapshot();
        let now = Instant::now();
        // Tried as a whole first, so that what one volume takes is not promised to another.
        let steps = self.change(true, |tx| {
            let mut node = tx.records.node(name)?.clone();
            node.drained = true;
            tx.put(node)?;
            let (mut steps, mut refusals) = (Vec::new(), Vec::new());
            for volume in here(&tx.records, name, request.evacuate, &snapshot, now) {
                let about = |what: &str| format!("volume {}: {what}", volume.name);
                let first = self.next_move(tx, &volume, name, request.evacuate, &snapshot, now);
                let moved = match first {
                    Ok(Move::HandOver(to)) => {
                        steps.push(about(&format!("node {to} becomes primary")));
                        request.evacuate.then(|| self.elsewhere(tx, &volume, &snapshot))
                    }
                    Ok(Move::Migrate(place)) => Some(Ok(place)),
                    Err(why) => Some(Err(why)),
                };
                match moved {
                    None => {}
                    Some(Err(why)) => refusals.push(about(&why.message)),
                    Some(Ok(place)) => {
                        steps.push(about(&format!("its replica moves to node {}", place.node)));
                        let mut volume = volume.clone();
                        let joined = desired(&volume)?.join(place);
                        volume.set(&joined.map_err(|error| super::jobs::refusal(&error, &volume.name))?);
                        tx.put(volume)?;
                    }
                }
            }
            match refusals.is_empty() {
                true => Ok(steps),
                false => Err(ApiError::refused(format!(
                    "node {name} cannot be drained: {}",
                    refusals.join("; ")
                ))
                .hint("bring the others back, add room (`poolctl vg add`), or let another host join: `poolctl node token`")
                .object(object.clone())),
            }
        })?;
        self.change(request.dry_run, |tx| {
            let mut node = tx.records.node(name)?.clone();
            let running = tx.records.jobs.iter().find(|job| is_drain_of(job, name));
            if let Some(job) = running.filter(|job| job.evacuate == request.evacuate) {
                return Ok(Changed {
                    object: object.clone(),
                    dry_run: request.dry_run,
                    steps: vec![format!("nothing: job {} drains it already", job.number)],
                    job: Some(job.number.to_string()),
                    ..Changed::default()
                });
            }
            if let Some(job) = running {
                return Err(ApiError::refused(format!(
                    "job {} drains node {name} in another way",
                    job.number
                ))
                .hint(format!("end it first: `poolctl job cancel {}`", job.number))
                .object(object.clone()));
            }
            let mut all = vec!["nothing new is placed on it".to_owned()];
            if node.drained && steps.is_empty() {
                all = vec!["nothing: it is drained already".to_owned()];
            }
            all.extend(steps.iter().cloned());
            if !node.drained {
                node.drained = true;
                tx.event(&object, "is to be drained")?;
                tx.put(node)?;
            }
            let job = match steps.is_empty() {
                true => None,
                false => Some(tx.add_job(drain_job(name, request.evacuate))?.to_string()),
            };
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                steps: all,
                job: job.filter(|_| !request.dry_run),
                ..Changed::default()
            })
        })
    }

    /// `node undrain`.
    pub fn node_undrain(&self, name: &str, dry_run: bool) -> Result<Changed, ApiError> {
        let object = format!("node {name}");
        self.change(dry_run, |tx| {
            let mut node = tx.records.node(name)?.clone();
            let mut steps = Vec::new();
            let running = tx.records.jobs.iter().find(|job| is_drain_of(job, name));
            if let Some(mut job) = running.cloned() {
                steps.push(format!("job {} takes nothing more away from it", job.number));
                job.state = JobState::Cancelling;
                tx.put(job)?;
            }
            if node.drained {
                steps.push("it takes replicas again; nothing is moved back by itself".to_owned());
                node.drained = false;
                tx.event(&object, "takes replicas again")?;
                tx.put(node)?;
            }
            if steps.is_empty() {
                steps.push("nothing: it is not drained".to_owned());
            }
            Ok(Changed {
                object: object.clone(),
                dry_run,
                steps,
                ..Changed::default()
            })
        })
    }

    /// Where a volume's role or replica goes. Errors: why nobody can take it, naming every host.
    fn next_move(
        &self,
        tx: &Tx,
        volume: &VolumeRecord,
        node: &str,
        evacuate: bool,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<Move, ApiError> {
        let primary = primary(volume, snapshot, now);
        let mut refusals = Vec::new();
        if primary == node {
            for place in volume.members.iter().filter(|place| place.node != node) {
                match in_sync(volume, &place.node, snapshot) {
                    Ok(()) if tx.records.node(&place.node)?.drained => {
                        refusals.push(format!("node {} is drained too", place.node));
                    }
                    Ok(()) => return Ok(Move::HandOver(place.node.clone())),
                    Err(error) => refusals.push(error.message),
                }
            }
            if !evacuate {
                if refusals.is_empty() {
                    refusals.push("it has one replica only; `--evacuate` moves that".to_owned());
                }
                return Err(ApiError::refused(refusals.join(", ")));
            }
        }
        let members: Vec<&str> = volume.members.iter().map(|place| place.node.as_str()).collect();
        keep_the_last(volume, node, &members, snapshot)?;
        self.elsewhere(tx, volume, snapshot).map(Move::Migrate)
    }

    /// A place for a volume's replica on a host that has none. Errors: why there is none, naming every host.
    fn elsewhere(&self, tx: &Tx, volume: &VolumeRecord, snapshot: &Snapshot) -> Result<Placement, ApiError> {
        let wanted = desired(volume)?;
        let request = Request {
            size: wanted.size,
            replicas: 1,
            on: Vec::new(),
        };
        let places = choose(&request, &self.rooms(tx, snapshot, Some(&wanted)))
            .map_err(|why| no_room(&why.to_string(), wanted.size))?;
        places
            .into_iter()
            .next()
            .ok_or_else(|| ApiError::refused("there is no other host"))
    }

    /// Goes on with a drain: takes note of what has ended, and begins what may begin. Answers whether anything changed.
    pub(super) fn advance_drain(
        &self,
        records: &Records,
        job: &JobRecord,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<bool, ApiError> {
        let node = job.from.clone().unwrap_or_default();
        let mut next = job.clone();
        let mut running = 0;
        for number in &job.children {
            match records.job(&number.to_string()) {
                Ok(child) if !child.state.ended() => running += 1,
                Ok(child) => {
                    next.children.remove(number);
                    if child.state != JobState::Done {
                        let why = child.error.as_ref().map(|error| error.message.clone());
                        let why = why.unwrap_or_else(|| format!("job {number} was {}", child.state.word()));
                        next.stuck.insert(child.volume_name.clone(), why);
                    }
                }
                // So long ago that it is forgotten.
                Err(_) => drop(next.children.remove(number)),
            }
        }
        if job.state == JobState::Cancelling || records.node(&node).is_err() {
            next.state = JobState::Cancelled;
            next.ended = Some(clock::now());
            return self.write_job(job, next, None);
        }
        let left = here(records, &node, job.evacuate, snapshot, now);
        let left: Vec<&VolumeRecord> = left
            .iter()
            .filter(|volume| !next.stuck.contains_key(&volume.name))
            .collect();
        if left.is_empty() && running == 0 {
            next.ended = Some(clock::now());
            next.state = JobState::Done;
            if !next.stuck.is_empty() {
                let stuck = next
                    .stuck
                    .iter()
                    .map(|(volume, why)| format!("volume {volume}: {why}"));
                let message = format!(
                    "not everything left node {node}: {}",
                    stuck.collect::<Vec<_>>().join("; ")
                );
                next.state = JobState::Failed;
                next.error = Some(
                    ApiError::new(ErrorKind::PartlyDone, message)
                        .hint(format!("mend that, then again: `poolctl node drain {node}`"))
                        .object(format!("node {node}")),
                );
            }
            return self.write_job(job, next, None);
        }
        let idle = |volume: &&&VolumeRecord| {
            records
                .job_at(&volume.id)
                .is_none_or(|job| job.kind.stands_beside())
        };
        let ready = left.iter().filter(idle);
        for volume in ready.take(CHILDREN_MAX.saturating_sub(running)) {
            // What cannot begin now waits: after a restart, hosts have yet to report.
            if let Ok(child) = self.begin_move(job, volume, &node, snapshot, now) {
                next.children.insert(child);
            }
        }
        if next.children == job.children && next.stuck == job.stuck {
            return Ok(false);
        }
        self.write_job(job, next, None)
    }

    fn begin_move(
        &self,
        job: &JobRecord,
        volume: &VolumeRecord,
        node: &str,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<u64, ApiError> {
        let begun = self.catalog.change(false, |tx| {
            match self.next_move(tx, volume, node, job.evacuate, snapshot, now)? {
                Move::HandOver(to) => {
                    let volume = self.idle(tx, &volume.name)?;
                    let request = MakePrimary {
                        node: to,
                        ..MakePrimary::default()
                    };
                    self.hand_over(tx, &volume, &request, snapshot, node)
                }
                Move::Migrate(to) => {
                    let request = Migrate {
                        volume: volume.name.clone(),
                        to: to.node.to_string(),
                        from: Some(node.to_owned()),
                        dry_run: false,
                    };
                    self.migrate_in(tx, &request, snapshot)
                }
            }
        })?;
        let number = begun.job.and_then(|job| job.parse().ok());
        number.ok_or_else(|| ApiError::failed("a job without a number was begun"))
    }
}

fn drain_job(node: &str, evacuate: bool) -> JobRecord {
    JobRecord {
        evacuate,
        from: Some(node.to_owned()),
        ..JobRecord::on_host(JobKind::Drain, DRAIN_PHASE)
    }
}

/// Whether a job takes a host's roles and replicas away now.
pub fn is_drain_of(job: &JobRecord, node: &str) -> bool {
    job.kind == JobKind::Drain && !job.state.ended() && job.from.as_deref() == Some(node)
}

fn primary<'a>(volume: &'a VolumeRecord, snapshot: &'a Snapshot, now: Instant) -> &'a str {
    let seen = snapshot.primary(&volume.id, now);
    seen.map_or(volume.primary.as_str(), |(node, _)| node)
}

/// The volumes that a drain has to take away from a host.
fn here(
    records: &Records,
    node: &str,
    evacuate: bool,
    snapshot: &Snapshot,
    now: Instant,
) -> Vec<VolumeRecord> {
    let is_here = |volume: &&VolumeRecord| {
        let member = volume.members.iter().any(|place| place.node == node);
        let alive = volume.life != LifeRecord::Deleting;
        let role = primary(volume, snapshot, now) == node && !volume.stepped_down;
        alive && member && (evacuate || role)
    };
    records.volumes.iter().filter(is_here).cloned().collect()
}

/// How far a drain is, in words.
pub fn drain_words(records: &Records, job: &JobRecord, snapshot: &Snapshot, now: Instant) -> String {
    let node = job.from.as_deref().unwrap_or_default();
    let left = here(records, node, job.evacuate, snapshot, now);
    let names: Vec<&str> = left.iter().map(|volume| volume.name.as_str()).collect();
    let children: Vec<String> = job.children.iter().map(u64::to_string).collect();
    let by = match children.is_empty() {
        true => String::new(),
        false => format!(" (at work: job {})", children.join(", ")),
    };
    format!("{} left on node {node}: {}{by}", names.len(), names.join(", "))
}
