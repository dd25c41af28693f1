//! What does a replica do for a comparison? It digests pieces at barriers, and copies what was found different.
//!
//! A copy may hold writes up to the `end` that its answer names, more than the replica has replayed. Before it reaches the disk,
//! the replica's own log is durable up to there and `touched` says so: whatever happens then, recovery replays at
//! least that far and the replica is a version again. So it stays whole all the time, unlike in a full sync. The extents are
//! locked as in a full sync: write-back leaves them alone from before the question until the copy is on the disk.

use std::collections::VecDeque;

use model::{Lsn, Role, SectorOffset, SectorRange};

use crate::engine::{Engine, Io, Then};
use crate::event::{Effect, LinkId, VolumeData};
use crate::message::{Message, SYNC_EXTENT_SECTORS, SYNC_EXTENTS_MAX, SyncExtent};
use crate::meta::SyncState;
use crate::resync::{Write, digests_of, writes_of};
use crate::shadow::Overlay;

/// Reads for barriers under way at one time; what comes meanwhile is to be asked again, replay never waits.
const READS_MAX: usize = 4;

/// Pieces that may wait for their copy: as many as a run has at most.
const QUEUE_MAX: usize = 1024;

/// A longer piece could not be asked for at once.
const PIECE_SECTORS_MAX: u64 = SYNC_EXTENT_SECTORS * SYNC_EXTENTS_MAX as u64;

/// Copies from the primary.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    queue: VecDeque<SectorRange>,
    copy: Option<Copy>,
}

#[derive(Debug)]
struct Copy {
    range: SectorRange,
    id: u64,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Reading,
    Asked,
    /// Waits until everything the answer may hold is durable here and there.
    Committing {
        end: Lsn,
        writes: Vec<Write>,
    },
    /// Waits until `touched` is durable.
    Marking {
        end: Lsn,
        writes: Vec<Write>,
    },
    Writing {
        left: usize,
    },
    Flushing,
}

impl Engine {
    /// Everything before `at`, the end of a batch with a barrier, is loaded: digests the piece as it is at this position.
    pub(crate) fn barrier_reached(&mut self, at: Lsn, range: SectorRange) {
        let Some(link) = self
            .follow
            .source_link()
            .filter(|_| self.meta.role == Role::Secondary)
        else {
            return;
        };
        let reads = self
            .io
            .values()
            .filter(|io| matches!(io, Io::Barrier { .. }))
            .count();
        let is_version = self.meta.sync == SyncState::Whole && self.replay.loaded.lsn >= self.meta.touched;
        if !is_version || reads >= READS_MAX || range.end().0 > self.sectors().0 {
            return self.tell_digests(link, at, range.start, None);
        }
        let overlay = self.shadow.overlay(range);
        match overlay.missing() {
            None => self.barrier_read(link, at, overlay, VolumeData::Zeroes),
            Some(missing) => {
                let id = self.io(Io::Barrier { link, at, overlay });
                self.effects.push_back(Effect::ReadVolume { id, range: missing });
            }
        }
    }

    pub(crate) fn barrier_read(&mut self, link: LinkId, at: Lsn, overlay: Overlay, data: VolumeData) {
        // Who follows another source by now will be asked again.
        if self.follow.source_link() == Some(link) {
            let range = overlay.range();
            let digests = digests_of(&overlay.compose(data), range);
            self.tell_digests(link, at, range.start, Some(digests));
        }
    }

