//! Are all replicas equal, while guests write? Each piece of the volume is digested by everybody at one position of the log.
//!
//! The primary puts a *barrier* for a piece into the log. Whoever reaches the end of the barrier's batch, the primary when it
//! seals it, a replica when it has loaded it, takes what its shadow holds of the piece and asks its disk for the rest at
//! that moment. The disk answers in the order in which it is asked, so shadow over disk is exactly the version at the
//! barrier, and nobody waits: neither guests, nor replay, nor write-back. Replicas send digests, the primary compares.
//!
//! A piece whose answers got lost, or that somebody could not digest (it is recovering, or has enough to do), gets another
//! barrier. Progress is kept in the meta, so a run goes on after a restart; it ends when the role moves. What differs is told and,
//! on request, copied from the primary (`repair.rs`) and compared again. With two other replicas or more that agree among
//! themselves, it is the primary that differs; then nothing is copied, for that would spread the damage.

use std::collections::{BTreeMap, BTreeSet};

use model::{Lsn, NodeId, SectorOffset, SectorRange, Tick};

use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{CommandError, CommandId, Effect, Notice, VolumeData};
use crate::message::{Message, SYNC_EXTENT_SECTORS, SYNC_EXTENTS_MAX};
use crate::record::Record;
use crate::resync::digests_of;
use crate::shadow::Overlay;
use crate::ship::Peer;

/// Differences kept to be shown; of more, only the bytes are counted.
pub const DIFFERENCES_MAX: usize = 64;

/// Nodes whose verification is remembered.
pub const VERIFIED_MAX: usize = 32;

/// Pieces without a final answer at most: a replica that lags answers late, and should not hold the run up.
const PIECES_MAX: usize = 1024;

/// Reads of the own disk under way at one time: guests go first.
const READS_MAX: usize = 2;

/// A member that is gone, or not whole, for so long is left out of the run.
const PATIENCE_MILLIS: u64 = 60_000;

/// Before a piece that could not be digested is tried again.
const AGAIN_MILLIS: u64 = 100;

/// Progress is made durable so often: what a restart has to compare again.
const SAVE_MILLIS: u64 = 1000;

/// A piece that still differs after so many copies is not tried again.
const REPAIRS_MAX: u8 = 3;

/// When a replica was last found equal to the others, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// End of the log when the comparison began: each sector was equal at some position from here on.
    pub from: Lsn,
    /// Wall clock at that moment, in seconds since 1970.
    pub unix_seconds: u64,
}

/// A comparison of all replicas; durable, so that it goes on after a restart, and is told when it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRun {
    /// When it began.
    pub began: Verified,
    /// Sectors before this are compared.
    pub next: SectorOffset,
    /// Whether differences are to be repaired.
    pub repair: bool,
    /// Bytes to compare in a second at most; 0: as fast as it goes.
    pub bytes_per_second_max: u64,
    /// The primary and everyone it is compared with.
    pub nodes: Vec<VerifyNode>,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// How it ended; `None` while it goes on.
    pub ended: Option<VerifyEnd>,
}

/// What was found out about one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyNode {
    /// Who.
    pub node: NodeId,
    /// It was away or without a version for too long: its figures say nothing.
    pub left_out: bool,
    /// Length of the extents that were different.
    pub different_bytes: u64,
    /// Of these, length of those that are equal now.
    pub repaired_bytes: u64,
}

/// An extent that was different on one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// On which.
    pub node: NodeId,
    /// Where.
    pub range: SectorRange,
    /// Whether it is equal now.
    pub repaired: bool,
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyEnd {
    /// Everything was compared.
    Finished,
    /// An operator did not want it any more.
    Cancelled,
    /// The primary role moved.
    RoleMoved,
}

impl VerifyRun {
    /// Whether it goes on.
    pub fn is_active(&self) -> bool {
        self.ended.is_none()
    }

