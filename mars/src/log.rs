//! How does history grow? Seal, append, commit: group commit of whatever has gathered meanwhile.

use std::collections::VecDeque;

use bytes::Bytes;
use model::{Epoch, Lsn, Role, Tick};

use crate::engine::{Engine, Phase};
use crate::event::{Effect, GuestRequest, Reply, RequestTag};
use crate::lineage::Position;
use crate::museum::{self, Mutant};
use crate::record::BatchBuilder;

/// Batches on their way to the page cache at one time: one in flight, one gathered behind it.
const APPENDING_MAX: usize = 2;

/// A primary makes its log durable at the latest so long after the first byte, although no guest waits: replicas may
/// replay only what is durable here.
const LAZY_FLUSH_MILLIS: u64 = 50;

/// …or once so many bytes have gathered.
const LAZY_FLUSH_BYTES: u64 = 8 << 20;

/// Moments kept to tell a peer's lag in time; spaced so that they span minutes.
const SAMPLES_MAX: usize = 8192;

/// The log's end, in its stages.
#[derive(Debug)]
pub(crate) struct Log {
    /// End of what was handed to the driver.
    pub sealed: Position,
    /// Epoch of the last batch handed over.
    pub sealed_epoch: Epoch,
    /// Records of the next batch.
    pub builder: BatchBuilder,
    /// Who waits for the next batch, whether for its commit, and what they asked.
    pub gathering: Vec<(RequestTag, bool, GuestRequest)>,
    /// What guests asked that is not appended yet: it is asked again if it does not fit.
    unappended: VecDeque<(Lsn, RequestTag, GuestRequest)>,
    appending: VecDeque<(Position, Epoch)>,
    /// End of what survives the process.
    pub appended: Position,
    /// Epoch of the last batch there.
    pub appended_epoch: Epoch,
    flushing: Option<(Position, Epoch)>,
    /// Somebody waits for everything before this to be durable.
    pub flush_wanted: Lsn,
    /// When the lazy flush is due.
    pub flush_due: Option<Tick>,
    wait_appended: VecDeque<(Lsn, RequestTag)>,
    wait_committed: VecDeque<(Lsn, RequestTag)>,
    /// Durable here since then, and waiting for the replicas that the mode asks for.
    pub wait_replicas: VecDeque<(Lsn, RequestTag, Tick)>,
    /// (end of log, when) pairs, oldest first.
    pub samples: VecDeque<(Lsn, Tick)>,
    /// Where a batch was found damaged that only others needed, and how.
    pub damage: Option<(Lsn, String)>,
}

impl Log {
    pub fn ending_at(end: Position, epoch: Epoch) -> Log {
        Log {
            sealed: end,
            sealed_epoch: epoch,
            builder: BatchBuilder::default(),
            gathering: Vec::new(),
            unappended: VecDeque::new(),
            appending: VecDeque::new(),
            appended: end,
            appended_epoch: epoch,
            flushing: None,
            flush_wanted: Lsn(0),
            flush_due: None,
            wait_appended: VecDeque::new(),
            wait_committed: VecDeque::new(),
            wait_replicas: VecDeque::new(),
            samples: VecDeque::new(),
            damage: None,
        }
    }

    /// Whether nothing is on its way to the log.
    pub fn is_quiet(&self) -> bool {
        self.builder.is_empty() && self.appending.is_empty() && self.flushing.is_none()
    }

    /// Whether no guest waits for this log; some may wait for replicas.
    pub fn nobody_waits_here(&self) -> bool {
        self.gathering.is_empty() && self.wait_appended.is_empty() && self.wait_committed.is_empty()
    }

    /// Whether no guest waits for any log.
    pub fn nobody_waits(&self) -> bool {
        self.nobody_waits_here() && self.wait_replicas.is_empty()
    }

    pub fn want_flush(&mut self, up_to: Lsn) {
        self.flush_wanted = self.flush_wanted.max(up_to);
    }

    /// Answers `tag` once everything before `up_to` is durable as the mode says.
    pub fn wait_committed(&mut self, up_to: Lsn, tag: RequestTag) {
        self.want_flush(up_to);
        self.wait_committed.push_back((up_to, tag));
    }

