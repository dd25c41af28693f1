//! How does the world do what an engine asks for?

use bytes::Bytes;
use mars::{
    Answer, Command, CommandError, CommandId, Effect, Event, GuestError, Level, LinkId, Message, Notice,
    Reply, RequestTag, SnapshotState,
};
use model::{Lsn, NodeId};

use super::{Happening, Kept, Violation, World, node_index};
use crate::disk::Lane;
use crate::link::{IDLE_MICROS, Stage};

impl World {
    pub(super) fn take(&mut self, node: usize, effect: Effect) -> Result<(), Violation> {
        if let Some(lane) = Lane::of(&effect) {
            return self.submit(node, lane, effect);
        }
        match effect {
            Effect::Dial { peer } => {
                self.count("links: dials");
                let boot = self.nodes[node].boot;
                let micros = self.rng.spread(50, 3000);
                self.schedule(micros, Happening::Dialled { node, boot, peer });
            }
            Effect::Send { link, message } => self.send(node, link, &message),
            Effect::Close { link } => {
                if let Some(end) = self.network.end_of(link, node, self.nodes[node].boot) {
                    self.leave_link(link, end, false);
                }
            }
            Effect::Complete { tag, result } => self.completed(node, tag, result)?,
            Effect::Answer { id, result } => self.answered(node, id, result)?,
            Effect::Notice(notice) => self.noticed(node, *notice)?,
            other => panic!("{other:?} has no lane"),
        }
        Ok(())
    }

    fn submit(&mut self, node: usize, lane: Lane, effect: Effect) -> Result<(), Violation> {
        match &effect {
            Effect::AppendLog { at, bytes } => self.note_append(node, *at, bytes)?,
            Effect::TrimLog { up_to } => self.check_trim(node, *up_to)?,
            _ => {}
        }
        let copies = matches!(effect, Effect::TakeSnapshot { .. });
        if copies {
            self.note_doubts(node);
        }
        if self.nodes[node].disk.submit(lane, effect) {
            self.work_lane(node, lane);
        }
        if copies {
            self.check_straight_snapshot(node)?;
        }
        Ok(())
    }

    /// What does not fit, or comes behind that, is in nobody's history.
    fn note_append(&mut self, node: usize, at: Lsn, bytes: &Bytes) -> Result<(), Violation> {
        if !self.nodes[node].disk.takes(at.0, bytes.len() as u64) {
            return Ok(());
        }
        let name = self.nodes[node].id.to_string();
        let told = self.history.appended(node, &name, at, bytes);
        told.map_err(|what| self.violation(Some(node), what))
    }

    fn work_lane(&mut self, node: usize, lane: Lane) {
        if let Some(micros) = self.nodes[node].disk.service_micros(lane, &mut self.rng) {
            let boot = self.nodes[node].boot;
            self.schedule(micros.max(1), Happening::Disk { node, boot, lane });
        }
    }

    pub(super) fn disk_step(&mut self, node: usize, boot: u32, lane: Lane) -> Result<(), Violation> {
        if !self.is_current(node, boot) {
            return Ok(());
        }
        if self.nodes[node].disk.failing == Some(lane) {
            self.refuse(node, lane);
            return Ok(());
        }
        self.note_doubts(node);
        let was_whole = self.nodes[node].disk.is_whole;
        if let Some(event) = self.nodes[node].disk.perform(lane) {
            match event {
                Event::LogFlushed { up_to } => self.history.flushed(node, up_to),
                Event::LogFull { .. } if self.serving().contains(&node) => {
                    self.count("faults: log of a primary full")
                }
                Event::LogFull { .. } => self.count("faults: log of a replica full"),
                Event::LogFlushFull => self.count("faults: a flush of the log finds no room"),
                _ => {}
            }
            // What was read of the log may be told long after it was read: appends and flushes overtake it.
            let late = matches!(event, Event::LogRead { .. }) && self.rng.chance(10);
            let micros = self.rng.spread(1, if late { 20_000 } else { 60 });
            self.deliver(micros, node, event);
        }
        if lane == Lane::Volume {
            self.watch_rots(node);
        }
        if lane == Lane::Meta {
            self.note_road(node)?;
        }
        self.work_lane(node, lane);
        // What is durable in the wrong order shows right after a save of the meta, and not for long.
        let becomes_whole = !was_whole && self.nodes[node].disk.is_whole;
        if becomes_whole || lane == Lane::Meta && self.rng.chance(2) {
            self.inspect_node(node)?;
        }
        Ok(())
    }

