//! How does a log become contents again? Recovery of a primary and replay on a replica are this same code.
//!
//! After a start the log is *scanned* from the position known durable to its true end; a torn tail is cut, damage is not.
//! Then it is *loaded* from `written_back` into the shadow, as far as nothing can be lost again, and written back like any
//! other shadow. A replica goes on loading for ever; a primary starts serving once it has loaded everything.

use bytes::Bytes;
use model::{Epoch, Lsn, ReplicaState, Role};

use crate::engine::{Engine, Io, Phase};
use crate::event::{DiskError, Effect, Notice, VolumeData};
use crate::lineage::{Position, Stretch};
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::record::{BATCH_ALIGN_BYTES, Batch, BatchError, HEADER_BYTES, Header, Record};
use crate::switch::Switch;

/// Read at one time, at most; a small log is read in smaller steps, so that small worlds take the same paths as large ones.
const READ_BYTES_MAX: u64 = 4 << 20;

/// How far behind a bad batch a scan looks for a sign that it had been durable.
const LOOK_AHEAD_BYTES: u64 = 64 << 20;

/// Progress of the scan after a start.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Bytes known to lie behind the last good batch.
    torn_bytes: u64,
    /// The first bad batch, while looking ahead: where to look next, and what was wrong.
    suspect: Option<(Lsn, String)>,
    /// The log is cut and flushing.
    pub cut: bool,
}

/// How far the log is loaded into the shadow.
#[derive(Debug)]
pub(crate) struct Replay {
    pub loaded: Position,
    /// Length of the next batch, when the last read ended within it.
    batch_bytes: usize,
}

impl Replay {
    pub fn from(at: Position) -> Replay {
        Replay {
            loaded: at,
            batch_bytes: 0,
        }
    }
}

impl Engine {
    /// Begins recovery.
    pub(crate) fn start_scan(&mut self) {
        if self.meta.sync == SyncState::Fresh {
            self.phase = Phase::Following;
            return;
        }
        let end = self.meta.committed.lsn;
        self.meta.lineage.retain(|stretch| stretch.from.lsn < end);
        self.phase = Phase::Scanning(Scan {
            torn_bytes: 0,
            suspect: None,
            cut: false,
        });
        self.scan_read(end, 0);
    }

    pub(crate) fn read_bytes(&self) -> usize {
        (self.config.log_bytes_max / 16).clamp(4096, READ_BYTES_MAX) as usize
    }

    fn scan_read(&mut self, at: Lsn, bytes_min: usize) {
        let bytes_max = self.read_bytes().max(bytes_min);
        let id = self.io(Io::ScanRead { bytes_max });
        self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
    }

    /// Accepts a batch that continues the log.
    pub(crate) fn accept(&mut self, batch: &Batch) -> (Position, Epoch) {
        for record in &batch.records {
            self.note_verified(record);
            if let Record::Epoch { writer } = record {
                let from = Position {
                    lsn: batch.header.lsn,
                    digest: batch.header.previous,
                };
                self.note_stretch(Stretch {
                    epoch: batch.header.epoch,
                    writer: writer.clone(),
                    from,
                });
            }
        }
        self.meta.epoch = self.meta.epoch.max(batch.header.epoch);
        (batch.end, batch.header.epoch)
    }

    pub(crate) fn scanned(&mut self, bytes: Bytes, bytes_max: usize) {
        let Phase::Scanning(scan) = &self.phase else {
            return;
        };
        if let Some((looked, reason)) = scan.suspect.clone() {
            return self.look_ahead(looked, &bytes, bytes.len() < bytes_max, reason);
        }
        let log_ends_here = bytes.len() < bytes_max;
        let mut batch_bytes = 0;
        let mut rest = bytes;
        let (at, reason) = loop {
            let at = self.log.sealed;
            if rest.is_empty() {
                break (at, None);
            }
            match Batch::decode_next(&rest, self.config.volume, at, self.log.sealed_epoch) {
                Ok(batch) => {
                    let (end, epoch) = self.accept(&batch);
                    self.log.sealed = end;
                    self.log.sealed_epoch = epoch;
                    rest = rest.slice(batch.header.batch_bytes as usize..);
                }
                Err(BatchError::Incomplete { need, .. }) if !log_ends_here => {
                    batch_bytes = need;
                    break (at, None);
                }
                Err(error) => break (at, Some(error.to_string())),
            }
        };
        if reason.is_none() && !log_ends_here {
            return self.scan_read(at.lsn, batch_bytes);
        }
        let own_end = self.wrote_the_end();
        let Phase::Scanning(scan) = &mut self.phase else {
            return;
        };
        scan.torn_bytes = rest.len() as u64;
        match reason {
            None => self.scan_end(),
            // A replica's batches speak of what was durable at the primary, so they prove nothing about this log; what it
            // lost it fetches again. Not what it wrote itself: of that it may have the only copy.
            Some(_) if !own_end => self.scan_end(),
            Some(reason) => {
                scan.suspect = Some((at.lsn, reason.clone()));
                self.look_ahead(at.lsn, &rest, log_ends_here, reason);
            }
        }
    }