    /// The replicas that are equal now, once everything was compared.
    pub fn equal_nodes(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| !node.left_out && node.different_bytes == node.repaired_bytes)
            .map(|node| node.node.clone())
            .collect()
    }

    fn takes_part(&self, node: &NodeId) -> bool {
        self.nodes
            .iter()
            .any(|candidate| candidate.node == *node && !candidate.left_out)
    }
}

/// The primary's side of a run, in memory.
#[derive(Debug)]
pub(crate) struct Verify {
    /// Sectors before this have been asked for.
    cursor: u64,
    /// Not yet behind `next`, by first sector.
    pieces: BTreeMap<u64, Piece>,
    /// The rate allows no barrier before this.
    due: Tick,
    save_due: Tick,
    /// Since when those who take part are gone or not whole.
    away: BTreeMap<NodeId, Tick>,
    /// `next` as it was saved last.
    saved: u64,
}

#[derive(Debug)]
struct Piece {
    range: SectorRange,
    step: Step,
    repairs: u8,
    /// Extents found different on each node, one bit each.
    found: BTreeMap<NodeId, u32>,
    /// Of these, still different.
    left: BTreeMap<NodeId, u32>,
}

#[derive(Debug)]
enum Step {
    /// A barrier is to be put into the log.
    Ask { at: Tick },
    /// The barrier's batch ends at `at`; everybody digests.
    Asked {
        at: Lsn,
        own: Option<Vec<u128>>,
        /// `None` from one who could not.
        answers: BTreeMap<NodeId, Option<Vec<u128>>>,
    },
    /// These copy from us.
    Repairing { waiting: BTreeSet<NodeId> },
    /// Nothing more is to be found out.
    Settled,
}

/// One bit for each extent that differs.
fn differing(ours: &[u128], theirs: &[u128]) -> u32 {
    let differs = |bit: usize| ours.get(bit) != theirs.get(bit);
    (0..ours.len().max(theirs.len()))
        .filter(|bit| differs(*bit))
        .fold(0, |mask, bit| mask | 1 << bit)
}

/// The stretches of `range` whose extents have their bit set.
fn stretches(range: SectorRange, mask: u32) -> Vec<SectorRange> {
    let mut found: Vec<SectorRange> = Vec::new();
    for bit in (0..u32::BITS).filter(|bit| mask & 1 << bit != 0) {
        let start = range.start.0 + u64::from(bit) * SYNC_EXTENT_SECTORS;
        let count = SYNC_EXTENT_SECTORS.min(range.end().0.saturating_sub(start));
        let extent = SectorRange::new(start, count).expect("within a checked range");
        match found.last_mut() {
            Some(last) if last.end() == extent.start => last.count.0 += count,
            _ => found.push(extent),
        }
    }
    found
}

fn bytes_of(range: SectorRange, mask: u32) -> u64 {
    stretches(range, mask)
        .into_iter()
        .map(|stretch| stretch.len_bytes())
        .sum()
}

impl Engine {
    /// Length of the pieces; a small volume has smaller ones, so that small worlds take the same paths as large ones.
    fn verify_step_sectors(&self) -> u64 {
        let extents = self.sectors().0 / SYNC_EXTENT_SECTORS / 8;
        extents.clamp(1, SYNC_EXTENTS_MAX as u64) * SYNC_EXTENT_SECTORS
    }

    pub(crate) fn start_verify(
        &mut self,
        id: CommandId,
        repair: bool,
        bytes_per_second_max: u64,
        unix_seconds: u64,
    ) {
        let alone = || {
            self.peers.is_empty().then(|| CommandError::Refused {
                reason: "the volume has one replica only: there is nothing to compare".to_owned(),
            })
        };
        if let Some(refusal) = self.refusal_unless_serving().or_else(alone) {
            return self.answer(id, Err(refusal));
        }
        let from = self.log.sealed.lsn;
        match &mut self.meta.verify {
            Some(run) if run.is_active() => {
                (run.repair, run.bytes_per_second_max) = (repair, bytes_per_second_max);
            }
            _ => {
                let own = self.config.node.clone();
                let node = |node: &NodeId| VerifyNode {
                    node: node.clone(),
                    left_out: false,
                    different_bytes: 0,
                    repaired_bytes: 0,
                };
                let nodes = [&own].into_iter().chain(self.peers.keys()).map(node).collect();
                self.verify = None;
                self.meta.verify = Some(VerifyRun {
                    began: Verified { from, unix_seconds },
                    next: SectorOffset(0),
                    repair,
                    bytes_per_second_max,
                    nodes,
                    differences: Vec::new(),
                    ended: None,
                });
                self.notice(Notice::VerifyStarted { from });
            }
        }
        self.save(Then::Decided { id });
    }