    pub(super) fn dialled(&mut self, node: usize, boot: u32, peer: NodeId) {
        if !self.is_current(node, boot) {
            return;
        }
        let other = node_index(&peer).filter(|other| *other < self.nodes.len() && *other != node);
        let Some(other) = other else {
            return self.deliver(100, node, Event::LinkDown { link: None, peer });
        };
        let there = self.nodes[other].engine.is_some() && self.members.contains(&other);
        if !there || !self.network.reaches(node, other) {
            // A living host refuses at once; behind a broken network nobody does.
            let micros = if self.rng.chance(60) {
                100
            } else {
                self.rng.spread(10_000, 9_000_000)
            };
            return self.deliver(micros, node, Event::LinkDown { link: None, peer });
        }
        let ends = [(node, boot), (other, self.nodes[other].boot)];
        let (link, told) = self.network.connect(self.now, ends, &mut self.rng);
        for (end, at) in told.into_iter().enumerate() {
            self.schedule_at(at, Happening::LinkUp { link, end });
        }
    }

    pub(super) fn link_up(&mut self, id: LinkId, end: usize) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        if link.ends[end].stage != Stage::Pending {
            return;
        }
        let (node, boot, other) = (link.ends[end].node, link.ends[end].boot, link.ends[1 - end].node);
        link.ends[end].stage = Stage::Up;
        link.ends[end].heard = self.now;
        if !self.is_current(node, boot) {
            return self.leave_link(id, end, false);
        }
        self.schedule(IDLE_MICROS, Happening::Listen { link: id, end });
        let peer = self.nodes[other].id.clone();
        self.delivered(
            node,
            boot,
            Event::LinkUp {
                link: id,
                peer,
                dialled: end == 0,
            },
        );
    }

    /// One end goes; the other will hear of it.
    pub(super) fn leave_link(&mut self, link: LinkId, end: usize, abrupt: bool) {
        if let Some(at) = self.network.leave(link, end, self.now, abrupt, &mut self.rng) {
            self.schedule_at(at, Happening::HangUp { link, end: 1 - end });
        }
    }

    pub(super) fn hang_up(&mut self, id: LinkId, end: usize) {
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        let (node, boot, other) = (link.ends[end].node, link.ends[end].boot, link.ends[1 - end].node);
        let stage = link.ends[end].stage;
        if stage == Stage::Gone {
            return;
        }
        if self.is_doors(id) {
            return self.door_hung_up(id, end);
        }
        self.leave_link(id, end, false);
        if self.is_current(node, boot) {
            let peer = self.nodes[other].id.clone();
            match stage {
                Stage::Up => self.delivered(node, boot, Event::LinkDown { link: Some(id), peer }),
                Stage::Pending if end == 0 => {
                    self.delivered(node, boot, Event::LinkDown { link: None, peer })
                }
                Stage::Pending | Stage::Gone => {}
            }
        }
    }

    /// A driver gives up a connection on which nothing was heard for long, be it whole.
    pub(super) fn listen(&mut self, id: LinkId, end: usize) {
        let Some(link) = self.network.links.get(&id) else {
            return;
        };
        // Of those that are lost, each end has been told when it notices.
        if link.lost || link.ends[end].stage != Stage::Up {
            return;
        }
        let due = link.ends[end].heard.after_micros(IDLE_MICROS);
        if self.now < due {
            return self.schedule_at(due, Happening::Listen { link: id, end });
        }
        self.say(|| format!("SILENT link {}", id.0));
        self.count("links: given up for silence");
        self.hang_up(id, end);
    }

    fn send(&mut self, node: usize, link: LinkId, message: &Message) {
        let boot = self.nodes[node].boot;
        // Also on a link that is gone already: what is said is what the engine has decided.
        if let Message::Opened(opened) = message
            && let Some(peer) = self.nodes[node].linked.get(&link).cloned()
        {
            let kept = if opened.fresh { Kept::Fresh } else { Kept::Counts };
            self.nodes[node].kept.insert(peer, kept);
        }
        let Some(end) = self.network.end_of(link, node, boot) else {
            return;
        };
        let bytes = message.encode().freeze();
        let length = bytes.len();
        let Some(arrives) = self.network.send(link, end, length, self.now, &mut self.rng) else {
            return;
        };
        if let Message::Log { bytes, .. } = message {
            *self.counts.entry("links: bytes of log").or_default() += bytes.len() as u64;
        }
        if matches!(message, Message::Report { connected: true, .. }) {
            self.count("links: reports of followers");
        }
        self.schedule_at(
            arrives,
            Happening::Arrive {
                link,
                to: 1 - end,
                bytes,
            },
        );
    }

    pub(super) fn arrive(&mut self, link: LinkId, to: usize, bytes: Bytes) -> Result<(), Violation> {
        let Some(found) = self.network.links.get_mut(&link) else {
            return Ok(());
        };
        if found.lost || found.ends[to].stage != Stage::Up {
            return Ok(());
        }
        found.ends[to].heard = self.now;
        let end = found.ends[to];
        if !self.is_current(end.node, end.boot) {
            return Ok(());
        }
        let message = Message::decode(bytes)
            .map_err(|e| self.violation(Some(end.node), format!("is sent what it cannot read: {e}")))?;
        self.delivered(end.node, end.boot, Event::Message { link, message });
        Ok(())
    }

    /// What can be told from an event before the engine has seen it.
    pub(super) fn foresee(&mut self, node: usize, event: &Event) {
        match event {
            Event::Guest { tag, request } => self.promise(node, *tag, request),
            // A log that was cut or begun anew has marks of its own.
            Event::LogReset { .. } => self.nodes[node].marks = None,
            Event::LinkUp { link, peer, .. } => {
                self.nodes[node].linked.insert(*link, peer.clone());
            }
            Event::Message {
                link,
                message: Message::Ack { whole: true, .. },
            } => {
                let ends = self
                    .network
                    .links
                    .get(link)
                    .map(|link| link.ends.map(|end| end.node));
                for peer in ends.into_iter().flatten().filter(|peer| *peer != node) {
                    let peer = self.nodes[peer].id.clone();
                    if let Some(kept @ Kept::Fresh) = self.nodes[node].kept.get_mut(&peer) {
                        *kept = Kept::Counts;
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn guest_asks(&mut self) {
        if !self.busy {
            return;
        }
        if self.guest.asked.len() < self.guest.habits.depth {
            self.guest.now = self.now;
            self.guest.ask(&mut self.rng);
            self.send_asked();
        }
        let (low, high) = self.profile.think_micros;
        let micros = self.rng.between(low, high);
        self.schedule(micros, Happening::Ask);
    }

    /// Sends what is unanswered to where the guest thinks the primary is.
    pub(super) fn send_asked(&mut self) {
        if self.door.is_some() {
            return self.door_asks();
        }
        let node = self.guest.attached;
        if self.nodes[node].engine.is_none() {
            if self.rng.chance(25) {
                self.attach_elsewhere();
            }
            return self.resend_later();
        }
        if !self.guest_fits(node) {
            self.attach_elsewhere();
            return self.resend_later();
        }
        let place = (node, self.nodes[node].boot);
        for (tag, request) in self.guest.send(self.now, place) {
            self.deliver(1, node, Event::Guest { tag, request });
        }
    }

    fn attach_elsewhere(&mut self) {
        let members: Vec<usize> = self.members.iter().copied().collect();
        if let Some(member) = self.rng.pick(&members) {
            self.guest.attached = *member;
        }
    }

    pub(super) fn resend_later(&mut self) {
        if !self.resending && !self.guest.asked.is_empty() {
            self.resending = true;
            let micros = self.rng.spread(500, 200_000);
            self.schedule(micros, Happening::Resend);
        }
    }

    fn completed(
        &mut self,
        node: usize,
        tag: RequestTag,
        result: Result<Reply, GuestError>,
    ) -> Result<(), Violation> {
        if let Some(end) = self.probes.remove(&tag.0) {
            return self.probe_answered(node, end, result);
        }
        if let Some(told) = self.ghost_answered(node, tag, result.is_ok()) {
            return told;
        }
        if let Some(told) = self.door_request_answered(node, tag, &result) {
            return told;
        }
        let place = (node, self.nodes[node].boot);
        let number = self.nodes[node].engine.as_ref().and_then(|engine| {
            let epoch = engine.primary_in()?;
            Some(epoch.takeovers())
        });
        // A primary of another takeover may know another length, too.
        let served = matches!(result, Ok(_) | Err(GuestError::OutOfBounds));
        if served && number.is_some_and(|number| number != self.guest.takeovers) {
            self.guest_left_behind(node);
            self.forced.ghosts.remove(&tag.0);
            self.resend_later();
            return Ok(());
        }
        if self
            .guest
            .asked
            .get(&tag.0)
            .is_none_or(|asked| asked.sent != Some(place))
        {
            return Ok(());
        }
        match result {
            Ok(reply) => {
                self.check_promise(node, tag)?;
                self.guest.now = self.now;
                let told = self.guest.answer(tag, &reply);
                let changed = told.map_err(|what| self.violation(Some(node), what))?;
                let epoch = self.stood(node).map_or(self.acked_epoch, |stood| stood.epoch);
                if changed && epoch < self.acked_epoch {
                    let what = format!(
                        "answers a write in epoch {epoch} after one was answered in {}",
                        self.acked_epoch
                    );
                    return Err(self.violation(Some(node), what));
                }
                if changed {
                    self.acked_epoch = epoch;
                }
            }
            Err(GuestError::NotPrimary { hint, .. }) => {
                self.guest.refused(tag);
                match hint.as_ref().and_then(node_index) {
                    Some(hint) if hint < self.nodes.len() && hint != node => self.guest.attached = hint,
                    _ => self.attach_elsewhere(),
                }
                self.count("guest: sent on, not primary");
                self.resend_later();
            }
            Err(GuestError::Disk(_)) if self.nodes[node].disk_failed => {
                // The disk below its primary has failed: no replication can hide that without a hand-over.
                self.guest.refused(tag);
                self.count("guest: told of a disk that failed");
                self.resend_later();
            }
            Err(error) => return Err(self.violation(Some(node), format!("the guest is told: {error}"))),
        }
        Ok(())
    }

    fn answered(
        &mut self,
        node: usize,
        id: CommandId,
        result: Result<Answer, CommandError>,
    ) -> Result<(), Violation> {
        let Some(asked) = self.commands.remove(&id) else {
            return Err(self.violation(Some(node), format!("answers command {} twice", id.0)));
        };
        if let (Command::TakeOver { epoch }, Err(error)) = (&asked.command, &result) {
            self.take_over_denied(node, *epoch, error)?;
        }
        if let (Command::Grow { to }, Ok(Answer::Done)) = (&asked.command, &result) {
            return self.grow_answered(node, *to);
        }
        if let (Command::SetMembers { members }, Ok(_)) = (&asked.command, &result) {
            // One that leaves and comes back is another one.
            self.nodes[node].kept.retain(|peer, _| members.contains(peer));
            // The log is kept for one that joins once it has begun.
            let (here, place) = (self.nodes[node].id.clone(), &mut self.nodes[node]);
            if place
                .stood
                .as_ref()
                .is_some_and(|stood| stood.role == model::Role::Primary)
            {
                for member in members.iter().filter(|member| **member != here) {
                    place.kept.entry(member.clone()).or_insert(Kept::Fresh);
                }
            }
        }
        if let (Command::Snapshot { name }, Ok(Answer::Snapshot { at })) = (&asked.command, &result) {
            self.snapshot_told(node, name, *at);
        }
        match result {
            Ok(Answer::Snapshot { .. }) => {}
            Ok(Answer::HandedOver { gate_micros, .. }) => {
                self.count("operators: hand-over done");
                self.gate_micros_max = self.gate_micros_max.max(gate_micros);
            }
            Ok(Answer::TookOver { .. }) => self.count("operators: takeover done"),
            Ok(Answer::Checksum { digest, from, to }) => {
                self.count("operators: checksum done");
                // Between a road and the other, no version has this place.
                let straight = self.status(node).is_some_and(|status| status.straight)
                    || self.meta(node).is_some_and(|meta| meta.straight);
                if from == to && !straight && !self.is_rotten(node) && !self.is_faked(node) {
                    self.count("checks: digests compared");
                    if !self.history.had_digest(from, digest) {
                        let what = format!(
                            "digests its contents at {from} as {digest:032x}, which no primary ever had"
                        );
                        return Err(self.violation(Some(node), what));
                    }
                }
            }
            Ok(Answer::Done) => self.count("operators: command done"),
            Err(CommandError::TimedOut { .. }) => self.count("operators: hand-over timed out"),
            Err(CommandError::NotReady { .. }) => self.count("operators: hand-over not ready"),
            Err(_) => self.count("operators: command refused"),
        }
        Ok(())
    }

    fn noticed(&mut self, node: usize, notice: Notice) -> Result<(), Violation> {
        match &notice {
            Notice::Recovered { torn_bytes, .. } => {
                self.count("engine: recoveries");
                if *torn_bytes > 0 {
                    self.count("engine: torn tails cut");
                }
            }
            Notice::BecamePrimary { epoch } => {
                let status = self.nodes[node]
                    .engine
                    .as_ref()
                    .map(|engine| engine.status(self.now));
                // A takeover that was cut short before it served goes on from here.
                if let Some(status) = &status {
                    let bases = &mut self.forced.bases;
                    bases.entry(epoch.takeovers()).or_insert(status.tip);
                }
                let peers = status.into_iter().flat_map(|status| status.peers);
                let kept = |dropped| if dropped { Kept::Dropped } else { Kept::Counts };
                // One that takes over from itself goes on as before.
                for peer in peers {
                    let kept = kept(peer.dirty.is_some());
                    self.nodes[node].kept.entry(peer.node).or_insert(kept);
                }
                self.count("engine: promotions");
            }
            Notice::BecameSecondary { successor, epoch } => {
                if successor.is_some() && self.door.is_some() && epoch.takeovers() == self.guest.takeovers {
                    self.guest.handed_over();
                }
                self.nodes[node].kept.clear();
                self.count("engine: demotions");
            }
            Notice::TookOver { epoch, from, .. } => self.took_over(node, *epoch, *from)?,
            Notice::Streaming { .. } => self.count("engine: streams"),
            Notice::SyncStarted { partial: None, .. } => self.count("engine: full syncs begun"),
            Notice::SyncStarted { .. } => self.count("engine: partial copies begun"),
            Notice::SyncFinished { .. } => self.count("engine: full syncs finished"),
            Notice::SyncFaked => self.count("engine: syncs faked"),
            Notice::CutBack { to, .. } => {
                self.count("engine: replicas cut back");
                self.check_dropped(node, *to)?;
                self.nodes[node].marks = None;
            }
            Notice::PeerDropped { peer, .. } => {
                let peer = peer.clone();
                self.nodes[node].kept.insert(peer, Kept::Dropped);
                self.count("engine: laggards dropped");
            }
            Notice::Pressure { level, .. } => self.count(match level {
                Level::Normal => "engine: log back to normal",
                Level::Throttled => "engine: log throttled",
                Level::Dropping => "engine: log drops laggards",
                Level::Unlogged => "engine: log done without",
                Level::Stalled => "engine: log stalled",
            }),
            Notice::Short { .. } => self.count("engine: too few replicas for the mode"),
            Notice::Restored { .. } => self.count("engine: enough replicas again"),
            Notice::LagExceeded { .. } => self.count("engine: lag alarms"),
            Notice::LagCleared { .. } => self.count("engine: lag alarms cleared"),
            Notice::SplitBrain { peer, split } => self.check_parting(node, peer, split)?,
            Notice::Fenced { .. } => {
                self.nodes[node].kept.clear();
                self.count("engine: primaries fenced");
            }
            Notice::DefectiveLog { at, reason } => {
                if !self.nodes[node].disk.log.is_damaged() {
                    let what = format!("calls its log defective at {at}, which nobody damaged: {reason}");
                    return Err(self.violation(Some(node), what));
                }
                self.nodes[node].told_damage = true;
                self.count("engine: damaged logs found");
            }
            Notice::LogDamaged { at, reason } => {
                if !self.nodes[node].disk.log.is_damaged() {
                    let what = format!("finds its log damaged at {at}, which nobody damaged: {reason}");
                    return Err(self.violation(Some(node), what));
                }
                self.count("engine: damage found that only others needed");
            }
            Notice::Grown { .. } => self.count("engine: replicas grown"),
            Notice::CannotGrow { .. } => self.count("engine: replicas that cannot grow"),
            Notice::Snapshot { state, .. } => {
                self.count(match state {
                    SnapshotState::Kept => "engine: snapshots kept",
                    SnapshotState::Failed { .. } => "engine: snapshots failed",
                    _ => "engine: snapshots missing",
                });
            }
            Notice::VerifyStarted { .. } => self.verify_started(),
            Notice::Difference { node: other, range } => self.difference_told(node, other, *range)?,
            Notice::VerifyEnded { run } => self.verify_ended(node, run)?,
            Notice::Failed { .. } if self.nodes[node].disk_failed => self.count("engine: out of service"),
            Notice::Failed { error } => {
                return Err(self.violation(Some(node), format!("goes out of service: {error}")));
            }
        }
        self.notices.push((node, notice));
        Ok(())
    }
}
