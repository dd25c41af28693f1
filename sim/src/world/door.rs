//! How does a guest reach its volume from a host without the primary? Through the session that ships, over simulated links.
//!
//! What `marsd::door` does with sockets is done here with the links of the cluster: a connection is dialled, let in or sent elsewhere by
//! whoever serves, carries requests and answers in order, and dies as the links of replicas do. A host's daemon holds its
//! guests' sessions and its replica together: what kills one kills the other. The guest is a process of its own on the door's host, which
//! waits and asks again; it ends when that host loses power.

mod life;
mod serving;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use mars::{
    Admission, Engine, Event, Gate, GuestError, GuestRequest, Input, LinkId, Output, Reply, RequestTag,
    Session,
};
use model::{Epoch, NodeId, Tick};
use xxhash_rust::xxh3::xxh3_64;

use super::{Happening, Violation, World, node_id, node_index};
use crate::describe;
use crate::guest::changes;
use crate::link::Stage;

/// Tags of requests that come through a door, at their primary.
const DOOR_TAGS: u64 = 1 << 50;

/// Starts of daemons are counted apart from starts of replicas.
const DAEMON: u32 = 1 << 31;

/// What `marsd` allows for connecting and being let in, in microseconds.
const CONNECT_MICROS_MAX: u64 = 3_000_000;

/// How long a successor makes a door wait rather than send it away, in microseconds.
const PATIENCE_MICROS: u64 = 1_000_000;

/// A connection of a door on which nothing is heard for so long is given up, in microseconds.
pub(super) const SILENCE_MICROS: u64 = 5_000_000;

/// A door that is to be closed waits so long for what its guests had asked, in microseconds.
const QUIET_MICROS_MAX: u64 = 10_000_000;

/// What passes over a connection of a door.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    Enter {
        generation: u64,
        at_least: Option<Epoch>,
        epoch_seen: Epoch,
    },
    Request {
        seq: u64,
        request: GuestRequest,
    },
    Welcome {
        epoch: Epoch,
    },
    Elsewhere {
        hint: Option<NodeId>,
        known: Epoch,
    },
    Answer {
        seq: u64,
        result: Result<Reply, GuestError>,
    },
}

impl Frame {
    fn bytes(&self) -> usize {
        let data = match self {
            Frame::Request {
                request: GuestRequest::Write { data, .. },
                ..
            }
            | Frame::Answer {
                result: Ok(Reply::Data(data)),
                ..
            } => data.len(),
            _ => 0,
        };
        32 + data
    }
}

/// What happens to a door and its connections.
#[derive(Debug)]
pub(super) enum News {
    /// The daemon on its host is there again.
    Start {
        life: u32,
    },
    Timer {
        life: u32,
    },
    Dialled {
        generation: u64,
        node: usize,
        enter: Frame,
    },
    /// It was not let in for too long.
    Late {
        generation: u64,
    },
    Refused {
        generation: u64,
    },
    Arrive {
        link: LinkId,
        to: usize,
        frame: Frame,
    },
    /// A successor that did not become primary lets a door wait no longer.
    Weary {
        link: LinkId,
    },
    /// The primary on its own host answers.
    Answered {
        generation: u64,
        seq: u64,
        result: Result<Reply, GuestError>,
    },
    /// It is told who the members are.
    Members,
    /// A fault in the middle of a hand-over: of a host, or of the connection.
    Struck {
        victim: Option<usize>,
    },
    /// A guest comes.
    Comes {
        life: u32,
    },
}

/// The way to the primary.
#[derive(Debug)]
enum Way {
    None,
    Dialling {
        link: Option<LinkId>,
    },
    /// For the replica here to become primary.
    Waiting {
        at_least: Option<Epoch>,
    },
    Here {
        admission: Admission,
    },
    There {
        link: LinkId,
    },
}

/// A connection as the serving side knows it.
#[derive(Debug)]
struct Served {
    node: usize,
    /// Start of the replica.
    boot: u32,
    generation: u64,
    at_least: Epoch,
    admission: Option<Admission>,
}

impl Served {
    fn waits(&self) -> bool {
        self.admission.is_none()
    }
}

/// A request at a primary until it is answered.
#[derive(Debug)]
struct Submitted {
    node: usize,
    admission: Admission,
    /// Its connection; none on the primary's own host.
    link: Option<LinkId>,
    generation: u64,
    seq: u64,
    changes: bool,
}

