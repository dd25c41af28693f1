//! What can go wrong, and what do operators do? Tests and chance use the same levers.

use mars::{Birth, Command, CommandId, Limits, LinkId, MaxLag, Meta, Switch, SyncState};
use model::{Mode, Role, VolumeSize};

use super::{Happening, HostFault, World, node_id};
use crate::disk::Disk;
use crate::link::IDLE_MICROS;

impl World {
    /// The process on a node ends at once; the page cache lives on.
    pub fn kill(&mut self, node: usize) {
        let is_up = self.nodes[node].engine.is_some();
        if !is_up && self.door_host() != Some(node) {
            return;
        }
        self.say(|| format!("KILL h{node}"));
        self.count("faults: kill -9");
        self.befallen.push(HostFault::Kill { node });
        self.door_host_dies(node, false);
        if !is_up {
            return;
        }
        self.end_process(node);
        for link in self.links_of(node) {
            let abrupt = self.rng.chance(50);
            self.leave_links(node, link, abrupt);
        }
    }

    fn end_process(&mut self, node: usize) {
        let place = &mut self.nodes[node];
        place.engine = None;
        place.stood = None;
        place.status.take();
        place.inbox.clear();
        place.disk.kill(&mut self.rng);
        self.watch_rots(node);
        if let Err(violation) = self.note_road(node) {
            self.found.get_or_insert(violation);
        }
        self.door_replica_changes(node);
        let ended = (node, self.nodes[node].boot);
        self.guest.lost(ended);
        self.ghosts_lost(ended);
        self.commands
            .retain(|_, commanded| (commanded.node, commanded.boot) != ended);
        self.send_asked();
    }

    fn links_of(&self, node: usize) -> Vec<LinkId> {
        self.network.links_of(node, self.nodes[node].boot)
    }

    fn leave_links(&mut self, node: usize, link: LinkId, abrupt: bool) {
        if let Some(end) = self.network.end_of(link, node, self.nodes[node].boot) {
            self.leave_link(link, end, abrupt);
        }
    }

    /// The host loses power: what was not flushed is lost, kept or torn. If it may have been primary, so is its guest.
    pub fn power_cut(&mut self, node: usize) {
        self.say(|| format!("POWER CUT h{node}"));
        self.count("faults: power cut");
        self.befallen.push(HostFault::PowerCut { node });
        self.door_host_dies(node, true);
        if self.nodes[node].engine.is_some() {
            self.end_process(node);
            for link in self.links_of(node) {
                // Nobody says good-bye: the others wait until they have heard nothing for long.
                self.lose_link(link, true);
                self.leave_links(node, link, false);
            }
        }
        self.nodes[node].disk.power_cut(&mut self.rng);
        self.watch_rots(node);
        let primary = match self.meta(node) {
            Some(meta) => meta.role == Role::Primary,
            None => matches!(self.nodes[node].birth, Birth::Primary { .. }),
        };
        let guest_is_here = self.door_host().is_none_or(|host| host == node);
        let epoch = self.meta(node).map_or(model::Epoch::NONE, |meta| meta.epoch);
        let served_guest = primary && epoch.takeovers() == self.guest.takeovers;
        if primary {
            self.count("faults: power cut of a primary");
        }
        match (served_guest, guest_is_here) {
            (true, true) => self.guest.reborn(true),
            (true, false) => self.guest.primary_lost_power(),
            // Whoever is primary has not noticed.
            (false, true) if self.door.is_some() => self.guest.reborn(false),
            (false, _) => {}
        }
    }

    /// What a node would find after a restart now; `None` when it never saved anything.
    pub(super) fn meta(&self, node: usize) -> Option<&Meta> {
        self.nodes[node].disk.meta.as_deref()
    }

    /// A node comes back after so many microseconds.
    pub fn start_after(&mut self, node: usize, micros: u64) {
        if self.nodes[node].engine.is_none() && !self.nodes[node].starting {
            self.nodes[node].starting = true;
            self.befallen.push(HostFault::Start { node, micros });
            self.schedule(micros, Happening::Start { node });
        }
    }

