//! What can happen to an engine, and what can it ask for? Two closed enums.
//!
//! The driver (marsd, or the simulator) applies events one at a time with [`crate::Engine::handle`], then takes
//! every effect from [`crate::Engine::poll_effect`] and performs them. Effects on the same thing (log, volume,
//! meta, one link) take effect in the order in which they were taken; their answers come back as events, in any order
//! unless said otherwise.

use bytes::Bytes;
use model::{Epoch, Lsn, Mode, NodeId, SectorCount, SectorRange, SnapshotName, VolumeSize};

use crate::lineage::Position;
use crate::message::Message;
use crate::meta::Meta;
use crate::pressure::Level;
use crate::settings::{Limits, MaxLag};
use crate::snapshot::SnapshotState;
use crate::split::SplitBrain;
use crate::switch::Switch;
use crate::verify::VerifyRun;

/// Names one guest request from acceptance to answer; chosen by the driver, unique while the request is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestTag(pub u64);

/// Names one disk operation from effect to answer; chosen by the engine, unique for its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// Names one connection to a peer for this volume; chosen by the driver, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names one command from an operator until it is answered; chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// What a guest asks of a volume. Ranges are in bounds and data has the range's length: the door checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// Read the range; answered by [`Reply::Data`].
    Read {
        /// What to read.
        range: SectorRange,
    },
    /// Write the range.
    Write {
        /// Where to write.
        range: SectorRange,
        /// Exactly `range.len_bytes()` bytes.
        data: Bytes,
        /// Answer only once durable.
        fua: bool,
    },
    /// Answer once everything answered before is durable.
    Flush,
    /// The guest no longer needs the range; it reads as zeroes afterwards, the same on every replica.
    Discard {
        /// What to forget.
        range: SectorRange,
        /// Answer only once durable.
        fua: bool,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// What to clear.
        range: SectorRange,
        /// Answer only once durable.
        fua: bool,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// Which parts hold data? Answered by [`Reply::Extents`].
    BlockStatus {
        /// What to describe.
        range: SectorRange,
    },
}

impl GuestRequest {
    /// The sectors concerned; `None` for a flush.
    pub fn range(&self) -> Option<SectorRange> {
        match self {
            GuestRequest::Read { range }
            | GuestRequest::Write { range, .. }
            | GuestRequest::Discard { range, .. }
            | GuestRequest::WriteZeroes { range, .. }
            | GuestRequest::BlockStatus { range } => Some(*range),
            GuestRequest::Flush => None,
        }
    }
}

/// The good answer to a guest request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Written, flushed, discarded, cleared.
    Done,
    /// What was read.
    Data(Bytes),
    /// The range asked for, in order and without gaps.
    Extents(Vec<BlockExtent>),
}

/// One stretch of a block status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockExtent {
    /// Which sectors.
    pub range: SectorRange,
    /// Whether they may hold data; else they read as zeroes and take no space.
    pub data: bool,
}

/// The bad answer to a guest request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// This replica is not the primary (any more); nothing was done. Doors send the request on instead of failing.
    #[error("this replica is not the primary")]
    NotPrimary {
        /// Where the primary is thought to be.
        hint: Option<NodeId>,
        /// The epoch granted to `hint` by this replica itself when it was primary: nothing is lost in between.
        granted: Option<Epoch>,
    },
    /// The range is not on the volume.
    #[error("request beyond the end of the volume")]
    OutOfBounds,
    /// The disk or log below failed.
    #[error("{0}")]
    Disk(DiskError),
}

/// A disk operation that failed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {reason}")]
pub struct DiskError {
    /// What was attempted, on which file.
    pub operation: String,
    /// What the system said.
    pub reason: String,
}

/// Contents of a range of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeData {
    /// Every byte is zero (and, when read from a disk, known to be without reading).
    Zeroes,
    /// As many bytes as the range has.
    Data(Bytes),
}

