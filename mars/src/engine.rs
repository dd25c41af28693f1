//! What does a replica do next? The one door of the engine.
//!
//! # The promise to the guest
//!
//! A plain write, discard or write-zeroes is answered once its batch is in the log file's page cache: it survives
//! `kill -9` of the daemon. With FUA it is answered once its batch is durable. FLUSH is answered once every request
//! answered before it is durable. *Durable* is what the volume's mode says (`policy.rs`): here, or here and at so many
//! replicas; in near-sync mode that may be given up after a time, but never silently. Reads see every answered write. A replica is, with disk, log and watermarks taken
//! together, always a version that the primary had. There are never two primaries that answer writes in one epoch.
//!
//! # How to read it
//!
//! This file owns the state and hands each event to the room that minds it: `log.rs` appends and commits,
//! `replay.rs` recovers and loads, `writeback.rs` brings the shadow to the disk, `follow.rs` listens to a source,
//! `ship.rs` is one, `resync.rs` copies disks, `verify.rs` and `repair.rs` compare them, `role.rs` moves the primary,
//! `grow.rs` makes the volume longer, `snapshot.rs` keeps the same version everywhere, `takeover.rs` makes one, `fence.rs` deposes one, `split.rs` finds out where histories part, `guest.rs` answers guests,
//! `switch.rs` is what operators have stopped, `promise.rs` says when a flush may be answered. After each
//! batch of events `pump` lets every room do what has become possible. The price of one owner without threads is state
//! machines by hand; the gain is that the simulator can stop the world between any two steps.

use std::collections::{BTreeMap, VecDeque};

use model::{
    Epoch, Lsn, NodeId, ReplicaState, Role, SectorCount, SectorOffset, SectorRange, SnapshotName, Tick,
    VolumeId, VolumeSize,
};

use crate::event::{Command, CommandError, CommandId, DiskError, Effect, Event, IoId, LinkId, Notice};
use crate::fence::Hails;
use crate::follow::Follow;
use crate::grow::Growth;
use crate::guest::{Checksum, Guests};
use crate::limit::{Bucket, Meter, ShipLimit};
use crate::lineage::{Position, Stretch};
use crate::log::Log;
use crate::meta::{Meta, SyncState};
use crate::policy::Policy;
use crate::repair::Repair;
use crate::replay::{Replay, Scan};
use crate::resync::Resync;
use crate::role::HandOver;
use crate::settings::Settings;
use crate::shadow::{Overlay, Shadow};
use crate::ship::{Peer, Ship};
use crate::snapshot::Snapshots;
use crate::space::Space;
use crate::split::Splits;
use crate::straight::Straight;
use crate::switch::Paused;
use crate::takeover::Proof;
use crate::track::Tracks;
use crate::verify::Verify;
use crate::watermark::Watermarks;
use crate::writeback::Round;

/// What an engine must know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which volume.
    pub volume: VolumeId,
    /// Whose replica this is.
    pub node: NodeId,
    /// The length of a new replica's volume; one that has a meta knows better.
    pub size: VolumeSize,
    /// All nodes with a replica, this one included.
    pub members: Vec<NodeId>,
    /// Memory for acknowledged writes that are not yet on the disk; past it, guests wait.
    pub shadow_bytes_max: u64,
    /// Budget of the log; see `pressure.rs` for what happens as it is used up. Less than
    /// [`LOG_BYTES_MIN`](crate::pressure::LOG_BYTES_MIN) is none: then a volume that may does without a log.
    pub log_bytes_max: u64,
}

/// How a replica that has no durable state yet comes into the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// As the first primary of a new volume, whose disk is what it is.
    Primary {
        /// Its epoch.
        epoch: Epoch,
    },
    /// As a joining secondary: needs a full sync.
    Secondary,
}