/// The door of the volume's guest, and whoever it talks to.
#[derive(Debug)]
pub(super) struct Door {
    host: usize,
    /// Starts of its daemon so far.
    life: u32,
    /// None while the daemon is down.
    session: Option<Session>,
    copies_bytes_max: u64,
    inbox: VecDeque<Input>,
    is_driven: bool,
    /// What generations are counted from in this life.
    base: u64,
    /// Of the connection or attempt.
    generation: u64,
    way: Way,
    /// Of connections to the replica here.
    gate: Arc<Gate>,
    timer: Option<Tick>,
    members: Vec<NodeId>,
    /// A member could not be asked since the session began: then nobody may have told it of a newer primary.
    blind: bool,
    /// A guest is there.
    present: bool,
    /// The guest goes to another host as soon as nothing is under way any more, but no later.
    leaving: Option<(usize, Tick)>,
    open_since: Option<Tick>,
    /// Flushes on this connection, each with what it covers.
    flushes: BTreeMap<u64, u64>,
    /// Changes on this connection.
    changes: BTreeMap<u64, model::SectorRange>,
    served: BTreeMap<LinkId, Served>,
    submitted: BTreeMap<u64, Submitted>,
    next_tag: u64,
    /// By serving host and door's host.
    gates: BTreeMap<(usize, usize), Weak<Gate>>,
    /// Daemons that have ended, by host.
    deaths: BTreeMap<usize, u32>,
}

impl Door {
    fn daemon(&self, node: usize) -> u32 {
        DAEMON | self.deaths.get(&node).copied().unwrap_or(0)
    }

    fn short(&self, generation: u64) -> u64 {
        generation - self.base
    }

    fn status(&self) -> mars::SessionStatus {
        self.session.as_ref().map(Session::status).unwrap_or_default()
    }
}

/// Whether a request came through a door.
fn is_door_tag(tag: RequestTag) -> bool {
    tag.0 & DOOR_TAGS != 0
}

impl World {
    /// The guest gets at its volume through a door on this host, whoever is primary.
    pub fn attach_through(&mut self, host: usize, copies_bytes_max: u64) {
        self.door = Some(Box::new(Door {
            host,
            life: 0,
            session: None,
            copies_bytes_max,
            inbox: VecDeque::new(),
            is_driven: false,
            base: 0,
            generation: 0,
            way: Way::None,
            gate: Arc::default(),
            timer: None,
            members: self.member_ids(),
            blind: false,
            present: true,
            leaving: None,
            open_since: None,
            flushes: BTreeMap::new(),
            changes: BTreeMap::new(),
            served: BTreeMap::new(),
            submitted: BTreeMap::new(),
            next_tag: 0,
            gates: BTreeMap::new(),
            deaths: BTreeMap::new(),
        }));
        self.count("doors: volumes with one");
        self.schedule(1, Happening::Door(News::Start { life: 0 }));
    }

    /// The host of the guest's door, if it has one.
    pub fn door_host(&self) -> Option<usize> {
        self.door.as_ref().map(|door| door.host)
    }

    /// Where the guest's session is served now.
    pub fn door_served_by(&self) -> Option<usize> {
        let (node, _) = self.door.as_ref()?.status().primary?;
        node_index(&node)
    }

    /// Memory that the session has for copies of unflushed writes in use.
    pub fn door_copies_bytes(&self) -> u64 {
        self.door.as_ref().map_or(0, |door| door.status().copies_bytes)
    }

    pub(super) fn door_news(&mut self, news: News) {
        let Some(door) = &mut self.door else { return };
        match news {
            News::Start { life } if life == door.life => self.door_starts(),
            News::Timer { life } if life == door.life && door.timer.is_some_and(|due| due <= self.now) => {
                door.timer = None;
                self.door_told(Input::Timer);
            }
            News::Dialled {
                generation,
                node,
                enter,
            } if generation == door.generation => self.door_dialled(node, enter),
            News::Refused { generation } if generation == door.generation => self.door_lost_way(None),
            News::Late { generation } if generation == door.generation => {
                if matches!(door.way, Way::Dialling { .. } | Way::Waiting { .. }) {
                    self.door_hangs_up();
                    self.door_lost_way(None);
                }
            }
            News::Arrive { link, to, frame } => self.frame_arrives(link, to, frame),
            News::Weary { link } if door.served.get(&link).is_some_and(Served::waits) => {
                self.send_elsewhere(link);
            }
            News::Answered {
                generation,
                seq,
                result,
            } if generation == door.generation => self.door_answer(seq, result),
            News::Members => {
                let members = self.member_ids();
                if let Some(door) = &mut self.door
                    && door.members != members
                {
                    door.members = members.clone();
                    self.door_told(Input::Members { members });
                }
            }
            News::Struck { victim } if self.now < self.chaos_until => match victim {
                Some(node) => {
                    let power = self.rng.chance(50);
                    self.strike_door(node, power);
                }
                None => self.half_open_door(),
            },
            News::Comes { life } if life == door.life => self.guest_comes(),
            _ => {}
        }
    }