    pub(crate) fn cancel_verify(&mut self, id: CommandId) {
        if matches!(self.phase, Phase::Following | Phase::Demoting) {
            return self.answer(id, Err(CommandError::NotPrimary));
        }
        self.end_verify(VerifyEnd::Cancelled);
        self.save(Then::Decided { id });
    }

    /// Ends the run, if there is one; whoever calls saves the meta.
    pub(crate) fn end_verify(&mut self, end: VerifyEnd) {
        self.verify = None;
        let Some(run) = self.meta.verify.as_mut().filter(|run| run.is_active()) else {
            return;
        };
        run.ended = Some(end);
        let run = Box::new(run.clone());
        self.notice(Notice::VerifyEnded { run });
    }

    pub(crate) fn active_run(&self) -> Option<&VerifyRun> {
        self.meta.verify.as_ref().filter(|run| run.is_active())
    }

    pub(crate) fn verify_due(&self) -> Option<Tick> {
        if !self.takes_barriers() {
            return None;
        }
        let (verify, run) = (self.verify.as_ref()?, self.active_run()?);
        let save = (run.next.0 != verify.saved).then_some(verify.save_due);
        let away = verify
            .away
            .values()
            .map(|since| since.after_millis(PATIENCE_MILLIS));
        away.chain(save).chain(self.verify_asks_at()).min()
    }

    /// Whether there is a log, with room, to put barriers into.
    fn takes_barriers(&self) -> bool {
        let serves = matches!(self.phase, Phase::Serving) && self.straight.road.serves_log();
        serves && !self.has_no_room() && !self.does_without_log()
    }

    /// When the next barrier may be put into the log; `None` while something else must happen first.
    fn verify_asks_at(&self) -> Option<Tick> {
        let verify = self.verify.as_ref()?;
        let reads = self
            .io
            .values()
            .filter(|io| matches!(io, Io::VerifyOwn { .. }))
            .count();
        if reads >= READS_MAX || self.is_gated() || !self.guests.waiting.is_empty() {
            return None;
        }
        let again = verify.pieces.values().filter_map(|piece| match piece.step {
            Step::Ask { at } => Some(at),
            _ => None,
        });
        let more = verify.cursor < self.sectors().0 && verify.pieces.len() < PIECES_MAX;
        let at = again.chain(more.then_some(self.now)).min()?;
        Some(at.max(verify.due))
    }

    pub(crate) fn pump_verify(&mut self) {
        if self.active_run().is_none() {
            return;
        }
        if !matches!(self.phase, Phase::Serving) {
            // A primary that restarts goes on with its run; one that is primary no more never will.
            if matches!(self.phase, Phase::Following) {
                self.end_verify(VerifyEnd::RoleMoved);
                self.save(Then::Nothing);
            }
            return;
        }
        if !self.takes_barriers() {
            return;
        }
        if self.verify.is_none() {
            let next = self.active_run().map_or(0, |run| run.next.0);
            self.verify = Some(Verify {
                cursor: next,
                pieces: BTreeMap::new(),
                due: self.now,
                save_due: self.now.after_millis(SAVE_MILLIS),
                away: BTreeMap::new(),
                saved: next,
            });
        }
        self.leave_out_the_missing();
        self.advance_verify();
        while self.verify_asks_at().is_some_and(|at| self.now >= at) {
            self.put_barrier();
        }
    }