/// What the replica is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Finding the end of its log after a start.
    Scanning(Scan),
    /// Secondary: listens to a source, or looks for one.
    Following,
    /// Becoming primary: serves once its new epoch is durable and its whole log is loaded.
    Promoting {
        /// Whether the new epoch is durable.
        saved: bool,
    },
    /// Primary.
    Serving,
    /// Primary, or about to be: the end of its log did not fit. Guests wait until memory shows what is in the log.
    Retracting {
        /// Whether it served, or has still to be promoted.
        then_serve: bool,
        /// The log is being cut to what is in it.
        resetting: bool,
    },
    /// Primary no more, once that is durable; nobody is served.
    Demoting,
    /// Out of service.
    Failed {
        /// In one word.
        state: ReplicaState,
        /// Why.
        reason: String,
    },
}

/// What an outstanding disk operation is for.
#[derive(Debug)]
pub(crate) enum Io {
    GuestRead {
        tag: crate::RequestTag,
        overlay: Overlay,
    },
    GuestStatus {
        tag: crate::RequestTag,
        overlay: Overlay,
    },
    RoundWrite {
        range: SectorRange,
    },
    RoundFlush,
    ScanRead {
        bytes_max: usize,
    },
    ScanCut,
    Load {
        bytes_max: usize,
        limit: Lsn,
    },
    ShipRead {
        link: LinkId,
        at: Lsn,
    },
    OpenCheck {
        link: LinkId,
        end: Position,
        end_epoch: Epoch,
    },
    CountSide {
        link: LinkId,
    },
    CutCheck {
        to: Position,
    },
    CutDone,
    Prove {
        at: Lsn,
        bytes_max: usize,
    },
    FreshDone,
    PartialReset,
    BaseCheck {
        base: Position,
    },
    TrackRead {
        at: Lsn,
        bytes_max: usize,
    },
    TrackSave {
        peer: NodeId,
        begin: Position,
        up_to: Lsn,
    },
    TrackForgotten,
    TracksLoaded,
    StraightWrite {
        tag: crate::RequestTag,
        fua: bool,
    },
    StraightFlush {
        tags: Vec<crate::RequestTag>,
        changes: u64,
    },
    StraightEnds,
    JumpReset,
    RoomAsked,
    Retracted,
    SyncSource {
        link: LinkId,
        id: u64,
        overlay: Overlay,
        digests: Vec<u128>,
        end: Lsn,
    },
    SyncOwn {
        start: SectorOffset,
        id: u64,
    },
    SyncWrite {
        start: SectorOffset,
        id: u64,
        range: SectorRange,
    },
    SyncFlush {
        next: SectorOffset,
        term: u32,
    },
    SurveyOwn {
        survey: u64,
        range: SectorRange,
    },
    SurveySource {
        link: LinkId,
        overlay: Overlay,
    },
    Checksum {
        job: Checksum,
        overlay: Overlay,
    },
    VerifyOwn {
        at: Lsn,
        overlay: Overlay,
    },
    Barrier {
        link: LinkId,
        at: Lsn,
        overlay: Overlay,
    },
    CopyFlush {
        id: u64,
    },
    Growth {
        at: Option<Lsn>,
        to: VolumeSize,
    },
    SnapshotTaking,
    SnapshotDrop {
        name: SnapshotName,
        at: Position,
    },
}

/// What waits for a save of the meta.
#[derive(Debug)]
pub(crate) enum Then {
    Nothing,
    BeginWriting,
    Promoted,
    Granted,
    Fenced,
    CutSaved,
    Emptied,
    FreshSaved,
    FreshReady,
    Answer { id: CommandId },
    Decided { id: CommandId },
    PartialSaved,
    CopyMarked { id: u64 },
    Jumped,
    Opened,
    Grown,
    SnapshotNoted,
    SnapshotsDropping,
}

/// A save under way.
#[derive(Debug)]
struct Saving {
    generation: u64,
    then: Then,
    epoch: Epoch,
    trimmed: Lsn,
    whole: bool,
}

/// A connection and what it is for.
#[derive(Debug)]
pub(crate) struct Link {
    pub peer: NodeId,
    /// Our side of a stream we serve; `None` when the link is the one we follow.
    pub ship: Option<Ship>,
}