/// What an operator asks of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The volume's members are these now (this node included unless it is leaving).
    SetMembers {
        /// All nodes with a replica.
        members: Vec<NodeId>,
    },
    /// Give the primary role to `to`; answered when granted, or refused with the reason and nothing changed.
    HandOver {
        /// A whole, connected replica.
        to: NodeId,
        /// How long guests may wait at the gate before the hand-over is given up.
        gate_micros_max: u64,
    },
    /// Become primary although nobody grants it; what other members have and this one has not is lost to the guests. Answered
    /// by [`Answer::TookOver`] once guests are served.
    TakeOver {
        /// [`Epoch::next_takeover`] of everything known, given out once only; must be above all that was heard of here.
        epoch: Epoch,
    },
    /// Step down without a successor: guests are served nowhere until a replica takes over, this one or another.
    Secondary,
    /// Digest the whole logical contents; answered by [`Answer::Checksum`].
    Checksum,
    /// Get the log from these members rather than from the primary, best first, as far as they have a source and can be reached;
    /// durable when answered.
    SetSources {
        /// Other members; none: from the primary.
        sources: Vec<NodeId>,
    },
    /// Stop something at this replica, or let it go on; durable when answered.
    Switch {
        /// What.
        switch: Switch,
        /// Whether it stops.
        paused: bool,
    },
    /// Declare this replica whole although its full sync is not finished: its operator knows that the disk is right. Shown
    /// in the status until a full sync or a full verify has said so too.
    FakeSync,
    /// From now on flushes are answered by this mode, and this lag is alarming. Of the primary; durable when answered, and
    /// told to the replicas. A flush that waits already is judged by the new mode.
    SetMode {
        /// When a flush is answered.
        mode: Mode,
        /// When a lag is alarming.
        max_lag: MaxLag,
    },
    /// From now on the volume takes no more of the network than this. Of the primary; durable when answered, and told to
    /// the replicas.
    SetLimits {
        /// All of them.
        limits: Limits,
    },
    /// From now on the log of this replica has this budget. Not durable: whoever starts the replica says it again.
    SetLogBudget {
        /// As [`Config::log_bytes_max`](crate::Config::log_bytes_max).
        bytes: u64,
    },
    /// From now on batches are compressed, or not. Of the primary; durable when answered, and told to the replicas.
    SetCompression {
        /// Whether.
        compressed: bool,
    },
    /// Compare all replicas while guests write; answered once that is durably begun, [`Status`](crate::Status) tells how
    /// it goes. While a run is under way, it only takes the new settings.
    Verify {
        /// Copy what differs from the primary.
        repair: bool,
        /// Bytes to compare in a second at most; 0: as fast as it goes.
        bytes_per_second_max: u64,
        /// The wall clock now, in seconds since 1970.
        unix_seconds: u64,
    },
    /// End the comparison, if one is under way.
    VerifyCancel,
    /// Give up what nobody needs of the log, now; else this is put off until there is more of it. Durable when answered.
    TrimLog,
    /// Make the volume longer while guests use it; of the primary. Answered once guests may use the new part, which reads as
    /// zeroes; refused when it would be shorter, or when the disk here cannot grow. Replicas follow by themselves.
    Grow {
        /// How long it is to be.
        to: VolumeSize,
    },
    /// Keep this version on every replica; of the primary. Answered by [`Answer::Snapshot`] once the record is durable in the log, at the
    /// latest when the disk has it; [`Status`](crate::Status) tells what becomes of it. A name that is known already is not taken again.
    Snapshot {
        /// What it is called.
        name: SnapshotName,
    },
    /// Give up what this replica keeps of a version; durable when answered. The others are told the same.
    DropSnapshot {
        /// What it is called.
        name: SnapshotName,
        /// Which version that is.
        at: Position,
    },
}

/// The good answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or already so.
    Done,
    /// The role was granted; guests waited this long on this side.
    HandedOver {
        /// The epoch of the new primary.
        epoch: Epoch,
        /// From closing the gate to granting the role.
        gate_micros: u64,
    },
    /// This replica is primary now.
    TookOver {
        /// Its epoch.
        epoch: Epoch,
        /// Where its history goes on: what any other member has behind this is not part of it.
        from: Position,
    },
    /// The digest of the volume's contents, from reads between two log positions.
    Checksum {
        /// xxh3-128 over all sectors.
        digest: u128,
        /// Log position when the first sector was read.
        from: Lsn,
        /// Log position when the last sector was read; equal to `from` when nothing was written meanwhile.
        to: Lsn,
    },
    /// This version is kept by everyone who comes to it.
    Snapshot {
        /// Which.
        at: Position,
    },
}

