//! Who is to be primary? A hand-over loses nothing; a takeover is told what it loses before it is allowed.

use std::time::Instant;

use api::ApiError;
use api::control::ReplicaStatus;
use api::pool::agent::Order;
use api::pool::{Changed, JobKind, Loss, MakePrimary};
use migrate::job::Phase;
use model::{Bytes, Epoch, NodeId, ReplicaState, Role};

use super::Leader;
use super::jobs::{ORDER_PHASE, refusal};
use super::volumes::{desired, in_sync, open_doors};
use crate::catalog::Tx;
use crate::catalog::records::{JobRecord, PlaceRecord, VolumeRecord};
use crate::inventory::{Snapshot, replica_state};

impl Leader {
    /// `volume primary`.
    pub fn volume_primary(&self, name: &str, request: &MakePrimary) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            tx.records.node(&request.node)?;
            let node = NodeId::new(&request.node).map_err(|error| ApiError::usage(error.to_string()))?;
            desired(&volume)?
                .with_primary(&node)
                .map_err(|error| refusal(&error, name))?;
            let now = Instant::now();
            let primary = snapshot.primary(&volume.id, now);
            if primary.is_some_and(|(from, _)| from == request.node && volume.primary == request.node) {
                return Ok(Changed {
                    object: format!("volume {name}"),
                    dry_run: request.dry_run,
                    generation: volume.generation,
                    steps: vec![format!("nothing: node {node} is primary already")],
                    ..Changed::default()
                });
            }
            match primary {
                _ if request.force => self.take_over(tx, &volume, request, &snapshot, now),
                Some((from, _)) => self.hand_over(tx, &volume, request, &snapshot, from),
                None => {
                    nothing_is_lost(&volume, &request.node, &snapshot, now)?;
                    self.take_over(tx, &volume, request, &snapshot, now)
                }
            }
        })
    }

    pub(super) fn hand_over(
        &self,
        tx: &mut Tx,
        volume: &VolumeRecord,
        request: &MakePrimary,
        snapshot: &Snapshot,
        from: &str,
    ) -> Result<Changed, ApiError> {
        let to = &request.node;
        if from != to {
            in_sync(volume, to, snapshot)?;
        }
        let mut job = JobRecord::new(JobKind::Primary, volume, Phase::HandOver.word());
        job.to = Some(place(to));
        job.from = Some(from.to_owned());
        let steps = vec![format!("node {from} hands the primary role over to node {to}")];
        self.begin(tx, request.dry_run, volume, job, steps)
    }

    /// A replica becomes primary in a term of its own, given out here once: the catalog's commit compares and swaps.
    fn take_over(
        &self,
        tx: &mut Tx,
        volume: &VolumeRecord,
        request: &MakePrimary,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<Changed, ApiError> {
        let to = &request.node;
        let winner = able(volume, to, snapshot, now)?;
        let before = snapshot.primary(&volume.id, now);
        if let Some((from, primary)) = before.filter(|(from, _)| from != to) {
            // Reports are a second old at most; of two that disagree, the one that misses the other is newer.
            let misses = replica_state(&winner.state) == ReplicaState::Unreachable;
            let connected = !misses
                && primary.peers.iter().any(|peer| {
                    peer.node == *to
                        && matches!(
                            replica_state(&peer.state),
                            ReplicaState::Uptodate | ReplicaState::Behind
                        )
                });
            if connected {
                let message =
                    format!("node {from} is primary and connected to node {to}: nothing has to be forced");
                return Err(ApiError::refused(message)
                    .hint(format!(
                        "hand the role over, which loses nothing: `poolctl volume primary {} {to}`",
                        volume.name
                    ))
                    .object(format!("volume {}", volume.name)));
            }
        }
        let newest = snapshot.term(&volume.id).max(volume.takeover_term);
        let term = Epoch {
            term: newest,
            start: 1,
        }
        .next_takeover()
        .term;
        let mut steps = vec![format!(
            "node {to} becomes primary in term {term}, from position {} of the log on, without being granted the role",
            winner.appended_lsn
        )];
        let loss = loss(volume, to, winner, snapshot, now);
        steps.push(told(&loss, to));
        if let Some((from, _)) = before.filter(|(from, _)| from != to) {
            steps.push(format!(
                "node {from} is primary now and may go on writing until it hears of the new term; what it writes is not part of the volume"
            ));
        }
        let mut volume = volume.clone();
        volume.takeover_term = term;
        tx.put(volume.clone())?;
        let mut job = JobRecord::new(JobKind::TakeOver, &volume, ORDER_PHASE);
        job.to = Some(place(to));
        job.from = Some(volume.primary.clone()).filter(|from| from != to);
        job.order = Some(Order::TakeOver { term });
        tx.event(
            format!("volume {}", volume.name),
            format!("node {to} is to take over; {}", told(&loss, to)),
        )?;
        let mut changed = self.begin(tx, request.dry_run, &volume, job, steps)?;
        changed.loss = Some(loss);
        Ok(changed)
    }

    /// `volume secondary`.
    pub fn volume_secondary(&self, name: &str, dry_run: bool) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            let object = format!("volume {name}");
            let now = Instant::now();
            let Some((from, _)) = snapshot.primary(&volume.id, now) else {
                if volume.stepped_down {
                    return Ok(Changed {
                        object,
                        dry_run,
                        generation: volume.generation,
                        steps: vec!["nothing: no replica is primary".to_owned()],
                        ..Changed::default()
                    });
                }
                let message = format!(
                    "the primary of volume `{name}` (node {}) is not reachable",
                    volume.primary
                );
                return Err(ApiError::refused(message)
                    .hint(format!(
                        "bring the node back, or let another replica take over: `poolctl volume primary {name} NODE --force`"
                    ))
                    .object(object));
            };
            let (clients, _) = open_doors(&volume, &snapshot);
            if clients > 0 {
                let message =
                    format!("{clients} guests are connected to volume `{name}`; they would wait for a primary");
                return Err(ApiError::refused(message)
                    .hint(format!("disconnect them first: `poolctl volume detach {name}`"))
                    .object(object));
            }
            let from = from.to_owned();
            let steps = vec![format!(
                "node {from} gives the primary role up for nobody; nobody is served until `poolctl volume primary {name} NODE`"
            )];
            let mut job = JobRecord::new(JobKind::Secondary, &volume, ORDER_PHASE);
            job.from = Some(from);
            job.order = Some(Order::StepDown);
            self.begin(tx, dry_run, &volume, job, steps)
        })
    }
}