    fn tell_digests(&mut self, link: LinkId, at: Lsn, start: SectorOffset, digests: Option<Vec<u128>>) {
        // Only the primary has asked, and only it can tell what to do; it waits for those who follow it.
        if self.follow.path.len() > 1 {
            return;
        }
        let message = Message::Digests { at, start, digests };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// The primary has found a piece different here.
    pub(crate) fn told_to_repair(&mut self, range: SectorRange) {
        let fits = range.end().0 <= self.sectors().0 && range.count.0 <= PIECE_SECTORS_MAX;
        if !fits || range.is_empty() {
            return;
        }
        if self.repair.queue.len() < QUEUE_MAX && !self.repair.queue.contains(&range) {
            self.repair.queue.push_back(range);
        }
    }

    /// The source is gone: what was asked will not be answered, what is being written is still locked by its operations.
    pub(crate) fn stop_repair(&mut self) {
        self.repair = Repair::default();
    }

    /// Whether a copy of a part of `range` is being made.
    pub(crate) fn is_locked_by_repair(&self, range: SectorRange) -> bool {
        self.repair
            .copy
            .as_ref()
            .is_some_and(|copy| copy.range.overlaps(range))
    }

    pub(crate) fn pump_repair(&mut self) {
        if self.meta.sync != SyncState::Whole || self.follow.source_link().is_none() {
            return;
        }
        let durable = self.marks.committed().min(self.follow.primary_committed);
        match self.repair.copy.take() {
            None => self.begin_copy(),
            Some(Copy {
                range,
                id,
                step: Step::Committing { end, writes },
            }) if end <= durable => {
                self.meta.touched = self.meta.touched.max(end);
                let step = Step::Marking { end, writes };
                self.repair.copy = Some(Copy { range, id, step });
                self.save(Then::CopyMarked { id });
            }
            waiting => self.repair.copy = waiting,
        }
    }

    /// A snapshot must not see what a copy brings before write-back has got there: what was not yet begun to be written waits.
    pub(crate) fn postpone_repair(&mut self) {
        let begun =
            |copy: &mut Copy| matches!(copy.step, Step::Reading | Step::Asked | Step::Committing { .. });
        if let Some(copy) = self.repair.copy.take_if(begun) {
            self.repair.queue.push_front(copy.range);
        }
    }

    fn begin_copy(&mut self) {
        if self.is_snapshot_under_way() {
            return;
        }
        let Some(range) = self.repair.queue.front().copied() else {
            return;
        };
        if self.is_writing(range) || self.is_copying(range) {
            return;
        }
        self.repair.queue.pop_front();
        self.sync_pieces += 1;
        let id = self.sync_pieces;
        let step = Step::Reading;
        self.repair.copy = Some(Copy { range, id, step });
        let start = range.start;
        let id = self.io(Io::SyncOwn { start, id });
        self.effects.push_back(Effect::ReadVolume { id, range });
    }

    fn copy(&mut self, id: u64) -> Option<&mut Copy> {
        self.repair.copy.as_mut().filter(|copy| copy.id == id)
    }

    /// Whether `id` names the present copy.
    pub(crate) fn is_repair(&self, id: u64) -> bool {
        self.repair.copy.as_ref().is_some_and(|copy| copy.id == id)
    }

    pub(crate) fn copy_own_read(&mut self, id: u64, data: &VolumeData) {
        let link = self.follow.source_link();
        let (Some(link), Some(copy)) = (link, self.copy(id)) else {
            return;
        };
        copy.step = Step::Asked;
        let message = Message::SyncRequest {
            id,
            range: copy.range,
            digests: digests_of(data, copy.range),
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    pub(crate) fn copy_replied(&mut self, id: u64, end: Lsn, answers: Vec<SyncExtent>) {
        let Some(copy) = self.copy(id).filter(|copy| matches!(copy.step, Step::Asked)) else {
            return;
        };
        // What is not an answer to the question is not written; the comparison that follows will find it still different.
        let writes = writes_of(copy.range, answers).unwrap_or_default();
        if writes.is_empty() {
            return self.end_copy();
        }
        copy.step = Step::Committing { end, writes };
    }

    /// `touched` covers the copy: it may be written.
    pub(crate) fn copy_marked(&mut self, id: u64) {
        let touched = self.meta.touched;
        let Some(copy) = self.copy(id) else { return };
        let (start, step) = (
            copy.range.start,
            std::mem::replace(&mut copy.step, Step::Flushing),
        );
        let Step::Marking { end, writes } = step else {
            panic!("a copy was marked in {step:?}")
        };
        copy.step = Step::Writing { left: writes.len() };
        assert!(end <= touched, "saved before");
        self.marks.touch(end.max(self.marks.touched()));
        for (range, data) in writes {
            let id = self.io(Io::SyncWrite { start, id, range });
            self.effects.push_back(Effect::WriteVolume { id, range, data });
        }
    }

    pub(crate) fn copy_written(&mut self, id: u64) {
        let Some(copy) = self.copy(id) else { return };
        if let Step::Writing { left } = &mut copy.step {
            *left -= 1;
            if *left == 0 {
                copy.step = Step::Flushing;
                let id = self.io(Io::CopyFlush { id });
                self.effects.push_back(Effect::FlushVolume { id });
            }
        }
    }

    pub(crate) fn copy_flushed(&mut self, id: u64) {
        if self.is_repair(id) {
            self.end_copy();
        }
    }

    fn end_copy(&mut self) {
        if let Some(copy) = self.repair.copy.take()
            && let Some(link) = self.follow.source_link()
        {
            let start = copy.range.start;
            let message = Message::Repaired { start };
            self.effects.push_back(Effect::Send { link, message });
        }
    }
}
