//! Have the histories of a volume's replicas parted, and which side lives on? The others begin anew; what only they have is kept.

use std::time::Instant;

use api::ApiError;
use api::control::SideStatus;
use api::pool::agent::Order;
use api::pool::{Changed, JobKind, ResolveSplitBrain, SplitBrain, SplitPair, SplitSide};
use model::ReplicaState;

use super::Leader;
use super::errands::kept;
use super::jobs::ORDER_PHASE;
use crate::catalog::records::{JobRecord, PlaceRecord, VolumeRecord};
use crate::clock;
use crate::inventory::{Snapshot, replica_state};

impl Leader {
    /// `volume split-brain show`.
    pub fn volume_split_brain(&self, name: &str) -> Result<SplitBrain, ApiError> {
        self.view(|view| {
            let volume = view.records.volume(name)?;
            let pairs = pairs(volume, view.snapshot);
            let primary = view.snapshot.primary(&volume.id, view.now);
            Ok(SplitBrain {
                name: name.to_owned(),
                parted: !pairs.is_empty() || !losers(volume, "", view.snapshot, view.now).is_empty(),
                primary: primary.map(|(node, _)| node.to_owned()),
                pairs,
                kept: kept(volume, view.snapshot),
            })
        })
    }

    /// `volume split-brain resolve`.
    pub fn volume_resolve(&self, name: &str, request: &ResolveSplitBrain) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            let object = format!("volume {name}");
            let refused = |message: String, hint: String| {
                Err(ApiError::refused(message).hint(hint).object(object.clone()))
            };
            let now = Instant::now();
            if let Some(winner) = &request.winner {
                tx.records.node(winner)?;
            }
            let Some((primary, _)) = snapshot.primary(&volume.id, now) else {
                let winner = request.winner.as_deref().unwrap_or("NODE");
                return refused(
                    format!("no replica of volume `{name}` is primary, so no side can live on"),
                    format!(
                        "make the winner primary first: `poolctl volume primary {name} {winner} --force`"
                    ),
                );
            };
            if let Some(winner) = request.winner.as_ref().filter(|winner| *winner != primary) {
                return refused(
                    format!(
                        "node {winner} is not primary; the side that lives on is served by node {primary}"
                    ),
                    format!(
                        "make the winner primary first: `poolctl volume primary {name} {winner} --force`"
                    ),
                );
            }
            let losers = losers(&volume, primary, &snapshot, now);
            let Some((first, rest)) = losers.split_first() else {
                return Ok(Changed {
                    object: object.clone(),
                    dry_run: request.dry_run,
                    generation: volume.generation,
                    steps: vec!["nothing: no histories have parted, as far as is known".to_owned()],
                    ..Changed::default()
                });
            };
            let mut steps = vec![format!("the history of node {primary} lives on")];
            for loser in &losers {
                let side = pairs(&volume, &snapshot)
                    .into_iter()
                    .find(|pair| pair.node == *loser)
                    .map(|pair| {
                        format!(
                            " ({} bytes of log, {} changes)",
                            pair.here.bytes, pair.here.records
                        )
                    });
                steps.push(format!(
                    "node {loser} puts its log aside{} and begins anew by a full sync",
                    side.unwrap_or_default()
                ));
            }
            let mut job = JobRecord::new(JobKind::Resolve, &volume, ORDER_PHASE);
            job.from = Some(primary.to_owned());
            job.to = Some(PlaceRecord {
                node: first.clone(),
                vg: String::new(),
            });
            job.losers = rest.to_vec();
            job.order = Some(Order::Invalidate { keep: true });
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }
}

/// Replicas that are in split brain themselves, the winner not among them.
fn losers(volume: &VolumeRecord, winner: &str, snapshot: &Snapshot, now: Instant) -> Vec<String> {
    let lost = |node: &str| {
        let known = snapshot.volume(node, &volume.id, now);
        let replica = known.and_then(|known| known.replica.as_ref());
        replica.is_some_and(|replica| replica_state(&replica.state) == ReplicaState::SplitBrain)
    };
    let members = volume.members.iter().map(|place| place.node.as_str());
    members
        .filter(|node| *node != winner && lost(node))
        .map(str::to_owned)
        .collect()
}

fn pairs(volume: &VolumeRecord, snapshot: &Snapshot) -> Vec<SplitPair> {
    let mut pairs = Vec::new();
    for place in &volume.members {
        let known = snapshot.last_known(&place.node, &volume.id);
        let Some(replica) = known.and_then(|known| known.replica.as_ref()) else {
            continue;
        };
        pairs.extend(replica.split_brain.iter().map(|split| SplitPair {
            node: place.node.clone(),
            other: split.node.clone(),
            at: split.at_lsn,
            at_digest: split.at_digest.clone(),
            here: side(&split.here),
            there: split.there.as_ref().map(side),
        }));
    }
    pairs
}

pub(super) fn side(side: &SideStatus) -> SplitSide {
    let time = |micros: u64| (micros > 0).then(|| clock::from_unix_seconds(micros / 1_000_000));
    SplitSide {
        bytes: side.bytes,
        records: side.records,
        first: time(side.first_unix_micros),
        last: time(side.last_unix_micros),
        complete: side.complete,
    }
}
