//! What happens next? Nodes, disks, links and a guest under one clock and one seed.

mod chaos;
mod check;
mod door;
mod faults;
mod force;
mod grow;
mod matrix;
mod moment;
mod perform;
mod promise;
mod snapshot;
mod verify;
mod wear;

pub(crate) use check::SETTLE_MICROS_MAX;
use force::Forced;
pub use matrix::Matrix;
pub(crate) use matrix::is_ruled_out;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mars::{
    Birth, Command, CommandId, Config, Engine, Event, LinkId, Meta, Notice, Position, RequestTag, Status,
    Watermarks,
};
use model::{Epoch, Mode, NodeId, Role, Tick, VolumeId, VolumeSize};
use xxhash_rust::xxh3::xxh3_64;

use crate::agenda::Agenda;
use crate::describe;
use crate::disk::{Disk, Lane};
use crate::guest::Guest;
use crate::history::History;
use crate::link::Network;
use crate::profile::{Action, Profile};
use crate::rng::Rng;
use crate::stamp;
use crate::trace::Trace;
use moment::Crash;
use promise::Promised;

/// More happenings than any run needs: an engine that makes the world go round without getting anywhere.
const HAPPENINGS_MAX: u64 = 20_000_000;

/// Effects of one engine in one batch; more would never end.
const EFFECTS_MAX: usize = 100_000;

/// What wall clocks show when a world begins.
const UNIX_MICROS: u64 = 1_700_000_000_000_000;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Tick,
    /// By which node.
    pub node: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {}.{:06} s", self.at.0 / 1_000_000, self.at.0 % 1_000_000)?;
        if let Some(node) = &self.node {
            write!(f, ", {node}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    Deliver {
        node: usize,
        boot: u32,
        event: Event,
    },
    Wake {
        node: usize,
        boot: u32,
    },
    Timer {
        node: usize,
        boot: u32,
    },
    Disk {
        node: usize,
        boot: u32,
        lane: Lane,
    },
    Dialled {
        node: usize,
        boot: u32,
        peer: NodeId,
    },
    LinkUp {
        link: LinkId,
        end: usize,
    },
    Arrive {
        link: LinkId,
        to: usize,
        bytes: Bytes,
    },
    HangUp {
        link: LinkId,
        end: usize,
    },
    Listen {
        link: LinkId,
        end: usize,
    },
    Start {
        node: usize,
    },
    Heal {
        a: usize,
        b: usize,
    },
    Recover {
        node: usize,
    },
    MakeRoom {
        node: usize,
    },
    Repair {
        node: usize,
    },
    Strike {
        node: usize,
        other: usize,
    },
    StrikeSync {
        joiner: usize,
    },
    LoseSource {
        joiner: usize,
        source: usize,
        other: usize,
        looks: u32,
    },
    Crash {
        node: usize,
        boot: u32,
        crash: Crash,
    },
    Tell {
        node: usize,
    },
    Ask,
    Resend,
    Trouble {
        action: Action,
    },
    TakeOver {
        node: usize,
    },
    Ghost {
        node: usize,
        until: Tick,
    },
    Inspect,
    Door(door::News),
}

/// What befalls a host or a network, and with it every volume there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostFault {
    Kill { node: usize },
    PowerCut { node: usize },
    Start { node: usize, micros: u64 },
    Cut { a: usize, b: usize, silent: bool },
    Heal { a: usize, b: usize },
}

/// How the log is kept at a primary for a peer, as far as can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Counts,
    Fresh,
    Dropped,
}

/// One host with its replica.
struct Node {
    id: NodeId,
    config: Config,
    birth: Birth,
    engine: Option<Engine>,
    /// Starts so far: what belongs to an earlier one is ignored.
    boot: u32,
    disk: Disk,
    inbox: Vec<Event>,
    awake: bool,
    timer: Option<Tick>,
    /// How it stands, once somebody has asked since it last did something.
    status: OnceCell<Status>,
    /// How it stood after it last did something.
    stood: Option<Stood>,
    /// How far it was then, unless it may go back.
    marks: Option<Watermarks>,
    kept: BTreeMap<NodeId, Kept>,
    /// Who is or was at the other end of its links, since it started.
    linked: BTreeMap<LinkId, NodeId>,
    /// Whether it told of the damage.
    told_damage: bool,
    /// Whether it was told to take over: it may then have replayed what its primary could lose.
    forced: bool,
    /// A restart is on its way.
    starting: bool,
    /// Where its log ended when its contents began to change without one.
    straight_from: Option<Position>,
    /// When its replica was last thrown away.
    thrown_away: Option<Tick>,
    /// Bits that turned on its volume's disk.
    rots: Vec<verify::Rot>,
    /// Its clock has jumped so far ahead.
    clock_ahead_micros: u64,
    /// An operation was refused by its disk since it started.
    disk_failed: bool,
    /// Its next start does not know who joined or left.
    keeps_old_members: bool,
    /// Replicas thrown away here so far.
    life: u64,
}