/// One replica of one volume.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) now: Tick,
    clock: Option<(Tick, u64)>,
    pub(crate) effects: VecDeque<Effect>,
    next_io: u64,
    pub(crate) io: BTreeMap<IoId, Io>,
    pub(crate) phase: Phase,
    /// The durable state as the next save will hold it.
    pub(crate) meta: Meta,
    saving: VecDeque<Saving>,
    /// Whether a restart would find a version here: only then may anybody count on it.
    pub(crate) whole_durably: bool,
    /// The highest epoch that a restart would remember: only of that may others be told.
    pub(crate) epoch_durable: Epoch,
    pub(crate) marks: Watermarks,
    pub(crate) log: Log,
    pub(crate) shadow: Shadow,
    pub(crate) round: Round,
    pub(crate) round_due: Option<Tick>,
    pub(crate) replay: Replay,
    pub(crate) guests: Guests,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) tracks: Tracks,
    pub(crate) straight: Straight,
    pub(crate) space: Space,
    pub(crate) growth: Growth,
    pub(crate) snapshots: Snapshots,
    /// Length of the next batch to be read for tracks, when the last read was too short for it.
    pub(crate) tracks_batch_bytes: usize,
    pub(crate) follow: Follow,
    pub(crate) hails: Hails,
    pub(crate) splits: Splits,
    pub(crate) resync: Option<Resync>,
    /// Pieces of full syncs begun so far: the name of the last.
    pub(crate) sync_pieces: u64,
    pub(crate) verify: Option<Verify>,
    /// The host lets other full syncs go first.
    pub(crate) sync_waits: bool,
    pub(crate) repair: Repair,
    pub(crate) hand_over: Option<HandOver>,
    /// A takeover whose log is looked at before anything changes.
    pub(crate) proof: Option<Proof>,
    /// Operators who wait for this replica to serve after a takeover.
    pub(crate) taking_over: Vec<CommandId>,
    pub(crate) gate_micros_max: u64,
    pub(crate) sync_copied_bytes: u64,
    pub(crate) policy: Policy,
    /// When the policy looks at the clock again.
    pub(crate) policy_due: Option<Tick>,
    /// What guests may write while the replicas are too far behind.
    pub(crate) pace: Bucket,
    /// What may be sent to replicas.
    pub(crate) ship_limit: ShipLimit,
    /// What a full sync here has settled lately.
    pub(crate) sync_meter: Meter,
}

impl Engine {
    /// A replica without history; its first effect saves its meta.
    pub fn create(now: Tick, config: Config, birth: Birth) -> Engine {
        let (role, epoch, sync) = match birth {
            Birth::Primary { epoch } => (Role::Primary, epoch, SyncState::Whole),
            Birth::Secondary => (Role::Secondary, Epoch::NONE, SyncState::Fresh),
        };
        let meta = Meta {
            generation: 0,
            volume: config.volume,
            node: config.node.clone(),
            size: config.size,
            role,
            epoch,
            written_back: Position::default(),
            touched: Lsn(0),
            committed: Position::default(),
            committed_epoch: Epoch::NONE,
            trimmed: Lsn(0),
            sync,
            faked: None,
            paused: Paused::default(),
            // Nobody could want a log yet.
            straight: role == Role::Primary && config.members.len() <= 1,
            sources: Vec::new(),
            settings: Settings::default(),
            granted: None,
            lineage: Vec::new(),
            verify: None,
            verified: Vec::new(),
            splits: BTreeMap::new(),
            snapshots: Vec::new(),
        };
        let mut engine = Engine::new(now, config, meta);
        match role {
            Role::Primary => engine.begin_promotion(epoch),
            Role::Secondary => {
                engine.phase = Phase::Following;
                engine.save(Then::Nothing);
            }
        }
        engine
    }

