//! What does a host do with the doors that come to it? It lets them in while it is primary, and does what the newest of each asks.

use std::sync::{Arc, Weak};

use mars::{Admission, Engine, Event, GuestError, GuestRequest, Input, LinkId, Reply, RequestTag};
use model::{Epoch, Role};

use super::{DAEMON, DOOR_TAGS, Door, Frame, News, PATIENCE_MICROS, Served, Submitted, Way, is_door_tag};
use crate::guest::changes;
use crate::link::Stage;
use crate::world::{Happening, Violation, World};

impl World {
    pub(super) fn send_frame(&mut self, link: LinkId, from: usize, frame: Frame) {
        let arrives = self
            .network
            .send(link, from, frame.bytes(), self.now, &mut self.rng);
        if let Some(at) = arrives {
            let to = 1 - from;
            self.schedule_at(at, Happening::Door(News::Arrive { link, to, frame }));
        }
    }

    pub(super) fn frame_arrives(&mut self, id: LinkId, to: usize, frame: Frame) {
        let now = self.now;
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        let end = &mut link.ends[to];
        if link.lost || end.stage != Stage::Up {
            return;
        }
        end.heard = now;
        let node = end.node;
        let Some(door) = &mut self.door else { return };
        let generation = door.short(door.generation.max(door.base));
        let ours = match door.way {
            Way::Dialling { link } => link == Some(id),
            Way::There { link } => link == id,
            _ => false,
        };
        match frame {
            Frame::Enter {
                generation,
                at_least,
                epoch_seen,
            } => self.door_enters(id, node, generation, (at_least, epoch_seen)),
            Frame::Request { seq, request } => self.request_arrives(id, seq, request),
            Frame::Welcome { epoch } if ours => {
                door.way = Way::There { link: id };
                self.door_told(Input::Connected { generation, epoch });
            }
            Frame::Elsewhere { hint, known } if ours => {
                self.door_hangs_up();
                self.door_told(Input::Heard { epoch: known });
                self.door_lost_way(hint);
            }
            Frame::Answer { seq, result } if ours => self.door_answer(seq, result),
            Frame::Welcome { .. } | Frame::Elsewhere { .. } | Frame::Answer { .. } => {}
        }
    }

    /// A door asks a node to be let in.
    pub(super) fn door_enters(
        &mut self,
        link: LinkId,
        node: usize,
        generation: u64,
        (at_least, epoch): (Option<Epoch>, Epoch),
    ) {
        let Some(door) = &mut self.door else { return };
        let served = Served {
            node,
            boot: self.nodes[node].boot,
            generation,
            at_least: at_least.unwrap_or(Epoch::NONE),
            admission: None,
        };
        door.served.insert(link, served);
        if self.nodes[node].engine.is_some() {
            self.deliver(1, node, Event::Heard { epoch });
        }
        self.let_in(link);
        let waits = |door: &Door| {
            door.served
                .get(&link)
                .is_some_and(|served| served.admission.is_none())
        };
        if self.door.as_deref().is_some_and(waits) {
            match at_least {
                Some(_) => self.schedule(PATIENCE_MICROS, Happening::Door(News::Weary { link })),
                None => self.send_elsewhere(link),
            }
        }
    }

    /// Lets a door in, if the node serves by now.
    pub(super) fn let_in(&mut self, link: LinkId) {
        let Some(door) = &mut self.door else { return };
        let host = door.host;
        let Some(served) = door.served.get_mut(&link) else {
            return;
        };
        let standing = self.nodes[served.node].engine.as_ref().map(Engine::standing);
        let Some(standing) = standing.filter(|s| s.serving && s.epoch >= served.at_least) else {
            return;
        };
        let known = door.gates.get(&(served.node, host)).and_then(Weak::upgrade);
        let gate = known.unwrap_or_default();
        door.gates.insert((served.node, host), Arc::downgrade(&gate));
        match Admission::new(gate, served.generation, standing.epoch) {
            Some(admission) => {
                served.boot = self.nodes[served.node].boot;
                served.admission = Some(admission);
                let (node, epoch) = (served.node, standing.epoch);
                self.prune(node);
                self.send_frame(link, 1, Frame::Welcome { epoch });
            }
            None => self.send_elsewhere(link),
        }
    }

    /// What connections that are over have asked a node for, and is still waiting there, is withdrawn.
    pub(super) fn prune(&mut self, node: usize) {
        let Some(door) = &self.door else { return };
        let over = |asked: &Submitted| asked.node == node && asked.admission.is_over();
        let asked = door.submitted.iter().filter(|(_, asked)| over(asked));
        let tags: Vec<RequestTag> = asked.map(|(tag, _)| RequestTag(*tag)).collect();
        if !tags.is_empty() && self.nodes[node].engine.is_some() {
            self.count("doors: connections that left requests");
            self.deliver(1, node, Event::Withdrawn { tags });
        }
    }