fn place(node: &str) -> PlaceRecord {
    PlaceRecord {
        node: node.to_owned(),
        vg: String::new(),
    }
}

/// The replica on `node`, if it can be primary without anybody's help. Its own word counts: others may not be reachable.
fn able<'a>(
    volume: &VolumeRecord,
    node: &str,
    snapshot: &'a Snapshot,
    now: Instant,
) -> Result<&'a ReplicaStatus, ApiError> {
    let refused = |message: String| {
        Err(ApiError::refused(message)
            .hint(format!(
                "choose another replica; `poolctl volume show {}` says how they stand",
                volume.name
            ))
            .object(format!("volume {}", volume.name)))
    };
    if let Err(blind) = snapshot.marsd(node, now) {
        return refused(format!("node {node} cannot take over: it {blind}"));
    }
    let known = snapshot.volume(node, &volume.id, now);
    let Some(replica) = known.and_then(|known| known.replica.as_ref()) else {
        return refused(format!("the replica on node {node} does not exist yet"));
    };
    match replica_state(&replica.state) {
        ReplicaState::Uptodate
        | ReplicaState::Behind
        | ReplicaState::Paused
        | ReplicaState::Unreachable
        | ReplicaState::SplitBrain => Ok(replica),
        ReplicaState::Syncing | ReplicaState::Inconsistent => refused(format!(
            "the replica on node {node} is no version of the volume: it is {} ({:.0} %), and force does not change that",
            replica.state, replica.sync_percent
        )),
        ReplicaState::DefectiveLog | ReplicaState::Detached => refused(format!(
            "the replica on node {node} is {}: {}",
            replica.state,
            replica.reason.as_deref().unwrap_or("no reason is known")
        )),
    }
}

