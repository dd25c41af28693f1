//! Which versions of a volume are kept, where, and which are to go?
//!
//! The wish is a name in the volume's record. Its primary's marsd puts it into the log, and every replica that comes to it keeps
//! that version, or says why not; the primary says which version it has become. What replicas keep under a name that nobody wants is
//! dropped, on each host as soon as it is seen. A snapshot of a history that was given up is no other's: it is shown as parted, and goes
//! with the name.

use std::time::Instant;

use api::ApiError;
use api::ErrorKind;
use api::control::{ReplicaStatus, SnapshotStatus, SnapshotWord};
use api::pool::agent::{Action, Step};
use api::pool::{
    Changed, CreateSnapshot, DeleteSnapshot, JobKind, JobState, SnapshotList, SnapshotReplica, SnapshotRow,
    SnapshotState,
};
use model::SnapshotName;

use super::Leader;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, PlaceRecord, SnapshotAt, SnapshotRecord, VolumeRecord};
use crate::clock;
use crate::inventory::Snapshot;

/// The phase in which replicas keep a version.
pub const TAKE_PHASE: &str = "take";

/// What the replica of a host says, if that is fresh.
fn replica<'a>(snapshot: &'a Snapshot, node: &str, volume: &str, now: Instant) -> Option<&'a ReplicaStatus> {
    snapshot.volume(node, volume, now)?.replica.as_ref()
}

/// The newest of that name that a replica speaks of.
fn newest<'a>(replica: &'a ReplicaStatus, name: &str) -> Option<&'a SnapshotStatus> {
    replica.snapshots.iter().rev().find(|known| known.name == name)
}

fn is_at(known: &SnapshotStatus, at: &SnapshotAt) -> bool {
    (known.at_lsn, &known.at_digest) == (at.lsn, &at.digest)
}

/// What a replica has of a snapshot whose place in history is `at`, if that is known.
pub fn has(replica: &ReplicaStatus, name: &str, at: Option<&SnapshotAt>) -> (SnapshotState, Option<String>) {
    let ours = |known: &&SnapshotStatus| known.name == name && at.is_none_or(|at| is_at(known, at));
    match replica.snapshots.iter().rev().find(ours) {
        Some(known) => {
            let state = match known.state {
                SnapshotWord::Kept => SnapshotState::Kept,
                SnapshotWord::Pending => SnapshotState::Pending,
                SnapshotWord::Failed => SnapshotState::Failed,
                SnapshotWord::Missing | SnapshotWord::Dropping => SnapshotState::Missing,
            };
            (state, known.reason.clone())
        }
        None if newest(replica, name).is_some() => {
            let why = "it is a version of a history that was given up";
            (SnapshotState::Parted, Some(why.to_owned()))
        }
        None if at.is_none_or(|at| replica.written_back_lsn < at.lsn) => (SnapshotState::Pending, None),
        None => {
            let why = "it never came to it: it was filled, or filled again, later";
            (SnapshotState::Missing, Some(why.to_owned()))
        }
    }
}