/// What is asked of a node all the time: the small part of its status.
#[derive(Clone, Copy, Debug)]
struct Stood {
    role: Role,
    epoch: Epoch,
    serving: bool,
    mode: Mode,
    watermarks: Watermarks,
    tip: Position,
}

impl Stood {
    fn of(engine: &Engine) -> Stood {
        let standing = engine.standing();
        Stood {
            role: match engine.primary_in() {
                Some(_) => Role::Primary,
                None => Role::Secondary,
            },
            epoch: standing.epoch,
            serving: standing.serving,
            mode: engine.settings().mode,
            watermarks: engine.watermarks(),
            tip: engine.tip(),
        }
    }
}

/// Figures of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// xxh3-64 of everything that happened.
    pub digest: u64,
    /// Virtual time, in microseconds.
    pub virtual_micros: u64,
    /// Longest time at the gate of a hand-over, in microseconds.
    pub gate_micros_max: u64,
    /// Happenings by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Faults by class and verb.
    pub matrix: Matrix,
}

/// A command until it is answered.
#[derive(Debug)]
struct Commanded {
    node: usize,
    boot: u32,
    command: Command,
    since: Tick,
}

/// A cluster with one volume, its guest, and everybody who looks at it.
pub struct World {
    profile: Profile,
    rng: Rng,
    now: Tick,
    agenda: Agenda<Happening>,
    nodes: Vec<Node>,
    /// The nodes that are to have a replica.
    members: BTreeSet<usize>,
    network: Network,
    guest: Guest,
    /// The guest has work to do.
    busy: bool,
    resending: bool,
    history: History,
    trace: Trace,
    commands: BTreeMap<CommandId, Commanded>,
    next_command: u64,
    acked_epoch: Epoch,
    /// Flushes and durable writes under way, where the mode says more than the primary alone.
    promised: BTreeMap<RequestTag, Promised>,
    chaos_until: Tick,
    counts: BTreeMap<&'static str, u64>,
    notices: Vec<(usize, Notice)>,
    verifying: Option<verify::Verifying>,
    /// Found where nobody could be told.
    found: Option<Violation>,
    /// Longest time at the gate of a hand-over, in microseconds.
    gate_micros_max: u64,
    struck: matrix::Struck,
    /// What befell hosts here and has not been told to the other volumes of the cluster.
    befallen: Vec<HostFault>,
    forced: Forced,
    /// Reads beyond what was the end of the volume, by the end of their range.
    probes: BTreeMap<u64, u64>,
    snapshots_told: Vec<snapshot::Told>,
    /// Where the guest gets in, when that is not beside its primary.
    door: Option<Box<door::Door>>,
}

impl World {
    /// A cluster at its first moment; the same seed and profile always live the same life.
    pub fn new(seed: u64, profile: Profile, trace_lines: usize) -> World {
        let mut rng = Rng::new(seed);
        let blank = rng.chance(50);
        let stamps: Vec<u64> = (0..profile.sectors)
            .map(|sector| {
                if blank || rng.chance(30) {
                    0
                } else {
                    (1 << 40) + sector
                }
            })
            .collect();
        let mut world = World {
            network: Network::new(profile.quality),
            guest: Guest::new(&stamps, profile.habits),
            history: History::new(&stamps),
            chaos_until: Tick(profile.chaos_micros),
            profile,
            rng,
            now: Tick(0),
            agenda: Agenda::new(),
            nodes: Vec::new(),
            members: BTreeSet::new(),
            busy: true,
            resending: false,
            trace: Trace::new(trace_lines),
            commands: BTreeMap::new(),
            next_command: 0,
            acked_epoch: Epoch::NONE,
            promised: BTreeMap::new(),
            counts: BTreeMap::new(),
            notices: Vec::new(),
            verifying: None,
            found: None,
            gate_micros_max: 0,
            struck: matrix::Struck::default(),
            befallen: Vec::new(),
            forced: Forced::default(),
            probes: BTreeMap::new(),
            snapshots_told: Vec::new(),
            door: None,
        };
        world.members = world.profile.members.iter().copied().collect();
        let primary = world.profile.members.first().copied();
        world.guest.attached = primary.unwrap_or(0);
        for index in 0..world.profile.hosts {
            if Some(index) == primary {
                let epoch = Epoch { term: 1, start: 1 };
                world.add_node(Birth::Primary { epoch }, stamp::sectors(stamps.iter().copied()));
            } else if world.members.contains(&index) {
                let contents = world.foreign_contents(&stamps, world.first_size());
                world.add_node(Birth::Secondary, contents);
            } else {
                world.add_node(Birth::Secondary, Vec::new());
            }
        }
        world.schedule(1, Happening::Ask);
        world
    }

