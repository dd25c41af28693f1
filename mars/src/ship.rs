//! How does a primary feed its replicas? It checks where each stands, then streams its own log to it.

use std::collections::VecDeque;

use bytes::Bytes;
use model::{Epoch, Lsn, NodeId, Role, SectorOffset, Tick, VolumeSize};

use crate::engine::{Engine, Io, Link, Phase, Then};
use crate::event::{CommandError, CommandId, Effect, LinkId, Notice};
use crate::limit::{Meter, piece_bytes};
use crate::lineage::{Position, epoch_before};
use crate::message::{Message, Opened};
use crate::museum::{self, Mutant};
use crate::pressure::{self, Level, Need, Reason};
use crate::record::{BATCH_BYTES_MAX, Batch, Header};
use crate::survey::Survey;
use crate::switch::Paused;

/// Log sent to one peer that it has not yet written to its own log, at most.
const WINDOW_BYTES: u64 = 8 << 20;

/// Log read and sent at one time.
const CHUNK_BYTES: u64 = 512 << 10;

/// A sign of life at least so often, answered by the replica; links are given up after ten times that.
pub(crate) const HEARTBEAT_MILLIS: u64 = 1000;

/// What a primary knows of another member.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Whether the log is kept for it.
    pub counts: bool,
    /// In its log.
    pub appended: Lsn,
    /// Durable in its log.
    pub committed: Lsn,
    /// On its disk.
    pub replayed: Lsn,
    /// Whether it holds a version at all.
    pub whole: bool,
    /// Sectors its full sync has settled.
    pub synced: SectorOffset,
    /// The volume's length as far as its log is loaded; unknown until it has said so.
    pub size: Option<VolumeSize>,
    /// The link it follows.
    pub link: Option<LinkId>,
    /// Log that it takes in.
    pub drain: Meter,
    /// What an operator has stopped there.
    pub paused: Paused,
    /// It does not follow us, but one who reports on this link.
    pub via: Option<LinkId>,
    /// It has said, on the stream that it has now, what it has.
    pub heard: bool,
    /// It began anew here and has not yet said that it is whole: what is told of before is of another life.
    pub fresh: Option<Lsn>,
}

impl Peer {
    /// A member from before a restart: it has at least what was trimmed.
    pub fn remembered(trimmed: Lsn) -> Peer {
        Peer {
            counts: true,
            appended: trimmed,
            committed: trimmed,
            replayed: trimmed,
            whole: false,
            synced: SectorOffset(0),
            size: None,
            link: None,
            drain: Meter::default(),
            paused: Paused::default(),
            via: None,
            heard: false,
            fresh: None,
        }
    }
}

/// Our side of a stream.
#[derive(Debug)]
pub(crate) struct Ship {
    /// Where it is; `None` until the replica's position is known to be ours too.
    stream: Option<Stream>,
    /// The peer waits until its track has read enough of the log to say what it lacks.
    partial_wanted: bool,
    /// It is to be told what it may lack, as soon as that is known up to here.
    dirty_owed: Option<Lsn>,
    /// Answers to a full sync that wait until what they hold is durable here.
    pub replies: VecDeque<(Lsn, Message)>,
    /// Where this side has data, while the replica waits to be told.
    pub survey: Option<Survey>,
}

#[derive(Debug)]
struct Stream {
    sent: Lsn,
    reading: bool,
    announced: (Lsn, Lsn),
    heartbeat_due: Tick,
    /// The stream that feeds it, at a source that is no primary.
    fed_by: Option<u64>,
}

impl Ship {
    /// What feeds the stream; `None` when there is none.
    pub fn fed_by(&self) -> Option<Option<u64>> {
        self.stream.as_ref().map(|stream| stream.fed_by)
    }

    /// Nothing more is sent.
    pub fn end_stream(&mut self) {
        self.stream = None;
        self.partial_wanted = false;
        self.replies.clear();
        self.survey = None;
    }
}

/// What a source's log has where a replica's ends.
enum Found {
    /// The batch that continues it.
    Continues,
    /// Another history.
    Parted,
    /// What continued it once, damaged.
    Damaged { reason: String },
}

