//! How does a replica stand? Figures for people and planners.

use std::collections::BTreeMap;

use model::{Epoch, Lsn, NodeId, ReplicaState, Role, SectorCount, SectorOffset, Tick, VolumeSize};

use crate::engine::{Engine, Phase};
use crate::lineage::{Position, Stretch};
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::pressure::{Level, Reason};
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::split::SplitBrain;
use crate::switch::Paused;
use crate::verify::{Verified, VerifyRun};
use crate::watermark::Watermarks;

/// One replica as it sees itself and, as primary, its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// In one word.
    pub state: ReplicaState,
    /// Why, when the state needs a reason.
    pub reason: Option<String>,
    /// Own epoch as primary, else the highest heard of.
    pub epoch: Epoch,
    /// Where the primary is thought to be (this node itself, when it is).
    pub primary: Option<NodeId>,
    /// Whether guests are served here.
    pub serving: bool,
    /// Whether contents change without a log, or have lately: then no position says which version this is.
    pub straight: bool,
    /// The volume's length, as far as its log is loaded.
    pub size: VolumeSize,
    /// Positions in the log.
    pub watermarks: Watermarks,
    /// End of the log and its digest.
    pub tip: Position,
    /// Who wrote what.
    pub lineage: Vec<Stretch>,
    /// Sectors settled by a running full sync; the volume's length when whole.
    pub synced: SectorOffset,
    /// Bytes that differed in the running or last full sync.
    pub sync_copied_bytes: u64,
    /// Log kept, in bytes.
    pub log_bytes: u64,
    /// Its budget.
    pub log_bytes_max: u64,
    /// For whom its oldest part is kept.
    pub log_held_by: Reason,
    /// How much trouble the room for the log gives.
    pub pressure: Level,
    /// Since so many microseconds; since the start, while it is none.
    pub pressure_micros: u64,
    /// As primary: since how many microseconds changes go straight to the disk, or are about to, for lack of room for a log.
    pub unlogged_micros: Option<u64>,
    /// Bytes in memory that are not yet on the disk.
    pub shadow_bytes: u64,
    /// Guest requests waiting for memory or at the gate.
    pub waiting_requests: u64,
    /// Longest wait at the gate of a hand-over so far, in microseconds.
    pub gate_micros_max: u64,
    /// Through whom the log comes, the primary first; empty without a stream.
    pub path: Vec<NodeId>,
    /// From whom an operator would have it get its log rather than from the primary, best first.
    pub sources: Vec<NodeId>,
    /// What an operator has stopped here.
    pub paused: Paused,
    /// Whether only an operator's word says that it is whole.
    pub faked: bool,
    /// What an operator has decided for the volume.
    pub settings: Settings,
    /// As primary: since how many microseconds too few replicas keep up with the mode (near-sync is degraded, sync waits).
    pub short_micros: Option<u64>,
    /// As primary: since how many microseconds the replicas are further behind than allowed.
    pub late_micros: Option<u64>,
    /// As primary: what guests may write now because of that, in bytes per second.
    pub pace_bytes_per_second: Option<u64>,
    /// When this replica was last found equal to the others.
    pub verified: Option<Verified>,
    /// As primary: the comparison under way, or the last one.
    pub verify: Option<VerifyRun>,
    /// What a full sync here settles lately, in bytes per second; sectors that are equal count too.
    pub sync_bytes_per_second: u64,
    /// When it will have settled everything at that rate, in microseconds from now; `None` when nothing is being settled.
    pub sync_micros_left: Option<u64>,
    /// What was to be kept here, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// As primary: the other members.
    pub peers: Vec<PeerStatus>,
    /// Members whose histories have parted from this one, each with what is on both sides.
    pub split_brain: BTreeMap<NodeId, SplitBrain>,
}

/// Where guests are served, as this replica knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where the primary is thought to be (this node itself, when it is).
    pub primary: Option<NodeId>,
    /// Own epoch as primary, else the highest heard of.
    pub epoch: Epoch,
    /// The highest epoch that somebody durably knows of, as far as it was heard of here: what doors and hails are told.
    pub known: Epoch,
    /// Whether guests are served here.
    pub serving: bool,
    /// Whether a full sync would go on here if its turn came.
    pub wants_sync: bool,
}

/// A peer as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// In one word.
    pub state: ReplicaState,
    /// Log handed to its link.
    pub sent: Lsn,
    /// Durable in its log.
    pub peer_committed: Lsn,
    /// On its disk.
    pub peer_replayed: Lsn,
    /// Log it does not have durably.
    pub lag_bytes: u64,
    /// Age of the oldest write it does not have durably, in microseconds; 0 when it has all.
    pub lag_micros: u64,
    /// Sectors settled by its full sync; the volume's length when whole.
    pub synced: SectorOffset,
    /// The volume's length as far as its log is loaded there; unknown until it has said so.
    pub size: Option<VolumeSize>,
    /// Its log was given up: so many sectors will be compared when it comes back.
    pub dirty: Option<SectorCount>,
    /// When it was last found equal to the others.
    pub verified: Option<Verified>,
    /// What an operator has stopped there.
    pub paused: Paused,
    /// Who sends it our log, when we do not.
    pub via: Option<NodeId>,
    /// Log that it takes in lately.
    pub ship_bytes_per_second: u64,
}