    /// Takes those out of the run who are gone for too long.
    fn leave_out_the_missing(&mut self) {
        let (Some(verify), Some(run)) = (&mut self.verify, &mut self.meta.verify) else {
            return;
        };
        let mut left_out = Vec::new();
        for node in run.nodes.iter_mut().filter(|node| !node.left_out) {
            if node.node == self.config.node {
                continue;
            }
            let peer = self.peers.get(&node.node);
            // One that is paused reaches no barrier.
            let takes_part =
                |peer: &Peer| peer.whole && peer.link.is_some() && !peer.paused.holding(true).any();
            if peer.is_some_and(takes_part) {
                verify.away.remove(&node.node);
                continue;
            }
            let since = *verify.away.entry(node.node.clone()).or_insert(self.now);
            if peer.is_none() || self.now >= since.after_millis(PATIENCE_MILLIS) {
                node.left_out = true;
                left_out.push(node.node.clone());
            }
        }
        for node in &left_out {
            verify.away.remove(node);
        }
        if left_out.is_empty() {
            return;
        }
        for piece in verify.pieces.values_mut() {
            match &mut piece.step {
                Step::Asked { answers, .. } => answers.retain(|node, _| !left_out.contains(node)),
                Step::Repairing { waiting } => waiting.retain(|node| !left_out.contains(node)),
                Step::Ask { .. } | Step::Settled => {}
            }
        }
        let starts: Vec<u64> = verify.pieces.keys().copied().collect();
        starts.into_iter().for_each(|start| self.settle_piece(start));
    }

    /// Moves `next` behind what is settled; makes progress durable now and then, and ends the run.
    fn advance_verify(&mut self) {
        let sectors = self.sectors();
        let (Some(verify), Some(run)) = (&mut self.verify, &mut self.meta.verify) else {
            return;
        };
        while let Some(first) = verify.pieces.first_entry()
            && matches!(first.get().step, Step::Settled)
        {
            let piece = first.remove();
            run.next = piece.range.end();
            for (node, found) in &piece.found {
                let left = piece.left.get(node).copied().unwrap_or(0);
                if let Some(known) = run.nodes.iter_mut().find(|known| known.node == *node) {
                    known.different_bytes += bytes_of(piece.range, *found);
                    known.repaired_bytes += bytes_of(piece.range, found & !left);
                }
                for (mask, repaired) in [(found & !left, true), (left, false)] {
                    for range in stretches(piece.range, mask) {
                        if run.differences.len() < DIFFERENCES_MAX {
                            let node = node.clone();
                            run.differences.push(Difference {
                                node,
                                range,
                                repaired,
                            });
                        }
                    }
                }
            }
        }
        if run.next.0 >= sectors.0 {
            return self.finish_verify();
        }
        if run.next.0 != verify.saved && self.now >= verify.save_due {
            verify.saved = run.next.0;
            verify.save_due = self.now.after_millis(SAVE_MILLIS);
            self.save(Then::Nothing);
        }
    }

    fn finish_verify(&mut self) {
        let Some(run) = self.active_run() else { return };
        let (began, nodes) = (run.began, run.equal_nodes());
        // Equal to nobody is not equal.
        if nodes.len() > 1 {
            let record = Record::Verified { began, nodes };
            self.note_verified(&record);
            self.log.builder.push(&record);
            self.seal();
        }
        self.end_verify(VerifyEnd::Finished);
        self.save(Then::Nothing);
    }

    /// Remembers what a record says about who was found equal.
    pub(crate) fn note_verified(&mut self, record: &Record) {
        let Record::Verified { began, nodes } = record else {
            return;
        };
        if nodes.contains(&self.config.node) {
            // What was compared before it was vouched for is not what was vouched for.
            self.meta.faked.take_if(|at| *at <= began.from);
        }
        let members = &self.config.members;
        self.meta
            .verified
            .retain(|(node, _)| !nodes.contains(node) && members.contains(node));
        let noted = nodes.iter().map(|node| (node.clone(), *began));
        self.meta.verified.extend(noted);
        self.meta.verified.truncate(VERIFIED_MAX);
    }

