//! How does a replica find its source, open a stream, and take in what comes?

use bytes::{Bytes, BytesMut};
use model::{Epoch, Lsn, NodeId, Role, SectorOffset, Tick, VolumeSize};

use crate::dirty::DirtyMap;
use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Effect, LinkId, Notice};
use crate::lineage::{Position, Relation};
use crate::log::Log;
use crate::message::{Message, Opened};
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::record::{Batch, BatchError, HEADER_BYTES, Header};
use crate::relay::Avoided;
use crate::replay::Replay;
use crate::ship::HEARTBEAT_MILLIS;
use crate::switch::Paused;
use crate::watermark::Watermarks;

/// First pause between attempts to reach a source; doubles up to the last.
const RETRY_MILLIS_MIN: u64 = 10;
const RETRY_MILLIS_MAX: u64 = 1000;

/// Pause after histories were found to have parted: only an operator can change that, figures apart.
const PARTED_RETRY_MILLIS: u64 = 10_000;

/// A dial, or a question that was not answered, is given up after this.
const OPEN_MILLIS_MAX: u64 = 10_000;

/// Bytes taken from a source that are not yet whole batches, at most: more than the longest batch.
const BUFFER_BYTES_MAX: usize = 64 << 20;

/// Where a replica stands with its source.
#[derive(Debug)]
pub(crate) enum State {
    /// No source; tries again then.
    Idle { retry_at: Tick },
    /// A connection is being made.
    Dialling { peer: NodeId, until: Tick },
    /// Asked for a stream.
    Opening { link: LinkId, peer: NodeId, until: Tick },
    /// Told to begin anew: waits until nothing is under way, then drops log and history; what streams in is kept.
    Renewing {
        link: LinkId,
        peer: NodeId,
        source: Box<Opened>,
        /// Contents are kept, for a partial copy since this base.
        base: Option<Position>,
        started: bool,
        buffer: BytesMut,
    },
    /// Told that a partial copy since `base` would do: waits until that is known to be true, and everything before the base
    /// is on the disk.
    Offered {
        link: LinkId,
        peer: NodeId,
        source: Box<Opened>,
        base: Position,
        buffer: BytesMut,
        checked: bool,
    },
    /// Takes in the stream.
    Streaming {
        link: LinkId,
        peer: NodeId,
        buffer: BytesMut,
    },
    /// Told to drop the end of the log.
    Cutting { to: Position, step: CutStep },
    /// Drops a history that is no version: waits until nothing is under way, then makes that durable.
    Emptying { started: bool },
}

/// How far a replica is that drops the end of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutStep {
    /// Waits until nothing is under way.
    Wanted,
    /// Makes durable that the end does not count, then drops it.
    Begun,
    /// It is gone: waits once more, for what was asked for meanwhile, then begins anew with what is left.
    Dropped,
}

/// The listening side of a replica.
#[derive(Debug)]
pub(crate) struct Follow {
    pub state: State,
    /// Where the primary is thought to be.
    pub hint: Option<NodeId>,
    /// Which member is tried next when there is no hint.
    turn: usize,
    retry_millis: u64,
    /// Durable at the primary, as far as announced.
    pub primary_committed: Lsn,
    /// The same, remembered when the source is gone: what a takeover would lose at least.
    pub known_committed: Lsn,
    /// No member needs log before this, says the source.
    pub horizon: Lsn,
    /// Contents are of no use to a partial copy: ask for a full sync.
    pub begin_anew: bool,
    /// What the source of a partial copy has named, while it streams.
    pub named: Option<(Position, DirtyMap)>,
    last_ack: Option<(Lsn, Lsn, Lsn, bool, SectorOffset, VolumeSize, Paused)>,
    /// When the source is told the same again, if something has come from it by then.
    ack_again_at: Tick,
    /// The source has no log for us any more, and an operator wants us to keep what we have.
    pub outlived: bool,
    /// Through whom the log comes, the primary first and our source last; empty without a stream.
    pub path: Vec<NodeId>,
    /// Streams begun so far: the name of the last.
    pub streams: u64,
    /// Sources that did not serve when they were asked.
    pub avoided: Avoided,
    /// The primary wants us to follow itself until then.
    pub summoned_until: Tick,
}