/// A replica that was behind for less than this is up to date: under load some bytes are always on their way.
const UPTODATE_MICROS: u64 = 1_000_000;

impl Engine {
    /// How we stand.
    pub fn status(&self, now: Tick) -> Status {
        let now = self.now.max(now);
        let (state, reason) = self.state();
        let reason = match state {
            ReplicaState::DefectiveLog | ReplicaState::SplitBrain => reason,
            _ => self.growth.trouble().or(reason).or_else(|| self.log_trouble()),
        };
        let syncing = self.resync.is_some();
        let sync_bytes_per_second = if syncing {
            self.sync_meter.per_second(now)
        } else {
            0
        };
        let since = |then: Option<Tick>| then.map(|then| now.micros_since(then));
        let peers = if self.meta.role == Role::Primary {
            self.peers
                .iter()
                .map(|(node, peer)| self.peer_status(now, node, peer))
                .collect()
        } else {
            Vec::new()
        };
        Status {
            role: self.meta.role,
            state,
            reason,
            epoch: self.meta.epoch,
            primary: self.primary_hint(),
            serving: matches!(self.phase, Phase::Serving),
            straight: self.meta.straight,
            size: self.config.size,
            watermarks: self.marks,
            tip: self.log.appended,
            lineage: self.meta.lineage.clone(),
            synced: self.synced(),
            sync_copied_bytes: self.sync_copied_bytes,
            log_bytes: self.log_bytes(),
            log_bytes_max: self.config.log_bytes_max,
            log_held_by: self.horizon().reason,
            pressure: self.space.level,
            pressure_micros: now.micros_since(self.space.since),
            unlogged_micros: since(self.unlogged_since()),
            shadow_bytes: self.shadow.bytes(),
            waiting_requests: self.guests.waiting.len() as u64,
            gate_micros_max: self.gate_micros_max,
            path: self.follow.path.clone(),
            sources: self.meta.sources.clone(),
            paused: self.meta.paused,
            faked: self.meta.faked.is_some(),
            settings: self.meta.settings,
            short_micros: since(self.policy.short_since),
            late_micros: since(self.policy.late_since),
            pace_bytes_per_second: self.pace.per_second(),
            sync_bytes_per_second,
            sync_micros_left: self.sync_micros_left(sync_bytes_per_second),
            verified: self.last_verified(&self.config.node),
            verify: (self.meta.role == Role::Primary)
                .then(|| self.meta.verify.clone())
                .flatten(),
            snapshots: self.meta.snapshots.clone(),
            peers,
            split_brain: self.meta.splits.clone(),
        }
    }