    /// Whether what a scan finds at the end of the log is this node's own.
    fn wrote_the_end(&self) -> bool {
        let last = self.meta.lineage.last();
        self.meta.role == Role::Primary || last.is_some_and(|last| last.writer == self.config.node)
    }

    /// Whether this node wrote in an epoch.
    fn is_ours(&self, epoch: Epoch) -> bool {
        let wrote = |stretch: &Stretch| stretch.epoch == epoch && stretch.writer == self.config.node;
        // A term is one node's; one that took over may die before it writes anything.
        let own_term = self.meta.role == Role::Primary && epoch.term == self.meta.epoch.term;
        own_term || self.meta.lineage.iter().any(wrote)
    }

    /// A batch behind the bad one that was sealed when the bad one was durable turns a torn tail into damage.
    fn look_ahead(&mut self, from: Lsn, bytes: &Bytes, log_ends_here: bool, reason: String) {
        let bad = self.log.sealed.lsn;
        let mut offset = 0;
        while offset + HEADER_BYTES <= bytes.len() {
            let at = from.advance(offset as u64);
            if let Ok(header) = Header::decode(&bytes[offset..])
                && header.volume == self.config.volume
                && header.lsn == at
                && header.committed > bad
                && self.is_ours(header.epoch)
            {
                return self.defective_log(bad, reason);
            }
            offset += BATCH_ALIGN_BYTES;
        }
        let next = from.advance(offset as u64);
        if log_ends_here || offset == 0 || next.since(bad) > LOOK_AHEAD_BYTES {
            return self.scan_end();
        }
        if let Phase::Scanning(scan) = &mut self.phase {
            scan.torn_bytes = next.since(bad);
            scan.suspect = Some((next, reason));
        }
        self.scan_read(next, 0);
    }

    /// The end is known: cut what is behind it, and make what is before it durable.
    fn scan_end(&mut self) {
        // A log that ends where it begins is empty: what lies before a jump, or before a partial copy, belongs to nobody any more, and a
        // crash may have come before it was dropped.
        let is_empty = self.log.sealed.lsn == self.meta.trimmed;
        let is_dropped = is_empty || self.meta.straight && self.log.sealed == self.meta.written_back;
        let id = self.io(Io::ScanCut);
        self.effects.push_back(Effect::ResetLog {
            id,
            at: self.log.sealed.lsn,
            keep: !is_dropped,
        });
    }

    pub(crate) fn scan_cut(&mut self) {
        if let Phase::Scanning(scan) = &mut self.phase {
            scan.cut = true;
        }
        self.log.appended = self.log.sealed;
        self.log.appended_epoch = self.log.sealed_epoch;
        self.marks.append(self.log.sealed.lsn);
        // After kill -9 the tail may be in the page cache only; `pump_log` flushes it.
        self.scan_flushed();
    }

    /// Ends the scan once everything found is durable.
    pub(crate) fn scan_flushed(&mut self) {
        let Phase::Scanning(scan) = &self.phase else {
            return;
        };
        if !scan.cut || self.marks.committed() < self.log.sealed.lsn {
            return;
        }
        let torn_bytes = scan.torn_bytes;
        let replayed_bytes = self.log.sealed.lsn.since(self.marks.written_back());
        self.notice(Notice::Recovered {
            end: self.log.sealed,
            replayed_bytes,
            torn_bytes,
        });
        self.phase = Phase::Following;
        if self.meta.role == Role::Primary {
            self.ask_before_serving();
            let epoch = self.meta.epoch;
            self.begin_promotion(if museum::is(Mutant::EpochNotBumped) {
                epoch
            } else {
                epoch.next_start()
            });
        }
    }

    /// How far the log may be loaded: nothing that its primary could still lose reaches a disk.
    fn load_limit(&self) -> Lsn {
        match self.meta.role {
            Role::Primary => self.marks.committed(),
            // What has been begun is finished: else the disk alone would stay a mixture.
            Role::Secondary if self.is_paused(Switch::Replay) => self.meta.touched,
            Role::Secondary if museum::is(Mutant::ReplayUncommitted) => self.marks.committed(),
            Role::Secondary => self.marks.committed().min(self.follow.primary_committed),
        }
    }

