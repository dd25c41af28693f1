//! What else wears on a host? Disks that refuse, logs that lose writes, clocks that jump, daemons that remember yesterday's
//! members, and people who type the wrong verb.

use mars::record::Header;
use mars::{Command, DiskError, Event, MaxLag, SyncState};
use model::{Lsn, Mode, Role, Tick};

use super::{Happening, World, node_id};
use crate::disk::Lane;
use crate::media::SECTOR;

impl World {
    /// A node's clock, which may be ahead of everybody's.
    pub(super) fn clock(&self, node: usize) -> Tick {
        self.now.after_micros(self.nodes[node].clock_ahead_micros)
    }

    /// A node's clock jumps ahead, as after a pause of the whole host.
    pub fn jump_clock(&mut self, node: usize, micros: u64) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.say(|| format!("CLOCK h{node} jumps {micros} us ahead"));
        self.count("faults: clock jump");
        let place = &mut self.nodes[node];
        place.clock_ahead_micros += micros;
        place.timer = None;
        self.deliver(1, node, Event::Timer);
    }

    /// Something else fills the file system of a node's log: it takes no append that would make the log longer than this.
    pub fn fill_log(&mut self, node: usize, room_bytes: u64) {
        self.say(|| format!("LOG OF h{node} HAS ROOM FOR {room_bytes} BYTES"));
        self.nodes[node].disk.log_room = Some(room_bytes);
    }

    /// The same, and it is noticed only when the log is flushed.
    pub fn fill_log_late(&mut self, node: usize) {
        self.say(|| format!("LOG OF h{node} HAS NO ROOM FOR A FLUSH"));
        self.nodes[node].disk.flush_full = true;
    }

    /// There is room for the log again.
    pub fn make_room(&mut self, node: usize) {
        let late = std::mem::take(&mut self.nodes[node].disk.flush_full);
        if self.nodes[node].disk.log_room.take().is_some() || late {
            self.say(|| format!("LOG OF h{node} HAS ROOM"));
        }
    }

    /// What a node's log takes of its file system.
    pub fn log_bytes(&self, node: usize) -> u64 {
        self.nodes[node].disk.log_bytes()
    }

    /// Another budget for a node's log; it is kept over restarts.
    pub fn set_log_budget(&mut self, node: usize, bytes: u64) {
        self.nodes[node].config.log_bytes_max = bytes;
        self.count("operators: log budget");
        if self.nodes[node].engine.is_some() {
            self.command(node, Command::SetLogBudget { bytes });
        }
    }

    /// The next operation of a node's log, volume or meta is refused by the disk; whoever operates it restarts the daemon.
    pub fn fail_disk(&mut self, node: usize, lane: u64) {
        if self.nodes[node].engine.is_some() {
            let lane = Lane::REFUSING[lane as usize % Lane::REFUSING.len()];
            self.say(|| format!("DISK OF h{node} WILL REFUSE {lane:?}"));
            self.nodes[node].disk.failing = Some(lane);
        }
    }

    /// The operation at the head of a lane is refused.
    pub(super) fn refuse(&mut self, node: usize, lane: Lane) {
        self.nodes[node].disk.failing = None;
        self.nodes[node].disk_failed = true;
        let Some(operation) = self.nodes[node].disk.refuse(lane, &mut self.rng) else {
            return;
        };
        self.say(|| format!("REFUSED h{node} {operation}"));
        self.count(match lane {
            Lane::Log => "faults: disk refuses, log",
            Lane::Volume => "faults: disk refuses, volume",
            Lane::Meta | Lane::Copy => "faults: disk refuses, meta",
        });
        let serves = self.stood(node).is_some_and(|stood| stood.role == Role::Primary);
        let was_primary = self.meta(node).is_some_and(|meta| meta.role == Role::Primary);
        if serves || was_primary {
            // A refused flush takes with it what was not durable, and the guest is told of an error.
            match self.door {
                Some(_) => self.guest.primary_lost_power(),
                None => self.guest.reborn(false),
            }
        }
        let error = DiskError {
            operation: operation.to_owned(),
            reason: "input/output error".to_owned(),
        };
        self.deliver(1, node, Event::DiskFailed { error });
        let micros = self.rng.spread(1000, 2_000_000);
        self.schedule(micros, Happening::Repair { node });
    }

    /// Somebody restarts a daemon whose disk had failed.
    pub(super) fn repair(&mut self, node: usize) {
        self.kill(node);
        if self.members.contains(&node) {
            self.start_after(node, 1000);
        }
    }

    /// A write to a secondary's log never reached its place, though everybody was told so: an older sector is there, or one
    /// that belongs elsewhere. False when there is no such place.
    pub fn lose_log_write(&mut self, node: usize, misdirected: bool) -> bool {
        let Some(meta) = self.meta(node) else { return false };
        let heads = self.heads(node, meta.written_back.lsn, meta.committed.lsn);
        let (Some(at), Some(other)) = (self.rng.pick(&heads).copied(), self.rng.pick(&heads).copied()) else {
            return false;
        };
        self.spoil_log(node, at, misdirected.then_some(other))
    }

    /// A bit turns in the log of a primary that serves, where its own disk needs it no more. False when there is no such place.
    pub fn flip_served_bit(&mut self, node: usize) -> bool {
        let serves = self.status(node).is_some_and(|status| status.serving);
        let Some(meta) = self.meta(node) else { return false };
        let (from, to) = (self.nodes[node].disk.log.origin(), meta.written_back.lsn.0);
        if !serves || meta.straight || from >= to || self.nodes[node].disk.log.is_damaged() {
            return false;
        }
        let (at, bit) = (self.rng.between(from, to - 1), self.rng.below(8) as u8);
        if !self.nodes[node]
            .disk
            .log
            .is_flushed(at / SECTOR as u64 * SECTOR as u64)
        {
            return false;
        }
        self.say(|| format!("BIT FLIP IN WHAT h{node} SERVES at {at} bit {bit}"));
        self.count("faults: bit flipped in a log that only others need");
        self.nodes[node].disk.log.flip(at, bit);
        true
    }

    /// The batch at this position of a secondary's log is another one, of behind it. False when there is none.
    pub fn misdirect_log_write(&mut self, node: usize, at: Lsn) -> bool {
        let end = self.stood(node).map_or(at, |stood| stood.tip.lsn);
        match self.heads(node, at, end)[..] {
            [first, other, ..] if first == at.0 => self.spoil_log(node, at.0, Some(other)),
            _ => false,
        }
    }

    /// Where batches begin in a log. A batch is written as one: what is missing or misplaced begins with a header.
    fn heads(&self, node: usize, from: Lsn, to: Lsn) -> Vec<u64> {
        let log = &self.nodes[node].disk.log;
        let sectors = (from.0..to.0).step_by(SECTOR);
        let begins = |at: &u64| Header::decode(log.read(*at, SECTOR)).is_ok();
        sectors.filter(begins).collect()
    }

    fn spoil_log(&mut self, node: usize, at: u64, other: Option<u64>) -> bool {
        let Some(meta) = self.meta(node) else { return false };
        let damaged = self.nodes[node].disk.log.is_damaged();
        if meta.role != Role::Secondary || meta.sync != SyncState::Whole || damaged {
            return false;
        }
        let log = &mut self.nodes[node].disk.log;
        let wrong = other.map_or_else(|| vec![0; SECTOR], |other| log.read(other, SECTOR).to_vec());
        if !log.spoil(at, &wrong) {
            return false;
        }
        self.say(|| format!("LOG OF h{node} LACKS A WRITE at {at}"));
        self.count(if other.is_some() {
            "faults: misdirected write in a log"
        } else {
            "faults: lost write in a log"
        });
        true
    }

    /// A daemon restarts with the list of members that it had, while others already have a newer one.
    pub(super) fn restart_with_old_members(&mut self, node: usize) {
        self.count("faults: restart with an older configuration");
        self.kill(node);
        self.nodes[node].keeps_old_members = true;
        let free = self.members.len() < self.profile.members_max;
        let others: Vec<usize> = self.members.iter().copied().filter(|m| *m != node).collect();
        let leaver = self.rng.pick(&others).copied();
        let serving = self.serving();
        match leaver.filter(|leaver| serving.len() == 1 && serving[0] != *leaver) {
            // Who leaves must not be the only one that knows of the newest takeover.
            Some(leaver)
                if self.members.len() > 2 && self.nothing_is_handed_over() && self.is_newest(serving[0]) =>
            {
                self.leave(leaver)
            }
            _ if free => {
                self.join();
            }
            _ => {}
        }
        self.come_back(node);
        let micros = self.rng.spread(10_000, 4_000_000);
        self.schedule(micros, Happening::Tell { node });
    }

    /// Any verb, on any node, at any time: what is wrong now must be refused and change nothing.
    pub(super) fn type_wrong_verb(&mut self) {
        let hosts = self.nodes.len() as u64;
        let (node, other) = (self.rng.below(hosts) as usize, self.rng.below(hosts) as usize);
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.count("faults: wrong verb");
        let command = match self.rng.below(7) {
            0 => {
                self.try_hand_over(other);
                return;
            }
            1 => Command::HandOver {
                to: node_id(node),
                gate_micros_max: 0,
            },
            2 => Command::HandOver {
                to: node_id(self.nodes.len()),
                gate_micros_max: 1000,
            },
            3 => Command::SetMembers {
                members: self.nodes[node].config.members.clone(),
            },
            4 => Command::VerifyCancel,
            5 if self.primary() != Some(node) => Command::SetMode {
                mode: Mode::Sync { replicas: 5 },
                max_lag: MaxLag::default(),
            },
            _ => Command::Checksum,
        };
        self.command(node, command);
    }
}
