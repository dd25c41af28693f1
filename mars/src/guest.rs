//! How is a guest answered? Reads by shadow over disk, writes by the log, and patience when there is no room.

use std::collections::VecDeque;

use bytes::Bytes;
use model::units::SECTOR_BYTES;
use model::{Lsn, Role, SectorCount, SectorRange};

use crate::engine::{Engine, Io, Phase};
use crate::event::{
    Answer, BlockExtent, CommandError, CommandId, DiskError, Effect, GuestError, GuestRequest, Reply,
    RequestTag, VolumeData,
};
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::record::{BATCH_PAYLOAD_GOAL_BYTES, Record};
use crate::shadow::{Overlay, to_bytes};

/// Sectors that one record without data may cover: its table entry counts in 32 bits.
const RECORD_SECTORS_MAX: u64 = 1 << 31;

/// Read at one time for a checksum.
const CHECKSUM_SECTORS: u64 = 2048;

/// Guests that wait.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    /// In order of arrival; served in that order.
    pub waiting: VecDeque<(RequestTag, GuestRequest)>,
    /// What a primary had accepted when it heard of a newer one; sent on once it is durably secondary.
    pub fenced: Vec<RequestTag>,
}

/// A digest of the whole volume being made.
pub(crate) struct Checksum {
    id: CommandId,
    next: u64,
    /// The volume's length when it began.
    sectors: u64,
    from: Lsn,
    /// Changes without a log when it began.
    changes: u64,
    hasher: Box<xxhash_rust::xxh3::Xxh3>,
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksum")
            .field("id", &self.id)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Engine {
    fn complete(&mut self, tag: RequestTag, result: Result<Reply, GuestError>) {
        self.effects.push_back(Effect::Complete { tag, result });
    }

    pub(crate) fn guest_arrived(&mut self, tag: RequestTag, request: GuestRequest) {
        match self.phase {
            Phase::Following => {
                let error = self.not_primary();
                self.complete(tag, Err(error));
            }
            Phase::Serving if !self.must_wait(&request) => self.admit(tag, request),
            _ => self.guests.waiting.push_back((tag, request)),
        }
    }

    pub(crate) fn not_primary(&self) -> GuestError {
        if museum::is(Mutant::NotPrimaryIsAnError) {
            let (operation, reason) = ("request".to_owned(), "the primary has moved".to_owned());
            return GuestError::Disk(DiskError { operation, reason });
        }
        let granted = self.meta.granted.as_ref().map(|granted| granted.epoch);
        GuestError::NotPrimary {
            hint: self.primary_hint(),
            granted,
        }
    }

    /// Whether a request must queue: behind the gate of a hand-over everything that could change the volume, else writes
    /// for which there is no room, and those that arrived after them.
    fn must_wait(&self, request: &GuestRequest) -> bool {
        match request {
            GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. } => false,
            GuestRequest::Flush => self.is_gated() || self.road_holds(request),
            _ => {
                self.is_gated()
                    || self.road_holds(request)
                    || !self.guests.waiting.is_empty()
                    || !self.has_room()
            }
        }
    }

    fn has_room(&self) -> bool {
        self.pace.is_ready(self.now)
            && self.shadow.bytes() < self.config.shadow_bytes_max
            && self.log_has_room()
    }

