//! How does a replica get its log from another replica, and why do they never follow each other in a circle?
//!
//! A whole secondary that is being streamed to may stream on to others: its log is a beginning of the primary's. It passes on
//! what it was told is durable at the primary and needed by nobody, and reports upwards what its followers have, so that the
//! primary keeps log for members that it does not serve. It never says how histories part, never begins a full sync and never
//! grants: for those, whoever asks is sent on to the primary.
//!
//! # Why there is no circle
//!
//! A member serves others only while it is streamed to itself, and a stream that it serves ends with the one that feeds it
//! (`fed_by` names that one). So every stream is younger than the stream that feeds it. Along a circle each would be younger than
//! the one before it, and so than itself. On top of that each source says through whom its log comes (`via`), and nobody
//! follows a source whose log comes through itself: so not even two who have not yet noticed a broken link wait for each other.

use std::collections::BTreeMap;

use model::{Lsn, NodeId, Role, Tick};

use crate::engine::{Engine, Link, Phase, Then};
use crate::event::{CommandError, CommandId, Effect, LinkId};
use crate::message::Message;
use crate::meta::{SOURCES_MAX, SyncState};

/// Members between a replica and its primary, at most.
pub const HOPS_MAX: usize = 8;

/// A source that did not serve is left alone so long; doubles up to the last.
const AVOID_MILLIS_MIN: u64 = 1000;
const AVOID_MILLIS_MAX: u64 = 600_000;

/// So long a member that is to become primary follows the primary, whatever sources it would rather have.
pub(crate) const SUMMON_MILLIS_MAX: u64 = 10_000;

/// Sources that did not serve when they were asked.
#[derive(Debug, Default)]
pub(crate) struct Avoided(BTreeMap<NodeId, (Tick, u64)>);

impl Avoided {
    /// It did not serve.
    pub fn avoid(&mut self, now: Tick, node: NodeId) {
        let millis = self
            .0
            .get(&node)
            .map_or(AVOID_MILLIS_MIN, |(_, millis)| (millis * 2).min(AVOID_MILLIS_MAX));
        self.0.insert(node, (now.after_millis(millis), millis));
    }

    /// It serves.
    pub fn forgive(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    fn until(&self, node: &NodeId) -> Tick {
        self.0.get(node).map_or(Tick(0), |(until, _)| *until)
    }
}

impl Engine {
    /// From whom this replica would rather get its log than from the primary, best first.
    pub(crate) fn set_sources(&mut self, id: CommandId, sources: Vec<NodeId>) {
        let stranger = sources.iter().find(|node| !self.config.members.contains(node));
        if let Some(node) = stranger {
            let node = node.clone();
            return self.answer(id, Err(CommandError::NotMember { node }));
        }
        if sources.len() > SOURCES_MAX || sources.contains(&self.config.node) {
            let reason = format!("sources are up to {SOURCES_MAX} other members");
            return self.answer(id, Err(CommandError::Unfit { reason }));
        }
        if self.meta.sources != sources {
            self.meta.sources = sources;
            self.follow.avoided = Avoided::default();
            if self.follow.source().is_some() && self.meta.sync == SyncState::Whole {
                self.drop_source();
            }
        }
        self.save(Then::Answer { id });
    }

    /// Whether this secondary may stream to others now.
    pub(crate) fn can_relay(&self) -> bool {
        matches!(self.phase, Phase::Following)
            && self.meta.role == Role::Secondary
            && self.meta.sync == SyncState::Whole
            && self.follow.source().is_some()
            && self.follow.path.len() < HOPS_MAX
            && !self.paused_now().stops_fetch()
    }

    /// Which stream feeds those that are served now; `None` at a primary, which feeds itself.
    pub(crate) fn feed(&self) -> Option<u64> {
        match self.phase {
            Phase::Following => Some(self.follow.streams),
            _ => None,
        }
    }

    /// Durable at the primary, and needed by nobody: as far as it may be passed on.
    pub(crate) fn told_figures(&self) -> (Lsn, Lsn) {
        match self.phase {
            Phase::Serving => (self.marks.committed(), self.marks.trimmed()),
            _ => (self.follow.primary_committed, self.follow.horizon),
        }
    }

