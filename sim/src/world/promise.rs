//! Is a flush that was answered durable wherever the volume's mode says? Looked at on the media, not in anybody's figures.

use mars::{Command, GuestRequest, Position, RequestTag, SyncState};
use model::{Mode, Tick};
use xxhash_rust::xxh3::xxh3_128;

use super::{Violation, World};
use crate::stamp;

/// A primary may count on a replica that was thrown away until its connection has died.
const NOTICED_MICROS: u64 = 15_000_000;

/// A request that will be answered as durable, from its arrival at a primary on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promised {
    mode: Mode,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Everything made before.
    Before(Position),
    /// The batch that brings this stamp.
    Write { sector: usize, stamp: u64 },
}

fn replicas(mode: Mode) -> usize {
    match mode {
        Mode::Async => 0,
        Mode::NearSync { replicas, .. } | Mode::Sync { replicas } => usize::from(replicas),
    }
}

impl World {
    /// What a node's volume was decided to be when it said last how it stands; unclear while it is being changed.
    fn mode_of(&self, node: usize) -> Option<Mode> {
        let changing = self
            .commands
            .values()
            .any(|c| matches!(c.command, Command::SetMode { .. }));
        let stood = self.stood(node)?;
        (!changing && stood.serving).then_some(stood.mode)
    }

    /// A request reaches a primary.
    pub(super) fn promise(&mut self, node: usize, tag: RequestTag, request: &GuestRequest) {
        let what = match request {
            GuestRequest::Flush => {
                // What did not fit into a full log was taken back: the primary's own end is before it.
                let own = self.nodes[node].engine.as_ref();
                let own = own.map(mars::Engine::tip);
                let made = self.history.end_of_writer(node);
                What::Before(own.filter(|own| own.lsn < made.lsn).unwrap_or(made))
            }
            GuestRequest::Write {
                range,
                data,
                fua: true,
            } => {
                let Some(stamp) = stamp::of(&data[..512]) else {
                    return;
                };
                What::Write {
                    sector: range.start.0 as usize,
                    stamp,
                }
            }
            _ => return,
        };
        if let Some(mode) = self.mode_of(node).filter(|mode| *mode != Mode::Async) {
            self.promised.insert(tag, Promised { mode, what });
        }
    }

    /// It was answered with success.
    pub(super) fn check_promise(&mut self, node: usize, tag: RequestTag) -> Result<(), Violation> {
        let Some(Promised { mode, what }) = self.promised.remove(&tag) else {
            return Ok(());
        };
        let Some(engine) = &self.nodes[node].engine else {
            return Ok(());
        };
        let short = engine.status(self.clock(node)).short_micros.is_some();
        let degraded = short && matches!(mode, Mode::NearSync { .. });
        let ends = match what {
            What::Before(end) => vec![end],
            What::Write { sector, stamp } => self.history.ends_of(sector, stamp),
        };
        if ends.is_empty() || self.mode_of(node) != Some(mode) || degraded {
            return Ok(());
        }
        let others = |end: &Position| -> Vec<usize> {
            let others = (0..self.nodes.len()).filter(|other| *other != node);
            others.filter(|other| self.has_durably(*other, *end)).collect()
        };
        let having = ends.iter().map(others).max_by_key(Vec::len).unwrap_or_default();
        self.count("checks: flushes looked for at replicas");
        if having.len() < replicas(mode) {
            let what = format!(
                "answers a flush of {} in mode {mode:?}, but only {having:?} have it durably",
                ends[0].lsn
            );
            return Err(self.violation(Some(node), what));
        }
        Ok(())
    }

    fn has_durably(&self, node: usize, end: Position) -> bool {
        let place = &self.nodes[node];
        let thrown_away = place
            .thrown_away
            .is_some_and(|at: Tick| self.now.micros_since(at) < NOTICED_MICROS);
        if thrown_away || place.disk.log.is_damaged() || self.is_faked(node) {
            return true;
        }
        let meta = self.meta(node).filter(|meta| meta.sync == SyncState::Whole);
        let Some(meta) = meta else { return false };
        let Some(begin) = self.history.begin_of_batch(end) else {
            return true;
        };
        // A copy ends behind what the log holds.
        if meta.written_back.lsn >= end.lsn {
            return self.history.holds(meta.written_back);
        }
        if place.disk.log.durable_end() < end.lsn.0 {
            return false;
        }
        // What was given up had been brought to the disk before.
        let bytes = place.disk.log.read(begin, (end.lsn.0 - begin) as usize);
        bytes.is_empty() || xxh3_128(bytes) == end.digest.0
    }
}