    pub(crate) fn admit(&mut self, tag: RequestTag, request: GuestRequest) {
        // Not before: a primary that recovers learns from its log how long the volume is.
        if let Some(range) = request.range()
            && range.end() > self.config.size.range().end()
        {
            return self.complete(tag, Err(GuestError::OutOfBounds));
        }
        if self.goes_straight(tag, &request) {
            return;
        }
        let asked = request.clone();
        match request {
            GuestRequest::Read { range } => {
                let overlay = self.shadow.overlay(range);
                match overlay.missing() {
                    None => self.guest_read(tag, overlay, VolumeData::Zeroes),
                    Some(missing) => {
                        let id = self.io(Io::GuestRead { tag, overlay });
                        self.effects.push_back(Effect::ReadVolume { id, range: missing });
                    }
                }
            }
            GuestRequest::BlockStatus { range } => {
                let overlay = self.shadow.overlay(range);
                match overlay.missing() {
                    None => self.guest_status(tag, overlay, &[]),
                    Some(missing) => {
                        let id = self.io(Io::GuestStatus { tag, overlay });
                        self.effects
                            .push_back(Effect::VolumeStatus { id, range: missing });
                    }
                }
            }
            GuestRequest::Flush => {
                self.seal();
                if museum::is(Mutant::FlushAnsweredAtOnce) {
                    return self.complete(tag, Ok(Reply::Done));
                }
                self.log.wait_committed(self.log.sealed.lsn, tag);
                self.settle_flushes();
            }
            GuestRequest::Write { range, data, fua } => {
                let step = (BATCH_PAYLOAD_GOAL_BYTES as u64) / SECTOR_BYTES;
                let pieces = cut(range, step).into_iter().map(|part| {
                    let from = (part.start.bytes() - range.start.bytes()) as usize;
                    Record::Write {
                        range: part,
                        data: data.slice(from..from + part.len_bytes() as usize),
                    }
                });
                self.log_records(tag, fua, asked, pieces.collect());
            }
            GuestRequest::Discard { .. } if museum::is(Mutant::DiscardDropped) => {
                self.complete(tag, Ok(Reply::Done));
            }
            GuestRequest::Discard { range, fua } => {
                let pieces = cut(range, RECORD_SECTORS_MAX)
                    .into_iter()
                    .map(|range| Record::Discard { range });
                self.log_records(tag, fua, asked, pieces.collect());
            }
            GuestRequest::WriteZeroes { range, fua, unmap } => {
                let pieces = cut(range, RECORD_SECTORS_MAX)
                    .into_iter()
                    .map(|range| Record::Zeroes { range, unmap });
                self.log_records(tag, fua, asked, pieces.collect());
            }
        }
    }

    fn log_records(&mut self, tag: RequestTag, durable: bool, asked: GuestRequest, records: Vec<Record>) {
        if records.is_empty() {
            return self.complete(tag, Ok(Reply::Done));
        }
        for record in records {
            self.pace.take(self.now, record.data_bytes());
            if self.log.builder.payload_bytes() >= BATCH_PAYLOAD_GOAL_BYTES {
                self.seal();
            }
            self.log.builder.push(&record);
            if let Some(range) = record.range() {
                self.mark_dirty(range);
            }
            self.enter_shadow(record);
        }
        self.log.gathering.push((tag, durable, asked));
    }

    pub(crate) fn guest_read(&mut self, tag: RequestTag, overlay: Overlay, disk: VolumeData) {
        let range = overlay.range();
        let data = to_bytes(overlay.compose(disk), range);
        self.complete(tag, Ok(Reply::Data(data)));
    }

    pub(crate) fn guest_status(&mut self, tag: RequestTag, overlay: Overlay, disk: &[BlockExtent]) {
        self.complete(tag, Ok(Reply::Extents(overlay.compose_status(disk))));
    }