    /// Puts the next barrier into the log, and digests the same piece here.
    fn put_barrier(&mut self) {
        let (now, sectors, step) = (self.now, self.sectors().0, self.verify_step_sectors());
        let bytes_per_second_max = self.active_run().map_or(0, |run| run.bytes_per_second_max);
        let Some(verify) = &mut self.verify else { return };
        let again = verify
            .pieces
            .values()
            .find(|piece| matches!(piece.step, Step::Ask { at } if now >= at));
        let range = match again {
            Some(piece) => piece.range,
            None => {
                let count = step.min(sectors - verify.cursor);
                let range = SectorRange::new(verify.cursor, count).expect("within the volume");
                verify.cursor += count;
                range
            }
        };
        let micros = range.len_bytes().saturating_mul(1_000_000);
        verify.due = now.after_micros(micros.checked_div(bytes_per_second_max).unwrap_or(0));
        self.log.builder.push(&Record::Barrier { range });
        self.seal();
        let at = self.log.sealed.lsn;
        let asked = Step::Asked {
            at,
            own: None,
            answers: BTreeMap::new(),
        };
        let Some(verify) = &mut self.verify else { return };
        verify
            .pieces
            .entry(range.start.0)
            .or_insert_with(|| Piece {
                range,
                step: Step::Ask { at: now },
                repairs: 0,
                found: BTreeMap::new(),
                left: BTreeMap::new(),
            })
            .step = asked;
        let overlay = self.shadow.overlay(range);
        match overlay.missing() {
            None => self.verify_own_read(at, overlay, VolumeData::Zeroes),
            Some(missing) => {
                let id = self.io(Io::VerifyOwn { at, overlay });
                self.effects.push_back(Effect::ReadVolume { id, range: missing });
            }
        }
    }

    pub(crate) fn verify_own_read(&mut self, barrier: Lsn, overlay: Overlay, data: VolumeData) {
        let range = overlay.range();
        let Some(verify) = &mut self.verify else { return };
        let piece = verify.pieces.get_mut(&range.start.0);
        if let Some(Piece {
            step: Step::Asked { at, own, .. },
            ..
        }) = piece
            && *at == barrier
        {
            *own = Some(digests_of(&overlay.compose(data), range));
            self.settle_piece(range.start.0);
        }
    }

    /// A replica has digested a piece at a barrier, or could not.
    pub(crate) fn verify_answered(
        &mut self,
        node: NodeId,
        barrier: Lsn,
        start: SectorOffset,
        digests: Option<Vec<u128>>,
    ) {
        if !self.active_run().is_some_and(|run| run.takes_part(&node)) {
            return;
        }
        let Some(verify) = &mut self.verify else { return };
        if let Some(piece) = verify.pieces.get_mut(&start.0)
            && let Step::Asked { at, answers, .. } = &mut piece.step
            && *at == barrier
        {
            answers.insert(node, digests);
            self.settle_piece(start.0);
        }
    }

    /// A replica has copied a piece.
    pub(crate) fn verify_repaired(&mut self, node: &NodeId, start: SectorOffset) {
        let Some(verify) = &mut self.verify else { return };
        if let Some(piece) = verify.pieces.get_mut(&start.0)
            && let Step::Repairing { waiting } = &mut piece.step
            && waiting.remove(node)
        {
            self.settle_piece(start.0);
        }
    }

    /// A replica opened its stream anew: what it was asked before may never be answered.
    pub(crate) fn verify_reopened(&mut self, node: &NodeId) {
        let now = self.now;
        if !self.active_run().is_some_and(|run| run.takes_part(node)) {
            return;
        }
        let Some(verify) = &mut self.verify else { return };
        for piece in verify.pieces.values_mut() {
            let lost = match &piece.step {
                Step::Asked { .. } => true,
                Step::Repairing { waiting } => waiting.contains(node),
                Step::Ask { .. } | Step::Settled => false,
            };
            if lost {
                piece.step = Step::Ask { at: now };
            }
        }
    }