/// How a stream begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    /// Where the replica's log ends.
    Going,
    /// With an empty log and a full sync.
    Fresh,
    /// With an empty log and a copy of what changed since the base.
    Partial { base: Position },
}

impl Engine {
    pub(crate) fn link_up(&mut self, link: LinkId, peer: NodeId, dialled: bool) {
        if dialled {
            return match self.meta.role {
                Role::Primary => self.hail_up(link, &peer),
                Role::Secondary => self.follow_up(link, peer),
            };
        }
        if !self.config.members.contains(&peer) || peer == self.config.node {
            return self.effects.push_back(Effect::Close { link });
        }
        // A peer that dials again has lost the link it had.
        if let Some(old) = self.peers.get_mut(&peer).and_then(|peer| peer.link.replace(link)) {
            self.links.remove(&old);
            self.effects.push_back(Effect::Close { link: old });
        }
        self.links.insert(
            link,
            Link {
                peer,
                ship: Some(Ship {
                    stream: None,
                    partial_wanted: false,
                    dirty_owed: None,
                    replies: VecDeque::new(),
                    survey: None,
                }),
            },
        );
    }

    pub(crate) fn link_down(&mut self, link: Option<LinkId>, peer: &NodeId) {
        self.follow_down(link, peer);
        self.hail_down(link, peer);
        if let Some(link) = link {
            self.splits.link_down(link);
        }
        if let Some(link) = link
            && self.links.remove(&link).is_some()
            && let Some(peer) = self.peers.get_mut(peer)
            && peer.link == Some(link)
        {
            peer.link = None;
        }
        if let Some(link) = link {
            self.report(peer, false);
            self.forget_via(link);
        }
    }

    pub(crate) fn close_ship(&mut self, link: LinkId) {
        if let Some(Link { peer: node, .. }) = self.links.remove(&link) {
            if let Some(peer) = self.peers.get_mut(&node)
                && peer.link == Some(link)
            {
                peer.link = None;
            }
            self.report(&node, false);
        }
        self.forget_via(link);
        self.splits.link_down(link);
        self.effects.push_back(Effect::Close { link });
    }

    pub(crate) fn message(&mut self, link: LinkId, message: Message) {
        match self.links.get(&link) {
            None => self.hail_answered(link, message),
            Some(Link { ship: None, .. }) => self.followed(link, message),
            Some(Link { ship: Some(_), .. }) => match message {
                Message::Open {
                    epoch_seen,
                    end,
                    end_epoch,
                    paused,
                } => {
                    self.note_paused(link, paused);
                    self.asked_to_open(link, epoch_seen, end, end_epoch);
                }
                Message::Ack {
                    appended,
                    committed,
                    written_back,
                    whole,
                    synced,
                    size,
                    paused,
                } => {
                    let caught_up = self.may_be_waited_for(committed);
                    let Some(peer) = self
                        .links
                        .get(&link)
                        .and_then(|link| self.peers.get_mut(&link.peer))
                    else {
                        return;
                    };
                    // A peer cannot have what we never had: its figures would let us cut log it needs.
                    if appended > self.marks.appended() || committed > appended || written_back > committed {
                        return self.close_ship(link);
                    }
                    peer.drain.add(self.now, appended.since(peer.appended));
                    peer.appended = appended;
                    peer.committed = if museum::is(Mutant::TrimByReceived) {
                        appended
                    } else {
                        committed
                    };
                    peer.replayed = written_back;
                    peer.whole = whole;
                    peer.synced = synced;
                    peer.size = Some(size);
                    peer.paused = paused;
                    peer.fresh = peer.fresh.filter(|_| !whole);
                    peer.via = None;
                    peer.heard = true;
                    // One that was dropped, but whose stream went on and has caught up, is waited for again.
                    peer.counts |= caught_up;
                    if let Some(node) = self.links.get(&link).map(|link| link.peer.clone()) {
                        self.report(&node, true);
                    }
                }
                message @ Message::Report { .. } => self.reported(link, message),
                Message::SurveyRequest => self.asked_for_survey(link),
                Message::Fork { at, side } => self.fork_told(link, at, side),
                Message::Patience { counts } => self.other_side_is_there(link, counts),
                Message::Hail { epoch, primary } => self.hailed(link, epoch, primary),
                Message::SyncRequest { id, range, digests } => self.sync_asked(link, id, range, digests),
                Message::Digests { at, start, digests } => {
                    if let Some(node) = self.links.get(&link).map(|link| link.peer.clone()) {
                        self.verify_answered(node, at, start, digests);
                    }
                }
                Message::Repaired { start } => {
                    if let Some(node) = self.links.get(&link).map(|link| link.peer.clone()) {
                        self.verify_repaired(&node, start);
                    }
                }
                _ => self.close_ship(link),
            },
        }
    }