/// The bad answer to a command; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Only the primary can do this.
    #[error("this replica is not the primary")]
    NotPrimary,
    /// The node named has no replica.
    #[error("{node} has no replica of this volume")]
    NotMember {
        /// Who.
        node: NodeId,
    },
    /// The node named may not become primary now.
    #[error("{node} cannot become primary: {reason}")]
    NotReady {
        /// Who.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// Another such command is under way.
    #[error("a hand-over is already under way")]
    Busy,
    /// It is growing already, to another length.
    #[error("the volume is growing to {} bytes; ask again when it has", to.bytes())]
    Growing {
        /// To which.
        to: VolumeSize,
    },
    /// A takeover must be in an epoch that nobody can have had.
    #[error("{epoch} is not the first epoch of a takeover after {heard}, which this replica has heard of")]
    OldEpoch {
        /// What was asked for.
        epoch: Epoch,
        /// Highest epoch heard of here.
        heard: Epoch,
    },
    /// While it was under way, this replica heard of a newer primary.
    #[error("there is a newer primary, in epoch {epoch}")]
    Superseded {
        /// Whose epoch it is.
        epoch: Epoch,
    },
    /// It took too long; everything is as before.
    #[error("{node} did not catch up in time; the primary stays where it is")]
    TimedOut {
        /// Who.
        node: NodeId,
    },
    /// What is asked for can never be.
    #[error("{reason}")]
    Unfit {
        /// Why, and what can.
        reason: String,
    },
    /// What is asked for cannot be as things stand.
    #[error("{reason}")]
    Refused {
        /// Why, and what would have to change.
        reason: String,
    },
    /// The disk could not.
    #[error("{reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
    /// The engine is recovering or has failed.
    #[error("the replica is not in service: {reason}")]
    NotInService {
        /// Why.
        reason: String,
    },
    /// The disk failed while a takeover was being made durable: only a restart shows whether it is.
    #[error("whether this replica has taken over shows when it is back in service: {reason}")]
    Undecided {
        /// What failed.
        reason: String,
    },
}