    /// A replica with history: begins recovery from its meta, log and disk.
    pub fn open(now: Tick, config: Config, meta: Meta) -> Engine {
        let mut engine = Engine::new(now, config, meta);
        // Who left while we were down takes its history along.
        engine.keep_splits(&engine.config.members.clone());
        engine.recover_snapshots();
        engine.start_scan();
        engine
    }

    fn new(now: Tick, config: Config, meta: Meta) -> Engine {
        let trimmed = meta.trimmed;
        let size = meta.size;
        let config = Config { size, ..config };
        let peers = config
            .members
            .iter()
            .filter(|member| **member != config.node)
            .map(|member| (member.clone(), Peer::remembered(trimmed)))
            .collect();
        Engine {
            now,
            clock: None,
            effects: VecDeque::new(),
            next_io: 0,
            io: BTreeMap::new(),
            phase: Phase::Following,
            saving: VecDeque::new(),
            epoch_durable: if meta.generation > 0 {
                meta.epoch
            } else {
                Epoch::NONE
            },
            whole_durably: meta.generation > 0 && meta.sync == SyncState::Whole,
            marks: Watermarks::recovered(
                trimmed,
                meta.written_back.lsn,
                meta.touched,
                meta.committed.lsn,
                meta.committed.lsn,
            ),
            log: Log::ending_at(meta.committed, meta.committed_epoch),
            shadow: Shadow::default(),
            round: Round::Idle,
            round_due: None,
            replay: Replay::from(meta.written_back),
            guests: Guests::default(),
            links: BTreeMap::new(),
            peers,
            tracks: Tracks::default(),
            straight: Straight::default(),
            space: Space::default(),
            growth: Growth::default(),
            snapshots: Snapshots::default(),
            tracks_batch_bytes: 0,
            follow: Follow::new(now),
            hails: Hails::default(),
            splits: Splits::default(),
            resync: None,
            sync_pieces: 0,
            verify: None,
            sync_waits: false,
            repair: Repair::default(),
            hand_over: None,
            proof: None,
            taking_over: Vec::new(),
            gate_micros_max: 0,
            sync_copied_bytes: 0,
            policy: Policy::default(),
            policy_due: None,
            pace: Bucket::default(),
            ship_limit: ShipLimit::default(),
            sync_meter: Meter::default(),
            config,
            meta,
        }
    }

    /// Forgets everything in memory and recovers from the durable state, without losing count of operations or waiting
    /// guests. Only when nothing is under way.
    pub(crate) fn restart_from_meta(&mut self) {
        assert!(self.is_quiet(), "a restart would lose operations under way");
        let fresh = Engine::new(self.now, self.config.clone(), self.meta.clone());
        self.marks = fresh.marks;
        self.log = fresh.log;
        self.shadow = fresh.shadow;
        self.round = fresh.round;
        self.round_due = None;
        self.replay = fresh.replay;
        self.space.retracted = false;
        self.resync = None;
        self.config.size = fresh.config.size;
        self.growth.forget();
        self.snapshots.forget();
        self.follow.forget_source(self.now);
        self.start_scan();
    }

    /// What a wall clock shows now, in microseconds since 1970. Told at least once before writes come; used for the time
    /// stamps of batches alone, which are for people.
    pub fn set_clock(&mut self, now: Tick, unix_micros: u64) {
        self.clock = Some((now, unix_micros));
    }

    /// What the wall clock shows, as far as we were told; 0 when we never were.
    pub(crate) fn unix_micros(&self) -> u64 {
        self.clock
            .map_or(0, |(then, unix_micros)| unix_micros + self.now.micros_since(then))
    }