    fn note_paused(&mut self, link: LinkId, paused: Paused) {
        let peer = self.links.get(&link).map(|link| &link.peer);
        if let Some(peer) = peer.and_then(|peer| self.peers.get_mut(peer)) {
            peer.paused = paused;
        }
    }

    fn asked_to_open(&mut self, link: LinkId, epoch_seen: Epoch, end: Option<Position>, end_epoch: Epoch) {
        let Some(Link { peer, .. }) = self.links.get(&link) else {
            return;
        };
        let peer = peer.clone();
        self.hails.heard_from(&peer);
        self.hear(epoch_seen, None);
        let serving = matches!(self.phase, Phase::Serving);
        let serves = serving && self.straight.road.serves_log();
        let relays = self.can_relay();
        if !(serves || relays) || epoch_seen > self.meta.epoch {
            // The one who was granted the role asks because it has not heard of it.
            let grant = self
                .meta
                .granted
                .as_ref()
                .filter(|granted| granted.to == peer && epoch_seen <= granted.epoch);
            let message = match grant {
                Some(_) if museum::is(Mutant::GrantNotRepeated) => Message::NotSource {
                    epoch_seen: self.meta.epoch,
                    primary: self.primary_hint(),
                },
                Some(granted) if matches!(self.phase, Phase::Following) => Message::Grant {
                    epoch: granted.epoch,
                    at: granted.at,
                    settings: Box::new(self.meta.settings),
                },
                _ => {
                    // While serving, "I" would be an answer to who must not listen to me.
                    let primary = if serving { None } else { self.primary_hint() };
                    Message::NotSource {
                        epoch_seen: self.epoch_known(),
                        primary,
                    }
                }
            };
            return self.effects.push_back(Effect::Send { link, message });
        }
        match end {
            Some(end) if end.lsn >= self.meta.trimmed && end.lsn < self.marks.appended() => {
                let id = self.io(Io::OpenCheck { link, end, end_epoch });
                let left = self.marks.appended().since(end.lsn);
                let bytes_max = left.min(BATCH_BYTES_MAX as u64) as usize;
                self.effects.push_back(Effect::ReadLog {
                    id,
                    at: end.lsn,
                    bytes_max,
                });
            }
            Some(end) if end == self.log.appended => self.open_stream(link, end, end_epoch, Begin::Going),
            _ if relays => self.refuse_to_relay(link),
            Some(end) if end.lsn >= self.meta.trimmed => self.open_parted(link),
            Some(_) => self.open_behind(link),
            None => self.open_fresh(link),
        }
    }

    /// Begins with a peer that has no history, or none that our log still continues.
    fn open_fresh(&mut self, link: LinkId) {
        // Everything a joiner copies is at least as new as this, and this cannot be lost again.
        self.open_stream(link, self.meta.committed, self.meta.committed_epoch, Begin::Fresh);
    }

    /// Begins with a peer whose log was given up: with what changed since, if that is remembered.
    fn open_behind(&mut self, link: LinkId) {
        let Some(Link {
            peer,
            ship: Some(ship),
        }) = self.links.get_mut(&link)
        else {
            return;
        };
        match self.tracks.get(peer) {
            None => self.open_fresh(link),
            Some(_) => ship.partial_wanted = true,
        }
    }