/// Everything that can happen to an engine.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed; send one when [`crate::Engine::poll_timeout`] is reached.
    Timer,
    /// A guest asks; will be answered by [`Effect::Complete`] with the same tag.
    Guest {
        /// Names the request.
        tag: RequestTag,
        /// What is asked.
        request: GuestRequest,
    },
    /// Every log append up to here has reached the page cache (it survives the process, not the power).
    LogWritten {
        /// End of the appended bytes.
        up_to: Lsn,
    },
    /// Every log append up to here is durable.
    LogFlushed {
        /// End of the durable bytes.
        up_to: Lsn,
    },
    /// A flush found no room, as file systems may that give room out late. The driver keeps in memory what is not durable, and writes and
    /// flushes it again until it is; the flush is answered then, and nothing that was told is taken back.
    LogFlushFull,
    /// The append at `at` did not fit, and nothing of it is there any more; whatever was appended behind it is dropped, and flushes
    /// of that are not answered, until the log is reset. Appends before it were answered before.
    LogFull {
        /// Of the append; end of the log.
        at: Lsn,
    },
    /// Answer to [`Effect::AskRoom`].
    RoomTold {
        /// Of the effect.
        id: IoId,
        /// Whether there is.
        there_is: bool,
    },
    /// Answer to [`Effect::ReadLog`]: shorter than asked when the log ends.
    LogRead {
        /// Of the effect.
        id: IoId,
        /// What is there.
        bytes: Bytes,
    },
    /// Answer to [`Effect::ResetLog`]: durable.
    LogReset {
        /// Of the effect.
        id: IoId,
    },
    /// Answer to [`Effect::ReadVolume`].
    VolumeRead {
        /// Of the effect.
        id: IoId,
        /// What is there.
        data: VolumeData,
    },
    /// Answer to [`Effect::VolumeStatus`], in order and without gaps.
    VolumeStatus {
        /// Of the effect.
        id: IoId,
        /// Data and holes.
        extents: Vec<BlockExtent>,
    },
    /// Answer to [`Effect::WriteVolume`]: visible to later reads, not yet durable.
    VolumeWritten {
        /// Of the effect.
        id: IoId,
    },
    /// Answer to [`Effect::FlushVolume`]: every write answered before the effect was taken is durable.
    VolumeFlushed {
        /// Of the effect.
        id: IoId,
    },
    /// Answer to [`Effect::GrowVolume`].
    VolumeGrown {
        /// Of the effect.
        id: IoId,
        /// Durably done; or nothing a guest could see has changed, and why. A refusal does not put the replica out of service.
        result: Result<(), DiskError>,
    },
    /// Answer to [`Effect::TakeSnapshot`].
    SnapshotTaken {
        /// Of the effect.
        id: IoId,
        /// Durably there; or why not. A refusal does not put the replica out of service, but changes wait until the snapshot is
        /// dropped: until then it may be asked for again.
        result: Result<(), DiskError>,
    },
    /// Answer to [`Effect::DropSnapshot`].
    SnapshotDropped {
        /// Of the effect.
        id: IoId,
        /// Durably gone; or why not.
        result: Result<(), DiskError>,
    },
    /// Answer to [`Effect::SaveMeta`]: durable, and so are all saves before it.
    MetaSaved {
        /// Of the effect.
        generation: u64,
    },
    /// Answer to [`Effect::SaveTrack`].
    TrackSaved {
        /// Of the effect.
        id: IoId,
        /// Whether it is durable; else what was there before still is, and there is no room for it.
        kept: bool,
    },
    /// Answer to [`Effect::LoadTracks`].
    TracksLoaded {
        /// Of the effect.
        id: IoId,
        /// What was saved last for each peer and not removed since.
        tracks: Vec<(NodeId, Bytes)>,
    },
    /// A disk operation failed; stands in for its answer.
    DiskFailed {
        /// What and why.
        error: DiskError,
    },
    /// A connection to a peer is open (dialled by either side).
    LinkUp {
        /// Names the connection.
        link: LinkId,
        /// Who is at the other end, as proved by its certificate.
        peer: NodeId,
        /// Whether we dialled (we want a stream) or were dialled (we are asked for one).
        dialled: bool,
    },
    /// A connection is gone, or could not be made (then `link` was never up and `peer` tells which dial failed).
    LinkDown {
        /// Names the connection; `None` for a dial that failed.
        link: Option<LinkId>,
        /// Who was or would have been at the other end.
        peer: NodeId,
    },
    /// A peer says something.
    Message {
        /// On which connection.
        link: LinkId,
        /// What it says.
        message: Message,
    },
    /// Whoever asked this is gone, or asks again by another way: what has not begun is not done, and answered as not done.
    Withdrawn {
        /// Requests that are not answered yet.
        tags: Vec<RequestTag>,
    },
    /// Somebody who is no member (a remote door) has heard of an epoch.
    Heard {
        /// The epoch.
        epoch: Epoch,
    },
    /// The host says whether a full sync here may go on now; until it says so for the first time, it may.
    SyncTurn {
        /// Whether.
        granted: bool,
    },
    /// An operator asks; will be answered by [`Effect::Answer`].
    Command {
        /// Names the command.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
}

