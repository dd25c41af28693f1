//! How does a guest stay served while the primary of its volume moves, restarts or is out of reach?
//!
//! A [`Session`] stands between all doors of one host to one volume and whatever node is primary now; it may be the
//! host's own replica or one far away, the rules are the same. It is a pure state machine: [`Input`]s in, [`Output`]s
//! out, the caller owns sockets and clock.
//!
//! # The promise
//!
//! 1. A guest never sees an error because the primary moved or a link broke. Every request is kept until it is
//!    answered, and what is unanswered is sent again on the next connection.
//! 2. An answered write never vanishes while the guest lives, even if a remote primary loses its memory. Writes,
//!    discards and zeroes answered without FUA exist only in the primary's page cache, so the session keeps copies of
//!    them until a flush that was sent after their answer is answered. When a primary of another epoch is found, they are
//!    sent again before anything that touches the same sectors, and before any flush, unless the primary that
//!    answered them announced exactly that epoch as its successor's: then nothing was lost.
//! 3. Requests that overlap take effect in the order in which the session sent them, whatever is sent twice.
//!
//! # Why sending twice is harmless
//!
//! No request is sent while a mutation that it overlaps is unanswered. So whatever is unanswered may be done twice:
//! anything that must come after it has not been sent yet. This holds only if no copy of a request can be done
//! *later*; so every connection has a generation, and a serving node does nothing for an older generation of a session
//! once it has accepted a newer one (what waits there is withdrawn), nor for a connection that was accepted in another epoch than its present one.
//!
//! # When the guests have left
//!
//! The next guest may come through another host, whose session knows nothing of this one. So when the last guest leaves,
//! what it wrote is flushed and the copies are dropped; and if the primary is lost before that, copies and unanswered
//! requests are dropped at once: sent later, they could undo what the next guest has written by then. (A guest
//! that leaves without a flush was promised nothing more.)
//!
//! # What a new session does not know
//!
//! A primary that was deposed by a takeover serves on until it hears of that, and a session that has just begun, perhaps for a guest
//! that has met the newer one, cannot tell. So before it is served elsewhere for the first time it asks the other members too, as far as
//! they can be reached and for no longer than a moment, as a primary does that starts again. A primary beside the door is believed: whoever is
//! there is on its side until it hears of a newer one.
//!
//! # What the session relies on
//!
//! - A primary that grants its role has made sure that its successor holds everything *durably*. Otherwise writes that
//!   a local primary answered could be lost by its remote successor while the guest lives: of those there are no copies.
//! - Within a node, mutations of an accepted connection are done in the order in which they were submitted.
//!
//! # No copies for a local primary
//!
//! What the local replica answered is in the page cache of the very host on which the door is: it survives a kill of the
//! process, and a power cut takes the guest with it (a guest on another host sees its connection end, as with any
//! disk). When the role moves away by a planned hand-over, the successor has it durably; when it returns, copies
//! are sent if needed and then dropped. A forced takeover while the old primary lives loses what was not replicated,
//! flushed or not: that is what the word force stands for, and copies of the unflushed part would not change it.
//!
//! ```text
//!             dial                 Connected
//!   Away ──────────────► Dialling ───────────► Open
//!     ▲  timer, hint        │ Disconnected       │ Disconnected, NotPrimary
//!     └─────────────────────┴────────────────────┘
//! ```

mod admission;
mod copies;
mod io;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{Epoch, NodeId, SectorRange, Tick};

use crate::event::{GuestError, GuestRequest, Reply, RequestTag};
use crate::museum::{self, Mutant};
pub use admission::{Admission, Gate};
use copies::Copies;
pub use io::{Input, Output, SessionStatus};

/// Copies of unflushed writes past this many bytes make the session flush by itself.
pub const COPIES_BYTES_MAX: u64 = 64 << 20;

/// First wait before another node is tried.
pub const BACKOFF_MICROS_MIN: u64 = 5_000;

/// Longest wait before another node is tried.
pub const BACKOFF_MICROS_MAX: u64 = 500_000;