    /// The guest asks what it has thought of.
    pub(super) fn door_asks(&mut self) {
        let Some(door) = self
            .door
            .as_mut()
            .filter(|door| door.session.is_some() && door.present)
        else {
            return;
        };
        let place = (door.host, DAEMON | door.life);
        for (tag, request) in self.guest.send(self.now, place) {
            door.inbox.push_back(Input::Guest { tag, request });
        }
        self.drive_door();
    }

    fn door_told(&mut self, input: Input) {
        if let Some(door) = &mut self.door {
            door.inbox.push_back(input);
            self.drive_door();
        }
    }

    /// Works off the session's inbox, and does what it asks for.
    fn drive_door(&mut self) {
        let Some(door) = self.door.as_mut().filter(|door| !door.is_driven) else {
            return;
        };
        door.is_driven = true;
        while let Some(input) = self.door.as_mut().and_then(|door| door.inbox.pop_front()) {
            if let Err(violation) = self.tell_session(input) {
                self.found.get_or_insert(violation);
            }
        }
        if let Some(door) = &mut self.door {
            door.is_driven = false;
        }
        self.arm_door();
        self.door_goes();
    }

    fn tell_session(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.now;
        let Some(door) = &mut self.door else { return Ok(()) };
        let Some(session) = &mut door.session else {
            return Ok(());
        };
        let print = xxh3_64(format!("{input:?}").as_bytes());
        self.trace.note(now, Some(door.host), print, |line| {
            std::fmt::Write::write_str(line, "<= ").and_then(|()| describe::input(line, &input))
        });
        let (mut covered, mut failed) = (None, None);
        if let Input::Answer { seq, result, .. } = &input {
            let (flush, change) = (door.flushes.remove(seq), door.changes.remove(seq));
            covered = flush.filter(|_| result.is_ok());
            let is_lasting = matches!(result, Err(GuestError::Disk(_) | GuestError::OutOfBounds));
            failed = change.filter(|_| is_lasting);
        }
        let connected = matches!(input, Input::Connected { .. });
        session.handle(now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        let served_by = session.status().primary;
        if served_by.is_none() {
            door.open_since = None;
        }
        if let (true, Some((node, epoch))) = (connected, served_by) {
            door.open_since = Some(now);
            self.session_opened(node_index(&node).unwrap_or(0), epoch)?;
        }
        if let Some(clock) = covered {
            self.guest.covered(clock);
        }
        let told = |output: &Output| matches!(output, Output::Complete { .. });
        if let Some(range) = failed.filter(|_| !outputs.iter().any(told)) {
            // A copy could not be written again; the guest will be told with the next flush.
            self.count("doors: copies that could not be written");
            self.guest.copy_failed(range);
        }
        outputs
            .into_iter()
            .try_for_each(|output| self.perform_for_door(output))
    }

    fn perform_for_door(&mut self, output: Output) -> Result<(), Violation> {
        let Some(door) = &mut self.door else { return Ok(()) };
        let print = xxh3_64(format!("{output:?}").as_bytes());
        self.trace.note(self.now, Some(door.host), print, |line| {
            std::fmt::Write::write_str(line, "=> ").and_then(|()| describe::output(line, &output))
        });
        match output {
            Output::Connect {
                generation,
                node,
                at_least,
                epoch_seen,
            } => {
                self.door_hangs_up();
                self.door_connects(generation, node, at_least, epoch_seen);
            }
            Output::Disconnect { generation } => {
                if door.base + generation == door.generation {
                    self.door_hangs_up();
                }
            }
            Output::Send { seq, request, .. } => self.door_sends(seq, request),
            Output::Forget { tag } => {
                self.guest.done_with(tag, false);
                if door.present && self.guest.asked.contains_key(&tag.0) {
                    return Err(self.violation(None, "a session forgets what its guest waits for"));
                }
            }
            Output::Complete { tag, result } => return self.door_completes(tag, result),
        }
        Ok(())
    }

    /// The session is served by a node in this epoch; a primary of a newer takeover has another truth.
    fn session_opened(&mut self, node: usize, epoch: Epoch) -> Result<(), Violation> {
        self.count("doors: sessions served");
        let host = self.door.as_ref().map(|door| door.host);
        if host == Some(node) {
            self.guest.served_here();
        }
        let number = epoch.takeovers();
        // Beside a primary of the past a guest is on its side, as all guests there are until it hears of the newer one.
        let blind = self
            .door
            .as_ref()
            .is_some_and(|door| door.blind || door.host == node);
        if number < self.guest.takeovers && !blind {
            let what = format!(
                "serves in epoch {epoch} a guest that has met takeover {}",
                self.guest.takeovers
            );
            return Err(self.violation(Some(node), what));
        }
        if number != self.guest.takeovers {
            let Some(base) = self.base_of(number, node) else {
                return Err(self.violation(Some(node), "serves after a takeover of which nobody knows"));
            };
            let size = self.nodes[node].engine.as_ref().map(Engine::size);
            let sectors = size.map_or(self.guest.sectors(), |size| size.sectors().0 as usize);
            self.say(|| {
                format!(
                    "GUEST LIVES ON with takeover {number} at h{node}, from {}",
                    base.lsn
                )
            });
            self.count("doors: guests that lived through a takeover");
            self.move_guest(number, base, sectors, true);
        }
        Ok(())
    }

    fn door_connects(&mut self, generation: u64, node: NodeId, at_least: Option<Epoch>, epoch_seen: Epoch) {
        let Some(door) = &mut self.door else { return };
        door.generation = door.base + generation;
        let (host, generation) = (door.host, door.generation);
        let Some(node) = node_index(&node).filter(|node| *node < self.nodes.len()) else {
            return self.door_lost_way(None);
        };
        if node == host {
            if self.nodes[node].engine.is_none() {
                door.blind = true;
                return self.door_lost_way(None);
            }
            door.way = Way::Waiting { at_least };
            if let Some(engine) = &self.nodes[node].engine {
                let epoch = engine.standing().known;
                self.door_told(Input::Heard { epoch });
            }
            self.deliver(1, node, Event::Heard { epoch: epoch_seen });
            self.schedule(PATIENCE_MICROS, Happening::Door(News::Late { generation }));
            return self.decide_here();
        }
        door.way = Way::Dialling { link: None };
        let enter = Frame::Enter {
            generation,
            at_least,
            epoch_seen,
        };
        let dialled = News::Dialled {
            generation,
            node,
            enter,
        };
        let micros = self.rng.spread(50, 3000);
        self.schedule(micros, Happening::Door(dialled));
        self.schedule(CONNECT_MICROS_MAX, Happening::Door(News::Late { generation }));
    }

    /// The replica here serves, or knows of another primary, or there is hope that it will.
    fn decide_here(&mut self) {
        let Some(door) = &mut self.door else { return };
        let Way::Waiting { at_least } = door.way else {
            return;
        };
        let Some(standing) = self.nodes[door.host].engine.as_ref().map(Engine::standing) else {
            return;
        };
        if standing.serving && at_least.is_none_or(|epoch| standing.epoch >= epoch) {
            let (generation, epoch) = (door.short(door.generation), standing.epoch);
            match Admission::new(door.gate.clone(), door.generation, epoch) {
                Some(admission) => {
                    door.way = Way::Here { admission };
                    self.door_told(Input::Connected { generation, epoch });
                }
                None => self.door_lost_way(None),
            }
            return;
        }
        let here = node_id(door.host);
        let elsewhere = standing.primary.filter(|primary| *primary != here);
        if at_least.is_none() && elsewhere.is_some() {
            self.door_lost_way(elsewhere);
        }
    }

    fn door_dialled(&mut self, node: usize, enter: Frame) {
        let Some(door) = &mut self.door else { return };
        let (host, generation) = (door.host, door.generation);
        if self.nodes[node].engine.is_none() || !self.network.reaches(host, node) {
            door.blind = true;
            // A living host refuses at once; behind a broken network nobody does.
            if self.rng.chance(60) {
                self.schedule(100, Happening::Door(News::Refused { generation }));
            }
            return;
        }
        let ends = [(host, door.daemon(host)), (node, door.daemon(node))];
        let (id, _) = self.network.connect(self.now, ends, &mut self.rng);
        door.way = Way::Dialling { link: Some(id) };
        if let Some(link) = self.network.links.get_mut(&id) {
            link.ends.iter_mut().for_each(|end| end.stage = Stage::Up);
        }
        self.count("doors: connections");
        self.send_frame(id, 0, enter);
    }

    fn door_sends(&mut self, seq: u64, request: GuestRequest) {
        let Some(door) = &mut self.door else { return };
        match (&request, request.range()) {
            (GuestRequest::Flush, _) => drop(door.flushes.insert(seq, self.guest.clock())),
            (GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. }, _) | (_, None) => {}
            (_, Some(range)) => drop(door.changes.insert(seq, range)),
        }
        match &door.way {
            Way::Here { admission } => {
                let (node, admission) = (door.host, admission.clone());
                let generation = door.generation;
                let asked = Submitted {
                    node,
                    admission,
                    link: None,
                    generation,
                    seq,
                    changes: changes(&request),
                };
                self.submit_for_door(asked, request);
            }
            Way::There { link } => {
                let link = *link;
                self.send_frame(link, 0, Frame::Request { seq, request });
            }
            Way::None | Way::Dialling { .. } | Way::Waiting { .. } => {}
        }
    }

