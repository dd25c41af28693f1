//! How is a volume served without a log? Straight to its disk, when there is nobody to send a log to, or no room for one.
//!
//! A write is answered when it is in the disk's page cache, FLUSH and FUA when the disk is flushed. The road is changed while
//! guests write:
//!
//! * *off*: the log is emptied; for the last of it, changes wait. When everything is on the disk, the position **jumps** to one
//!   that no log has ever had, durably, and the log is dropped. From there on contents change without a position: whoever
//!   holds the log up to the jump, or anything before it, is told apart from this replica by position and digest.
//! * *on*: changes go into the log from that moment on; nobody waits. What went straight before is then made durable, and with
//!   it that the log is whole again. Until then nothing of the log reaches the disk, and nobody is sent anything: what a power
//!   cut could still take away must not be copied.
//!
//! Where there are peers, a track says of each what it lacks (`track.rs`). With a log, the log remembers what a track has not saved;
//! without one every change waits until the durable tracks name its extent. They name the stretch around it too, so that few
//! changes have to wait.
//!
//! A restart in between finds `straight` in the meta: what is in the log behind the jump is newer than the disk.

use std::collections::VecDeque;

use bytes::Bytes;
use model::{Mode, Role, SectorRange, Tick};

use crate::dirty::DirtyMap;
use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Effect, GuestRequest, Reply, RequestTag};
use crate::lineage::{Stretch, jump};
use crate::log::Log;
use crate::museum::{self, Mutant};
use crate::record::Record;
use crate::replay::Replay;
use crate::watermark::Watermarks;
use crate::writeback::Round;

/// Changes begin to wait for the log to be emptied once so little is left of it.
const CLOSE_SHADOW_BYTES: u64 = 1 << 20;

/// …or after so long: a guest that writes without a pause must not keep its log for ever.
const CLOSE_MILLIS: u64 = 1000;

/// Which way changes take to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// Through the log.
    Logged,
    /// The same, while the log is being emptied; changes wait at the end.
    Closing { since: Tick, gated: bool },
    /// The jump is being made durable.
    Jumping,
    /// Without a log.
    Straight,
    /// Through the log again; what went straight before is being made durable.
    Opening { flushing: bool },
}

impl Road {
    /// Whether the log says everything that is on the disk, so that others can have it.
    pub fn serves_log(self) -> bool {
        matches!(self, Road::Logged | Road::Closing { gated: false, .. })
    }

    pub fn is_straight(self) -> bool {
        matches!(self, Road::Straight)
    }
}

/// A change on its way straight to the disk.
#[derive(Debug)]
struct Change {
    tag: RequestTag,
    range: SectorRange,
    data: Vec<Bytes>,
    fua: bool,
}

/// The straight road, and who is on it.
#[derive(Debug)]
pub(crate) struct Straight {
    pub road: Road,
    waiting: VecDeque<Change>,
    /// Written; to be answered once durable.
    unflushed: Vec<RequestTag>,
    flushing: bool,
    /// Flushes that must cover both roads.
    both: Vec<RequestTag>,
    /// What the durable tracks name since there is no log.
    marked: Option<DirtyMap>,
    /// What they are about to name.
    marking: Option<DirtyMap>,
    /// Changes so far.
    pub changes: u64,
    /// So many of them are durable.
    durable: u64,
}

impl Straight {
    /// The volume is longer, and maps of its former length say nothing of the new one: what waits is named again.
    pub fn forget_marks(&mut self) {
        self.marked = None;
        self.marking = None;
    }
}

impl Default for Straight {
    fn default() -> Straight {
        Straight {
            road: Road::Logged,
            waiting: VecDeque::new(),
            unflushed: Vec::new(),
            flushing: false,
            both: Vec::new(),
            marked: None,
            marking: None,
            // What an earlier start has left in the page cache counts as one.
            changes: 1,
            durable: 0,
        }
    }
}

impl Engine {
    /// Whether a log would be for nobody, or has no room.
    fn wants_straight(&self) -> bool {
        self.is_alone() || self.does_without_log()
    }