    /// Opens to those who waited for their tracks, and tells what they may lack.
    fn pump_partial(&mut self, link: LinkId) {
        let Some(Link {
            peer,
            ship: Some(ship),
        }) = self.links.get_mut(&link)
        else {
            return;
        };
        let track = self.tracks.get(peer);
        if ship.partial_wanted {
            let committed = self.meta.committed.lsn;
            match track.map(|track| (track.base(), track.covers(committed))) {
                None => self.open_fresh(link),
                Some((Some(base), true)) => {
                    let (from, epoch) = (self.meta.committed, self.meta.committed_epoch);
                    self.open_stream(link, from, epoch, Begin::Partial { base });
                }
                Some(_) => {}
            }
        } else if let Some(from) = ship.dirty_owed
            && let Some(track) = track.filter(|track| track.covers(from))
            && let Some(base) = track.base()
        {
            let map = track.map.clone();
            ship.dirty_owed = None;
            let message = Message::Dirty { base, map };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    pub(crate) fn open_checked(&mut self, link: LinkId, end: Position, end_epoch: Epoch, bytes: &Bytes) {
        let relays = self.can_relay();
        if !(relays || matches!(self.phase, Phase::Serving)) || !self.links.contains_key(&link) {
            return;
        }
        match self.found_at(end, end_epoch, bytes) {
            _ if relays && end.lsn < self.meta.trimmed => self.refuse_to_relay(link),
            // While we looked, it was decided to give up the log there.
            _ if end.lsn < self.meta.trimmed => self.open_behind(link),
            Found::Continues => self.open_stream(link, end, end_epoch, Begin::Going),
            _ if relays => self.refuse_to_relay(link),
            Found::Parted => self.open_parted(link),
            Found::Damaged { reason } => {
                self.found_damage(end.lsn, reason);
                self.open_behind(link);
            }
        }
    }

    /// What our log has where a replica's ends; `bytes` hold the whole batch that begins there, if one does.
    ///
    /// An unreadable place says nothing by itself: a history that parted before it may have no batch that begins there. But an epoch has
    /// one writer, who writes no position twice; so where our lineage has the replica's epoch, the batch was there.
    fn found_at(&self, end: Position, end_epoch: Epoch, bytes: &Bytes) -> Found {
        let damaged = |error: &dyn std::fmt::Display| Found::Damaged {
            reason: error.to_string(),
        };
        let was_there = epoch_before(&self.meta.lineage, end.lsn).unwrap_or(Epoch::NONE) == end_epoch;
        match (Header::decode(bytes), Batch::decode(bytes)) {
            (Ok(header), _) if header.lsn == end.lsn && header.previous != end.digest => {
                match museum::is(Mutant::DivergenceDropped) {
                    true => Found::Continues,
                    false => Found::Parted,
                }
            }
            (Ok(header), Ok(_)) if header.lsn == end.lsn => Found::Continues,
            (Ok(header), Err(error)) if header.lsn == end.lsn => damaged(&error),
            (Ok(header), _) if was_there => damaged(&format!("it holds the batch of {}", header.lsn)),
            (Err(error), _) if was_there => damaged(&error),
            _ => Found::Parted,
        }
    }

    /// The log is damaged where only others would need it: they get contents instead, and it is trimmed like any other.
    fn found_damage(&mut self, at: Lsn, reason: String) {
        if self.log.damage.as_ref().is_none_or(|(known, _)| *known != at) {
            self.notice(Notice::LogDamaged {
                at,
                reason: reason.clone(),
            });
        }
        self.log.damage = Some((at, reason));
    }

    /// The peer's history is not a beginning of ours; it finds out where they part, and what that means.
    fn open_parted(&mut self, link: LinkId) {
        let message = Message::Parted {
            epoch: self.meta.epoch,
            history: self.history(),
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    fn open_stream(&mut self, link: LinkId, from: Position, from_epoch: Epoch, begin: Begin) {
        let fed_by = self.feed();
        let via = self.follow.path.clone();
        let Some(Link {
            peer,
            ship: Some(ship),
        }) = self.links.get_mut(&link)
        else {
            return;
        };
        let base = match begin {
            Begin::Fresh => None,
            Begin::Partial { base } => Some(base),
            // It may be in the middle of a partial copy.
            Begin::Going => self.tracks.get(peer).and_then(|track| track.base()),
        };
        let fresh = !matches!(begin, Begin::Going);
        ship.partial_wanted = false;
        ship.dirty_owed = base.map(|_| from.lsn);
        let node = peer.clone();
        let heartbeat_due = self.now.after_millis(HEARTBEAT_MILLIS);
        let nothing = (Lsn(0), Lsn(0));
        ship.stream = Some(Stream {
            sent: from.lsn,
            reading: false,
            announced: nothing,
            heartbeat_due,
            fed_by,
        });
        self.forget_split(&node);
        if let Some(peer) = self.peers.get_mut(&node) {
            // What it has need not be durable there: log is kept for it until it says so.
            let durable = if fresh { from.lsn } else { self.meta.trimmed };
            *peer = Peer {
                appended: from.lsn,
                synced: peer.synced,
                drain: peer.drain,
                paused: peer.paused,
                fresh: fresh.then_some(from.lsn).or(peer.fresh),
                link: Some(link),
                ..Peer::remembered(durable)
            };
        }
        self.verify_reopened(&node);
        let lineage = self
            .meta
            .lineage
            .iter()
            .filter(|stretch| stretch.from.lsn < from.lsn)
            .cloned()
            .collect();
        let message = Message::Opened(Box::new(Opened {
            epoch: self.meta.epoch,
            from,
            from_epoch,
            fresh,
            via,
            settings: self.meta.settings,
            base,
            size: self.config.size,
            lineage,
        }));
        self.effects.push_back(Effect::Send { link, message });
    }

    pub(crate) fn streaming_links(&self) -> Vec<LinkId> {
        let streaming = |link: &Link| link.ship.as_ref().is_some_and(|ship| ship.stream.is_some());
        self.links
            .iter()
            .filter(|(_, link)| streaming(link))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Everyone who asks for a stream, or has one.
    pub(crate) fn ship_links(&self) -> Vec<LinkId> {
        let ships = self.links.iter().filter(|(_, link)| link.ship.is_some());
        ships.map(|(id, _)| *id).collect()
    }

    /// What was handed to the peer's link.
    pub(crate) fn sent_to(&self, peer: &Peer) -> Option<Lsn> {
        let ship = self.links.get(&peer.link?)?.ship.as_ref()?;
        ship.stream.as_ref().map(|stream| stream.sent)
    }

    pub(crate) fn ship_due(&self) -> Option<Tick> {
        let ships = self.links.values().filter_map(|link| link.ship.as_ref());
        let heartbeats = ships.filter_map(|ship| ship.stream.as_ref());
        heartbeats
            .map(|stream| stream.heartbeat_due)
            .chain(self.ship_limit.due)
            .min()
    }

    pub(crate) fn pump_ship(&mut self) {
        self.ship_limit.due = None;
        let serves = matches!(self.phase, Phase::Serving) && self.straight.road.serves_log();
        if !(serves || self.can_relay()) {
            return;
        }
        let limits = self.meta.settings.limits;
        self.ship_limit.log.set(self.now, limits.ship_bytes_per_second);
        self.ship_limit.sync.set(self.now, limits.sync_bytes_per_second);
        let (committed, told) = self.told_figures();
        let (appended, trimmed) = (self.marks.appended(), self.marks.trimmed());
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.pump_partial(link));
        for link in self.links_in_turn() {
            let Some(Link {
                peer,
                ship: Some(ship),
            }) = self.links.get_mut(&link)
            else {
                continue;
            };
            let Some(stream) = &mut ship.stream else { continue };
            let horizon = self
                .tracks
                .get(peer)
                .map_or(told, |track| told.min(track.needed_there()));
            let acknowledged = self.peers.get(peer).map_or(stream.sent, |peer| peer.appended);
            let wanted = self.peers.get(peer).is_none_or(|peer| !peer.paused.stops_fetch());
            if stream.sent < trimmed && !stream.reading {
                // It was dropped and its log is gone: it must open again, and will begin anew.
                self.close_ship(link);
                continue;
            }
            let mut ready: Vec<Message> = Vec::new();
            while self.ship_limit.sync.is_ready(self.now)
                && let Some((_, message)) = ship
                    .replies
                    .pop_front_if(|(end, _)| *end <= committed || museum::is(Mutant::SyncReplyUndurable))
            {
                self.ship_limit.sync.take(self.now, message.content_bytes());
                ready.push(message);
            }
            if let Some((end, _)) = ship.replies.front() {
                self.log.want_flush(*end);
                if !self.ship_limit.sync.is_ready(self.now) {
                    self.ship_limit.wait(self.ship_limit.sync.ready_at(self.now));
                }
            }
            let more = wanted && stream.sent < appended && stream.sent.since(acknowledged) < WINDOW_BYTES;
            let may = self.ship_limit.log.is_ready(self.now);
            if more && !stream.reading && !may {
                self.ship_limit.wait(self.ship_limit.log.ready_at(self.now));
            }
            let read = (more && !stream.reading && may).then_some(stream.sent);
            stream.reading |= read.is_some();
            let news = stream.announced != (committed, told) || self.now >= stream.heartbeat_due;
            if news {
                stream.announced = (committed, told);
                stream.heartbeat_due = self.now.after_millis(HEARTBEAT_MILLIS);
                let at = stream.sent;
                // Bytes under way from a read that was begun earlier will carry their own position.
                let message = Message::Log {
                    at,
                    committed,
                    horizon,
                    bytes: Bytes::new(),
                };
                self.effects.push_back(Effect::Send { link, message });
            }
            for message in ready {
                self.effects.push_back(Effect::Send { link, message });
            }
            if let Some(at) = read {
                let id = self.io(Io::ShipRead { link, at });
                let piece = piece_bytes(limits.ship_bytes_per_second, CHUNK_BYTES);
                let bytes = appended.since(at).min(piece);
                self.ship_limit.log.take(self.now, bytes);
                let bytes_max = bytes as usize;
                self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
            }
        }
    }

    /// Who gets log, another one first each time.
    fn links_in_turn(&mut self) -> Vec<LinkId> {
        let mut links = self.streaming_links();
        if !links.is_empty() {
            self.ship_limit.turn = (self.ship_limit.turn + 1) % links.len();
            links.rotate_left(self.ship_limit.turn);
        }
        links
    }

    pub(crate) fn ship_read(&mut self, link: LinkId, at: Lsn, bytes: Bytes) {
        let (committed, told) = self.told_figures();
        let Some(Link {
            peer,
            ship: Some(ship),
        }) = self.links.get_mut(&link)
        else {
            return;
        };
        let track = self.tracks.get(peer);
        let horizon = track.map_or(told, |track| told.min(track.needed_there()));
        let Some(stream) = &mut ship.stream else { return };
        stream.reading = false;
        if bytes.is_empty() {
            return self.close_ship(link);
        }
        stream.sent = at.advance(bytes.len() as u64);
        stream.announced = (committed, told);
        stream.heartbeat_due = self.now.after_millis(HEARTBEAT_MILLIS);
        let message = Message::Log {
            at,
            committed,
            horizon,
            bytes,
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// Tells every follower that this node is primary no more, except a successor, who is told so by its grant.
    pub(crate) fn dismiss_followers(&mut self, successor: Option<&NodeId>) {
        let links: Vec<(LinkId, NodeId)> = self
            .links
            .iter()
            .filter(|(_, l)| l.ship.is_some())
            .map(|(id, l)| (*id, l.peer.clone()))
            .collect();
        for (link, peer) in links {
            if let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link) {
                ship.end_stream();
            }
            if Some(&peer) != successor {
                self.send_on(link, successor.cloned());
            }
        }
    }

    pub(crate) fn set_members(&mut self, id: CommandId, members: Vec<NodeId>) {
        let own = self.config.node.clone();
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| !members.contains(&link.peer))
            .map(|(id, _)| *id)
            .collect();
        for link in gone {
            let peer = self.links.get(&link).map(|link| link.peer.clone());
            self.close_ship(link);
            if let Some(peer) = peer {
                self.follow_down(Some(link), &peer);
            }
        }
        let left: Vec<NodeId> = self
            .peers
            .keys()
            .filter(|peer| !members.contains(peer))
            .cloned()
            .collect();
        left.iter().for_each(|peer| self.end_track(peer));
        self.peers.retain(|peer, _| members.contains(peer));
        self.keep_splits(&members);
        self.hail_only(&members);
        for member in members.iter().filter(|member| **member != own) {
            // One that joins has no history yet: the log is kept for it once it has opened a stream.
            let joining = Peer {
                counts: false,
                ..Peer::remembered(self.marks.trimmed())
            };
            self.peers.entry(member.clone()).or_insert(joining);
        }
        if self
            .follow
            .hint
            .as_ref()
            .is_some_and(|hint| !members.contains(hint))
        {
            self.follow.hint = None;
        }
        self.config.members = members;
        self.answer(id, Ok(crate::Answer::Done));
    }

    /// How far the log may be given up, and who is dropped when it has grown too long.
    pub(crate) fn pump_horizon(&mut self) {
        if matches!(self.phase, Phase::Scanning(_)) || self.follow.is_cutting() || self.meta.straight {
            return;
        }
        let serving = matches!(self.phase, Phase::Serving);
        let held_bytes = self.log_bytes();
        // Where there is no room, or the log is only not given up yet because the role is about to move, what is over the budget is
        // held for nobody all the same.
        let drops = self.space.level >= Level::Dropping;
        if serving && drops && !museum::is(Mutant::LogKeptForDead) {
            let counted = self.peers.iter().filter(|(_, peer)| peer.counts);
            let laggard = pressure::laggard(
                self.marks.trimmed()..self.log.sealed.lsn,
                self.config.log_bytes_max,
                self.marks.written_back(),
                counted.map(|(node, peer)| (node, peer.committed)),
            );
            if let Some(node) = laggard.cloned() {
                self.begin_track(&node);
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.counts = false;
                }
                self.notice(Notice::PeerDropped {
                    peer: node,
                    held_bytes,
                });
            }
        }
        let horizon = self.horizon().from;
        let step = (self.config.log_bytes_max / 64).clamp(4096, 16 << 20);
        if horizon.since(self.meta.trimmed) >= step && !self.is_saving() {
            self.meta.trimmed = horizon;
            self.save(Then::Nothing);
        }
    }

    /// Gives up at once what nobody needs, however little it is.
    pub(crate) fn trim_now(&mut self, id: CommandId) {
        if matches!(self.phase, Phase::Scanning(_)) {
            let reason = "recovery is under way".to_owned();
            return self.answer(id, Err(CommandError::NotInService { reason }));
        }
        let horizon = self.horizon().from;
        if self.follow.is_cutting() || self.meta.straight || horizon <= self.meta.trimmed {
            return self.answer(id, Ok(crate::Answer::Done));
        }
        self.meta.trimmed = horizon;
        self.save(Then::Answer { id });
    }

    /// How far the log may be given up, and whose need that is.
    pub(crate) fn horizon(&self) -> Need {
        let written_back = self.marks.written_back();
        if !matches!(self.phase, Phase::Serving) {
            // A replica may become primary: it keeps what any member may still need, as its source tells.
            let source = Need {
                reason: Reason::Source,
                from: self.follow.horizon,
            };
            return pressure::horizon(written_back, [source]);
        }
        let counted = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.counts && !museum::is(Mutant::TrimIgnoresPeers))
            .filter(|(_, peer)| peer.link.is_some() || !museum::is(Mutant::TrimIgnoresAbsent));
        let counted = counted.map(|(node, peer)| Need {
            reason: Reason::Peer(node.clone()),
            from: peer.committed,
        });
        let tracked = self.tracks.iter().map(|(node, track)| Need {
            reason: Reason::Track(node.clone()),
            from: track.saved(),
        });
        pressure::horizon(written_back, counted.chain(tracked))
    }
}