    /// Ends the streams that are fed no more.
    pub(crate) fn pump_relay(&mut self) {
        let feed = self.feed().filter(|_| self.can_relay());
        let orphans: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                let stream = link.ship.as_ref().and_then(|ship| ship.fed_by());
                stream.is_some_and(|fed_by| fed_by.is_some() && fed_by != feed)
            })
            .map(|(id, _)| *id)
            .collect();
        for link in orphans {
            if let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link) {
                ship.end_stream();
            }
            self.refuse_to_relay(link);
        }
    }

    /// Sends somebody on to the primary.
    pub(crate) fn refuse_to_relay(&mut self, link: LinkId) {
        self.send_on(link, self.primary_hint());
    }

    /// This is no source; `primary` may be one.
    pub(crate) fn send_on(&mut self, link: LinkId, primary: Option<NodeId>) {
        let message = Message::NotSource {
            epoch_seen: self.meta.epoch,
            primary,
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// A follower's figures go up to whoever feeds us; `connected` is false when it has left.
    pub(crate) fn report(&mut self, node: &NodeId, connected: bool) {
        let Some(link) = self.follow.source_link().filter(|_| self.can_relay()) else {
            return;
        };
        let Some(peer) = self.peers.get(node) else { return };
        let message = Message::Report {
            node: node.clone(),
            connected,
            appended: peer.appended,
            committed: peer.committed,
            written_back: peer.replayed,
            paused: peer.paused,
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// What somebody has who gets our log through the one at the other end of `link`.
    pub(crate) fn reported(&mut self, link: LinkId, message: Message) {
        let Message::Report {
            node,
            connected,
            appended,
            committed,
            written_back,
            paused,
        } = message
        else {
            return;
        };
        let appended_here = self.marks.appended();
        let caught_up = self.may_be_waited_for(committed);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        // Who follows us itself knows better. Late news of a life that ended before it began anew could only make us give up
        // log that it needs, which costs a full sync; flushes never wait for those who do not follow us.
        if peer.link.is_some() || peer.fresh.is_some_and(|from| committed < from) {
            return;
        }
        if !connected {
            // Its figures may be of another time.
            if peer.via == Some(link) {
                peer.via = None;
                self.report(&node, false);
            }
            return;
        }
        if appended > appended_here || committed > appended || written_back > committed {
            return;
        }
        peer.via = Some(link);
        peer.drain.add(self.now, appended.since(peer.appended));
        peer.appended = appended;
        peer.committed = committed;
        peer.replayed = written_back;
        peer.whole = true;
        // That it is as long, it says once it follows us itself.
        peer.size = None;
        peer.paused = paused;
        peer.counts |= caught_up;
        if !matches!(self.phase, Phase::Serving) {
            self.report(&node, true);
        }
    }

    /// Asks a member that does not follow us to do so, through whoever its log comes from.
    pub(crate) fn summon(&mut self, node: &NodeId) {
        let Some(peer) = self.peers.get(node) else { return };
        if let Some(link) = peer.link.or(peer.via) {
            let message = Message::Summon { node: node.clone() };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    /// Our source passes on that the primary wants somebody to follow it.
    pub(crate) fn summoned(&mut self, node: &NodeId) {
        if *node != self.config.node {
            return self.summon(node);
        }
        let Some(primary) = self.follow.path.first().cloned() else {
            return;
        };
        self.follow.summoned_until = self.now.after_millis(SUMMON_MILLIS_MAX);
        if self.follow.source() != Some(&primary) {
            self.follow.avoided.forgive(&primary);
            self.follow.hint = Some(primary);
            self.drop_source();
        }
    }

    /// Those who were heard of through a link that is gone.
    pub(crate) fn forget_via(&mut self, link: LinkId) {
        let lost: Vec<NodeId> = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| peer.via == Some(link))
            .map(|(node, peer)| {
                peer.via = None;
                node.clone()
            })
            .collect();
        lost.iter().for_each(|node| self.report(node, false));
    }

    /// The best source that an operator has named and that is not known to refuse; only for one that needs no full sync.
    pub(crate) fn preferred_source(&self) -> Option<NodeId> {
        let usable = |node: &&NodeId| {
            self.config.members.contains(node) && self.follow.avoided.until(node) <= self.now
        };
        let wanted = self.meta.sync == SyncState::Whole && self.now >= self.follow.summoned_until;
        self.meta.sources.iter().find(usable).filter(|_| wanted).cloned()
    }

    /// When a better source than the present one is worth a try: one that the operator would rather have, or the primary when
    /// nobody has asked for the present one.
    pub(crate) fn better_source_at(&self) -> Option<Tick> {
        let source = self
            .follow
            .source()
            .filter(|_| self.meta.sync == SyncState::Whole)?;
        let primary = self.follow.path.first()?;
        let sources = &self.meta.sources;
        if self.now < self.follow.summoned_until {
            let away = (source != primary).then(|| self.follow.avoided.until(primary));
            return Some(away.unwrap_or(self.follow.summoned_until));
        }
        let named = sources.iter().position(|node| node == source);
        let back = (named.is_none() && source != primary).then_some(primary);
        let better = sources[..named.unwrap_or(sources.len())].iter().chain(back);
        better.map(|node| self.follow.avoided.until(node)).min()
    }

    /// Why a source is of no use to us, although it would stream.
    pub(crate) fn is_useless(&self, via: &[NodeId], fresh: bool) -> bool {
        let circle = via.contains(&self.config.node) || via.len() >= HOPS_MAX;
        let primary_only = fresh || self.meta.sync != SyncState::Whole;
        circle || (primary_only && !via.is_empty())
    }
}
