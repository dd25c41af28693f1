//! How does a replica without a version get one? Fast full sync: compare digests, copy what differs, under load.
//!
//! The source reads through its shadow, so a copied extent holds everything before the read and perhaps writes up to
//! `end`; it answers once `end` is durable there. The replica lets no write-back touch an extent from before it asks until the
//! answer is on its disk, so a copy never puts back what replay has already brought; whatever the copy holds too early, replay
//! brings again in order. The disk is a version once everything is copied and `written_back` has passed every `end`.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Lsn, NodeId, SectorCount, SectorOffset, SectorRange, Tick};

use crate::dirty::DirtyMap;
use crate::engine::{Engine, Io, Link, Phase, Then};
use crate::event::{Effect, LinkId, Notice, VolumeData};
use crate::guest::digest_of;
use crate::message::{Message, SYNC_EXTENT_SECTORS, SYNC_EXTENTS_MAX, SyncExtent};
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::survey::Surveys;
use crate::switch::Switch;

/// Requests on their way at one time.
const PIECES_MAX: usize = 4;

/// Progress is made durable so often: what a restart has to compare again.
const SAVE_MILLIS: u64 = 1000;

/// The replica's side of a running full sync.
#[derive(Debug)]
pub(crate) struct Resync {
    /// What is to be compared.
    scope: Scope,
    /// Next sector to ask for.
    cursor: u64,
    /// Pieces begun and not yet behind `settled`, by first sector.
    pieces: BTreeMap<u64, Piece>,
    /// Sectors before this are as at the source.
    settled: u64,
    /// A flush that makes progress durable is under way.
    flushing: bool,
    save_due: Tick,
}

/// What a copy compares.
#[derive(Debug)]
enum Scope {
    /// Where either side has data, once that is known.
    Surveying(Surveys),
    /// What the source will name.
    Untold,
    Named(DirtyMap),
}

impl Resync {
    /// From now on it is known what is to be compared.
    pub fn told(&mut self, map: DirtyMap) {
        self.scope = Scope::Named(map);
    }

    /// The surveys that are under way.
    pub fn surveys(&mut self) -> Option<&mut Surveys> {
        match &mut self.scope {
            Scope::Surveying(surveys) => Some(surveys),
            Scope::Untold | Scope::Named(_) => None,
        }
    }

    /// What to ask for next; moves the cursor over what need not be compared.
    fn next_range(&mut self, sectors: u64) -> Option<SectorRange> {
        let count_max = SYNC_EXTENT_SECTORS * SYNC_EXTENTS_MAX as u64;
        let range = match &self.scope {
            Scope::Surveying(_) | Scope::Untold => return None,
            Scope::Named(map) => map.next_dirty(SectorOffset(self.cursor), SectorCount(count_max)),
        };
        let range = range.filter(|range| !range.is_empty());
        self.cursor = range.map_or(sectors, |range| range.start.0);
        range
    }
}

#[derive(Debug)]
struct Piece {
    range: SectorRange,
    id: u64,
    step: Step,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Reading,
    Asked,
    Writing { left: usize },
    Settled,
}

/// The extents of a piece, the last perhaps shorter.
fn extents(range: SectorRange) -> impl Iterator<Item = SectorRange> {
    (range.start.0..range.end().0)
        .step_by(SYNC_EXTENT_SECTORS as usize)
        .map(move |start| {
            let count = SYNC_EXTENT_SECTORS.min(range.end().0 - start);
            SectorRange::new(start, count).expect("within a checked range")
        })
}

/// The part of `data`, which covers `whole`, that covers `part`.
fn slice(data: &VolumeData, whole: SectorRange, part: SectorRange) -> VolumeData {
    match data {
        VolumeData::Zeroes => VolumeData::Zeroes,
        VolumeData::Data(data) => {
            let from = (part.start.bytes() - whole.start.bytes()) as usize;
            VolumeData::Data(data.slice(from..from + part.len_bytes() as usize))
        }
    }
}

/// The digest of each extent of `range`, whose contents are `data`.
pub(crate) fn digests_of(data: &VolumeData, range: SectorRange) -> Vec<u128> {
    extents(range)
        .map(|part| digest_of(&slice(data, range, part), part.len_bytes()))
        .collect()
}