    /// Everyone who waits, for a replica that goes out of service.
    pub fn take_waiting(&mut self) -> Vec<RequestTag> {
        self.unappended.clear();
        let gathering = self.gathering.drain(..).map(|(tag, ..)| tag);
        let waiting = self
            .wait_appended
            .drain(..)
            .chain(self.wait_committed.drain(..))
            .map(|(_, tag)| tag);
        let held = self.wait_replicas.drain(..).map(|(_, tag, _)| tag);
        gathering.chain(waiting).chain(held).collect()
    }
}

impl Log {
    /// Takes back everything that is not appended; who had asked for it, in the order in which it was asked.
    pub fn retract(&mut self) -> Vec<(RequestTag, GuestRequest)> {
        let end = self.appended;
        self.sealed = end;
        self.sealed_epoch = self.appended_epoch;
        self.builder = BatchBuilder::default();
        self.appending.clear();
        self.flushing.take_if(|(flushing, _)| flushing.lsn > end.lsn);
        self.flush_wanted = self.flush_wanted.min(end.lsn);
        self.flush_due = None;
        let unappended = self.unappended.drain(..).map(|(_, tag, request)| (tag, request));
        let gathering = self.gathering.drain(..).map(|(tag, _, request)| (tag, request));
        let mut back: Vec<(RequestTag, GuestRequest)> = unappended.chain(gathering).collect();
        self.wait_appended.clear();
        self.wait_committed.retain(|(until, tag)| {
            if *until <= end.lsn {
                return true;
            }
            // Who waits and brought nothing is a flush.
            if back.iter().all(|(known, _)| known != tag) {
                back.push((*tag, GuestRequest::Flush));
            }
            false
        });
        back
    }
}

impl Engine {
    /// Hands the gathered records to the driver as one batch.
    pub(crate) fn seal(&mut self) {
        if self.log.builder.is_empty() {
            return;
        }
        assert!(
            !self.straight.road.is_straight(),
            "whoever has something to log asks for a log first"
        );
        let at = self.log.sealed;
        let epoch = self.meta.epoch;
        let committed = self.marks.committed();
        let compressed = self.meta.settings.compressed;
        let unix_micros = self.unix_micros();
        let (bytes, end) =
            self.log
                .builder
                .seal(self.config.volume, epoch, at, committed, unix_micros, compressed);
        self.append(at, bytes, end, epoch);
        for (tag, durable, request) in std::mem::take(&mut self.log.gathering) {
            self.log.unappended.push_back((end.lsn, tag, request));
            if museum::is(Mutant::AckedInBuffer) && !durable {
                let result = Ok(Reply::Done);
                self.effects.push_back(Effect::Complete { tag, result });
            } else if durable && !museum::is(Mutant::FuaIgnored) {
                self.log.wait_committed(end.lsn, tag);
            } else {
                self.log.wait_appended.push_back((end.lsn, tag));
            }
        }
        // A primary's records enter the shadow as they arrive.
        self.replay.loaded = end;
    }

    /// Hands whole batches to the driver.
    pub(crate) fn append(&mut self, at: Position, bytes: Bytes, end: Position, epoch: Epoch) {
        assert_eq!(at, self.log.sealed, "the log has no gaps");
        self.effects.push_back(Effect::AppendLog { at: at.lsn, bytes });
        self.log.appending.push_back((end, epoch));
        self.log.sealed = end;
        self.log.sealed_epoch = epoch;
    }

    pub(crate) fn log_written(&mut self, up_to: Lsn) {
        while let Some((end, epoch)) = self.log.appending.front().copied()
            && end.lsn <= up_to
        {
            self.log.appending.pop_front();
            self.log.appended = end;
            self.log.appended_epoch = epoch;
        }
        let appended = self.log.appended.lsn;
        while self
            .log
            .unappended
            .pop_front_if(|(end, ..)| *end <= appended)
            .is_some()
        {}
        if self.log.appended.lsn > self.marks.appended() {
            self.marks.append(self.log.appended.lsn);
            self.sample();
        }
        while let Some((_, tag)) = self
            .log
            .wait_appended
            .pop_front_if(|(end, _)| *end <= self.marks.appended())
        {
            self.effects.push_back(Effect::Complete {
                tag,
                result: Ok(Reply::Done),
            });
        }
    }