impl Leader {
    /// `volume snapshot create`.
    pub fn volume_snapshot_create(&self, name: &str, request: &CreateSnapshot) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let about = |error: ApiError| error.object(object.clone());
        let chosen = request.snapshot.clone().unwrap_or_else(|| {
            // As people read it, without what a name may not have.
            let now = clock::now().to_lowercase().replace([':', '-'], "");
            now.trim_end_matches('z').to_owned()
        });
        let chosen = SnapshotName::new(&chosen).map_err(|error| about(ApiError::usage(error.to_string())))?;
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let mut volume = self.idle(tx, name)?;
            let now = Instant::now();
            let known = |place: &&str| {
                let known = snapshot.last_known(place, &volume.id);
                let replica = known.and_then(|known| known.replica.as_ref());
                replica.is_some_and(|replica| newest(replica, chosen.as_str()).is_some())
            };
            let members = volume.members.iter().map(|place| place.node.as_str());
            let keepers: Vec<&str> = members.clone().filter(known).collect();
            if volume.snapshots.contains_key(chosen.as_str()) || !keepers.is_empty() {
                let message = match keepers.is_empty() {
                    true => format!("volume `{name}` has a snapshot `{chosen}` already"),
                    false => format!("{} still keep a snapshot `{chosen}` of volume `{name}`", keepers.join(", ")),
                };
                return Err(about(ApiError::refused(message).hint(format!(
                    "choose another name, or delete it first: `poolctl volume snapshot delete {name} {chosen}`"
                ))));
            }
            let (primary, _) = snapshot.reachable_primary(&volume, "decides which version it is", now)?;
            let mut steps = vec![format!(
                "node {primary} writes snapshot `{chosen}` into the log; each replica keeps that version when it comes to it"
            )];
            let away: Vec<&str> = members.filter(|node| snapshot.marsd(node, now).is_err()).collect();
            if !away.is_empty() {
                steps.push(format!("{} will come to it later, or miss it", away.join(", ")));
            }
            let record = SnapshotRecord {
                created: clock::now(),
                at: None,
            };
            volume.snapshots.insert(chosen.to_string(), record);
            volume.generation += 1;
            tx.event(&object, format!("is to keep snapshot {chosen}"))?;
            tx.put(volume.clone())?;
            let mut job = JobRecord::new(JobKind::Snapshot, &volume, TAKE_PHASE);
            job.snapshot = Some(chosen.to_string());
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `volume snapshot delete`.
    pub fn volume_snapshot_delete(&self, name: &str, request: &DeleteSnapshot) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        self.change(request.dry_run, |tx| {
            let mut volume = self.idle(tx, name)?;
            if volume.snapshots.remove(&request.snapshot).is_none() {
                return Err(no_such(name, &request.snapshot));
            }
            volume.generation += 1;
            let generation = volume.generation;
            tx.event(
                &object,
                format!("does not need snapshot {} any more", request.snapshot),
            )?;
            tx.put(volume.clone())?;
            let members = volume.members.iter().map(|place| place.node.as_str());
            let members: Vec<&str> = members.collect();
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                generation,
                steps: vec![format!(
                    "{} drop snapshot `{}`; nothing can bring it back",
                    members.join(", "),
                    request.snapshot
                )],
                ..Changed::default()
            })
        })
    }

    /// `volume snapshot list`.
    pub fn volume_snapshots(&self, name: &str) -> Result<SnapshotList, ApiError> {
        let records = self.catalog.records();
        let volume = records.volume(name)?;
        let (snapshot, now) = (self.inventory.snapshot(), Instant::now());
        let mut snapshots: Vec<SnapshotRow> = volume
            .snapshots
            .iter()
            .map(|(name, record)| row(volume, name, record, &snapshot, now))
            .collect();
        snapshots.sort_by(|a, b| (&a.created, a.at, &a.snapshot).cmp(&(&b.created, b.at, &b.snapshot)));
        Ok(SnapshotList {
            name: name.to_owned(),
            snapshots,
        })
    }
}

/// Refuses to lose a snapshot with the only replica that keeps it, as far as is known.
pub fn keep_the_last(
    volume: &VolumeRecord,
    node: &str,
    staying: &[&str],
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    let keeps = |node: &str, name: &str, at: Option<&SnapshotAt>| {
        let known = snapshot.last_known(node, &volume.id);
        let replica = known.and_then(|known| known.replica.as_ref());
        replica.is_some_and(|replica| has(replica, name, at).0 == SnapshotState::Kept)
    };
    let alone = volume.snapshots.iter().filter(|(name, record)| {
        let at = record.at.as_ref();
        let others = staying.iter().filter(|other| **other != node);
        keeps(node, name, at) && !others.into_iter().any(|other| keeps(other, name, at))
    });
    let alone: Vec<&str> = alone.map(|(name, _)| name.as_str()).collect();
    if alone.is_empty() {
        return Ok(());
    }
    let name = &volume.name;
    let message = format!(
        "node {node} alone keeps snapshots of volume `{name}`, which go with its replica: {}",
        alone.join(", ")
    );
    Err(ApiError::refused(message)
        .hint(format!(
            "copy their files if they are needed (`poolctl volume snapshot list {name} --json`), then delete them: \
             `poolctl volume snapshot delete {name} SNAP`"
        ))
        .object(format!("volume {name}")))
}

/// There is none of that name.
pub fn no_such(volume: &str, name: &str) -> ApiError {
    ApiError::not_found(format!("volume `{volume}` has no snapshot `{name}`"))
        .hint(format!("`poolctl volume snapshot list {volume}` shows them all"))
        .object(format!("volume {volume}"))
}