/// A new session waits so long for members that neither answer nor refuse.
const ASK_MICROS_MAX: u64 = 1_000_000;

/// Tries at each step of the wait before it doubles: a hand-over is over within a few of the short ones.
const BACKOFF_TRIES: u32 = 4;

/// Hints followed at once, one after the other; more of them are a circle and wait like any other try.
const HINTS_MAX: u32 = 3;

#[derive(Debug)]
enum Phase {
    /// No connection; the next node is tried at this time (never while there are no members).
    Away { retry_at: Option<Tick> },
    /// Asking a node whether it is primary.
    Dialling { node: NodeId },
    /// Served by a node.
    Open { node: NodeId, epoch: Epoch },
}

#[derive(Debug)]
struct Pending {
    tag: RequestTag,
    request: GuestRequest,
    arrived: Tick,
    /// Count of answers when it was last sent: what a flush covers.
    sent_stamp: u64,
    /// Whether it met an absent primary.
    paused: bool,
}

/// What was announced by a primary that gave its role away.
#[derive(Debug)]
struct Grant {
    from: Epoch,
    to: Epoch,
    successor: NodeId,
}

/// Who might know of a newer primary than the first that is found.
#[derive(Debug)]
struct Asking {
    /// Members that have not been asked yet.
    left: BTreeSet<NodeId>,
    /// When it ends, unless it has.
    until: Option<Tick>,
}

/// The state of one host's guests of one volume; the module's page says what it guarantees.
#[derive(Debug)]
pub struct Session {
    local: NodeId,
    members: Vec<NodeId>,
    copies_bytes_max: u64,

    phase: Phase,
    generation: u64,
    /// Highest epoch seen or announced: nothing older is a primary.
    epoch_seen: Epoch,
    grant: Option<Grant>,
    /// From the first primary that is found to the first that is believed.
    asking: Option<Asking>,
    /// Tried again and again between the others: the last primary, or where it is said to be.
    preferred: Option<NodeId>,
    tries: u32,
    hints: u32,
    turn: usize,
    served_before: bool,
    /// Whether anybody would miss what is not flushed or answered yet.
    present: bool,

    next_seq: u64,
    /// Unanswered requests of guests, in the order of arrival.
    pending: BTreeMap<u64, Pending>,
    /// Those of them that were not sent on this connection.
    unsent: BTreeSet<u64>,
    /// Sectors (start, end) of mutations sent on this connection and unanswered; disjoint.
    writing: BTreeMap<u64, u64>,
    copies: Copies,
    /// Copies sent again on this connection and unanswered.
    replays: BTreeMap<u64, GuestRequest>,
    /// The session's own flush under way: its seq, and the count of answers when it was sent.
    own_flush: Option<(u64, u64)>,
    own_flush_not_before: Option<Tick>,
    /// A copy could not be written again: the next flush says so, as a disk's lost write-back does.
    lost: Option<GuestError>,
    /// Answers received so far.
    stamp: u64,

    outputs: VecDeque<Output>,
    wait_micros_max: u64,
    pause_micros_max: u64,
}

impl Session {
    /// A session of node `local` with a volume whose replicas are on `members`; begins to look for the primary. It flushes by itself
    /// when copies of unflushed writes are more than `copies_bytes_max` ([`COPIES_BYTES_MAX`] where memory is not short).
    pub fn new(now: Tick, local: NodeId, members: Vec<NodeId>, copies_bytes_max: u64) -> Session {
        let mut session = Session {
            asking: None,
            local,
            members,
            copies_bytes_max,
            phase: Phase::Away { retry_at: None },
            generation: 0,
            epoch_seen: Epoch::NONE,
            grant: None,
            preferred: None,
            tries: 0,
            hints: 0,
            turn: 0,
            served_before: false,
            present: true,
            next_seq: 0,
            pending: BTreeMap::new(),
            unsent: BTreeSet::new(),
            writing: BTreeMap::new(),
            copies: Copies::default(),
            replays: BTreeMap::new(),
            own_flush: None,
            own_flush_not_before: None,
            lost: None,
            stamp: 0,
            outputs: VecDeque::new(),
            wait_micros_max: 0,
            pause_micros_max: 0,
        };
        session.try_next(now, 0);
        session
    }