/// One extent to write; no data means zeroes.
pub(crate) type Write = (SectorRange, Vec<Bytes>);

/// What an answer about the extents of `range` asks to be written; `None` when it is not one about them.
pub(crate) fn writes_of(range: SectorRange, answers: Vec<SyncExtent>) -> Option<Vec<Write>> {
    let parts: Vec<SectorRange> = extents(range).collect();
    let fits = |(part, answer): (&SectorRange, &SyncExtent)| match answer {
        SyncExtent::Data(data) => data.len() as u64 == part.len_bytes(),
        SyncExtent::Same | SyncExtent::Zeroes => true,
    };
    if parts.len() != answers.len() || !parts.iter().zip(&answers).all(fits) {
        return None;
    }
    let write = |(part, answer)| match answer {
        SyncExtent::Same => None,
        SyncExtent::Zeroes => Some((part, Vec::new())),
        SyncExtent::Data(data) => Some((part, vec![data])),
    };
    Some(parts.into_iter().zip(answers).filter_map(write).collect())
}

fn is_zeroes(data: &VolumeData) -> bool {
    match data {
        VolumeData::Zeroes => true,
        VolumeData::Data(data) => data.iter().all(|byte| *byte == 0),
    }
}

impl Engine {
    /// Sectors that a full sync has settled; all of them when the replica is whole.
    pub(crate) fn synced(&self) -> SectorOffset {
        match (&self.resync, self.meta.sync) {
            (_, SyncState::Whole) => SectorOffset(self.sectors().0),
            (_, SyncState::Fresh) => SectorOffset(0),
            (Some(resync), _) => SectorOffset(resync.settled),
            (None, SyncState::Copying { next, .. }) => next,
        }
    }

    pub(crate) fn resync_due(&self) -> Option<Tick> {
        self.resync.as_ref().map(|resync| resync.save_due)
    }

    /// Whether a copy of a part of `range` is on its way to the disk.
    pub(crate) fn is_locked_by_sync(&self, range: SectorRange) -> bool {
        if museum::is(Mutant::SyncRacesReplay) {
            return false;
        }
        let asked = self.resync.as_ref().is_some_and(|resync| {
            resync
                .pieces
                .values()
                .any(|piece| piece.step != Step::Settled && piece.range.overlaps(range))
        });
        asked || self.is_locked_by_repair(range) || self.is_copying(range)
    }

    /// Whether a copy, perhaps of a stream that is no more, has still to land on a part of `range`.
    pub(crate) fn is_copying(&self, range: SectorRange) -> bool {
        self.io
            .values()
            .any(|io| matches!(io, Io::SyncWrite { range: copying, .. } if copying.overlaps(range)))
    }

    /// Goes on with a full sync where it stopped, or from zero when the primary is another.
    pub(crate) fn start_resync(&mut self, source: NodeId, source_term: u32) {
        let SyncState::Copying {
            next,
            end,
            copied_bytes,
            term,
            base,
        } = self.meta.sync
        else {
            return;
        };
        if self.is_paused(Switch::Sync) || self.sync_waits {
            return;
        }
        // Another primary does not know what changed since the base, either, and its history may never come to where the copies from
        // the last one reached; every one of them is compared again.
        let (next, end, base) = if term == source_term || museum::is(Mutant::SyncFromAnotherPrimary) {
            (next, end, base)
        } else {
            (SectorOffset(0), self.marks.trimmed(), None)
        };
        self.meta.sync = SyncState::Copying {
            next,
            end,
            copied_bytes,
            term: source_term,
            base,
        };
        let scope = match base {
            None => Scope::Surveying(self.start_survey()),
            Some(_) => Scope::Untold,
        };
        self.resync = Some(Resync {
            scope,
            cursor: next.0,
            pieces: BTreeMap::new(),
            settled: next.0,
            flushing: false,
            save_due: self.now.after_millis(SAVE_MILLIS),
        });
        if base.is_none() {
            let partial = None;
            self.notice(Notice::SyncStarted { source, partial });
        }
        self.name_dirty();
    }