/// Everything an engine can ask of the world.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write `bytes` to the log at `at`, the end of the previous append; answered by [`Event::LogWritten`], or by
    /// [`Event::LogFull`].
    AppendLog {
        /// Position in the log.
        at: Lsn,
        /// Whole batches.
        bytes: Bytes,
    },
    /// Make all appends taken before this durable; answered by [`Event::LogFlushed`].
    FlushLog {
        /// End of the appends taken so far.
        up_to: Lsn,
    },
    /// Read up to `bytes_max` bytes of the log; answered by [`Event::LogRead`].
    ReadLog {
        /// Comes back with the answer.
        id: IoId,
        /// Where to begin.
        at: Lsn,
        /// How much at most.
        bytes_max: usize,
    },
    /// Drop everything at and after `at` durably (with `keep`), or the whole log, which then begins empty at `at`.
    ResetLog {
        /// Comes back with the answer.
        id: IoId,
        /// New end of the log.
        at: Lsn,
        /// Whether the log before `at` stays.
        keep: bool,
    },
    /// Space before `up_to` may be given back; no answer.
    TrimLog {
        /// Nothing before this is needed.
        up_to: Lsn,
    },
    /// Is there room for so much more log? Answered by [`Event::RoomTold`].
    AskRoom {
        /// Comes back with the answer.
        id: IoId,
        /// How much.
        bytes: u64,
    },
    /// Read from the volume's disk; answered by [`Event::VolumeRead`].
    ReadVolume {
        /// Comes back with the answer.
        id: IoId,
        /// What to read.
        range: SectorRange,
    },
    /// Which parts of the disk are holes? Answered by [`Event::VolumeStatus`].
    VolumeStatus {
        /// Comes back with the answer.
        id: IoId,
        /// What to describe.
        range: SectorRange,
    },
    /// Write to the volume's disk; answered by [`Event::VolumeWritten`].
    WriteVolume {
        /// Comes back with the answer.
        id: IoId,
        /// Where to write.
        range: SectorRange,
        /// Pieces that together have the range's length; empty: make it zeroes, giving the space back if possible.
        data: Vec<Bytes>,
    },
    /// Make the volume's disk durable; answered by [`Event::VolumeFlushed`].
    FlushVolume {
        /// Comes back with the answer.
        id: IoId,
    },
    /// Make the volume's disk at least `to` long; what is behind `from` reads as zeroes afterwards, whatever was there. Answered by
    /// [`Event::VolumeGrown`] once durable. Later operations on the new part wait for it.
    GrowVolume {
        /// Comes back with the answer.
        id: IoId,
        /// The volume's length so far.
        from: VolumeSize,
        /// What it will be.
        to: VolumeSize,
    },
    /// Keep the volume's present contents under this name and position, atomically and durably; answered by [`Event::SnapshotTaken`]. No
    /// change of the volume is under way, except that it may grow. What is asked for later is done, if need be after a copy of what it
    /// overwrites is durable. Asked again after a restart, it is the version of the first time, whatever has changed since. One at a time.
    TakeSnapshot {
        /// Comes back with the answer.
        id: IoId,
        /// What it is called.
        name: SnapshotName,
        /// Which version.
        at: Position,
        /// Its length.
        size: VolumeSize,
    },
    /// Give up what is kept, or left of an attempt, under this name and position, if anything is; answered by [`Event::SnapshotDropped`].
    DropSnapshot {
        /// Comes back with the answer.
        id: IoId,
        /// What it is called.
        name: SnapshotName,
        /// Which version.
        at: Position,
    },
    /// Replace the replica's durable state atomically; answered by [`Event::MetaSaved`].
    SaveMeta {
        /// Comes back with the answer; grows by one.
        generation: u64,
        /// What to keep.
        meta: Box<Meta>,
    },
    /// Replace what is durably remembered of a peer (at most 129 KiB) atomically, or (`None`) remove it durably; answered by
    /// [`Event::TrackSaved`]. Saves and loads take effect in the order made.
    SaveTrack {
        /// Comes back with the answer.
        id: IoId,
        /// Of whom.
        peer: NodeId,
        /// Encoded; see [`crate::dirty::SavedTrack`].
        track: Option<Bytes>,
    },
    /// What is durably remembered of peers? Answered by [`Event::TracksLoaded`].
    LoadTracks {
        /// Comes back with the answer.
        id: IoId,
    },
    /// Connect to a peer; answered by [`Event::LinkUp`] with `dialled`, or [`Event::LinkDown`] without link.
    Dial {
        /// A member.
        peer: NodeId,
    },
    /// Say something to a peer. Messages of one link arrive in order or the link goes down.
    Send {
        /// On which connection.
        link: LinkId,
        /// What to say.
        message: Message,
    },
    /// Close a connection; no [`Event::LinkDown`] follows.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Answer a guest.
    Complete {
        /// Names the request.
        tag: RequestTag,
        /// The answer.
        result: Result<Reply, GuestError>,
    },
    /// Answer an operator.
    Answer {
        /// Names the command.
        id: CommandId,
        /// The answer.
        result: Result<Answer, CommandError>,
    },
    /// Tell whoever watches.
    Notice(Box<Notice>),
}