    /// What may be on a disk that joins: anything.
    fn foreign_contents(&mut self, stamps: &[u64], size: VolumeSize) -> Vec<u8> {
        let kind = self.rng.below(4);
        let sectors = (0..size.sectors().0).map(|sector| match kind {
            0 => 0,
            1 => (1 << 50) + sector,
            2 if self.rng.chance(50) => stamps.get(sector as usize).copied().unwrap_or(0),
            _ => self.rng.below(3) * ((1 << 51) + sector),
        });
        stamp::sectors(sectors.collect::<Vec<_>>().into_iter())
    }

    /// The volume's length at the beginning.
    fn first_size(&self) -> VolumeSize {
        VolumeSize::new(self.profile.sectors * 512).expect("profiles have a multiple of 8 sectors")
    }

    fn add_node(&mut self, birth: Birth, contents: Vec<u8>) {
        let index = self.nodes.len();
        let id = node_id(index);
        let config = Config {
            volume: VolumeId(0x5E7),
            node: id.clone(),
            size: self.first_size(),
            members: self.member_ids(),
            shadow_bytes_max: self.profile.shadow_bytes_max,
            log_bytes_max: self.profile.log_bytes_max,
        };
        self.nodes.push(Node {
            id,
            config,
            birth,
            engine: None,
            boot: 0,
            disk: Disk::new(contents),
            inbox: Vec::new(),
            awake: false,
            timer: None,
            status: OnceCell::new(),
            stood: None,
            marks: None,
            kept: BTreeMap::new(),
            linked: BTreeMap::new(),
            told_damage: false,
            forced: false,
            starting: self.members.contains(&index),
            straight_from: None,
            thrown_away: None,
            rots: Vec::new(),
            clock_ahead_micros: 0,
            disk_failed: false,
            keeps_old_members: false,
            life: 0,
        });
        if self.members.contains(&index) {
            self.schedule(1, Happening::Start { node: index });
        }
    }