    /// The world tells us.
    pub fn handle(&mut self, now: Tick, event: Event) {
        // A clock that jumps back must not make timers of the past pending again.
        self.now = self.now.max(now);
        if let Event::DiskFailed { error } = event {
            return self.fail(ReplicaState::Detached, error);
        }
        if matches!(self.phase, Phase::Failed { .. }) {
            return self.handle_failed(event);
        }
        match event {
            Event::Timer | Event::DiskFailed { .. } => {}
            Event::Guest { tag, request } => self.guest_arrived(tag, request),
            Event::LogWritten { up_to } => self.log_written(up_to),
            Event::LogFlushed { up_to } => self.log_flushed(up_to),
            Event::LogFull { at } => self.log_full(at),
            Event::LogFlushFull => self.space.unflushed = true,
            Event::MetaSaved { generation } => self.meta_saved(generation),
            Event::LinkUp { link, peer, dialled } => self.link_up(link, peer, dialled),
            Event::LinkDown { link, peer } => self.link_down(link, &peer),
            Event::Message { link, message } => self.message(link, message),
            Event::Withdrawn { tags } => self.withdraw(tags),
            Event::Heard { epoch } => self.heard_at_a_door(epoch),
            Event::SyncTurn { granted } => self.sync_turn(granted),
            Event::Command { id, command } => self.command(id, command),
            Event::LogRead { id, .. }
            | Event::LogReset { id }
            | Event::VolumeRead { id, .. }
            | Event::VolumeStatus { id, .. }
            | Event::VolumeWritten { id }
            | Event::VolumeFlushed { id }
            | Event::RoomTold { id, .. }
            | Event::VolumeGrown { id, .. }
            | Event::SnapshotTaken { id, .. }
            | Event::SnapshotDropped { id, .. }
            | Event::TrackSaved { id, .. }
            | Event::TracksLoaded { id, .. } => {
                if let Some(io) = self.io.remove(&id) {
                    self.io_done(io, event);
                }
            }
        }
    }