    pub(crate) fn pump_load(&mut self) {
        let loading = self.io.values().any(|io| matches!(io, Io::Load { .. }));
        let loads = matches!(
            self.phase,
            Phase::Following | Phase::Promoting { .. } | Phase::Retracting { .. }
        );
        let stopped = !loads || self.space.retracted || self.follow.is_cutting();
        // What is held back from the disk must be in memory as a whole; guests had to wait for as much before.
        let full = self.shadow.bytes() >= self.config.shadow_bytes_max / 2
            && !self.shadow.active.is_empty()
            && !self.holds_back_log();
        if loading
            || stopped
            || full
            || self.growth.holds_load()
            || self.snapshots.holds_load()
            || self.replay.loaded.lsn >= self.load_limit()
        {
            return;
        }
        let bytes_max = self.read_bytes().max(self.replay.batch_bytes);
        let limit = self.load_limit();
        let id = self.io(Io::Load { bytes_max, limit });
        let at = self.replay.loaded.lsn;
        self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
    }

    pub(crate) fn loaded(&mut self, bytes: Bytes, bytes_max: usize, asked_limit: Lsn) {
        // The log has grown since it was read: what was not there when it was asked for is not missing.
        let limit = self.load_limit().min(asked_limit);
        let mut rest = bytes.clone();
        while self.replay.loaded.lsn < limit {
            match Batch::decode_next(&rest, self.config.volume, self.replay.loaded, Epoch::NONE) {
                Ok(batch) if batch.end.lsn > limit => break,
                Ok(batch) => {
                    let growth = batch.records.first().and_then(Record::growth);
                    if let Some((from, to)) = growth {
                        let (at, size) = (batch.header.lsn, self.config.size);
                        if from != size {
                            let reason = format!("a volume of {size} grows as if it had {from}");
                            return self.defective_log(at, reason);
                        }
                        if !self.disk_is_long_enough(at, from, to) {
                            break;
                        }
                    }
                    rest = rest.slice(batch.header.batch_bytes as usize..);
                    let snapshot = batch.records.first().and_then(Record::snapshot).cloned();
                    let unix_micros = batch.header.written_unix_micros;
                    let barriers: Vec<_> = batch.records.iter().filter_map(Record::barrier).collect();
                    batch
                        .records
                        .into_iter()
                        .filter(|record| !is_lost(record))
                        .for_each(|record| self.enter_shadow(record));
                    self.replay.loaded = batch.end;
                    if let Some((_, to)) = growth {
                        self.grown(batch.end.lsn, to);
                    }
                    for range in barriers {
                        self.barrier_reached(batch.end.lsn, range);
                    }
                    if let Some(name) = snapshot {
                        self.snapshot_loaded(name, batch.end, unix_micros);
                        if self.snapshots.holds_load() {
                            break;
                        }
                    }
                }
                Err(BatchError::Incomplete { need, .. }) if bytes.len() == bytes_max => {
                    self.replay.batch_bytes = need;
                    break;
                }
                Err(error) => return self.defective_log(self.replay.loaded.lsn, error.to_string()),
            }
        }
    }

    /// Makes a record's contents what reads see.
    pub(crate) fn enter_shadow(&mut self, record: Record) {
        match record {
            Record::Write { range, data } => self.shadow.active.insert(range, VolumeData::Data(data)),
            Record::Discard { range } | Record::Zeroes { range, .. } => {
                self.shadow.active.insert(range, VolumeData::Zeroes);
            }
            // The new part is made zeroes on the disk before the record is loaded: see `grow.rs`.
            Record::Epoch { .. }
            | Record::Barrier { .. }
            | Record::Verified { .. }
            | Record::Grow { .. }
            | Record::Snapshot { .. } => {}
        }
    }

    /// The log is damaged where it must be whole: nothing behind this reaches the disk.
    pub(crate) fn defective_log(&mut self, at: Lsn, reason: String) {
        self.notice(Notice::DefectiveLog {
            at,
            reason: reason.clone(),
        });
        let operation = format!("log of volume {} at {at}", self.config.volume);
        self.fail(ReplicaState::DefectiveLog, DiskError { operation, reason });
    }
}

/// Whether the mutant that forgets zeroes is loose and would forget these.
fn is_lost(record: &Record) -> bool {
    museum::is(Mutant::ZeroesLost)
        && matches!(record, Record::Zeroes { range, .. } if range.count.0 < crate::message::SYNC_EXTENT_SECTORS)
}