    fn member_ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|index| node_id(*index)).collect()
    }

    fn violation(&self, node: Option<usize>, what: impl Into<String>) -> Violation {
        Violation {
            at: self.now,
            node: node.map(|node| self.nodes[node].id.to_string()),
            what: what.into(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        self.note_struck(what);
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        self.trace.note(self.now, None, xxh3_64(text.as_bytes()), |line| {
            line.push_str(&text);
            Ok(())
        });
    }

    fn schedule(&mut self, micros: u64, happening: Happening) {
        self.schedule_at(self.now.after_micros(micros), happening);
    }

    fn schedule_at(&mut self, at: Tick, happening: Happening) {
        self.agenda.add(at.max(self.now), happening);
    }

    fn deliver(&mut self, micros: u64, node: usize, event: Event) {
        let boot = self.nodes[node].boot;
        self.schedule(micros, Happening::Deliver { node, boot, event });
    }

    fn is_current(&self, node: usize, boot: u32) -> bool {
        self.nodes[node].boot == boot && self.nodes[node].engine.is_some()
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Tick> {
        self.agenda.next_at()
    }

    /// Nothing happens here before `at`: another volume of the cluster is first.
    pub(crate) fn wait_until(&mut self, at: Tick) {
        assert!(
            self.next_at().is_none_or(|next| next >= at),
            "time passes in one order for all volumes"
        );
        self.now = self.now.max(at);
    }

    /// Lets the next thing happen; false when nothing is left before `until`.
    pub(crate) fn step(&mut self, until: Tick) -> Result<bool, Violation> {
        let Some((at, happening)) = self.agenda.take_until(until) else {
            return Ok(false);
        };
        self.now = at;
        if let Some(found) = self.found.take() {
            return Err(found);
        }
        if self.agenda.arranged() > HAPPENINGS_MAX {
            return Err(self.violation(None, "the world goes round without getting anywhere"));
        }
        match happening {
            Happening::Deliver { node, boot, event } => self.delivered(node, boot, event),
            Happening::Wake { node, boot } => self.wake(node, boot)?,
            Happening::Timer { node, boot } => self.timer(node, boot),
            Happening::Disk { node, boot, lane } => self.disk_step(node, boot, lane)?,
            Happening::Dialled { node, boot, peer } => self.dialled(node, boot, peer),
            Happening::LinkUp { link, end } => self.link_up(link, end),
            Happening::Arrive { link, to, bytes } => self.arrive(link, to, bytes)?,
            Happening::HangUp { link, end } => self.hang_up(link, end),
            Happening::Listen { link, end } => self.listen(link, end),
            Happening::Start { node } => self.start_node(node)?,
            Happening::Heal { a, b } => self.heal(a, b),
            Happening::Recover { node } => {
                self.nodes[node].disk.slowness = 1;
                self.nodes[node].disk.full = false;
                self.network.quality.loss_percent = 0;
            }
            Happening::MakeRoom { node } => self.make_room(node),
            Happening::Repair { node } => self.repair(node),
            Happening::Strike { node, other } => self.strike(node, other),
            Happening::StrikeSync { joiner } => self.strike_sync(joiner),
            Happening::LoseSource {
                joiner,
                source,
                other,
                looks,
            } => self.lose_source_now(joiner, source, other, looks),
            Happening::Crash { node, boot, crash } => self.crash(node, boot, crash),
            Happening::Tell { node } => self.tell(node),
            Happening::Ask => self.guest_asks(),
            Happening::Resend => {
                self.resending = false;
                self.send_asked();
            }
            Happening::Trouble { action } => self.trouble(action),
            Happening::TakeOver { node } => self.take_over_now(node),
            Happening::Ghost { node, until } => self.ghost(node, until),
            Happening::Inspect => self.inspect()?,
            Happening::Door(news) => self.door_news(news),
        }
        Ok(true)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, micros: u64) -> Result<(), Violation> {
        let until = self.now.after_micros(micros);
        while self.step(until)? {}
        self.now = until;
        Ok(())
    }

    /// Lets time pass until something holds, at most so long; false when it never did.
    pub fn run_until(&mut self, micros_max: u64, holds: impl Fn(&World) -> bool) -> Result<bool, Violation> {
        let until = self.now.after_micros(micros_max);
        while !holds(self) {
            if !self.step(until)? {
                self.now = until;
                return Ok(holds(self));
            }
        }
        Ok(true)
    }

    fn delivered(&mut self, node: usize, boot: u32, event: Event) {
        if !self.is_current(node, boot) {
            return;
        }
        self.nodes[node].inbox.push(event);
        if !self.nodes[node].awake {
            self.nodes[node].awake = true;
            let micros = self.rng.below(20);
            self.schedule(micros, Happening::Wake { node, boot });
        }
    }

    /// The driver's loop: apply all that is ready, then take all effects.
    fn wake(&mut self, node: usize, boot: u32) -> Result<(), Violation> {
        if !self.is_current(node, boot) {
            return Ok(());
        }
        self.nodes[node].awake = false;
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.set_clock(self.now, UNIX_MICROS + self.now.0);
        }
        let mut inbox = std::mem::take(&mut self.nodes[node].inbox);
        for event in inbox.drain(..) {
            if self.turns_away(node, &event) {
                continue;
            }
            let print = describe::print_of_event(&event);
            self.trace.note(self.now, Some(node), print, |line| {
                line.push_str("<- ");
                describe::event(line, &event)
            });
            self.foresee(node, &event);
            let clock = self.clock(node);
            if let Some(engine) = &mut self.nodes[node].engine {
                engine.handle(clock, event);
            }
        }
        // Its room is used again.
        self.nodes[node].inbox = inbox;
        let mut taken = 0;
        while let Some(effect) = self.nodes[node].engine.as_mut().and_then(Engine::poll_effect) {
            taken += 1;
            if taken > EFFECTS_MAX {
                return Err(self.violation(Some(node), "effects without end"));
            }
            let print = describe::print_of_effect(&effect);
            self.trace.note(self.now, Some(node), print, |line| {
                line.push_str("-> ");
                describe::effect(line, &effect)
            });
            self.tempt(node, &effect);
            self.take(node, effect)?;
        }
        self.observe(node)?;
        self.doors_look(node);
        self.arm(node);
        Ok(())
    }

    /// Sees to it that the engine's timer goes off.
    fn arm(&mut self, node: usize) {
        let Some(due) = self.nodes[node].engine.as_ref().and_then(Engine::poll_timeout) else {
            return;
        };
        // A clock has a grain: a timer never goes off in the moment in which it was asked for.
        let wait_micros = due.micros_since(self.clock(node)).max(1);
        let due = self.now.after_micros(wait_micros);
        if self.nodes[node].timer.is_none_or(|armed| due < armed) {
            self.nodes[node].timer = Some(due);
            let boot = self.nodes[node].boot;
            self.schedule_at(due, Happening::Timer { node, boot });
        }
    }

    fn timer(&mut self, node: usize, boot: u32) {
        if !self.is_current(node, boot) || self.nodes[node].timer.is_none_or(|due| due > self.now) {
            return;
        }
        self.nodes[node].timer = None;
        let due = self.nodes[node].engine.as_ref().and_then(Engine::poll_timeout);
        if due.is_some_and(|due| due <= self.clock(node)) {
            self.delivered(node, boot, Event::Timer);
        } else {
            self.arm(node);
        }
    }

    fn start_node(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].starting = false;
        if self.nodes[node].engine.is_some() || !self.members.contains(&node) {
            self.door_host_starts(node);
            return Ok(());
        }
        self.say(|| format!("START h{node}"));
        self.count("engine: starts");
        let members = self.member_ids();
        let now = self.now;
        if self.nodes[node].disk_failed && self.meta(node).is_some_and(|meta| meta.straight) {
            // A guest that was told of an error looks at what is there, and without a log nothing makes that durable.
            self.nodes[node].disk.lose_unflushed(&mut self.rng);
        }
        let was_primary = self.meta(node).is_some_and(|meta| meta.role == Role::Primary);
        if self.nodes[node].disk_failed && was_primary && self.door.is_some() {
            self.guest.primary_lost_power();
        }
        let place = &mut self.nodes[node];
        if !std::mem::take(&mut place.keeps_old_members) {
            place.config.members = members;
        }
        place.clock_ahead_micros = 0;
        place.disk_failed = false;
        place.boot += 1;
        place.inbox.clear();
        place.timer = None;
        place.marks = None;
        place.stood = None;
        place.status.take();
        place.kept.clear();
        place.linked.clear();
        let config = place.config.clone();
        let engine = match &place.disk.meta {
            None => Engine::create(now, config, place.birth),
            Some(meta) => match Meta::decode(meta.encode()) {
                Ok(meta) => Engine::open(now, config, meta),
                Err(e) => {
                    return Err(self.violation(Some(node), format!("its meta cannot be read back: {e}")));
                }
            },
        };
        let place = &mut self.nodes[node];
        place.engine = Some(engine);
        place.awake = true;
        let boot = place.boot;
        self.schedule(0, Happening::Wake { node, boot });
        self.door_replica_changes(node);
        self.door_host_starts(node);
        self.send_asked();
        Ok(())
    }

    /// What is to be told of the run so far.
    pub fn figures(&self) -> Figures {
        let mut counts = self.counts.clone();
        for (kind, answered) in &self.guest.answered {
            *counts.entry(kind).or_default() += answered;
        }
        counts.insert("engine: batches", self.history.batches);
        counts.insert("engine: batches compressed", self.history.compressed);
        counts.insert("engine: ends of a log lost", self.history.cuts);
        counts.insert("engine: histories parted", self.history.forks);
        counts.insert("engine: logs given up while serving", self.history.jumps);
        counts.insert("checks: events and effects", self.trace.lines);
        Figures {
            digest: self.trace.digest() ^ self.history.end().digest.0 as u64,
            virtual_micros: self.now.0,
            gate_micros_max: self.gate_micros_max,
            counts,
            matrix: self.struck.matrix.clone(),
        }
    }

    /// The last lines of what happened.
    pub fn trace_lines(&self) -> Vec<String> {
        self.trace.kept()
    }

    /// The nodes that serve guests.
    fn serving(&self) -> Vec<usize> {
        let serves = |node: &usize| self.stood(*node).is_some_and(|stood| stood.serving);
        (0..self.nodes.len()).filter(serves).collect()
    }

    fn command(&mut self, node: usize, command: Command) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        let boot = self.nodes[node].boot;
        self.say(|| format!("COMMAND h{node} {} {command:?}", id.0));
        self.commands.insert(
            id,
            Commanded {
                node,
                boot,
                command: command.clone(),
                since: self.now,
            },
        );
        self.deliver(1, node, Event::Command { id, command });
        id
    }
}

/// The name of a node by its number.
fn node_id(index: usize) -> NodeId {
    NodeId::new(&format!("h{index}")).expect("a letter and a number are a name")
}

/// The number of a node by its name.
fn node_index(id: &NodeId) -> Option<usize> {
    id.as_str().strip_prefix('h')?.parse().ok()
}