    /// The world tells us.
    pub fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Guest { tag, request } => self.guest(now, tag, request),
            Input::Guests { present } => self.guests(present),
            Input::Members { members } => {
                self.members = members;
                if matches!(self.phase, Phase::Away { retry_at: None }) {
                    self.try_next(now, 0);
                }
            }
            Input::Heard { epoch } => self.epoch_seen = self.epoch_seen.max(epoch),
            Input::Connected { generation, epoch } => {
                if generation == self.generation {
                    self.connected(now, epoch);
                }
            }
            Input::Disconnected { generation, hint } => {
                if generation == self.generation {
                    self.disconnected(now, hint);
                }
            }
            Input::Answer {
                generation,
                seq,
                result,
            } => {
                if generation == self.generation {
                    self.answer(now, seq, result);
                }
            }
            Input::Timer => self.timer(now),
        }
    }

    /// We ask the world; call until `None` after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When we want [`Input::Timer`] at the latest.
    pub fn poll_timeout(&self) -> Option<Tick> {
        match self.phase {
            Phase::Away { retry_at } => retry_at,
            Phase::Dialling { .. } => self.asking.as_ref().and_then(|asking| asking.until),
            Phase::Open { .. } => self.own_flush_not_before,
        }
    }

    /// How we stand.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            primary: match &self.phase {
                Phase::Open { node, epoch } => Some((node.clone(), *epoch)),
                Phase::Away { .. } | Phase::Dialling { .. } => None,
            },
            waiting_requests: self.pending.len() as u64,
            copies_bytes: self.copies.bytes(),
            wait_micros_max: self.wait_micros_max,
            pause_micros_max: self.pause_micros_max,
        }
    }

    fn guest(&mut self, now: Tick, tag: RequestTag, request: GuestRequest) {
        let seq = self.take_seq();
        let open = matches!(self.phase, Phase::Open { .. });
        let paused = self.served_before && !open;
        self.pending.insert(
            seq,
            Pending {
                tag,
                request,
                arrived: now,
                sent_stamp: 0,
                paused,
            },
        );
        self.unsent.insert(seq);
        if open {
            self.send_one(seq);
        }
    }

    fn guests(&mut self, present: bool) {
        self.present = present;
        if present {
            return;
        }
        if matches!(self.phase, Phase::Open { .. }) {
            self.flush_copies();
        } else {
            self.forget();
        }
    }

    /// Nobody is there to whom anything was promised.
    fn forget(&mut self) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            self.outputs.push_back(Output::Forget { tag: pending.tag });
        }
        self.unsent.clear();
        self.copies.clear();
        self.lost = None;
    }

    fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn connected(&mut self, now: Tick, epoch: Epoch) {
        let Phase::Dialling { node } = &self.phase else {
            return;
        };
        let node = node.clone();
        if epoch < self.epoch_seen {
            // A primary that was deposed and does not know it yet: what it would answer may never have happened.
            self.outputs.push_back(Output::Disconnect {
                generation: self.generation,
            });
            self.disconnected(now, None);
            return;
        }
        if self.asks_others(now, &node) {
            self.epoch_seen = epoch;
            self.preferred = Some(node);
            self.outputs.push_back(Output::Disconnect {
                generation: self.generation,
            });
            return self.ask_next();
        }
        if let Some(grant) = self.grant.take().filter(|g| g.to == epoch) {
            self.copies.handed_over(grant.from, grant.to);
        }
        if node == self.local {
            self.copies.forget_known_to(epoch);
        }
        self.epoch_seen = self.epoch_seen.max(epoch);
        self.tries = 0;
        self.hints = 0;
        self.asking = None;
        self.served_before = true;
        self.preferred = Some(node.clone());
        self.phase = Phase::Open { node, epoch };
        let mut again = self.copies.unknown_to(epoch);
        again.retain(|_| !museum::is(Mutant::CopiesForgotten));
        for request in again {
            let seq = self.take_seq();
            self.mark_writing(&request);
            self.send(seq, request.clone());
            self.replays.insert(seq, request);
        }
        self.send_all();
    }

    /// Whether somebody might still say that there is a newer primary than this first one.
    fn asks_others(&mut self, now: Tick, found: &NodeId) -> bool {
        if self.served_before || *found == self.local {
            return false;
        }
        let asking = self.asking.get_or_insert_with(|| Asking {
            left: self.members.iter().cloned().collect(),
            until: Some(now.after_micros(ASK_MICROS_MAX)),
        });
        asking.left.remove(found);
        !asking.left.is_empty() && asking.until.is_some_and(|until| now < until)
    }

    /// Asks the next member, or goes back to the primary that was found.
    fn ask_next(&mut self) {
        let next = self.asking.as_mut().and_then(|asking| asking.left.pop_first());
        if let Some(node) = next.or(self.preferred.clone()) {
            self.dial(node);
        }
    }

    fn disconnected(&mut self, now: Tick, hint: Option<NodeId>) {
        let was = std::mem::replace(&mut self.phase, Phase::Away { retry_at: None });
        match was {
            Phase::Away { .. } => self.phase = was,
            Phase::Dialling { node } => {
                if self.asking.is_some() && self.preferred.as_ref() != Some(&node) {
                    return self.ask_next();
                }
                self.asking = None;
                let elsewhere = hint.filter(|h| *h != node);
                self.move_on(now, elsewhere);
            }
            Phase::Open { .. } => {
                self.park();
                self.move_on(now, hint);
            }
        }
    }

    fn not_primary(&mut self, now: Tick, hint: Option<NodeId>, granted: Option<Epoch>) {
        let Phase::Open { epoch, .. } = self.phase else {
            return;
        };
        // Only the direct successor of the very epoch we were served in: further ones may have lost something between.
        if let (Some(successor), Some(to)) = (&hint, granted)
            && to == epoch.next_term()
        {
            self.epoch_seen = to;
            self.grant = Some(Grant {
                from: epoch,
                to,
                successor: successor.clone(),
            });
        }
        self.outputs.push_back(Output::Disconnect {
            generation: self.generation,
        });
        self.park();
        self.phase = Phase::Away { retry_at: None };
        self.move_on(now, hint);
    }

    /// What was sent on the connection that is gone must be sent again.
    fn park(&mut self) {
        for (seq, pending) in &mut self.pending {
            pending.paused = true;
            if !museum::is(Mutant::UnansweredLost) {
                self.unsent.insert(*seq);
            }
        }
        self.writing.clear();
        self.replays.clear();
        self.own_flush = None;
        self.own_flush_not_before = None;
        if !self.present {
            self.forget();
        }
    }

    fn move_on(&mut self, now: Tick, hint: Option<NodeId>) {
        if let Some(hint) = hint.filter(|h| self.knows(h)) {
            self.preferred = Some(hint.clone());
            if self.hints < HINTS_MAX {
                self.hints += 1;
                self.dial(hint);
                return;
            }
        }
        let doublings = (self.tries / BACKOFF_TRIES).min(16);
        let wait = (BACKOFF_MICROS_MIN << doublings).min(BACKOFF_MICROS_MAX);
        self.try_next(now, wait);
    }

    fn knows(&self, node: &NodeId) -> bool {
        *node == self.local || self.members.contains(node)
    }

    fn try_next(&mut self, now: Tick, wait_micros: u64) {
        if self.members.is_empty() {
            self.phase = Phase::Away { retry_at: None };
        } else if wait_micros > 0 {
            self.phase = Phase::Away {
                retry_at: Some(now.after_micros(wait_micros)),
            };
        } else {
            let node = self.next_node();
            self.dial(node);
        }
    }

    /// The preferred node and the others in turns, our own first.
    fn next_node(&mut self) -> NodeId {
        let tries = self.tries;
        self.tries = self.tries.saturating_add(1);
        if let Some(node) = self
            .preferred
            .as_ref()
            .filter(|n| tries.is_multiple_of(2) && self.knows(n))
        {
            return node.clone();
        }
        let own = self.members.iter().filter(|m| **m == self.local);
        let others = self.members.iter().filter(|m| **m != self.local);
        let node = own.chain(others).nth(self.turn % self.members.len()).cloned();
        self.turn = self.turn.wrapping_add(1);
        node.expect("there are members, and the turn is within them")
    }

    fn dial(&mut self, node: NodeId) {
        self.generation += 1;
        let at_least = self.grant.as_ref().filter(|g| g.successor == node).map(|g| g.to);
        self.outputs.push_back(Output::Connect {
            generation: self.generation,
            node: node.clone(),
            at_least,
            epoch_seen: self.epoch_seen,
        });
        self.phase = Phase::Dialling { node };
    }

    fn timer(&mut self, now: Tick) {
        match self.phase {
            Phase::Away { retry_at: Some(at) } if at <= now => {
                self.hints = 0;
                self.try_next(now, 0);
            }
            Phase::Open { .. } if self.own_flush_not_before.is_some_and(|at| at <= now) => {
                self.own_flush_not_before = None;
                self.send_all();
            }
            Phase::Dialling { .. } if self.poll_timeout().is_some_and(|at| at <= now) => {
                if let Some(asking) = &mut self.asking {
                    (asking.left, asking.until) = (BTreeSet::new(), None);
                }
                self.outputs.push_back(Output::Disconnect {
                    generation: self.generation,
                });
                self.ask_next();
            }
            Phase::Away { .. } | Phase::Dialling { .. } | Phase::Open { .. } => {}
        }
    }

    fn send_all(&mut self) {
        self.flush_copies();
        let mut ahead: Vec<SectorRange> = Vec::new();
        for seq in self.unsent.iter().copied().collect::<Vec<_>>() {
            let Some(pending) = self.pending.get(&seq) else {
                continue;
            };
            let range = pending.request.range();
            let blocked = range.is_some_and(|r| ahead.iter().any(|a| a.overlaps(r)));
            if !blocked && self.may_send(&pending.request) {
                self.send_pending(seq);
            } else if let Some(range) = range
                && is_mutation(&pending.request)
            {
                ahead.push(range);
            }
        }
    }

    /// Sends a request that has just arrived, unless it must wait.
    fn send_one(&mut self, seq: u64) {
        let Some(pending) = self.pending.get(&seq) else {
            return;
        };
        let range = pending.request.range();
        let ahead = |other: &u64| {
            self.pending.get(other).is_some_and(|p| {
                is_mutation(&p.request) && p.request.range().zip(range).is_some_and(|(a, b)| a.overlaps(b))
            })
        };
        if self.unsent.range(..seq).any(ahead) || !self.may_send(&pending.request) {
            return;
        }
        self.send_pending(seq);
    }

    /// Whether what is under way lets this request go; earlier unsent ones are the caller's business.
    fn may_send(&self, request: &GuestRequest) -> bool {
        let Some(range) = request.range() else {
            // A flush must cover what a former primary answered, so that must have been written again.
            return self.replays.is_empty();
        };
        if is_unstable(request) && self.copies.bytes() >= 2 * self.copies_bytes_max {
            return false;
        }
        let before = self.writing.range(..range.end().0).next_back();
        before.is_none_or(|(_, end)| *end <= range.start.0)
    }

    fn send_pending(&mut self, seq: u64) {
        self.unsent.remove(&seq);
        let stamp = self.stamp;
        let Some(pending) = self.pending.get_mut(&seq) else {
            return;
        };
        pending.sent_stamp = stamp;
        let request = pending.request.clone();
        self.mark_writing(&request);
        self.send(seq, request);
    }

    fn send(&mut self, seq: u64, request: GuestRequest) {
        self.outputs.push_back(Output::Send {
            generation: self.generation,
            seq,
            request,
        });
    }

    fn mark_writing(&mut self, request: &GuestRequest) {
        if let Some(range) = request.range()
            && is_mutation(request)
            && !range.is_empty()
        {
            self.writing.insert(range.start.0, range.end().0);
        }
    }

    fn flush_copies(&mut self) {
        let bytes_max = if self.present { self.copies_bytes_max } else { 0 };
        let wanted = self.copies.bytes() > bytes_max
            && self.own_flush.is_none()
            && self.own_flush_not_before.is_none()
            && self.replays.is_empty();
        if wanted {
            let seq = self.take_seq();
            self.own_flush = Some((seq, self.stamp));
            self.send(seq, GuestRequest::Flush);
        }
    }

    fn answer(&mut self, now: Tick, seq: u64, result: Result<Reply, GuestError>) {
        let Phase::Open { node, epoch } = &self.phase else {
            return;
        };
        let (local, epoch) = (*node == self.local, *epoch);
        if let Err(GuestError::NotPrimary { hint, granted }) = result {
            return self.not_primary(now, hint, granted);
        }
        self.stamp += 1;
        if let Some((own, stamp)) = self.own_flush
            && own == seq
        {
            self.own_flush = None;
            match result {
                Ok(_) => self.copies.flushed(stamp),
                Err(_) => self.own_flush_not_before = Some(now.after_micros(BACKOFF_MICROS_MAX)),
            }
            self.send_all();
        } else if let Some(request) = self.replays.remove(&seq) {
            self.written(&request);
            match result {
                Ok(_) => self.copies.answered(&request, self.stamp, epoch, !local),
                Err(error) => {
                    if let Some(range) = request.range() {
                        self.copies.cut(range);
                    }
                    self.lost = Some(error);
                }
            }
            self.send_all();
        } else if !self.unsent.contains(&seq)
            && let Some(pending) = self.pending.remove(&seq)
        {
            self.finish(now, pending, result, local, epoch);
        }
    }

    fn finish(
        &mut self,
        now: Tick,
        pending: Pending,
        mut result: Result<Reply, GuestError>,
        local: bool,
        epoch: Epoch,
    ) {
        let request = &pending.request;
        let mut unblocks = false;
        if is_mutation(request) {
            self.written(request);
            if result.is_ok() {
                self.copies
                    .answered(request, self.stamp, epoch, is_unstable(request) && !local);
            }
            unblocks = true;
        } else if matches!(request, GuestRequest::Flush) && result.is_ok() {
            self.copies.flushed(pending.sent_stamp);
            if let Some(error) = self.lost.take() {
                result = Err(error);
            }
            unblocks = true;
        }
        let waited = now.micros_since(pending.arrived);
        self.wait_micros_max = self.wait_micros_max.max(waited);
        if pending.paused {
            self.pause_micros_max = self.pause_micros_max.max(waited);
        }
        self.outputs.push_back(Output::Complete {
            tag: pending.tag,
            result,
        });
        if unblocks {
            if self.unsent.is_empty() {
                self.flush_copies();
            } else {
                self.send_all();
            }
        }
    }

    fn written(&mut self, request: &GuestRequest) {
        if let Some(range) = request.range() {
            self.writing.remove(&range.start.0);
        }
    }
}

fn is_mutation(request: &GuestRequest) -> bool {
    match request {
        GuestRequest::Write { .. } | GuestRequest::Discard { .. } | GuestRequest::WriteZeroes { .. } => true,
        GuestRequest::Read { .. } | GuestRequest::Flush | GuestRequest::BlockStatus { .. } => false,
    }
}

/// Whether the primary may answer before it is durable.
fn is_unstable(request: &GuestRequest) -> bool {
    match request {
        GuestRequest::Write { fua, .. }
        | GuestRequest::Discard { fua, .. }
        | GuestRequest::WriteZeroes { fua, .. } => !fua,
        GuestRequest::Read { .. } | GuestRequest::Flush | GuestRequest::BlockStatus { .. } => false,
    }
}