    fn sync_micros_left(&self, bytes_per_second: u64) -> Option<u64> {
        let left = SectorCount(self.sectors().0.saturating_sub(self.synced().0)).bytes();
        let micros = u128::from(left) * 1_000_000 / u128::from(bytes_per_second.max(1));
        (bytes_per_second > 0).then(|| u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The part of the status that doors live by: cheap enough to be asked after every batch of events.
    pub fn standing(&self) -> Standing {
        Standing {
            primary: self.primary_hint(),
            epoch: self.meta.epoch,
            known: self.epoch_known(),
            serving: matches!(self.phase, Phase::Serving),
            wants_sync: matches!(self.phase, Phase::Following) && self.wants_sync(),
        }
    }

    /// What is wrong with the log that takes no service away, as long as that part of it is kept.
    fn log_trouble(&self) -> Option<String> {
        let (at, reason) = self.log.damage.as_ref()?;
        let kept = *at >= self.meta.trimmed;
        kept.then(|| {
            format!("its log is damaged at {at} ({reason}); replicas that lack what is there copy contents instead")
        })
    }

    /// The volume's length, as far as the log is loaded.
    pub fn size(&self) -> VolumeSize {
        self.config.size
    }

    /// How far log and disk are.
    pub fn watermarks(&self) -> Watermarks {
        self.marks
    }

    /// Where the log ends.
    pub fn tip(&self) -> Position {
        self.log.appended
    }

    /// What was decided for the volume, as far as known here.
    pub fn settings(&self) -> Settings {
        self.meta.settings
    }

    /// Our epoch while our role is primary, whether we serve yet or not: what a guest's request is checked against.
    pub fn primary_in(&self) -> Option<Epoch> {
        (self.meta.role == Role::Primary).then_some(self.meta.epoch)
    }

    fn state(&self) -> (ReplicaState, Option<String>) {
        let because = |text: &str| Some(text.to_owned());
        match &self.phase {
            Phase::Failed { state, reason } => (*state, Some(reason.clone())),
            Phase::Scanning(_) => (ReplicaState::Detached, because("recovering: reading its log")),
            Phase::Promoting { .. } => (ReplicaState::Detached, because("recovering: applying its log")),
            Phase::Retracting { .. } => (
                ReplicaState::Detached,
                because("the end of its log did not fit: applying what is there"),
            ),
            _ if !self.meta.splits.is_empty() => {
                let peers: Vec<String> = self.meta.splits.keys().map(ToString::to_string).collect();
                let reason = format!("its history and that of {} have parted", peers.join(" and "));
                (ReplicaState::SplitBrain, Some(reason))
            }
            Phase::Demoting => (
                ReplicaState::Unreachable,
                because("it is primary no more and has no source yet"),
            ),
            Phase::Serving => (ReplicaState::Uptodate, None),
            Phase::Following => match (self.follow.source(), self.meta.sync) {
                (source, sync) if self.meta.paused.holding(sync == SyncState::Whole).any() => {
                    let mut reason = format!(
                        "an operator has paused its {}; `poolctl volume resume` lets it go on",
                        self.meta.paused.holding(sync == SyncState::Whole)
                    );
                    if self.follow.outlived {
                        reason += " with a full sync, because nobody has the log any more that it needs";
                    } else if source.is_none() {
                        reason += " once it has a source";
                    }
                    (ReplicaState::Paused, Some(reason))
                }
                (Some(_), _) if self.has_no_room() => (
                    ReplicaState::Paused,
                    because("there is no room for its log; it goes on by itself when there is"),
                ),
                (Some(_), SyncState::Whole) => {
                    let known = self.follow.primary_committed;
                    let caught_up = known > model::Lsn(0)
                        && self.marks.committed() >= known
                        && self.growth.trouble().is_none();
                    (
                        if caught_up {
                            ReplicaState::Uptodate
                        } else {
                            ReplicaState::Behind
                        },
                        None,
                    )
                }
                (Some(_), _) if self.sync_waits => (
                    ReplicaState::Inconsistent,
                    because("its full sync waits for its turn: its host runs only so many at a time"),
                ),
                (Some(_), _) => (ReplicaState::Syncing, None),
                (None, SyncState::Whole) if self.has_stepped_down() => (
                    ReplicaState::Unreachable,
                    because(
                        "it stepped down and no member is primary; take over here or on another that has all of it",
                    ),
                ),
                (None, SyncState::Whole) if museum::is(Mutant::UptodateUnseen) => {
                    (ReplicaState::Uptodate, None)
                }
                (None, SyncState::Whole) => (ReplicaState::Unreachable, because("it has no source")),
                (None, _) => (
                    ReplicaState::Inconsistent,
                    because("its full sync waits for a source"),
                ),
            },
        }
    }

    fn last_verified(&self, node: &NodeId) -> Option<Verified> {
        let known = self.meta.verified.iter().find(|(known, _)| known == node);
        known.map(|(_, verified)| *verified)
    }

    fn peer_status(&self, now: Tick, node: &NodeId, peer: &crate::ship::Peer) -> PeerStatus {
        let sent = self.sent_to(peer);
        let lag_bytes = self.marks.appended().since(peer.committed);
        let lag_micros = self.lag_micros(now, peer.committed);
        let is_as_long = peer.size.is_none_or(|size| size >= self.config.size);
        let via = peer
            .via
            .and_then(|link| self.links.get(&link))
            .map(|link| link.peer.clone());
        let heard_of = sent.or(via.as_ref().map(|_| peer.appended));
        let state = match heard_of {
            _ if self.meta.splits.contains_key(node) => ReplicaState::SplitBrain,
            None => ReplicaState::Unreachable,
            Some(_) if peer.paused.holding(peer.whole).any() => ReplicaState::Paused,
            Some(_) if !peer.whole => ReplicaState::Syncing,
            Some(_) if lag_micros <= UPTODATE_MICROS && is_as_long => ReplicaState::Uptodate,
            Some(_) => ReplicaState::Behind,
        };
        PeerStatus {
            node: node.clone(),
            state,
            sent: sent.unwrap_or(peer.appended),
            peer_committed: peer.committed,
            peer_replayed: peer.replayed,
            lag_bytes,
            lag_micros,
            synced: peer.synced,
            size: peer.size,
            dirty: self.tracks.get(node).map(|track| track.map.dirty()),
            verified: self.last_verified(node),
            paused: peer.paused,
            via,
            ship_bytes_per_second: peer.drain.per_second(now),
        }
    }
}