    fn io_done(&mut self, io: Io, event: Event) {
        match (io, event) {
            (Io::GuestRead { tag, overlay }, Event::VolumeRead { data, .. }) => {
                self.guest_read(tag, overlay, data)
            }
            (Io::GuestStatus { tag, overlay }, Event::VolumeStatus { extents, .. }) => {
                self.guest_status(tag, overlay, &extents);
            }
            (Io::RoundWrite { .. }, Event::VolumeWritten { .. }) => {}
            (Io::RoundFlush, Event::VolumeFlushed { .. }) => self.round_flushed(),
            (Io::ScanRead { bytes_max }, Event::LogRead { bytes, .. }) => self.scanned(bytes, bytes_max),
            (Io::ScanCut, Event::LogReset { .. }) => self.scan_cut(),
            (Io::Load { bytes_max, limit }, Event::LogRead { bytes, .. }) => {
                self.loaded(bytes, bytes_max, limit);
            }
            (Io::ShipRead { link, at }, Event::LogRead { bytes, .. }) => self.ship_read(link, at, bytes),
            (Io::OpenCheck { link, end, end_epoch }, Event::LogRead { bytes, .. }) => {
                self.open_checked(link, end, end_epoch, &bytes);
            }
            (Io::CountSide { link }, Event::LogRead { bytes, .. }) => self.side_read(link, &bytes),
            (Io::CutCheck { to }, Event::LogRead { bytes, .. }) => self.cut_checked(to, &bytes),
            (Io::Prove { at, bytes_max }, Event::LogRead { bytes, .. }) => {
                self.proof_read(at, bytes, bytes_max);
            }
            (Io::CutDone, Event::LogReset { .. }) => self.cut_done(),
            (Io::FreshDone, Event::LogReset { .. }) => self.fresh_reset(),
            (Io::PartialReset, Event::LogReset { .. }) => self.fresh_ready(),
            (Io::BaseCheck { base }, Event::LogRead { bytes, .. }) => self.base_checked(base, &bytes),
            (Io::TrackRead { at, bytes_max }, Event::LogRead { bytes, .. }) => {
                self.track_read(at, bytes, bytes_max);
            }
            (Io::TrackSave { peer, begin, up_to }, Event::TrackSaved { kept, .. }) => {
                self.track_saved(&peer, begin, up_to, kept);
            }
            (Io::StraightWrite { tag, fua }, Event::VolumeWritten { .. }) => self.straight_written(tag, fua),
            (Io::StraightFlush { tags, changes }, Event::VolumeFlushed { .. }) => {
                self.straight_flushed(tags, changes);
            }
            (Io::StraightEnds, Event::VolumeFlushed { .. }) => self.straight_ended(),
            (Io::JumpReset, Event::LogReset { .. }) => self.log_dropped(),
            (Io::RoomAsked, Event::RoomTold { there_is, .. }) => self.room_told(there_is),
            (Io::Retracted, Event::LogReset { .. }) => self.log_retracted(),
            (Io::TrackForgotten, Event::TrackSaved { kept, .. }) => self.track_forgotten(kept),
            (Io::TracksLoaded, Event::TracksLoaded { tracks, .. }) => self.tracks_loaded(tracks),
            (
                Io::SyncSource {
                    link,
                    id,
                    overlay,
                    digests,
                    end,
                },
                Event::VolumeRead { data, .. },
            ) => {
                let range = overlay.range();
                self.sync_source_read(link, id, overlay.compose(data), digests, end, range);
            }
            (Io::SyncOwn { start, id }, Event::VolumeRead { data, .. }) => {
                self.sync_own_read(start, id, data)
            }
            (Io::SyncWrite { start, id, .. }, Event::VolumeWritten { .. }) => self.sync_written(start, id),
            (Io::SyncFlush { next, term }, Event::VolumeFlushed { .. }) => self.sync_flushed(next, term),
            (Io::SurveyOwn { survey, range }, Event::VolumeStatus { extents, .. }) => {
                self.own_surveyed(survey, range, &extents);
            }
            (Io::SurveySource { link, overlay }, Event::VolumeStatus { extents, .. }) => {
                self.source_surveyed(link, overlay, &extents);
            }
            (Io::Checksum { job, overlay }, Event::VolumeRead { data, .. }) => {
                self.checksum_read(job, overlay.compose(data));
            }
            (Io::VerifyOwn { at, overlay }, Event::VolumeRead { data, .. }) => {
                self.verify_own_read(at, overlay, data);
            }
            (Io::Barrier { link, at, overlay }, Event::VolumeRead { data, .. }) => {
                self.barrier_read(link, at, overlay, data);
            }
            (Io::CopyFlush { id }, Event::VolumeFlushed { .. }) => self.copy_flushed(id),
            (Io::Growth { at, to }, Event::VolumeGrown { result, .. }) => self.disk_grew(at, to, result),
            (Io::SnapshotTaking, Event::SnapshotTaken { result, .. }) => self.snapshot_taken(result),
            (Io::SnapshotDrop { name, at }, Event::SnapshotDropped { result, .. }) => {
                self.snapshot_dropped(name, at, result);
            }
            (io, event) => panic!("the driver answered {io:?} with {event:?}"),
        }
    }