    pub(super) fn send_elsewhere(&mut self, link: LinkId) {
        let served = self.door.as_mut().and_then(|door| door.served.remove(&link));
        let Some(served) = served else { return };
        let standing = self.nodes[served.node].engine.as_ref().map(Engine::standing);
        let (hint, known) = standing.map_or((None, Epoch::NONE), |s| (s.primary, s.known));
        self.send_frame(link, 1, Frame::Elsewhere { hint, known });
        self.leave_link(link, 1, false);
    }

    /// After a node did something: doors may be waiting for that.
    pub(in crate::world) fn doors_look(&mut self, node: usize) {
        let Some(door) = &self.door else { return };
        let waiting: Vec<LinkId> = door
            .served
            .iter()
            .filter(|(_, served)| served.node == node && served.admission.is_none())
            .map(|(link, _)| *link)
            .collect();
        let here = door.host == node;
        waiting.into_iter().for_each(|link| self.let_in(link));
        if here {
            self.decide_here();
        }
    }

    pub(super) fn request_arrives(&mut self, link: LinkId, seq: u64, request: GuestRequest) {
        let Some(door) = &mut self.door else { return };
        let Some(served) = door.served.get(&link) else {
            return;
        };
        let Some(admission) = served.admission.clone() else {
            return;
        };
        let (node, boot) = (served.node, served.boot);
        let asked = Submitted {
            node,
            admission,
            link: Some(link),
            generation: 0,
            seq,
            changes: changes(&request),
        };
        if self.is_current(node, boot) {
            return self.submit_for_door(asked, request);
        }
        // The replica that let it in has stopped.
        let (hint, granted) = (None, None);
        self.answer_door(asked, Err(GuestError::NotPrimary { hint, granted }));
    }

    pub(super) fn submit_for_door(&mut self, asked: Submitted, request: GuestRequest) {
        let Some(door) = &mut self.door else { return };
        let tag = RequestTag(DOOR_TAGS + door.next_tag);
        door.next_tag += 1;
        let node = asked.node;
        door.submitted.insert(tag.0, asked);
        self.deliver(1, node, Event::Guest { tag, request });
    }

    /// Directly before an engine sees a request: whether its connection may still ask for anything.
    pub(in crate::world) fn turns_away(&mut self, node: usize, event: &Event) -> bool {
        let Event::Guest { tag, .. } = event else {
            return false;
        };
        let (Some(door), true) = (&mut self.door, is_door_tag(*tag)) else {
            return false;
        };
        let Some(engine) = &self.nodes[node].engine else {
            return true;
        };
        let Some(asked) = door.submitted.get(&tag.0) else {
            return true;
        };
        if asked.admission.admits(engine.primary_in()) {
            return false;
        }
        let hint = engine.standing().primary;
        let asked = door.submitted.remove(&tag.0);
        self.count("doors: requests of old connections");
        if let Some(asked) = asked {
            self.answer_door(asked, Err(GuestError::NotPrimary { hint, granted: None }));
        }
        true
    }

    /// A primary answers; `None` when the request did not come through a door.
    pub(in crate::world) fn door_request_answered(
        &mut self,
        node: usize,
        tag: RequestTag,
        result: &Result<Reply, GuestError>,
    ) -> Option<Result<(), Violation>> {
        let (Some(door), true) = (&mut self.door, is_door_tag(tag)) else {
            return None;
        };
        let Some(asked) = door.submitted.remove(&tag.0) else {
            return Some(Ok(()));
        };
        // As it stood before this batch of events: within it, it may have answered first and stepped down then.
        let role = self.stood(node).map(|stood| stood.role);
        let judged = match result {
            Ok(_) if asked.changes && role == Some(Role::Secondary) => {
                Err(self.violation(Some(node), "answers a write although it is primary no more"))
            }
            Ok(_) => self.check_promise(node, tag),
            Err(GuestError::Disk(error)) if !self.nodes[node].disk_failed => {
                Err(self.violation(Some(node), format!("a door is told: {error}")))
            }
            Err(GuestError::OutOfBounds) if !self.history.forced => {
                Err(self.violation(Some(node), "a door is told that its guest asks beyond the end"))
            }
            Err(_) => Ok(()),
        };
        self.answer_door(asked, result.clone());
        Some(judged)
    }

    pub(super) fn answer_door(&mut self, asked: Submitted, result: Result<Reply, GuestError>) {
        let seq = asked.seq;
        match asked.link {
            Some(link) => self.send_frame(link, 1, Frame::Answer { seq, result }),
            None => {
                let micros = self.rng.spread(1, 20);
                let generation = asked.generation;
                let answered = News::Answered {
                    generation,
                    seq,
                    result,
                };
                self.schedule(micros, Happening::Door(answered));
            }
        }
    }

    /// Whether a connection is a door's.
    pub(in crate::world) fn is_doors(&self, link: LinkId) -> bool {
        let found = self.network.links.get(&link);
        found.is_some_and(|link| link.ends[0].boot & DAEMON != 0)
    }
}