    /// Once everybody has answered: compares, and decides what becomes of the piece.
    fn settle_piece(&mut self, start: u64) {
        let own = self.config.node.clone();
        let (Some(verify), Some(run)) = (&mut self.verify, &self.meta.verify) else {
            return;
        };
        let Some(piece) = verify.pieces.get_mut(&start) else {
            return;
        };
        let others = || run.nodes.iter().filter(|node| !node.left_out && node.node != own);
        match &piece.step {
            Step::Ask { .. } | Step::Settled => return,
            Step::Repairing { waiting } => {
                if waiting.is_empty() {
                    piece.step = Step::Ask { at: self.now };
                }
                return;
            }
            Step::Asked { own: None, .. } => return,
            Step::Asked { answers, .. } => {
                if others().any(|node| !answers.contains_key(&node.node)) {
                    return;
                }
                if answers.values().any(Option::is_none) {
                    let at = self.now.after_millis(AGAIN_MILLIS);
                    piece.step = Step::Ask { at };
                    return;
                }
            }
        }
        let Step::Asked {
            own: Some(ours),
            answers,
            ..
        } = &piece.step
        else {
            return;
        };
        let theirs: Vec<(&NodeId, &Vec<u128>)> = answers
            .iter()
            .filter_map(|(node, digests)| Some((node, digests.as_ref()?)))
            .collect();
        let masks: Vec<(NodeId, u32)> = theirs
            .iter()
            .map(|(node, digests)| ((*node).clone(), differing(ours, digests)))
            .collect();
        // Where all others agree against us, it is us.
        let agree = match theirs.split_first() {
            Some(((_, first), rest)) if !rest.is_empty() => !rest
                .iter()
                .fold(0, |mask, (_, other)| mask | differing(first, other)),
            _ => 0,
        };
        let odd = agree & masks.iter().fold(u32::MAX, |all, (_, mask)| all & mask);
        let odd = if masks.is_empty() { 0 } else { odd };
        let mut news = Vec::new();
        let mut copies = BTreeSet::new();
        for (node, mask) in masks.into_iter().chain([(own.clone(), odd)]) {
            let mask = if node == own { mask } else { mask & !odd };
            let found = piece.found.entry(node.clone()).or_insert(0);
            let new = mask & !*found;
            *found |= mask;
            piece.left.insert(node.clone(), mask);
            let ranges = stretches(piece.range, new).into_iter();
            news.extend(ranges.map(|range| (node.clone(), range)));
            if mask != 0 && node != own {
                copies.insert(node);
            }
        }
        if run.repair && !copies.is_empty() && odd == 0 && piece.repairs < REPAIRS_MAX {
            piece.repairs += 1;
            piece.step = Step::Repairing {
                waiting: copies.clone(),
            };
        } else {
            copies.clear();
            piece.step = Step::Settled;
        }
        let range = piece.range;
        for (node, range) in news {
            self.notice(Notice::Difference { node, range });
        }
        for node in copies {
            let message = Message::Repair { range };
            if let Some(link) = self.peers.get(&node).and_then(|peer| peer.link) {
                self.effects.push_back(Effect::Send { link, message });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_differ_become_stretches() {
        let range = SectorRange::new(256, 300).expect("small");
        let mask = differing(&[1, 2, 3], &[1, 5, 6]);
        assert_eq!(mask, 0b110);
        let want = SectorRange::new(256 + 128, 172).expect("small");
        assert_eq!(stretches(range, mask), [want]);
        assert_eq!(bytes_of(range, mask), 172 * 512);
        assert_eq!(differing(&[1], &[1, 2]), 0b10, "a short answer is no equal one");
    }
}