    /// Whether a log would be for nobody.
    pub(crate) fn is_alone(&self) -> bool {
        let alone = self.peers.is_empty() && self.active_run().is_none();
        // A mode that waits for replicas goes on to do so, though there are none.
        alone && self.meta.settings.mode == Mode::Async
    }

    /// Whether a request must wait because the road is being changed.
    pub(crate) fn road_holds(&self, request: &GuestRequest) -> bool {
        match (self.straight.road, request) {
            (_, GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. }) => false,
            (Road::Jumping, _) => true,
            (Road::Straight, request) if self.snapshot_holds_guests() => *request != GuestRequest::Flush,
            (Road::Closing { gated: true, .. }, request) => *request != GuestRequest::Flush,
            _ => false,
        }
    }

    /// Changes the disk straight away, or flushes it; `false` when the request is for the log.
    pub(crate) fn goes_straight(&mut self, tag: RequestTag, request: &GuestRequest) -> bool {
        let (range, data, fua) = match (self.straight.road, request) {
            (Road::Straight, GuestRequest::Flush) => {
                self.straight.unflushed.push(tag);
                self.issue_straight();
                return true;
            }
            (Road::Opening { .. }, GuestRequest::Flush) => {
                self.straight.both.push(tag);
                return true;
            }
            (Road::Straight, GuestRequest::Write { range, data, fua }) => (*range, vec![data.clone()], *fua),
            (
                Road::Straight,
                GuestRequest::Discard { range, fua } | GuestRequest::WriteZeroes { range, fua, .. },
            ) => (*range, Vec::new(), *fua),
            _ => return false,
        };
        if range.is_empty() {
            self.straight_done(tag);
        } else {
            self.straight.waiting.push_back(Change {
                tag,
                range,
                data,
                fua,
            });
        }
        self.issue_straight();
        true
    }

    fn straight_done(&mut self, tag: RequestTag) {
        let result = match self.meta.role {
            Role::Primary => Ok(Reply::Done),
            // It has heard of a newer primary meanwhile, and answers nothing any more.
            Role::Secondary if matches!(self.phase, Phase::Demoting) => return self.guests.fenced.push(tag),
            Role::Secondary => Err(self.not_primary()),
        };
        self.effects.push_back(Effect::Complete { tag, result });
    }

    pub(crate) fn straight_written(&mut self, tag: RequestTag, fua: bool) {
        if fua {
            self.straight.unflushed.push(tag);
        } else {
            self.straight_done(tag);
        }
    }

    pub(crate) fn straight_flushed(&mut self, tags: Vec<RequestTag>, changes: u64) {
        self.straight.flushing = false;
        self.straight.durable = changes;
        tags.into_iter().for_each(|tag| self.straight_done(tag));
    }

    /// Whether nothing is on the straight road.
    pub(crate) fn straight_is_quiet(&self) -> bool {
        let writing = self.io.values().any(|io| matches!(io, Io::StraightWrite { .. }));
        !writing
            && self.straight.waiting.is_empty()
            && self.straight.unflushed.is_empty()
            && !self.straight.flushing
    }

    /// Everyone on the straight road, for a replica that goes out of service.
    pub(crate) fn take_straight(&mut self) -> Vec<RequestTag> {
        let straight = &mut self.straight;
        let changes = straight.waiting.drain(..).map(|change| change.tag);
        changes
            .chain(straight.unflushed.drain(..))
            .chain(straight.both.drain(..))
            .collect()
    }

    pub(crate) fn pump_straight(&mut self) {
        self.issue_straight();
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        let moving = self.hand_over.is_some();
        match self.straight.road {
            Road::Logged if self.wants_straight() && !moving => {
                let since = self.now;
                self.straight.road = Road::Closing { since, gated: false };
                self.pump_closing();
            }
            Road::Closing { .. } if !self.wants_straight() || moving => {
                self.straight.road = Road::Logged;
                self.pump_guests();
            }
            Road::Closing { .. } => self.pump_closing(),
            Road::Straight if !self.wants_straight() && !moving => {
                self.straight.road = Road::Opening { flushing: false };
                self.begin_stretch();
            }
            Road::Opening { flushing: false } if self.straight_is_quiet() => {
                self.straight.road = Road::Opening { flushing: true };
                let id = self.io(Io::StraightEnds);
                self.effects.push_back(Effect::FlushVolume { id });
            }
            Road::Logged | Road::Jumping | Road::Straight | Road::Opening { .. } => {}
        }
    }

    fn issue_straight(&mut self) {
        self.note_marked();
        while let Some(range) = self.straight.waiting.front().map(|change| change.range) {
            if !self.is_marked(range) {
                self.mark_waiting();
                break;
            }
            let Some(Change {
                tag,
                range,
                data,
                fua,
            }) = self.straight.waiting.pop_front()
            else {
                break;
            };
            self.straight.changes += 1;
            let id = self.io(Io::StraightWrite { tag, fua });
            self.effects.push_back(Effect::WriteVolume { id, range, data });
        }
        if !self.straight.unflushed.is_empty() {
            self.flush_straight();
        }
    }

    /// Whether a restart would know that peers may lack `range`.
    fn is_marked(&self, range: SectorRange) -> bool {
        if self.tracks.is_empty() {
            return !self.is_forgetting_tracks();
        }
        let marked = self.straight.marked.as_ref();
        marked.is_some_and(|marked| marked.covers(range)) || museum::is(Mutant::UnloggedUnmarked)
    }

    /// Names what waits in every track, durably.
    fn mark_waiting(&mut self) {
        if self.straight.marking.is_some() || self.tracks.are_saving() || self.tracks.is_empty() {
            return;
        }
        let mut marks = DirtyMap::clean(self.sectors());
        for change in &self.straight.waiting {
            marks.mark(marks.region(change.range));
        }
        self.tracks.join(&marks);
        self.straight.marking = Some(marks);
        self.save_tracks(true);
    }

    /// What was to be named is named, or its track is given up durably.
    fn note_marked(&mut self) {
        if self.tracks.are_saving() || self.is_forgetting_tracks() {
            return;
        }
        if let Some(marks) = self.straight.marking.take() {
            let clean = || DirtyMap::clean(marks.sectors());
            self.straight.marked.get_or_insert_with(clean).join(&marks);
        }
    }

    fn flush_straight(&mut self) {
        if self.straight.flushing {
            return;
        }
        self.straight.flushing = true;
        let tags = std::mem::take(&mut self.straight.unflushed);
        // Those on their way are not written yet, so they do not count.
        let writing = self
            .io
            .values()
            .filter(|io| matches!(io, Io::StraightWrite { .. }))
            .count();
        let changes = self.straight.changes - writing as u64;
        let id = self.io(Io::StraightFlush { tags, changes });
        self.effects.push_back(Effect::FlushVolume { id });
    }

    /// Whether everything that went straight is durable; sees to it that it will be. Changes must be held up meanwhile.
    pub(crate) fn settle_straight(&mut self) -> bool {
        if self.straight.road == Road::Straight && self.straight.durable < self.straight.changes {
            self.flush_straight();
        }
        let settled = matches!(self.straight.road, Road::Logged | Road::Straight);
        let durable = self.straight.road != Road::Straight || self.straight.durable == self.straight.changes;
        settled && durable && self.straight_is_quiet()
    }

    /// Whether write-back must hurry, because the log is to be emptied.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.straight.road, Road::Closing { .. })
    }

    /// Whether the log is about to be given up although there are peers: their tracks must hold all of it.
    pub(crate) fn gives_up_log(&self) -> bool {
        matches!(self.straight.road, Road::Closing { gated: true, .. }) && self.does_without_log()
    }

    /// When the gate of a log that is being emptied closes.
    pub(crate) fn straight_due(&self) -> Option<Tick> {
        match self.straight.road {
            Road::Closing { since, gated: false } => Some(since.after_millis(CLOSE_MILLIS)),
            _ => None,
        }
    }

    fn pump_closing(&mut self) {
        let Road::Closing { since, gated } = self.straight.road else {
            return;
        };
        if self.does_without_log() {
            self.leave_log_to_maps();
        }
        if !gated {
            let late = self.space.full || self.now >= since.after_millis(CLOSE_MILLIS);
            let near = CLOSE_SHADOW_BYTES.min(self.config.shadow_bytes_max / 4);
            if !late && self.shadow.bytes() > near {
                return;
            }
            self.straight.road = Road::Closing { since, gated: true };
            // What they ask for would go on for ever.
            let links = self.ship_links();
            links.into_iter().for_each(|link| self.close_ship(link));
        }
        self.seal();
        let end = self.log.sealed;
        self.log.want_flush(end.lsn);
        let on_disk = self.marks.written_back() == end.lsn
            && matches!(self.round, Round::Idle)
            && !self.is_snapshot_under_way();
        let mapped = self.tracks.hold_all(end.lsn);
        if on_disk && mapped && self.shadow.bytes() == 0 && self.log.nobody_waits() && self.is_quiet() {
            self.jump();
        }
    }

    /// Everything is on the disk, and nothing is under way.
    fn jump(&mut self) {
        self.straight.road = Road::Jumping;
        let last = self.meta.lineage.last();
        if last.is_none_or(|last| last.epoch != self.meta.epoch) {
            // There was no room for its first record; what others may have behind this is not part of its history all the same.
            let (epoch, writer) = (self.meta.epoch, self.config.node.clone());
            let from = self.log.sealed;
            self.note_stretch(Stretch { epoch, writer, from });
        }
        // Nobody else can say that the epoch before this one reaches so far.
        let epoch = self.meta.epoch;
        let to = jump(self.log.sealed, epoch);
        self.meta.straight = true;
        self.meta.written_back = to;
        self.meta.touched = to.lsn;
        self.meta.committed = to;
        self.meta.committed_epoch = epoch;
        self.meta.trimmed = to.lsn;
        self.marks = Watermarks::at(to.lsn);
        self.log = Log::ending_at(to, epoch);
        self.replay = Replay::from(to);
        self.tracks.jump(to);
        self.straight.marked = None;
        self.save(Then::Jumped);
    }

    pub(crate) fn jumped(&mut self) {
        let id = self.io(Io::JumpReset);
        let at = self.log.sealed.lsn;
        self.effects.push_back(Effect::ResetLog { id, at, keep: false });
    }

    pub(crate) fn log_dropped(&mut self) {
        self.straight.road = Road::Straight;
        self.pump_guests();
    }

    /// The road of a primary that begins to serve: where an earlier start of it has left off.
    pub(crate) fn find_road(&mut self) {
        let log_is_empty = self.log.sealed == self.meta.written_back;
        self.straight.road = match self.meta.straight {
            false => Road::Logged,
            true if log_is_empty => Road::Straight,
            true => Road::Opening { flushing: false },
        };
        if self.straight.road.is_straight() && !self.peers.is_empty() {
            self.assume_no_room();
        }
    }

    /// The same, unless it was written before.
    pub(crate) fn begin_stretch_once(&mut self) {
        let last = self.meta.lineage.last();
        if last.is_none_or(|last| last.epoch != self.meta.epoch) {
            self.begin_stretch();
        }
    }

    /// The first record of this primary's epoch, and of each log in it.
    pub(crate) fn begin_stretch(&mut self) {
        let writer = self.config.node.clone();
        self.note_stretch(Stretch {
            epoch: self.meta.epoch,
            writer: writer.clone(),
            from: self.log.sealed,
        });
        self.log.builder.push(&Record::Epoch { writer });
    }

    /// What went straight is durable.
    pub(crate) fn straight_ended(&mut self) {
        if self.straight.road == (Road::Opening { flushing: true }) {
            self.meta.straight = false;
            self.save(Then::Opened);
        }
    }

    pub(crate) fn log_opened(&mut self) {
        if !matches!(self.straight.road, Road::Opening { .. }) {
            return;
        }
        self.straight.road = Road::Logged;
        for tag in std::mem::take(&mut self.straight.both) {
            match self.phase {
                Phase::Serving if !self.is_gated() => self.admit(tag, GuestRequest::Flush),
                _ => self.guests.waiting.push_back((tag, GuestRequest::Flush)),
            }
        }
        self.pump_guests();
    }

    /// Whether the disk is ahead of the log, so that nothing of the log may be written back yet.
    pub(crate) fn holds_back_log(&self) -> bool {
        self.meta.straight && self.meta.role == Role::Primary
    }
}