    /// We ask the world; call until `None` after each batch of events.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.pump();
        }
        self.effects.pop_front()
    }

    /// Lets every room do what has become possible. The order follows the data: what is freed first lets in what waits.
    fn pump(&mut self) {
        if matches!(self.phase, Phase::Failed { .. }) {
            return;
        }
        self.pump_growth();
        self.pump_load();
        self.pump_retract();
        self.pump_promotion();
        self.pump_space();
        self.pump_straight();
        self.pump_policy();
        self.pump_guests();
        self.pump_hand_over();
        self.pump_verify();
        self.pump_snapshots();
        self.pump_round();
        self.pump_log();
        self.pump_tracks();
        self.pump_horizon();
        self.pump_follow();
        self.pump_hails();
        self.pump_resync();
        self.pump_repair();
        self.pump_relay();
        self.pump_ship();
        self.pump_ack();
        self.pump_splits();
    }

    /// When we want [`Event::Timer`] at the latest.
    pub fn poll_timeout(&self) -> Option<Tick> {
        if matches!(self.phase, Phase::Failed { .. }) {
            return None;
        }
        [
            self.log.flush_due,
            self.round_due,
            self.follow_due(),
            self.ship_due(),
            self.hand_over_due(),
            self.resync_due(),
            self.policy_due,
            self.pace_due(),
            self.verify_due(),
            self.hail_due(),
            self.straight_due(),
            self.space_due(),
            self.growth_due(),
            self.splits_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A new disk operation's name, remembered with its purpose.
    pub(crate) fn io(&mut self, io: Io) -> IoId {
        let id = IoId(self.next_io);
        self.next_io += 1;
        self.io.insert(id, io);
        id
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Notice(Box::new(notice)));
    }

    /// Makes the state as it is now durable, then goes on.
    pub(crate) fn save(&mut self, then: Then) {
        self.meta.generation += 1;
        let meta = self.meta.clone();
        self.saving.push_back(Saving {
            generation: meta.generation,
            then,
            epoch: meta.epoch,
            trimmed: meta.trimmed,
            whole: meta.sync == SyncState::Whole,
        });
        self.effects.push_back(Effect::SaveMeta {
            generation: meta.generation,
            meta: Box::new(meta),
        });
    }

    /// The log begins anew: what saves under way say of the one before it holds no more.
    pub(crate) fn forget_trims(&mut self) {
        for saving in &mut self.saving {
            saving.trimmed = Lsn(0);
        }
    }

    pub(crate) fn is_saving(&self) -> bool {
        !self.saving.is_empty()
    }

    fn meta_saved(&mut self, generation: u64) {
        while let Some(saved) = self.saving.front()
            && saved.generation <= generation
        {
            let saved = self.saving.pop_front().expect("just seen");
            if saved.trimmed > self.marks.trimmed() {
                self.marks.trim(saved.trimmed);
                self.effects.push_back(Effect::TrimLog { up_to: saved.trimmed });
            }
            self.whole_durably = saved.whole;
            self.epoch_durable = saved.epoch;
            match saved.then {
                Then::Nothing => {}
                Then::BeginWriting => self.begin_writing(),
                Then::Promoted => self.promotion_saved(),
                Then::Granted => self.demotion_saved(),
                Then::Fenced => self.fenced_saved(),
                Then::CutSaved => self.cut_saved(),
                Then::Emptied => self.emptied(),
                Then::FreshSaved => self.fresh_saved(),
                Then::FreshReady => self.fresh_ready(),
                Then::Answer { id } => self.answer(id, Ok(crate::Answer::Done)),
                Then::Decided { id } => self.decided(id),
                Then::PartialSaved => self.partial_saved(),
                Then::CopyMarked { id } => self.copy_marked(id),
                Then::Jumped => self.jumped(),
                Then::Opened => self.log_opened(),
                Then::Grown => self.grown_straight(),
                Then::SnapshotNoted => self.snapshot_noted(),
                Then::SnapshotsDropping => self.drop_snapshots(),
            }
        }
    }

    /// Whether nothing is under way that a restart would lose.
    pub(crate) fn is_quiet(&self) -> bool {
        self.log.is_quiet()
            && matches!(self.round, Round::Idle)
            && self.saving.is_empty()
            && !self.io.values().any(|io| {
                !matches!(
                    io,
                    Io::GuestRead { .. } | Io::GuestStatus { .. } | Io::Checksum { .. }
                )
            })
    }

    fn command(&mut self, id: CommandId, command: Command) {
        match command {
            Command::SetMembers { members } => self.set_members(id, members),
            Command::HandOver { to, gate_micros_max } => self.start_hand_over(id, to, gate_micros_max),
            Command::TakeOver { epoch } => self.start_take_over(id, epoch),
            Command::Secondary => self.start_step_down(id),
            Command::Checksum => self.start_checksum(id),
            Command::SetLimits { limits } => self.set_limits(id, limits),
            Command::SetSources { sources } => self.set_sources(id, sources),
            Command::SetLogBudget { bytes } => self.set_log_budget(id, bytes),
            Command::Switch { switch, paused } => self.set_switch(id, switch, paused),
            Command::FakeSync => self.fake_sync(id),
            Command::SetMode { mode, max_lag } => self.set_mode(id, mode, max_lag),
            Command::SetCompression { compressed } => self.set_compression(id, compressed),
            Command::Verify {
                repair,
                bytes_per_second_max,
                unix_seconds,
            } => self.start_verify(id, repair, bytes_per_second_max, unix_seconds),
            Command::VerifyCancel => self.cancel_verify(id),
            Command::TrimLog => self.trim_now(id),
            Command::Grow { to } => self.start_grow(id, to),
            Command::Snapshot { name } => self.start_snapshot(id, name),
            Command::DropSnapshot { name, at } => self.drop_snapshot(id, name, at),
        }
    }

    pub(crate) fn answer(&mut self, id: CommandId, result: Result<crate::Answer, CommandError>) {
        self.effects.push_back(Effect::Answer { id, result });
    }

    /// Takes the replica out of service; only a restart brings it back.
    pub(crate) fn fail(&mut self, state: ReplicaState, error: DiskError) {
        if matches!(self.phase, Phase::Failed { .. }) {
            return;
        }
        let reason = error.to_string();
        for link in std::mem::take(&mut self.links).into_keys() {
            self.effects.push_back(Effect::Close { link });
        }
        self.stop_hails();
        self.follow.forget_source(self.now);
        if let Some(hand_over) = self.hand_over.take() {
            self.answer(
                hand_over.id,
                Err(CommandError::NotInService {
                    reason: reason.clone(),
                }),
            );
        }
        self.fail_take_overs(state == ReplicaState::DefectiveLog, &reason);
        let growing = self.growth.take_asked();
        for id in growing.into_iter().chain(self.snapshots.take_waiting()) {
            let reason = reason.clone();
            self.answer(id, Err(CommandError::NotInService { reason }));
        }
        for saving in std::mem::take(&mut self.saving) {
            if let Then::Answer { id } | Then::Decided { id } = saving.then {
                let reason = reason.clone();
                self.answer(id, Err(CommandError::NotInService { reason }));
            }
        }
        self.fail_guests(&error);
        match state {
            ReplicaState::DefectiveLog => {}
            _ => self.notice(Notice::Failed { error }),
        }
        self.phase = Phase::Failed { state, reason };
    }

    fn handle_failed(&mut self, event: Event) {
        let Phase::Failed { state, reason } = &self.phase else {
            return;
        };
        let (state, reason) = (*state, reason.clone());
        match event {
            Event::Guest { tag, .. } => {
                let error = DiskError {
                    operation: format!("replica on {}", self.config.node),
                    reason,
                };
                let result = Err(self.out_of_service(error));
                self.effects.push_back(Effect::Complete { tag, result });
            }
            Event::Command { id, command } => match command {
                Command::SetMembers { members } => self.set_members(id, members),
                // A replica that failed writes nothing until it is started again, and then it is asked again.
                Command::Secondary if self.meta.role == Role::Secondary => {
                    self.answer(id, Ok(crate::Answer::Done));
                }
                Command::TakeOver { epoch } => {
                    let damaged = state == ReplicaState::DefectiveLog;
                    let refusal = self.refusal_of_failed_take_over(epoch, damaged, &reason);
                    self.answer(id, Err(refusal));
                }
                _ => self.answer(id, Err(CommandError::NotInService { reason })),
            },
            Event::LinkUp { link, .. } => self.effects.push_back(Effect::Close { link }),
            _ => {}
        }
    }

    /// The volume as a count of sectors.
    pub(crate) fn sectors(&self) -> SectorCount {
        self.config.size.sectors()
    }

    /// Appends to the lineage what a batch's epoch record says.
    pub(crate) fn note_stretch(&mut self, stretch: Stretch) {
        self.meta.lineage.push(stretch);
        if self.meta.lineage.len() > crate::meta::LINEAGE_MAX {
            self.meta.lineage.remove(0);
        }
    }
}