fn row(
    volume: &VolumeRecord,
    name: &str,
    record: &SnapshotRecord,
    snapshot: &Snapshot,
    now: Instant,
) -> SnapshotRow {
    let on = |node: &str| {
        let Some(replica) = replica(snapshot, node, &volume.id, now) else {
            return SnapshotReplica {
                node: node.to_owned(),
                state: SnapshotState::Unreachable,
                reason: snapshot.marsd(node, now).err().map(|blind| format!("it {blind}")),
                path: None,
                used_bytes: 0,
            };
        };
        let (state, reason) = has(replica, name, record.at.as_ref());
        let known = newest(replica, name);
        SnapshotReplica {
            node: node.to_owned(),
            state,
            reason,
            path: known.and_then(|known| known.path.clone()),
            used_bytes: known.map_or(0, |known| known.used_bytes),
        }
    };
    SnapshotRow {
        snapshot: name.to_owned(),
        created: record.created.clone(),
        size_bytes: record.at.as_ref().map(|at| at.size_bytes),
        at: record.at.as_ref().map(|at| at.lsn),
        replicas: volume.members.iter().map(|place| on(&place.node)).collect(),
    }
}

/// Asks primaries for what is wanted and not there, and everybody to drop what nobody wants.
pub fn snapshot_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let mut steps = Vec::new();
    for volume in records.live_volumes() {
        let step = |action| Step {
            volume: volume.id.clone(),
            generation: volume.generation,
            action,
        };
        for place in &volume.members {
            let Some(replica) = replica(snapshot, &place.node, &volume.id, now) else {
                continue;
            };
            let unwanted = |known: &&SnapshotStatus| {
                let taken = known.state != SnapshotWord::Pending;
                let replaced = |wanted: &SnapshotRecord| {
                    // One that was deleted and taken again while this host was away.
                    let at = wanted.at.as_ref();
                    let has = |at| {
                        replica
                            .snapshots
                            .iter()
                            .any(|other| other.name == known.name && is_at(other, at))
                    };
                    at.is_some_and(|at| !is_at(known, at) && has(at))
                };
                taken && volume.snapshots.get(&known.name).is_none_or(replaced)
            };
            for known in replica.snapshots.iter().filter(unwanted) {
                let action = Action::SnapshotDrop {
                    snapshot: known.name.clone(),
                    at_lsn: known.at_lsn,
                    at_digest: known.at_digest.clone(),
                };
                steps.push((place.node.clone(), step(action)));
            }
        }
        let wanted = records.jobs.iter().filter(|job| {
            job.kind == JobKind::Snapshot && job.volume == volume.id && job.state == JobState::Running
        });
        for name in wanted.filter_map(|job| job.snapshot.clone()) {
            if let Some((primary, replica)) = snapshot.primary(&volume.id, now)
                && newest(replica, &name).is_none()
            {
                steps.push((primary.to_owned(), step(Action::SnapshotTake { snapshot: name })));
            }
        }
    }
    steps
}

