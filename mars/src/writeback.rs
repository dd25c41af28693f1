//! When and how does the shadow reach the disk? In rounds: freeze, commit, mark, write sorted and merged, flush.

use std::collections::VecDeque;

use bytes::Bytes;
use model::{Role, SectorRange};

use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Effect, VolumeData};
use crate::lineage::Position;
use crate::museum::{self, Mutant};

/// Writes in flight at one time.
const IN_FLIGHT_MAX: usize = 32;

/// Neighbouring pieces are merged up to this.
const WRITE_BYTES_MAX: u64 = 1 << 20;

/// A primary lets overwrites gather so long; a round begins earlier when the shadow is a quarter full.
const LAZY_MILLIS: u64 = 100;

/// A replica has no guest whose overwrites could gather; it only batches.
const REPLICA_MILLIS: u64 = 10;

/// One merged write; no data means zeroes.
type Write = (SectorRange, Vec<Bytes>);

/// Where the present round is.
#[derive(Debug)]
pub(crate) enum Round {
    /// None under way.
    Idle,
    /// Frozen; waits until its end is durable in the log.
    Committing { end: Position },
    /// Waits until `touched` is durable.
    Marking { end: Position },
    /// Writing.
    Writing { end: Position, queue: VecDeque<Write> },
    /// All written; waits until they are durable.
    Flushing { end: Position },
}

impl Engine {
    pub(crate) fn pump_round(&mut self) {
        match &self.round {
            Round::Idle => self.consider_round(),
            Round::Committing { end } => {
                let end = *end;
                if self.marks.committed() >= end.lsn || museum::is(Mutant::WrittenBackUnlogged) {
                    // After a restart the log is loaded piece by piece, while the disk may have been touched further on.
                    self.meta.touched = self.meta.touched.max(end.lsn);
                    self.round = Round::Marking { end };
                    if museum::is(Mutant::TouchedUnrecorded) {
                        return self.begin_writing();
                    }
                    self.save(Then::BeginWriting);
                } else {
                    self.log.want_flush(end.lsn);
                }
            }
            Round::Writing { .. } => self.issue_writes(),
            Round::Marking { .. } | Round::Flushing { .. } => {}
        }
    }

    fn consider_round(&mut self) {
        let stopped = matches!(self.phase, Phase::Scanning(_))
            || self.space.retracted
            || self.follow.is_cutting()
            || self.holds_back_log()
            || self.snapshot_holds_rounds();
        let behind = self.replay.loaded.lsn > self.marks.written_back() || !self.shadow.active.is_empty();
        if stopped || !behind {
            self.round_due = None;
            return;
        }
        let delay = if self.meta.role == Role::Primary {
            LAZY_MILLIS
        } else {
            REPLICA_MILLIS
        };
        let due = *self.round_due.get_or_insert(self.now.after_millis(delay));
        let pressed = self.shadow.bytes() >= self.config.shadow_bytes_max / 4
            || self.is_closing()
            || self.snapshots.holds_load();
        if self.now < due && !pressed {
            return;
        }
        self.begin_round();
    }

    /// What is loaded until now reaches the disk, and nothing behind it.
    pub(crate) fn begin_round(&mut self) {
        self.round_due = None;
        self.seal();
        self.shadow.freeze();
        let end = self.replay.loaded;
        self.snapshot_frozen(end);
        assert!(
            !self.snapshots.holds_load(),
            "a round never goes beyond a snapshot"
        );
        self.round = Round::Committing { end };
        self.pump_round();
    }

    /// `touched` is durable: the disk may change.
    pub(crate) fn begin_writing(&mut self) {
        let Round::Marking { end } = self.round else {
            panic!("marked without a round: {:?}", self.round)
        };
        self.marks.touch(end.lsn.max(self.marks.touched()));
        let mut queue: VecDeque<Write> = VecDeque::new();
        for (range, data) in self.shadow.frozen.iter() {
            if let Some((last, pieces)) = queue.back_mut()
                && last.end() == range.start
                && pieces.is_empty() == (*data == VolumeData::Zeroes)
                && (pieces.is_empty() || last.len_bytes() + range.len_bytes() <= WRITE_BYTES_MAX)
            {
                last.count.0 += range.count.0;
                if let VolumeData::Data(data) = data {
                    pieces.push(data.clone());
                }
                continue;
            }
            let pieces = match data {
                VolumeData::Data(data) => vec![data.clone()],
                VolumeData::Zeroes => Vec::new(),
            };
            queue.push_back((range, pieces));
        }
        self.round = Round::Writing { end, queue };
        self.issue_writes();
    }

    /// Whether a write of the present round is on its way to `range`.
    pub(crate) fn is_writing(&self, range: SectorRange) -> bool {
        self.io
            .values()
            .any(|io| matches!(io, Io::RoundWrite { range: writing } if writing.overlaps(range)))
    }

    fn issue_writes(&mut self) {
        let Round::Writing { end, queue } = &mut self.round else {
            return;
        };
        let end = *end;
        let mut queue = std::mem::take(queue);
        let mut in_flight = self
            .io
            .values()
            .filter(|io| matches!(io, Io::RoundWrite { .. }))
            .count();
        // A range whose full-sync copy is on its way must not change meanwhile: its writes wait at the end of the queue.
        for _ in 0..queue.len() {
            if in_flight == IN_FLIGHT_MAX {
                break;
            }
            let Some((range, data)) = queue.pop_front() else {
                break;
            };
            if self.is_locked_by_sync(range) {
                queue.push_back((range, data));
                continue;
            }
            in_flight += 1;
            let range = misdirected(range, self.sectors().0);
            let id = self.io(Io::RoundWrite { range });
            self.effects.push_back(Effect::WriteVolume { id, range, data });
        }
        if queue.is_empty() && in_flight == 0 {
            if museum::is(Mutant::WrittenBackUnflushed) {
                self.round = Round::Flushing { end };
                return self.round_flushed();
            }
            let id = self.io(Io::RoundFlush);
            self.effects.push_back(Effect::FlushVolume { id });
            self.round = Round::Flushing { end };
        } else {
            self.round = Round::Writing { end, queue };
        }
    }

    pub(crate) fn round_flushed(&mut self) {
        let Round::Flushing { end } = self.round else {
            panic!("flushed without a round: {:?}", self.round)
        };
        self.meta.written_back = end;
        self.marks.write_back(end.lsn);
        self.shadow.drop_frozen();
        self.round = Round::Idle;
        if let Some(size) = self.growth.written_back(end.lsn) {
            self.meta.size = size;
            // Soon, so that whoever starts again need not read it in the log first.
            self.save(Then::Nothing);
        }
        self.snapshot_reached(end);
    }
}

/// Where a write goes: to its place, unless the mutant is loose and the place looks like one that is easily confused.
fn misdirected(range: SectorRange, sectors: u64) -> SectorRange {
    let confused = range.start.0 % 61 == 7 && range.end().0 + 8 <= sectors;
    match SectorRange::new(range.start.0 + 8, range.count.0) {
        Some(wrong) if confused && museum::is(Mutant::WriteMisdirected) => wrong,
        _ => range,
    }
}