    pub(crate) fn log_flushed(&mut self, up_to: Lsn) {
        self.log_written(up_to);
        self.flush_fits();
        if let Some((end, epoch)) = self.log.flushing
            && end.lsn <= up_to
        {
            self.log.flushing = None;
            let (end, epoch) = if museum::is(Mutant::CommitOvertakesFlush) {
                (self.log.appended, self.log.appended_epoch)
            } else {
                (end, epoch)
            };
            self.meta.committed = end;
            self.meta.committed_epoch = epoch;
            self.marks.commit(end.lsn);
            self.settle_growth();
            self.settle_snapshots();
            self.scan_flushed();
        }
        self.settle_flushes();
    }

    /// Hands those whose flush is durable here to those who wait for replicas, and answers whom the mode lets it answer.
    pub(crate) fn settle_flushes(&mut self) {
        let committed = self.marks.committed();
        while let Some((end, tag)) = self.log.wait_committed.pop_front_if(|(end, _)| *end <= committed) {
            self.log.wait_replicas.push_back((end, tag, self.now));
        }
        let assured = self.assured();
        while let Some((_, tag, _)) = self.log.wait_replicas.pop_front_if(|(end, ..)| *end <= assured) {
            self.effects.push_back(Effect::Complete {
                tag,
                result: Ok(Reply::Done),
            });
        }
    }

    fn sample(&mut self) {
        const SPACING_MICROS: u64 = 20_000;
        if self
            .log
            .samples
            .back()
            .is_none_or(|(_, at)| self.now.micros_since(*at) >= SPACING_MICROS)
        {
            if self.log.samples.len() == SAMPLES_MAX {
                // Lag beyond the window is told as its length: thin the older half rather than forget it.
                let mut keep = false;
                self.log.samples.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.log.samples.push_back((self.marks.appended(), self.now));
        } else if let Some(last) = self.log.samples.back_mut() {
            last.0 = self.marks.appended();
        }
    }

    /// Age of the oldest byte behind `have`, in microseconds.
    pub(crate) fn lag_micros(&self, now: Tick, have: Lsn) -> u64 {
        if have >= self.marks.appended() {
            return 0;
        }
        self.log
            .samples
            .iter()
            .find(|(end, _)| *end > have)
            .map_or(0, |(_, at)| now.micros_since(*at))
    }

    /// Seals when there is room in the pipeline, flushes when somebody waits or it is time.
    pub(crate) fn pump_log(&mut self) {
        // What a scan has found so far is the log's end only once it has found all of it.
        if matches!(&self.phase, Phase::Scanning(scan) if !scan.cut) {
            return;
        }
        if self.log.appending.len() < APPENDING_MAX {
            self.seal();
        }
        let unflushed = self.log.sealed.lsn.since(self.marks.committed());
        if unflushed == 0 {
            self.log.flush_due = None;
            return;
        }
        if self.log.flushing.is_some() {
            self.log.flush_due = None;
            return;
        }
        let due = *self
            .log
            .flush_due
            .get_or_insert(self.now.after_millis(LAZY_FLUSH_MILLIS));
        // A replica's acknowledgement frees log at its primary and lets a hand-over begin: it never dawdles.
        let eager = self.meta.role == Role::Secondary || matches!(self.phase, Phase::Scanning(_));
        let wanted = self.log.flush_wanted > self.marks.committed();
        if eager || wanted || unflushed >= LAZY_FLUSH_BYTES || self.now >= due {
            self.log.flush_due = None;
            self.log.flushing = Some((self.log.sealed, self.log.sealed_epoch));
            self.effects.push_back(Effect::FlushLog {
                up_to: self.log.sealed.lsn,
            });
        }
    }
}