/// What others are known to have and the winner has not.
fn loss(volume: &VolumeRecord, to: &str, winner: &ReplicaStatus, snapshot: &Snapshot, now: Instant) -> Loss {
    let others = volume.members.iter().filter(|place| place.node != to);
    let known = others.filter_map(|place| {
        let replica = snapshot.last_known(&place.node, &volume.id)?.replica.as_ref()?;
        Some((replica.appended_lsn, &place.node, replica))
    });
    let Some((end, node, replica)) = known.max_by_key(|(end, ..)| *end) else {
        return Loss {
            bytes: 0,
            seconds: None,
            node: None,
        };
    };
    let bytes = end.saturating_sub(winner.appended_lsn);
    // The primary may have gone on writing since it was last heard of; its word of the winner's lag is as old.
    let was_primary = replica.role == Role::Primary.to_string();
    let lag = replica
        .peers
        .iter()
        .find(|peer| peer.node == to)
        .map(|peer| peer.lag_seconds);
    let age = snapshot.told_seconds_ago(node, now);
    let seconds = match (was_primary, lag, age) {
        (true, Some(lag), Some(age)) => Some(lag + age),
        (false, _, _) if bytes == 0 && volume.stepped_down => Some(0.0),
        _ => None,
    };
    Loss {
        bytes,
        seconds: seconds.map(|seconds| (seconds * 10.0).round() / 10.0),
        node: Some(node.clone()),
    }
}

fn told(loss: &Loss, to: &str) -> String {
    let back = match loss.seconds {
        Some(seconds) => format!("at most the last {seconds:.1} s"),
        None => "nobody can tell of which time".to_owned(),
    };
    match (&loss.node, loss.bytes) {
        (None, _) => {
            "nothing is known of the other replicas: whatever they have and it has not is lost".to_owned()
        }
        (Some(_), 0) if loss.seconds == Some(0.0) => "nothing is lost".to_owned(),
        (Some(node), 0) => format!(
            "node {to} has all that is known of node {node}; what was written there unseen is lost ({back})"
        ),
        (Some(node), bytes) => format!(
            "lost for guests: {} of log ({bytes} bytes) or more that node {node} has and node {to} has not ({back})",
            Bytes(bytes)
        ),
    }
}

/// Without force somebody becomes primary where nobody is only if every member says that this one has everything.
fn nothing_is_lost(
    volume: &VolumeRecord,
    to: &str,
    snapshot: &Snapshot,
    now: Instant,
) -> Result<(), ApiError> {
    let refused = |message: String, hint: &str| {
        Err(ApiError::refused(message)
            .hint(format!(
                "{hint}, or take over and see with --dry-run what that loses: `poolctl volume primary {} {to} --force`",
                volume.name
            ))
            .object(format!("volume {}", volume.name)))
    };
    if !volume.stepped_down {
        return refused(
            format!(
                "the primary of volume `{}` (node {}) is not reachable, and a planned hand-over needs it",
                volume.name, volume.primary
            ),
            "bring the node back first",
        );
    }
    let winner = able(volume, to, snapshot, now)?;
    for place in volume.members.iter().filter(|place| place.node != to) {
        let known = snapshot.volume(&place.node, &volume.id, now);
        let Some(other) = known.and_then(|known| known.replica.as_ref()) else {
            return refused(
                format!(
                    "node {} is not reachable; it may have more than node {to}",
                    place.node
                ),
                "bring it back first",
            );
        };
        if other.appended_lsn == winner.appended_lsn && other.chain_digest != winner.chain_digest {
            return refused(
                format!("the histories of nodes {} and {to} have parted", place.node),
                "choose the one to keep",
            );
        }
        if other.appended_lsn > winner.appended_lsn {
            return refused(
                format!(
                    "node {} has {} bytes of log that node {to} has not",
                    place.node,
                    other.appended_lsn - winner.appended_lsn
                ),
                &format!(
                    "make that one primary: `poolctl volume primary {} {}`",
                    volume.name, place.node
                ),
            );
        }
    }
    Ok(())
}