impl Follow {
    pub fn new(now: Tick) -> Follow {
        Follow {
            state: State::Idle { retry_at: now },
            hint: None,
            turn: 0,
            retry_millis: RETRY_MILLIS_MIN,
            primary_committed: Lsn(0),
            known_committed: Lsn(0),
            horizon: Lsn(0),
            begin_anew: false,
            named: None,
            last_ack: None,
            ack_again_at: now,
            outlived: false,
            path: Vec::new(),
            streams: 0,
            avoided: Avoided::default(),
            summoned_until: Tick(0),
        }
    }

    /// No stream any more; another attempt soon.
    pub fn forget_source(&mut self, now: Tick) {
        self.state = State::Idle { retry_at: now };
        self.path.clear();
        self.primary_committed = Lsn(0);
        self.named = None;
        self.last_ack = None;
    }

    /// Something has changed: whoever has given up for long tries at once.
    pub fn retry_now(&mut self, now: Tick) {
        if let State::Idle { retry_at } = &mut self.state {
            *retry_at = now;
        }
    }

    fn retry_later(&mut self, now: Tick) {
        self.forget_source(now);
        self.state = State::Idle {
            retry_at: now.after_millis(self.retry_millis),
        };
        self.retry_millis = (self.retry_millis * 2).min(RETRY_MILLIS_MAX);
    }

    /// Whether the log's end is being given up: nothing new may be begun.
    pub fn is_cutting(&self) -> bool {
        matches!(
            self.state,
            State::Cutting { .. } | State::Renewing { .. } | State::Emptying { .. }
        )
    }