/// News about a volume, for logs and event streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Recovery has ended: this much log was applied.
    Recovered {
        /// Where the log ends now.
        end: Position,
        /// Bytes applied from the log.
        replayed_bytes: u64,
        /// Bytes cut off behind the last whole batch (normal after a crash).
        torn_bytes: u64,
    },
    /// This node is primary now.
    BecamePrimary {
        /// In which epoch.
        epoch: Epoch,
    },
    /// This node is primary no more.
    BecameSecondary {
        /// Who was granted the role; nobody when it stepped down without a successor.
        successor: Option<NodeId>,
        /// In which epoch.
        epoch: Epoch,
    },
    /// This node took the primary role without a grant.
    TookOver {
        /// In which epoch.
        epoch: Epoch,
        /// Where its history goes on.
        from: Position,
        /// Log known to have been durable at the former primary and not here: at least so much is lost to the guests.
        missing_bytes: u64,
    },
    /// Following a source now.
    Streaming {
        /// Who sends.
        source: NodeId,
        /// From where.
        from: Lsn,
    },
    /// A full sync has begun.
    SyncStarted {
        /// Who sends.
        source: NodeId,
        /// What is compared, when that is not everything: the rest did not change since this replica's position.
        partial: Option<SectorCount>,
    },
    /// A full sync has ended; the replica is whole.
    SyncFinished {
        /// Bytes that differed and were sent.
        copied_bytes: u64,
    },
    /// An operator has declared the replica whole without a full sync.
    SyncFaked,
    /// Log behind a primary's restart point was dropped; it was never acknowledged as durable.
    CutBack {
        /// New end.
        to: Lsn,
        /// How much was dropped.
        dropped_bytes: u64,
    },
    /// A replica no longer counts for the log's horizon; what changes from here on is remembered, for a partial copy.
    PeerDropped {
        /// Who.
        peer: NodeId,
        /// How much log it would have held.
        held_bytes: u64,
    },
    /// The room for the log gives more trouble than before, or less.
    Pressure {
        /// Until now.
        before: Level,
        /// From now on.
        level: Level,
        /// Log kept.
        log_bytes: u64,
    },
    /// Too few replicas keep up with the mode: near-sync answers flushes without them now, sync lets guests wait.
    Short {
        /// What the operator has asked for.
        mode: Mode,
    },
    /// Enough replicas keep up with the mode again.
    Restored {
        /// How long it was short, in microseconds.
        short_micros: u64,
    },
    /// The replicas are further behind than the operator allows.
    LagExceeded {
        /// Log that the one that is needed last lacks.
        lag_bytes: u64,
        /// Age of the oldest byte of it, in microseconds.
        lag_micros: u64,
    },
    /// The replicas are well within the allowed lag again.
    LagCleared {
        /// How long they were not, in microseconds.
        late_micros: u64,
    },
    /// Histories have parted: an operator must say which one is to live on.
    SplitBrain {
        /// With whom.
        peer: NodeId,
        /// Where, and what each side has.
        split: SplitBrain,
    },
    /// This node was primary and has heard of a newer one: it is secondary now, durably.
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
        /// Where that primary may be.
        primary: Option<NodeId>,
    },
    /// The log is damaged where it was once whole.
    DefectiveLog {
        /// Where.
        at: Lsn,
        /// How.
        reason: String,
    },
    /// The log of a source is damaged where only replicas still needed it: those that lack what is there copy contents instead.
    LogDamaged {
        /// Where.
        at: Lsn,
        /// How.
        reason: String,
    },
    /// The volume is longer here.
    Grown {
        /// How long it is.
        to: VolumeSize,
    },
    /// The log says that the volume is longer, but the disk here cannot be; nothing behind that is applied until it can.
    CannotGrow {
        /// How long it must be.
        to: VolumeSize,
        /// Why, and what happens now.
        reason: String,
    },
    /// It is known what became of a snapshot here.
    Snapshot {
        /// What it is called.
        name: SnapshotName,
        /// What became of it.
        state: SnapshotState,
    },
    /// A comparison of all replicas has begun.
    VerifyStarted {
        /// End of the log at that moment.
        from: Lsn,
    },
    /// A replica was found different from the others.
    Difference {
        /// Which.
        node: NodeId,
        /// Where; a number of whole extents.
        range: SectorRange,
    },
    /// A comparison is over.
    VerifyEnded {
        /// How, and what was found.
        run: Box<VerifyRun>,
    },
    /// The disk or log failed; the replica is out of service.
    Failed {
        /// Why.
        error: DiskError,
    },
}