    /// The source is gone: what was asked will not be answered.
    pub(crate) fn stop_resync(&mut self) {
        // Answers that still come find no piece of theirs; a copy half written is copied again once it has landed.
        self.resync = None;
        self.stop_repair();
    }

    pub(crate) fn pump_resync(&mut self) {
        let sectors = self.sectors().0;
        let SyncState::Copying {
            end,
            copied_bytes,
            term,
            ..
        } = self.meta.sync
        else {
            return;
        };
        let Some(resync) = &mut self.resync else { return };
        while resync
            .pieces
            .first_key_value()
            .is_some_and(|(_, piece)| piece.step == Step::Settled)
        {
            resync.pieces.pop_first();
        }
        self.pump_survey();
        self.ask_for_extents();
        let Some(resync) = &mut self.resync else { return };
        let first = resync.pieces.first_key_value();
        let before = resync.settled;
        resync.settled = first.map_or(resync.cursor, |(start, _)| *start);
        let settled_bytes = SectorCount(resync.settled.saturating_sub(before)).bytes();
        self.sync_meter.add(self.now, settled_bytes);
        let (settled, flushing) = (resync.settled, resync.flushing);
        let finished = settled == sectors && self.marks.written_back() >= end;
        let due = self.now >= resync.save_due;
        if due {
            resync.save_due = self.now.after_millis(SAVE_MILLIS);
        }
        if !flushing && (finished || (due && settled > 0)) {
            resync.flushing = true;
            let id = self.io(Io::SyncFlush {
                next: SectorOffset(settled),
                term,
            });
            self.effects.push_back(Effect::FlushVolume { id });
        }
        self.sync_copied_bytes = copied_bytes;
    }

    fn ask_for_extents(&mut self) {
        let sectors = self.sectors().0;
        loop {
            let Some(resync) = &mut self.resync else { return };
            if resync.pieces.len() >= PIECES_MAX || resync.cursor >= sectors {
                return;
            }
            let Some(range) = resync.next_range(sectors) else {
                return;
            };
            let tail = range.count.0 % SYNC_EXTENT_SECTORS != 0;
            if museum::is(Mutant::SyncStuck) && range.end().0 == sectors && tail {
                return;
            }
            if self.is_writing(range) || self.is_copying(range) {
                return;
            }
            self.sync_pieces += 1;
            let id = self.sync_pieces;
            let Some(resync) = &mut self.resync else { return };
            resync.cursor = range.end().0;
            resync.pieces.insert(
                range.start.0,
                Piece {
                    range,
                    id,
                    step: Step::Reading,
                },
            );
            let id = self.io(Io::SyncOwn {
                start: range.start,
                id,
            });
            self.effects.push_back(Effect::ReadVolume { id, range });
        }
    }

    fn piece(&mut self, start: SectorOffset, id: u64) -> Option<&mut Piece> {
        self.resync
            .as_mut()?
            .pieces
            .get_mut(&start.0)
            .filter(|piece| piece.id == id)
    }

    pub(crate) fn sync_own_read(&mut self, start: SectorOffset, id: u64, data: VolumeData) {
        if self.is_repair(id) {
            return self.copy_own_read(id, &data);
        }
        let Some(link) = self.follow.source_link() else {
            return;
        };
        let Some(piece) = self.piece(start, id) else {
            return;
        };
        piece.step = Step::Asked;
        let range = piece.range;
        let digests = digests_of(&data, range);
        let message = Message::SyncRequest { id, range, digests };
        self.effects.push_back(Effect::Send { link, message });
    }