    fn door_answer(&mut self, seq: u64, result: Result<Reply, GuestError>) {
        let Some(door) = &self.door else { return };
        let generation = door.short(door.generation);
        self.door_told(Input::Answer {
            generation,
            seq,
            result,
        });
    }

    fn door_lost_way(&mut self, hint: Option<NodeId>) {
        let Some(door) = &mut self.door else { return };
        door.way = Way::None;
        let generation = door.short(door.generation);
        self.door_told(Input::Disconnected { generation, hint });
    }

    fn door_hangs_up(&mut self) {
        let Some(door) = &mut self.door else { return };
        door.flushes.clear();
        door.changes.clear();
        let host = door.host;
        match std::mem::replace(&mut door.way, Way::None) {
            Way::There { link } | Way::Dialling { link: Some(link) } => self.leave_link(link, 0, false),
            Way::Here { admission } => {
                admission.end();
                self.prune(host);
            }
            _ => {}
        }
    }

    /// One end of a door's connection hears that it is gone.
    pub(super) fn door_hung_up(&mut self, id: LinkId, end: usize) {
        self.leave_link(id, end, false);
        let Some(door) = &mut self.door else { return };
        if end == 1 {
            if let Some((node, admission)) =
                door.served.remove(&id).and_then(|s| Some((s.node, s.admission?)))
            {
                admission.end();
                self.prune(node);
            }
            return;
        }
        let ours = match door.way {
            Way::Dialling { link } => link == Some(id),
            Way::There { link } => link == id,
            _ => false,
        };
        if ours {
            self.door_lost_way(None);
        }
    }