/// Decides about a snapshot that is being taken. Answers the changed job, if it changed, and the volume changed by it.
pub fn advance_snapshot(
    job: &JobRecord,
    volume: Option<&VolumeRecord>,
    snapshot: &Snapshot,
    now: Instant,
) -> Option<(JobRecord, Option<VolumeRecord>)> {
    let end = |state, note, error: Option<ApiError>| JobRecord {
        note,
        ..job.ended(
            state,
            error.map(|error| error.object(format!("volume {}", job.volume_name))),
        )
    };
    let name = job.snapshot.as_deref()?;
    let Some(volume) = volume else {
        let error = ApiError::not_found("the volume was deleted");
        return Some((end(JobState::Failed, None, Some(error)), None));
    };
    let changed = |change: &dyn Fn(&mut VolumeRecord)| {
        let mut next = volume.clone();
        change(&mut next);
        next.generation += 1;
        Some(next)
    };
    let without = || {
        changed(&|next| {
            next.snapshots.remove(name);
        })
    };
    if job.state == JobState::Cancelling {
        return Some((end(JobState::Cancelled, None, None), without()));
    }
    let record = volume.snapshots.get(name)?;
    let (primary, its) = snapshot.primary(&volume.id, now)?;
    let Some(known) = newest(its, name) else {
        // Refused for good: nobody keeps it.
        let trouble = snapshot.troubles.get(&(volume.id.clone(), primary.to_owned()));
        let refused = trouble.filter(|trouble| {
            let asked = matches!(&trouble.step.action, Action::SnapshotTake { snapshot } if snapshot == name);
            asked && matches!(trouble.error.kind, ErrorKind::Refused | ErrorKind::Usage)
        })?;
        return Some((
            end(JobState::Failed, None, Some(refused.error.clone())),
            without(),
        ));
    };
    let at = SnapshotAt {
        lsn: known.at_lsn,
        digest: known.at_digest.clone(),
        size_bytes: known.size_bytes,
    };
    if record.at.as_ref() != Some(&at) {
        let next = changed(&|next| {
            if let Some(record) = next.snapshots.get_mut(name) {
                record.at = Some(at.clone());
            }
        });
        return Some((job.clone(), next));
    }
    let row = row(volume, name, record, snapshot, now);
    let of = |state| {
        let ours = row.replicas.iter().filter(move |replica| replica.state == state);
        ours.map(|replica| replica.node.as_str()).collect::<Vec<_>>()
    };
    // A daemon that has just started has not heard of everybody yet.
    let unheard = |place: &PlaceRecord| snapshot.awaits(&place.node, now);
    if !of(SnapshotState::Pending).is_empty() || volume.members.iter().any(unheard) {
        return None;
    }
    let (kept, away) = (of(SnapshotState::Kept), of(SnapshotState::Unreachable));
    let lacking: Vec<String> = row
        .replicas
        .iter()
        .filter(|replica| !matches!(replica.state, SnapshotState::Kept | SnapshotState::Unreachable))
        .map(|replica| {
            let why = replica.reason.as_deref().unwrap_or("it says no reason");
            format!("{} on node {}: {why}", replica.state.word(), replica.node)
        })
        .collect();
    let mut note = format!("kept on {}", kept.join(", "));
    if !away.is_empty() {
        note += &format!("; {} will come to it when reachable, or miss it", away.join(", "));
    }
    if lacking.is_empty() {
        return Some((end(JobState::Done, Some(note), None), None));
    }
    let kind = match kept.is_empty() {
        true => ErrorKind::Failed,
        false => ErrorKind::PartlyDone,
    };
    let error = ApiError::new(kind, format!("snapshot `{name}` is {}", lacking.join("; ")));
    let hint = match kept.is_empty() {
        true => format!(
            "`poolctl volume snapshot delete {} {name}` gives the name back",
            volume.name
        ),
        false => format!(
            "`poolctl volume snapshot list {}` shows who keeps it",
            volume.name
        ),
    };
    Some((end(JobState::Failed, Some(note), Some(error.hint(hint))), None))
}

/// What a snapshot waits for, in words.
pub fn snapshot_words(job: &JobRecord, volume: &VolumeRecord, snapshot: &Snapshot, now: Instant) -> String {
    let name = job.snapshot.as_deref().unwrap_or_default();
    let Some(record) = volume.snapshots.get(name) else {
        return "ends".to_owned();
    };
    if record.at.is_none() {
        return "its primary writes it into the log".to_owned();
    }
    let row = row(volume, name, record, snapshot, now);
    let pending = row
        .replicas
        .iter()
        .filter(|replica| replica.state == SnapshotState::Pending);
    let pending: Vec<&str> = pending.map(|replica| replica.node.as_str()).collect();
    format!("taken by {}", pending.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_has_depends_on_where_it_is_and_of_which_history() {
        let at = SnapshotAt {
            lsn: 1000,
            digest: "a".repeat(32),
            size_bytes: 4096,
        };
        let known = |digest: &str, state| SnapshotStatus {
            name: "s".to_owned(),
            at_lsn: 1000,
            at_digest: digest.repeat(32),
            size_bytes: 4096,
            unix_seconds: 0,
            state,
            reason: None,
            path: None,
            used_bytes: 0,
        };
        let check = |written_back_lsn, snapshots, want| {
            let replica = ReplicaStatus {
                written_back_lsn,
                snapshots,
                ..ReplicaStatus::default()
            };
            assert_eq!(has(&replica, "s", Some(&at)).0, want);
        };
        check(500, vec![], SnapshotState::Pending);
        check(2000, vec![], SnapshotState::Missing);
        check(2000, vec![known("b", SnapshotWord::Kept)], SnapshotState::Parted);
        check(2000, vec![known("a", SnapshotWord::Kept)], SnapshotState::Kept);
        check(
            2000,
            vec![known("a", SnapshotWord::Failed)],
            SnapshotState::Failed,
        );
        let both = vec![known("a", SnapshotWord::Kept), known("b", SnapshotWord::Kept)];
        check(2000, both, SnapshotState::Kept);
    }
}