    pub(crate) fn sync_replied(&mut self, id: u64, reply_end: Lsn, answers: Vec<SyncExtent>) {
        if self.is_repair(id) {
            return self.copy_replied(id, reply_end, answers);
        }
        let Some(resync) = &mut self.resync else { return };
        let Some(piece) = resync
            .pieces
            .values_mut()
            .find(|piece| piece.id == id && piece.step == Step::Asked)
        else {
            return;
        };
        let range = piece.range;
        // Not what was asked: this piece is never settled, so the replica never claims to be whole.
        let Some(writes) = writes_of(range, answers) else {
            return;
        };
        let with_data = writes.iter().filter(|(_, data)| !data.is_empty());
        let copied: u64 = with_data.map(|(part, _)| part.len_bytes()).sum();
        piece.step = if writes.is_empty() {
            Step::Settled
        } else {
            Step::Writing { left: writes.len() }
        };
        if let SyncState::Copying {
            end, copied_bytes, ..
        } = &mut self.meta.sync
        {
            *end = (*end).max(reply_end);
            *copied_bytes += copied;
        }
        for (part, data) in writes {
            let id = self.io(Io::SyncWrite {
                start: range.start,
                id,
                range: part,
            });
            self.effects.push_back(Effect::WriteVolume {
                id,
                range: part,
                data,
            });
        }
    }

    pub(crate) fn sync_written(&mut self, start: SectorOffset, id: u64) {
        if self.is_repair(id) {
            return self.copy_written(id);
        }
        let Some(piece) = self.piece(start, id) else {
            return;
        };
        if let Step::Writing { left } = &mut piece.step {
            *left -= 1;
            if *left == 0 {
                piece.step = Step::Settled;
            }
        }
    }

    pub(crate) fn sync_flushed(&mut self, flushed: SectorOffset, flushed_term: u32) {
        let Some(resync) = &mut self.resync else { return };
        resync.flushing = false;
        let SyncState::Copying {
            end,
            copied_bytes,
            term,
            base,
            ..
        } = self.meta.sync
        else {
            return;
        };
        if term != flushed_term {
            return;
        }
        let replayed = self.marks.written_back() >= end || museum::is(Mutant::WholeWhenCopied);
        let finished = flushed.0 == self.sectors().0 && replayed;
        if finished {
            self.meta.sync = SyncState::Whole;
            self.resync = None;
            self.notice(Notice::SyncFinished { copied_bytes });
        } else {
            self.meta.sync = SyncState::Copying {
                next: flushed,
                end,
                copied_bytes,
                term,
                base,
            };
        }
        self.save(Then::Nothing);
    }

    /// As source: compare a replica's extents with ours.
    pub(crate) fn sync_asked(&mut self, link: LinkId, id: u64, range: SectorRange, digests: Vec<u128>) {
        let fits = range.end().0 <= self.sectors().0
            && range.count.0.div_ceil(SYNC_EXTENT_SECTORS) == digests.len() as u64;
        // A request that is not answered would be waited for without end; whoever is turned away asks again.
        if !matches!(self.phase, Phase::Serving) || range.is_empty() || !fits {
            return self.close_ship(link);
        }
        // What has entered the shadow must have a position, so that `end` can name it.
        self.seal();
        let end = self.log.sealed.lsn;
        let overlay = self.shadow.overlay(range);
        match overlay.missing() {
            None => self.sync_source_read(link, id, overlay.compose(VolumeData::Zeroes), digests, end, range),
            Some(missing) => {
                let id = self.io(Io::SyncSource {
                    link,
                    id,
                    overlay,
                    digests,
                    end,
                });
                self.effects.push_back(Effect::ReadVolume { id, range: missing });
            }
        }
    }

    pub(crate) fn sync_source_read(
        &mut self,
        link: LinkId,
        id: u64,
        data: VolumeData,
        digests: Vec<u128>,
        end: Lsn,
        range: SectorRange,
    ) {
        // Write-back during the read may have put newer data under it, but none beyond `touched`.
        let end = if museum::is(Mutant::WholeByMinimum) {
            self.marks.written_back()
        } else {
            end.max(self.marks.touched())
        };
        let extents = extents(range)
            .zip(digests)
            .map(|(part, theirs)| {
                let ours = slice(&data, range, part);
                if digest_of(&ours, part.len_bytes()) == theirs {
                    SyncExtent::Same
                } else if is_zeroes(&ours) {
                    SyncExtent::Zeroes
                } else {
                    SyncExtent::Data(crate::shadow::to_bytes(ours, part))
                }
            })
            .collect();
        if let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link) {
            ship.replies
                .push_back((end, Message::SyncReply { id, end, extents }));
        }
    }
}