    /// Who streams to us.
    pub fn source(&self) -> Option<&NodeId> {
        match &self.state {
            State::Streaming { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// The link to who streams to us.
    pub fn source_link(&self) -> Option<LinkId> {
        match &self.state {
            State::Streaming { link, .. } => Some(*link),
            _ => None,
        }
    }

    /// The link to our source, whatever is under way on it.
    pub fn link(&self) -> Option<LinkId> {
        match &self.state {
            State::Opening { link, .. }
            | State::Offered { link, .. }
            | State::Renewing { link, .. }
            | State::Streaming { link, .. } => Some(*link),
            State::Idle { .. } | State::Dialling { .. } | State::Cutting { .. } | State::Emptying { .. } => {
                None
            }
        }
    }

    /// A member says that it is primary: if we look for one, there.
    pub fn look_at(&mut self, primary: &NodeId, now: Tick) {
        if matches!(self.state, State::Idle { .. }) {
            self.hint = Some(primary.clone());
            self.state = State::Idle { retry_at: now };
            self.retry_millis = RETRY_MILLIS_MIN;
        }
    }

    /// One of the two counts its side, which may take long, and has said so.
    pub fn wait_for_other_side(&mut self, link: LinkId, now: Tick) {
        if let State::Opening {
            link: ours, until, ..
        } = &mut self.state
            && *ours == link
        {
            *until = now.after_millis(OPEN_MILLIS_MAX);
        }
    }
}

impl Engine {
    pub(crate) fn follow_due(&self) -> Option<Tick> {
        if self.meta.role != Role::Secondary || !matches!(self.phase, Phase::Following) {
            return None;
        }
        match self.follow.state {
            State::Idle { retry_at } => self.follow_candidates().next().map(|_| retry_at),
            State::Dialling { until, .. } | State::Opening { until, .. } => Some(until),
            State::Streaming { .. } => self.better_source_at(),
            _ => None,
        }
    }

    fn follow_candidates(&self) -> impl Iterator<Item = &NodeId> {
        self.config
            .members
            .iter()
            .filter(|member| **member != self.config.node)
    }

    pub(crate) fn pump_follow(&mut self) {
        if self.meta.role != Role::Secondary || !matches!(self.phase, Phase::Following) {
            return;
        }
        match &self.follow.state {
            State::Idle { retry_at } if self.now >= *retry_at => self.dial(),
            State::Dialling { peer, until } if self.now >= *until => {
                self.follow.avoided.avoid(self.now, peer.clone());
                self.follow.retry_later(self.now);
            }
            State::Opening { link, peer, until } if self.now >= *until => {
                let link = *link;
                self.follow.avoided.avoid(self.now, peer.clone());
                self.close_follow(link);
            }
            State::Streaming { .. } if self.better_source_at().is_some_and(|at| self.now >= at) => {
                self.drop_source();
            }
            State::Offered { .. } if self.may_renew_partially() => self.take_offer(),
            State::Renewing {
                started: false,
                base,
                source,
                ..
            } if self.is_quiet() => {
                let (base, at, to) = (*base, source.from.lsn, source.size);
                // What it copies must have a place first.
                if !self.disk_is_long_enough(at, self.config.size, to) {
                    return;
                }
                match base {
                    Some(_) => self.begin_partial(),
                    None => self.begin_renewal(),
                }
            }
            State::Emptying { started: false } if self.is_quiet() => {
                self.follow.state = State::Emptying { started: true };
                // From here on a restart finds a replica without history, whatever is left of the log.
                self.meta.sync = SyncState::Fresh;
                self.save(Then::Emptied);
            }
            State::Cutting { to, step } if self.is_quiet() => match (*to, *step) {
                (to, CutStep::Wanted) => self.begin_cut(to),
                (_, CutStep::Begun) => {}
                (to, CutStep::Dropped) => self.end_cut(to),
            },
            _ => {}
        }
    }

    fn dial(&mut self) {
        let granted = self.meta.granted.as_ref().map(|granted| granted.to.clone());
        let wished = self.follow.hint.clone().or(granted);
        let wished = wished.filter(|node| self.follow_candidates().any(|candidate| candidate == node));
        let candidates: Vec<NodeId> = self.follow_candidates().cloned().collect();
        if candidates.is_empty() {
            return;
        }
        let peer = self.preferred_source().or(wished).unwrap_or_else(|| {
            self.follow.turn = (self.follow.turn + 1) % candidates.len();
            candidates[self.follow.turn].clone()
        });
        let until = self.now.after_millis(OPEN_MILLIS_MAX);
        self.follow.state = State::Dialling {
            peer: peer.clone(),
            until,
        };
        self.effects.push_back(Effect::Dial { peer });
    }

    /// A connection that we dialled is up.
    pub(crate) fn follow_up(&mut self, link: LinkId, peer: NodeId) {
        let expected =
            matches!(&self.follow.state, State::Dialling { peer: dialled, .. } if *dialled == peer);
        if !expected || !matches!(self.phase, Phase::Following) || self.meta.role != Role::Secondary {
            return self.effects.push_back(Effect::Close { link });
        }
        let until = self.now.after_millis(OPEN_MILLIS_MAX);
        self.follow.state = State::Opening {
            link,
            peer: peer.clone(),
            until,
        };
        self.links.insert(link, crate::engine::Link { peer, ship: None });
        let has_history = self.meta.sync != SyncState::Fresh && !self.follow.begin_anew;
        let end = has_history.then_some(self.log.sealed);
        let message = Message::Open {
            epoch_seen: self.meta.epoch,
            end,
            end_epoch: self.log.sealed_epoch,
            paused: self.paused_now(),
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// The connection to our source is gone, or could not be made.
    pub(crate) fn follow_down(&mut self, link: Option<LinkId>, peer: &NodeId) {
        let ours = match (&self.follow.state, link) {
            (State::Dialling { peer: dialled, .. }, None) => dialled == peer,
            (_, Some(link)) => self.follow.link() == Some(link),
            _ => false,
        };
        if ours {
            self.follow.avoided.avoid(self.now, peer.clone());
            // Whoever was the primary may be gone for good: the next attempt asks somebody else.
            if self.follow.hint.as_ref() == Some(peer) {
                self.follow.hint = None;
            }
            self.lose_source();
        }
    }

    fn lose_source(&mut self) {
        self.stop_resync();
        // Dropping history is finished even if the source is gone: the meta already says that it is dropped.
        let drops = matches!(
            self.follow.state,
            State::Renewing { started: true, .. } | State::Cutting { .. } | State::Emptying { .. }
        );
        if !drops {
            self.follow.retry_later(self.now);
        }
    }

    pub(crate) fn close_follow(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.effects.push_back(Effect::Close { link });
        self.lose_source();
    }

    /// Stops listening, because this node becomes primary.
    pub(crate) fn stop_following(&mut self) {
        self.stop_resync();
        if let Some(link) = self.follow.link() {
            self.links.remove(&link);
            self.effects.push_back(Effect::Close { link });
        }
        self.follow.forget_source(self.now);
        self.follow.hint = None;
        self.follow.retry_millis = RETRY_MILLIS_MIN;
    }

    /// A message on the link that we dialled.
    pub(crate) fn followed(&mut self, link: LinkId, message: Message) {
        if self.follow.link() != Some(link) {
            return;
        }
        let epoch = match &message {
            Message::Opened(opened) => Some(opened.epoch),
            Message::Parted { epoch, .. } => Some(*epoch),
            _ => None,
        };
        if let Some(epoch) = epoch {
            if epoch < self.meta.epoch {
                // A primary of the past: it must not stream to us, whatever it believes.
                self.follow.hint = None;
                self.say_hail(link);
                return self.close_follow(link);
            }
            if epoch > self.meta.epoch {
                self.meta.epoch = epoch;
                self.follow.avoided = Avoided::default();
                self.save(Then::Nothing);
            }
        }
        match message {
            Message::Opened(source) => {
                self.adopt(source.settings);
                self.opened(link, source);
            }
            Message::Parted { history, .. } => {
                if matches!(self.follow.state, State::Opening { .. }) {
                    self.source_parted(link, &history);
                }
            }
            Message::Fork { at, side } => self.other_side_told(link, at, side),
            Message::Patience { counts } => self.other_side_is_there(link, counts),
            Message::Summon { node } => self.summoned(&node),
            Message::NotSource { epoch_seen, primary } => {
                let asked = self.links.get(&link).map(|link| link.peer.clone());
                if let Some(asked) = asked.clone() {
                    self.follow.avoided.avoid(self.now, asked);
                }
                self.close_follow(link);
                self.hear(epoch_seen, None);
                self.follow.hint =
                    primary.filter(|primary| *primary != self.config.node && Some(primary) != asked.as_ref());
            }
            Message::Hail { epoch, primary } => self.hear(epoch, primary),
            Message::Log {
                at,
                committed,
                horizon,
                bytes,
            } => self.streamed(link, at, committed, horizon, &bytes),
            Message::SyncReply { id, end, extents } => self.sync_replied(id, end, extents),
            Message::Survey { end, map } => self.told_survey(end, map),
            Message::Settings { settings } => self.adopt(*settings),
            Message::Grant { epoch, at, settings } => self.granted(link, epoch, at, *settings),
            Message::Dirty { base, map } => self.told_dirty(base, map),
            Message::Repair { range } => self.told_to_repair(range),
            Message::Open { .. }
            | Message::Ack { .. }
            | Message::SyncRequest { .. }
            | Message::SurveyRequest
            | Message::Digests { .. }
            | Message::Repaired { .. }
            | Message::Report { .. } => self.close_follow(link),
        }
    }

    fn opened(&mut self, link: LinkId, source: Box<Opened>) {
        let (fresh, base) = (source.fresh, source.base);
        let State::Opening { peer, .. } = &self.follow.state else {
            return;
        };
        let peer = peer.clone();
        if self
            .meta
            .granted
            .as_ref()
            .is_some_and(|granted| source.epoch >= granted.epoch)
        {
            self.meta.granted = None;
        }
        let primary = source.via.first().unwrap_or(&peer).clone();
        self.follow.hint = (primary != self.config.node).then_some(primary);
        if self.is_useless(&source.via, fresh) {
            self.follow.avoided.avoid(self.now, peer);
            return self.close_follow(link);
        }
        if fresh && self.meta.sync == SyncState::Whole {
            // Its log does not reach back to our end. Before a version is given up, it must be one that lives on there.
            let theirs = source.history();
            let ours = self.history();
            let lives_on = match ours.relation_to(&theirs) {
                Relation::Behind => true,
                Relation::Parted { at } => ours.tail_was_lost(&theirs, at),
                Relation::Ahead | Relation::Strangers => false,
            };
            if !lives_on {
                return self.source_parted(link, &theirs);
            }
        }
        self.follow.outlived = fresh && self.keeps_what_it_has();
        if self.follow.outlived {
            return self.rest_parted(link);
        }
        if fresh {
            if let Some(base) = base {
                return self.offered_partial(link, peer, source, base);
            }
            self.follow.begin_anew = false;
            let buffer = BytesMut::new();
            self.follow.state = State::Renewing {
                link,
                peer,
                source,
                base: None,
                started: false,
                buffer,
            };
            return;
        }
        self.widen_copy(base);
        if source.from != self.log.sealed || self.meta.sync == SyncState::Fresh {
            return self.close_follow(link);
        }
        self.follow.path = source.via;
        self.start_streaming(link, peer, source.epoch, BytesMut::new());
    }

    fn start_streaming(&mut self, link: LinkId, peer: NodeId, epoch: Epoch, buffer: BytesMut) {
        self.follow.retry_millis = RETRY_MILLIS_MIN;
        self.forget_splits();
        self.follow.path.push(peer.clone());
        self.follow.streams += 1;
        self.follow.avoided.forgive(&peer);
        self.notice(Notice::Streaming {
            source: peer.clone(),
            from: self.log.sealed.lsn,
        });
        self.follow.state = State::Streaming {
            link,
            peer: peer.clone(),
            buffer,
        };
        self.start_resync(peer, epoch.term);
        self.take_batches();
    }

    /// Log from the source: whole batches go to our own log, the rest waits for the next message.
    fn streamed(&mut self, link: LinkId, at: Lsn, committed: Lsn, horizon: Lsn, bytes: &Bytes) {
        let sealed = self.log.sealed.lsn;
        let (begin, buffer) = match &mut self.follow.state {
            State::Streaming { buffer, .. } => (sealed, buffer),
            State::Offered { source, buffer, .. } | State::Renewing { source, buffer, .. } => {
                (source.from.lsn, buffer)
            }
            _ => return,
        };
        if at != begin.advance(buffer.len() as u64) || buffer.len() + bytes.len() > BUFFER_BYTES_MAX {
            return self.close_follow(link);
        }
        buffer.extend_from_slice(bytes);
        // What it says of its log is not said of ours, as long as only the base is known to be in both.
        if !matches!(self.follow.state, State::Offered { .. }) {
            self.follow.primary_committed = self.follow.primary_committed.max(committed);
            self.follow.known_committed = self.follow.primary_committed;
            self.follow.horizon = self.follow.horizon.max(horizon);
        }
        self.take_batches();
    }

    fn take_batches(&mut self) {
        let State::Streaming { link, buffer, .. } = &mut self.follow.state else {
            return;
        };
        let link = *link;
        let mut rest = std::mem::take(buffer).freeze();
        let begin = self.log.sealed;
        let all = rest.clone();
        let (mut end, mut epoch) = (begin, self.log.sealed_epoch);
        let bad = loop {
            if rest.is_empty() {
                break false;
            }
            match Batch::decode_next(&rest, self.config.volume, end, epoch) {
                Ok(batch) => {
                    rest = rest.slice(batch.header.batch_bytes as usize..);
                    (end, epoch) = self.accept(&batch);
                }
                Err(BatchError::Incomplete { .. }) => break false,
                Err(_) => break true,
            }
        };
        let whole = all.slice(..end.lsn.since(begin.lsn) as usize);
        if !whole.is_empty() {
            self.append(begin, whole, end, epoch);
        }
        if bad {
            return self.close_follow(link);
        }
        if let State::Streaming { buffer, .. } = &mut self.follow.state {
            *buffer = BytesMut::from(&rest[..]);
        }
    }

    /// Tells the source how far we are, once for all that has changed; and that we are still there, when it says so itself.
    pub(crate) fn pump_ack(&mut self) {
        let State::Streaming { link, .. } = self.follow.state else {
            return;
        };
        let whole = self.whole_durably && self.meta.sync == SyncState::Whole;
        let (appended, committed, written_back) = (
            self.marks.appended(),
            if museum::is(Mutant::AckedUnflushed) {
                self.marks.appended()
            } else {
                self.marks.committed()
            },
            self.marks.written_back(),
        );
        let synced = self.synced();
        let paused = self.paused_now();
        let size = self.config.size;
        let ack = (appended, committed, written_back, whole, synced, size, paused);
        // The source's signs of life wake us often enough: no timer of our own is needed.
        if self.follow.last_ack != Some(ack) || self.now >= self.follow.ack_again_at {
            self.follow.last_ack = Some(ack);
            self.follow.ack_again_at = self.now.after_millis(HEARTBEAT_MILLIS);
            let message = Message::Ack {
                appended,
                committed,
                written_back,
                whole,
                synced,
                size,
                paused,
            };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    /// Histories have parted and both sides are known: only an operator can change that.
    pub(crate) fn rest_parted(&mut self, link: LinkId) {
        self.close_follow(link);
        self.follow.state = State::Idle {
            retry_at: self.now.after_millis(PARTED_RETRY_MILLIS),
        };
    }

    /// What is behind `to` may go, once it is sure that our own batch there begins where the source's history leaves ours.
    pub(crate) fn check_cut(&mut self, to: Position) {
        let id = self.io(Io::CutCheck { to });
        self.effects.push_back(Effect::ReadLog {
            id,
            at: to.lsn,
            bytes_max: HEADER_BYTES,
        });
    }

    pub(crate) fn cut_checked(&mut self, to: Position, bytes: &Bytes) {
        let State::Opening { link, .. } = self.follow.state else {
            return;
        };
        match Header::decode(bytes) {
            Ok(header) if header.lsn == to.lsn && header.previous == to.digest => {
                self.links.remove(&link);
                self.effects.push_back(Effect::Close { link });
                self.follow.forget_source(self.now);
                let step = CutStep::Wanted;
                self.follow.state = State::Cutting { to, step };
            }
            Ok(header) if header.lsn == to.lsn => self.close_follow(link),
            // Damage says nothing about where histories part, and a batch of another place is damage.
            Ok(header) => self.defective_log(to.lsn, format!("holds the batch of {}", header.lsn)),
            Err(error) => self.defective_log(to.lsn, error.to_string()),
        }
    }

    fn begin_cut(&mut self, to: Position) {
        let step = CutStep::Begun;
        self.follow.state = State::Cutting { to, step };
        self.meta.lineage.retain(|stretch| stretch.from.lsn < to.lsn);
        // Behind it there is at most what changes nothing: the disk is the same version without it.
        if self.meta.written_back.lsn > to.lsn {
            self.meta.written_back = to;
        }
        self.meta.touched = self.meta.touched.min(to.lsn);
        if self.meta.committed.lsn > to.lsn {
            self.meta.committed = to;
            self.meta.committed_epoch = self
                .meta
                .lineage
                .last()
                .map_or(Epoch::NONE, |stretch| stretch.epoch);
        }
        // The meta must stop vouching for the end of the log before that end goes.
        self.save(Then::CutSaved);
    }

    /// Gives up a history that is no version, to begin anew with whoever is primary.
    pub(crate) fn start_over(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.effects.push_back(Effect::Close { link });
        self.stop_resync();
        self.follow.forget_source(self.now);
        self.follow.state = State::Emptying { started: false };
    }

    pub(crate) fn emptied(&mut self) {
        self.follow.forget_source(self.now);
    }

    pub(crate) fn cut_saved(&mut self) {
        let State::Cutting { to, .. } = self.follow.state else {
            panic!("cut saved in {:?}", self.follow.state)
        };
        let id = self.io(Io::CutDone);
        self.effects.push_back(Effect::ResetLog {
            id,
            at: to.lsn,
            keep: true,
        });
    }

    pub(crate) fn cut_done(&mut self) {
        if let State::Cutting { step, .. } = &mut self.follow.state {
            *step = CutStep::Dropped;
        }
    }

    fn end_cut(&mut self, to: Position) {
        let dropped_bytes = self.log.sealed.lsn.since(to.lsn);
        if dropped_bytes > 0 {
            self.notice(Notice::CutBack {
                to: to.lsn,
                dropped_bytes,
            });
        }
        self.restart_from_meta();
    }

    fn begin_renewal(&mut self) {
        if let State::Renewing { started, .. } = &mut self.follow.state {
            *started = true;
        }
        // From here on a restart finds a replica without history, whatever is left of the log.
        self.meta.sync = SyncState::Fresh;
        self.save(Then::FreshSaved);
    }

    pub(crate) fn fresh_saved(&mut self) {
        let State::Renewing { source, .. } = &self.follow.state else {
            panic!("renewal saved in {:?}", self.follow.state)
        };
        let at = source.from.lsn;
        let id = self.io(Io::FreshDone);
        self.effects.push_back(Effect::ResetLog { id, at, keep: false });
    }

    pub(crate) fn fresh_reset(&mut self) {
        let State::Renewing { source, .. } = &self.follow.state else {
            panic!("log reset in {:?}", self.follow.state)
        };
        let source = source.clone();
        self.begin_log_at(source, None);
        self.save(Then::FreshReady);
    }

    /// An empty log that continues the source's, and a copy that has not begun.
    pub(crate) fn begin_log_at(&mut self, source: Box<Opened>, base: Option<Position>) {
        let Opened {
            epoch,
            from,
            from_epoch,
            size,
            lineage,
            ..
        } = *source;
        self.begin_size(size);
        // A copy of what changed says nothing about the rest.
        if base.is_none() {
            self.meta.faked = None;
        }
        self.meta.written_back = from;
        self.meta.touched = from.lsn;
        self.meta.committed = from;
        self.meta.committed_epoch = from_epoch;
        self.meta.trimmed = from.lsn;
        self.meta.lineage = lineage;
        self.meta.straight = false;
        self.meta.sync = SyncState::Copying {
            next: SectorOffset(0),
            end: from.lsn,
            copied_bytes: 0,
            term: epoch.term,
            base,
        };
        let had_history = self.log.sealed.lsn > Lsn(0);
        if museum::is(Mutant::SyncSkipped) && !had_history || museum::is(Mutant::ResyncCleared) && had_history
        {
            self.meta.sync = SyncState::Whole;
        }
        self.forget_trims();
        self.marks = Watermarks::at(from.lsn);
        self.log = Log::ending_at(from, from_epoch);
        self.replay = Replay::from(from);
        self.shadow = crate::shadow::Shadow::default();
        self.space.retracted = false;
        self.snapshots.forget();
        self.lose_snapshots();
    }

    /// Everything before the base is on the disk: the log may go.
    fn take_offer(&mut self) {
        let idle = State::Idle { retry_at: self.now };
        if let State::Offered {
            link,
            peer,
            source,
            base,
            buffer,
            ..
        } = std::mem::replace(&mut self.follow.state, idle)
        {
            let base = Some(base);
            self.follow.state = State::Renewing {
                link,
                peer,
                source,
                base,
                started: false,
                buffer,
            };
        }
    }

    /// Leaves the source and asks again soon.
    pub(crate) fn drop_source(&mut self) {
        if let Some(link) = self.follow.link() {
            self.close_follow(link);
        }
    }

    pub(crate) fn fresh_ready(&mut self) {
        let idle = State::Idle { retry_at: self.now };
        let State::Renewing {
            link,
            peer,
            source,
            buffer,
            ..
        } = std::mem::replace(&mut self.follow.state, idle)
        else {
            panic!("renewal ended without a beginning")
        };
        // The link may have gone down meanwhile; the log then begins at a position that the next source knows, or not.
        if self.links.contains_key(&link) {
            self.start_streaming(link, peer, source.epoch, buffer);
        } else {
            self.follow.retry_later(self.now);
        }
    }
}