    fn arm_door(&mut self) {
        let Some(door) = &mut self.door else { return };
        let due = door.session.as_ref().and_then(Session::poll_timeout);
        let Some(due) = due.map(|due| due.max(self.now.after_micros(1))) else {
            return;
        };
        if door.timer.is_none_or(|armed| due < armed) {
            door.timer = Some(due);
            let life = door.life;
            self.schedule_at(due, Happening::Door(News::Timer { life }));
        }
    }

    /// The guest is answered by its session.
    fn door_completes(
        &mut self,
        tag: RequestTag,
        result: Result<Reply, GuestError>,
    ) -> Result<(), Violation> {
        let Some(door) = &self.door else { return Ok(()) };
        let host = door.host;
        if !self.guest.asked.contains_key(&tag.0) {
            self.guest.done_with(tag, result.is_ok());
            return Ok(());
        }
        match result {
            Ok(reply) => {
                let primary = door.status().primary;
                self.guest.now = self.now;
                self.guest.copies = primary.as_ref().is_some_and(|(node, _)| *node != node_id(host));
                let told = self.guest.answer(tag, &reply);
                let changed = told.map_err(|what| self.violation(Some(host), what))?;
                let epoch = primary.map_or(Epoch::NONE, |(_, epoch)| epoch);
                if changed && epoch < self.acked_epoch {
                    let what = format!(
                        "answers a write in epoch {epoch} after one was answered in {}",
                        self.acked_epoch
                    );
                    return Err(self.violation(Some(host), what));
                }
                if changed {
                    self.acked_epoch = epoch;
                }
                Ok(())
            }
            // Of a copy, or a disk, that no replication can hide; the guest tries again.
            Err(GuestError::Disk(_)) => {
                self.guest.refused(tag);
                self.count("guest: told of a disk that failed");
                self.resend_later();
                Ok(())
            }
            Err(GuestError::OutOfBounds) if self.history.forced => {
                self.guest.refused(tag);
                self.count("guest: told of an end that was lost");
                self.resend_later();
                Ok(())
            }
            Err(error) => Err(self.violation(Some(host), format!("the guest is told: {error}"))),
        }
    }
}