    /// Lets in who waits, in order, as far as there is room.
    pub(crate) fn pump_guests(&mut self) {
        match self.phase {
            Phase::Serving => {
                while !self.is_gated()
                    && let Some((_, request)) = self.guests.waiting.front()
                {
                    let needs_room = !matches!(
                        request,
                        GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. } | GuestRequest::Flush
                    );
                    if self.road_holds(request) || (needs_room && !self.has_room()) {
                        return;
                    }
                    if let Some((tag, request)) = self.guests.waiting.pop_front() {
                        self.admit(tag, request);
                    }
                }
            }
            Phase::Following => {
                while let Some((tag, _)) = self.guests.waiting.pop_front() {
                    let error = self.not_primary();
                    self.complete(tag, Err(error));
                }
            }
            _ => {}
        }
    }

    /// Nobody waits for these any more: done later, they could undo what the next guest of the same sectors has seen by then.
    pub(crate) fn withdraw(&mut self, mut tags: Vec<RequestTag>) {
        tags.sort_unstable();
        let withdrawn = |(tag, _): &(RequestTag, GuestRequest)| tags.binary_search(tag).is_ok();
        let waiting = std::mem::take(&mut self.guests.waiting);
        let (gone, stay): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(withdrawn);
        self.guests.waiting = stay;
        for (tag, _) in gone {
            let error = self.not_primary();
            self.complete(tag, Err(error));
        }
    }

    pub(crate) fn fail_guests(&mut self, error: &DiskError) {
        let mut tags = self.log.take_waiting();
        tags.extend(self.take_straight());
        tags.extend(self.guests.waiting.drain(..).map(|(tag, _)| tag));
        tags.append(&mut self.guests.fenced);
        for io in std::mem::take(&mut self.io).into_values() {
            match io {
                Io::GuestRead { tag, .. } | Io::GuestStatus { tag, .. } | Io::StraightWrite { tag, .. } => {
                    tags.push(tag);
                }
                Io::StraightFlush { tags: flushed, .. } => tags.extend(flushed),
                Io::Checksum { job, .. } => {
                    self.answer(
                        job.id,
                        Err(CommandError::NotInService {
                            reason: error.to_string(),
                        }),
                    );
                }
                _ => {}
            }
        }
        for tag in tags {
            let error = self.out_of_service(error.clone());
            self.complete(tag, Err(error));
        }
    }

    /// What a guest is told by a replica that failed: one that is not primary was only the wrong one to ask.
    pub(crate) fn out_of_service(&self, error: DiskError) -> GuestError {
        match self.meta.role {
            Role::Primary => GuestError::Disk(error),
            Role::Secondary => self.not_primary(),
        }
    }

    pub(crate) fn start_checksum(&mut self, id: CommandId) {
        let reason = match (&self.phase, self.meta.sync) {
            (Phase::Scanning(_) | Phase::Promoting { .. } | Phase::Retracting { .. }, _) => {
                Some("recovery is under way")
            }
            (_, SyncState::Fresh | SyncState::Copying { .. }) => Some("its full sync is not finished"),
            // After a restart the disk is a mixture until the log is loaded as far as write-back had reached.
            _ if self.replay.loaded.lsn < self.meta.touched => Some("its log is not yet applied"),
            _ => None,
        };
        if let Some(reason) = reason {
            return self.answer(
                id,
                Err(CommandError::NotInService {
                    reason: reason.to_owned(),
                }),
            );
        }
        self.seal();
        let job = Checksum {
            id,
            next: 0,
            sectors: self.size_loaded().sectors().0,
            from: self.replay.loaded.lsn,
            changes: self.straight.changes,
            hasher: Box::default(),
        };
        self.checksum_next(job);
    }

    fn checksum_next(&mut self, job: Checksum) {
        let left = job.sectors - job.next;
        if left == 0 {
            self.seal();
            // What changed without a log had no position of its own; and one that is not written may be taken back when the log is
            // full, to come again with other contents.
            let unsure = self.straight.changes != job.changes || self.marks.appended() < job.from;
            let moved = u64::from(unsure);
            let answer = Answer::Checksum {
                digest: job.hasher.digest128(),
                from: job.from,
                to: self.replay.loaded.lsn.advance(moved),
            };
            return self.answer(job.id, Ok(answer));
        }
        let range = SectorRange::new(job.next, left.min(CHECKSUM_SECTORS)).expect("within the volume");
        let overlay = self.shadow.overlay(range);
        match overlay.missing() {
            None => self.checksum_read(job, overlay.compose(VolumeData::Zeroes)),
            Some(missing) => {
                let id = self.io(Io::Checksum { job, overlay });
                self.effects.push_back(Effect::ReadVolume { id, range: missing });
            }
        }
    }

    pub(crate) fn checksum_read(&mut self, mut job: Checksum, data: VolumeData) {
        let count = (job.sectors - job.next).min(CHECKSUM_SECTORS);
        match data {
            VolumeData::Data(data) => job.hasher.update(&data),
            VolumeData::Zeroes => job.hasher.update(&vec![0; SectorCount(count).bytes() as usize]),
        }
        job.next += count;
        self.checksum_next(job);
    }
}

/// The range in pieces of at most `step` sectors.
fn cut(range: SectorRange, step: u64) -> Vec<SectorRange> {
    let mut pieces = Vec::with_capacity(1);
    let mut at = range.start.0;
    while at < range.end().0 {
        let count = step.min(range.end().0 - at);
        pieces.push(SectorRange::new(at, count).expect("within a checked range"));
        at += count;
    }
    pieces
}

/// Contents of `range` sectors digested as a full sync compares them.
pub(crate) fn digest_of(data: &VolumeData, bytes: u64) -> u128 {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    match data {
        VolumeData::Data(data) => xxhash_rust::xxh3::xxh3_128(data),
        VolumeData::Zeroes => {
            let zeroes = Bytes::from_static(&ZEROES).slice(..(bytes as usize).min(ZEROES.len()));
            xxhash_rust::xxh3::xxh3_128(&zeroes)
        }
    }
}