    pub(super) fn lose_link(&mut self, link: LinkId, silent: bool) {
        if let Some(found) = self.network.links.get_mut(&link) {
            found.lost = true;
        }
        let silence_micros = match self.is_doors(link) {
            true => super::door::SILENCE_MICROS,
            false => IDLE_MICROS,
        };
        for end in 0..2 {
            let micros = if silent {
                silence_micros + self.rng.below(500_000)
            } else {
                self.rng.spread(100, 2_000_000)
            };
            self.schedule(micros, Happening::HangUp { link, end });
        }
    }

    pub(super) fn lose_all_links(&mut self) {
        let links = self.network.links.iter().filter(|(_, link)| !link.lost);
        for link in links.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.lose_link(link, false);
        }
    }

    /// Two nodes cannot reach each other until healed; with `silent`, their connections die of silence only.
    pub fn cut_link(&mut self, a: usize, b: usize, silent: bool) {
        self.say(|| format!("CUT h{a} h{b}{}", if silent { " silently" } else { "" }));
        self.count("faults: network cut");
        self.befallen.push(HostFault::Cut { a, b, silent });
        for link in self.network.cut(a, b) {
            self.lose_link(link, silent);
        }
    }

    /// Two nodes reach each other again.
    pub fn heal(&mut self, a: usize, b: usize) {
        self.say(|| format!("HEAL h{a} h{b}"));
        self.befallen.push(HostFault::Heal { a, b });
        self.network.heal(a, b);
    }

    /// What befell hosts since this was asked last.
    pub(crate) fn take_befallen(&mut self) -> Vec<HostFault> {
        std::mem::take(&mut self.befallen)
    }

    /// The same hosts and networks carry this volume too.
    pub(crate) fn befalls(&mut self, fault: HostFault) {
        match fault {
            HostFault::Kill { node } => self.kill(node),
            HostFault::PowerCut { node }
                if self.members.contains(&node) || self.door_host() == Some(node) =>
            {
                self.power_cut(node)
            }
            HostFault::PowerCut { .. } => {}
            HostFault::Start { node, micros } if self.members.contains(&node) => {
                self.start_after(node, micros)
            }
            HostFault::Start { .. } => {}
            HostFault::Cut { a, b, silent } => self.cut_link(a, b, silent),
            HostFault::Heal { a, b } => self.heal(a, b),
        }
        self.befallen.clear();
    }

    /// One connection dies without anybody noticing for long.
    pub(super) fn half_open(&mut self) {
        let links: Vec<LinkId> = self
            .network
            .links
            .iter()
            .filter(|(_, l)| !l.lost)
            .map(|(id, _)| *id)
            .collect();
        if let Some(link) = self.rng.pick(&links).copied() {
            self.say(|| format!("HALF OPEN link {}", link.0));
            self.count("faults: connection half open");
            let silent = self.rng.chance(70);
            self.lose_link(link, silent);
        }
    }

    /// Asks a node to give its role to another.
    pub fn hand_over(&mut self, from: usize, to: usize, gate_micros_max: u64) -> Option<CommandId> {
        self.nodes[from].engine.as_ref()?;
        self.count("operators: hand-over");
        Some(self.command(
            from,
            Command::HandOver {
                to: node_id(to),
                gate_micros_max,
            },
        ))
    }

    /// Asks a node to answer flushes by this mode, and to sound the alarm at this lag.
    pub fn set_mode(&mut self, node: usize, mode: Mode, max_lag: MaxLag) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: mode");
        Some(self.command(node, Command::SetMode { mode, max_lag }))
    }

    /// Asks a node to send no more than this.
    pub fn set_limits(&mut self, node: usize, limits: Limits) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: limits");
        Some(self.command(node, Command::SetLimits { limits }))
    }

    /// Lets a node get its log from these rather than from the primary.
    pub fn set_sources(&mut self, node: usize, sources: &[usize]) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: sources");
        let sources = sources.iter().map(|source| node_id(*source)).collect();
        Some(self.command(node, Command::SetSources { sources }))
    }

    /// Stops something at a node, or lets it go on.
    pub fn switch(&mut self, node: usize, switch: Switch, paused: bool) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count(if paused {
            "operators: pause"
        } else {
            "operators: resume"
        });
        Some(self.command(node, Command::Switch { switch, paused }))
    }

    /// Vouches for a node's disk, which in truth may hold anything.
    pub fn fake_sync(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: fake-sync");
        Some(self.command(node, Command::FakeSync))
    }

    /// Whether only an operator's word says that a node's disk is right: what it holds proves nothing, good or bad.
    pub(super) fn is_faked(&self, node: usize) -> bool {
        let asked = |c: &super::Commanded| c.node == node && c.command == Command::FakeSync;
        self.meta(node).is_some_and(|meta| meta.faked.is_some()) || self.commands.values().any(asked)
    }

    /// A node's replica is taken out of service in an orderly way; its disk is left alone.
    pub fn detach(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.say(|| format!("DETACH h{node}"));
        self.count("operators: detach");
        self.end_process(node);
        for link in self.links_of(node) {
            self.leave_links(node, link, false);
        }
    }

    /// Asks a node to compress what it writes to its log, or not.
    pub fn set_compression(&mut self, node: usize, compressed: bool) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: compression");
        Some(self.command(node, Command::SetCompression { compressed }))
    }

    /// A node's full sync lets others go first for so long.
    pub fn take_turn(&mut self, node: usize, micros: u64) {
        if self.nodes[node].engine.is_some() {
            self.count("operators: turn");
            self.deliver(1, node, mars::Event::SyncTurn { granted: false });
            self.deliver(micros, node, mars::Event::SyncTurn { granted: true });
        }
    }

    /// Asks a node to give up what nobody needs of its log.
    pub fn trim(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: trim");
        Some(self.command(node, Command::TrimLog))
    }

    /// Asks a node to make the volume longer.
    pub fn grow(&mut self, node: usize, sectors: u64) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: grow");
        let to = VolumeSize::new(sectors * 512).expect("callers round");
        Some(self.command(node, Command::Grow { to }))
    }

    /// A node's disk has no room for a longer volume, or has it again.
    pub fn fill_disk(&mut self, node: usize, full: bool) {
        self.say(|| format!("DISK h{node} {}", if full { "FULL" } else { "has room" }));
        if full {
            self.count("faults: no room to grow");
        }
        self.nodes[node].disk.full = full;
    }

    /// Asks a node to digest its contents.
    pub fn checksum(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: checksum");
        Some(self.command(node, Command::Checksum))
    }

    /// A node without a replica gets one; returns which.
    pub fn join(&mut self) -> usize {
        let node = (0..self.nodes.len())
            .find(|node| !self.members.contains(node))
            .expect("callers leave a host without a replica");
        self.say(|| format!("JOIN h{node}"));
        self.count("operators: join");
        self.members.insert(node);
        self.wipe(node);
        self.start_after(node, 1);
        self.tell_all();
        node
    }

    /// A member gives its replica up; only for one that is not primary and is not becoming it.
    pub fn leave(&mut self, node: usize) {
        self.say(|| format!("LEAVE h{node}"));
        self.count("operators: leave");
        self.members.remove(&node);
        self.nodes[node].thrown_away = Some(self.now);
        if self.nodes[node].engine.is_some() {
            self.end_process(node);
            for link in self.links_of(node) {
                self.leave_links(node, link, false);
            }
        }
        self.tell_all();
    }

    /// A member leaves and joins again.
    pub fn rejoin(&mut self, node: usize) {
        self.leave(node);
        self.say(|| format!("JOIN h{node}"));
        self.count("operators: join");
        self.members.insert(node);
        self.wipe(node);
        self.start_after(node, 1);
        self.tell_all();
    }

    /// A replica whose log is damaged is thrown away and made anew.
    pub(super) fn replace(&mut self, node: usize) {
        self.say(|| format!("REPLACE h{node}"));
        self.count("operators: replace");
        if self.nodes[node].engine.is_some() {
            self.end_process(node);
            for link in self.links_of(node) {
                self.leave_links(node, link, false);
            }
        }
        self.wipe(node);
        self.start_after(node, 1000);
    }

    fn wipe(&mut self, node: usize) {
        self.nodes[node].straight_from = None;
        // Who makes the new disk may not have heard yet that the volume has grown.
        let grown = self
            .primary()
            .and_then(|primary| self.status(primary))
            .map(|s| s.size);
        let size = grown.filter(|_| self.rng.chance(50)).unwrap_or(self.first_size());
        let contents = self.foreign_contents(&[], size);
        let place = &mut self.nodes[node];
        place.disk = Disk::new(contents);
        place.life += 1;
        place.birth = Birth::Secondary;
        place.config.size = size;
        place.told_damage = false;
        place.thrown_away = Some(self.now);
        place.forced = false;
        self.watch_rots(node);
    }

    fn tell_all(&mut self) {
        for node in self.members.clone() {
            let micros = self.rng.spread(100, 300_000);
            self.schedule(micros, Happening::Tell { node });
        }
        if self.door.is_some() {
            let micros = self.rng.spread(100, 300_000);
            self.schedule(micros, Happening::Door(super::door::News::Members));
        }
    }

    /// Tells a node who the members are now; one that is down learns it when it starts.
    pub(super) fn tell(&mut self, node: usize) {
        let members = self.member_ids();
        if self.nodes[node].engine.is_some()
            && self.members.contains(&node)
            && self.nodes[node].config.members != members
        {
            self.nodes[node].config.members = members.clone();
            self.command(node, Command::SetMembers { members });
        }
    }

    /// Turns a bit of a stopped replica's log where it must still be whole; false when there is no such place.
    pub fn flip_bit(&mut self, node: usize) -> bool {
        let Some(meta) = self.meta(node) else { return false };
        let (from, to) = (meta.written_back.lsn.0, meta.committed.lsn.0);
        let place = &self.nodes[node];
        let unfit = place.engine.is_some() || meta.sync != SyncState::Whole || place.disk.log.is_damaged();
        if unfit || from >= to {
            return false;
        }
        let (at, bit) = (self.rng.between(from, to - 1), self.rng.below(8) as u8);
        self.say(|| format!("BIT FLIP h{node} at {at} bit {bit}"));
        self.count("faults: bit flipped in a log");
        self.nodes[node].disk.log.flip(at, bit);
        true
    }

    /// A node's disks never stall.
    pub fn steady_disk(&mut self, node: usize) {
        self.nodes[node].disk.stall_percent = 0;
    }

    /// A node's disks take so many times longer.
    pub fn slow_disk(&mut self, node: usize, slowness: u64) {
        self.say(|| format!("SLOW DISK h{node} {slowness}"));
        self.count("faults: slow disk");
        self.nodes[node].disk.slowness = slowness;
    }

    /// Every read of a node's log takes so many microseconds longer from now on.
    pub fn slow_log_reads(&mut self, node: usize, micros: u64) {
        self.say(|| format!("SLOW LOG READS h{node} {micros}"));
        self.nodes[node].disk.log_read_micros = micros;
    }

    /// Every copy of a node's volume that is made for a snapshot takes so many times longer from now on.
    pub fn slow_copies(&mut self, node: usize, slowness: u64) {
        self.say(|| format!("SLOW COPIES h{node} {slowness}"));
        self.nodes[node].disk.copy_slowness = slowness;
    }
}
