//! What befalls doors and those behind them? Daemons that die and come back, guests that end, leave for other hosts, or wait in vain.

use std::sync::Arc;

use mars::{GuestError, Input, Session};
use model::{Mode, Tick};

use super::{DAEMON, Door, News, QUIET_MICROS_MAX, Submitted, Way};
use crate::profile::DoorTrouble;
use crate::world::check::GUEST_MICROS_MAX;
use crate::world::{Happening, Violation, World, node_id};

impl World {
    pub(super) fn door_starts(&mut self) {
        let now = self.now;
        let Some(door) = self.door.as_mut().filter(|door| door.session.is_none()) else {
            return;
        };
        let here = node_id(door.host);
        let session = Session::new(now, here, door.members.clone(), door.copies_bytes_max);
        door.session = Some(session);
        // As clocks do, it counts on from where an earlier life was.
        door.base = now.0;
        (door.present, door.blind) = (true, false);
        let host = door.host;
        self.say(|| format!("DOOR h{host}"));
        self.door_told(Input::Timer);
        self.door_asks();
    }

    /// The daemon on a host starts.
    pub(in crate::world) fn door_host_starts(&mut self, node: usize) {
        if self.door.as_ref().is_some_and(|door| door.host == node) {
            self.door_starts();
        }
    }

    /// The replica on the door's host is there, or not any more: what it had under way it will not answer.
    pub(in crate::world) fn door_replica_changes(&mut self, node: usize) {
        let Some(door) = &mut self.door else { return };
        let gone = door.submitted.extract_if(.., |_, asked| asked.node == node);
        let gone: Vec<Submitted> = gone.map(|(_, asked)| asked).collect();
        for asked in gone {
            let (hint, granted) = (None, None);
            self.answer_door(asked, Err(GuestError::NotPrimary { hint, granted }));
        }
        let here =
            |door: &Door| door.host == node && matches!(door.way, Way::Waiting { .. } | Way::Here { .. });
        if self.door.as_deref().is_some_and(here) {
            self.door_hangs_up();
            self.door_lost_way(None);
        }
    }

    /// A daemon has ended, perhaps with the power of its host.
    pub(in crate::world) fn door_host_dies(&mut self, node: usize, power: bool) {
        let Some(door) = &mut self.door else { return };
        let old = door.daemon(node);
        *door.deaths.entry(node).or_default() += 1;
        door.submitted.retain(|_, asked| asked.node != node);
        door.served.retain(|_, served| served.node != node);
        if door.host == node && door.session.is_some() {
            self.end_session();
            if !self.members.contains(&node) {
                let micros = self.rng.spread(1000, 3_000_000);
                self.door_starts_in(micros);
            }
        }
        for link in self.network.links_of(node, old) {
            if power {
                // Nobody says good-bye.
                self.lose_link(link, true);
            }
            let abrupt = !power && self.rng.chance(50);
            if let Some(end) = self.network.end_of(link, node, old) {
                self.leave_link(link, end, abrupt);
            }
        }
    }

    /// The session is no more; what its guest was not answered is to be asked of another one.
    pub(super) fn end_session(&mut self) {
        let Some(door) = &mut self.door else { return };
        door.session = None;
        door.inbox.clear();
        door.way = Way::None;
        door.gate = Arc::default();
        (door.timer, door.open_since, door.leaving) = (None, None, None);
        door.flushes.clear();
        door.changes.clear();
        let ended = (door.host, DAEMON | door.life);
        door.life += 1;
        self.guest.lost(ended);
        self.guest.copies_lost();
    }

    /// The daemon on the door's host comes back.
    pub(in crate::world) fn door_starts_in(&mut self, micros: u64) {
        if let Some(door) = self.door.as_ref().filter(|door| door.session.is_none()) {
            let life = door.life;
            self.schedule(micros, Happening::Door(News::Start { life }));
        }
    }

    /// The guest ends without a word.
    pub(in crate::world) fn guest_leaves(&mut self) {
        let Some(door) = self.door.as_mut().filter(|d| d.present && d.session.is_some()) else {
            return;
        };
        door.present = false;
        let life = door.life;
        self.say(|| "GUEST LEAVES".to_owned());
        self.count("doors: guests that left");
        self.guest.leaves();
        self.door_told(Input::Guests { present: false });
        let micros = self.rng.spread(1, 2_000_000);
        self.schedule(micros, Happening::Door(News::Comes { life }));
    }

    pub(super) fn guest_comes(&mut self) {
        let Some(door) = self
            .door
            .as_mut()
            .filter(|door| !door.present && door.leaving.is_none())
        else {
            return;
        };
        door.present = true;
        self.door_told(Input::Guests { present: true });
        self.door_asks();
    }

    /// The guest leaves for a door on another host, which opens once nothing that it had asked here can be done any more.
    pub(in crate::world) fn guest_goes_to(&mut self, host: usize) {
        self.guest_leaves();
        let until = self.now.after_micros(QUIET_MICROS_MAX);
        if let Some(door) = self
            .door
            .as_mut()
            .filter(|door| !door.present && door.host != host)
        {
            door.leaving = Some((host, until));
            self.door_goes();
        }
    }

    /// Whether the door can be closed by now.
    pub(super) fn door_goes(&mut self) {
        let Some(door) = &mut self.door else { return };
        let Some((host, until)) = door.leaving else {
            return;
        };
        if door.status().waiting_requests == 0 {
            self.say(|| format!("GUEST GOES TO h{host}"));
            self.count("doors: guests that went elsewhere");
            self.door_hangs_up();
            self.end_session();
            if let Some(door) = &mut self.door {
                door.host = host;
            }
            self.door_starts_in(1000);
        } else if self.now >= until {
            // It stays where it is rather than meet what it has asked.
            door.leaving = None;
            self.guest_comes();
        }
    }

    /// A primary leaves no guest waiting, wherever its door is.
    pub(in crate::world) fn check_door_patience(&self) -> Result<(), Violation> {
        let Some(door) = &self.door else { return Ok(()) };
        let Way::There { link } = door.way else {
            return Ok(());
        };
        let late = |at: Tick| self.now.micros_since(at) > GUEST_MICROS_MAX;
        let whole = self.network.links.get(&link).is_some_and(|link| !link.lost);
        let node = door.served.get(&link).map(|served| served.node);
        let status = node.and_then(|node| self.status(node));
        let bound = status.is_some_and(|s| s.serving && !matches!(s.settings.mode, Mode::Sync { .. }));
        // What is not sent yet, because its guest has left, waits for nobody.
        let mut sent = self.guest.asked.values().filter(|asked| asked.sent.is_some());
        let waits = sent.any(|asked| late(asked.sent_at));
        if whole && bound && waits && door.open_since.is_some_and(late) {
            return Err(self.violation(node, "leaves a guest waiting behind its door"));
        }
        Ok(())
    }

    /// Faults are over: the guest is there, and has one thing more to ask.
    pub(in crate::world) fn calm_door(&mut self) {
        let Some(door) = &mut self.door else { return };
        door.leaving = None;
        let host = door.host;
        self.guest_comes();
        if !self.nodes[host].starting {
            self.door_starts_in(1000);
        }
        self.schedule(5000, Happening::Door(News::Members));
        self.guest.ask_flush();
        self.door_asks();
    }

    /// A guest that has nothing more to write flushes: nobody need keep copies then.
    pub(in crate::world) fn flush_door(&mut self) {
        if self.guest.asked.is_empty() && self.door_copies_bytes() > 0 {
            self.guest.ask_flush();
            self.door_asks();
        }
    }

    /// Whatever can happen to a door; `other` is any member.
    pub(in crate::world) fn trouble_door(&mut self, what: DoorTrouble, other: usize) {
        let Some(host) = self.door_host() else { return };
        let served_by = self.door_served_by().or(self.primary());
        match what {
            DoorTrouble::Kill => self.strike_door(host, false),
            DoorTrouble::PowerCut => self.strike_door(host, true),
            DoorTrouble::Cut => {
                if let Some(primary) = served_by.filter(|primary| *primary != host) {
                    let silent = self.rng.chance(50);
                    self.cut_link(host, primary, silent);
                    let micros = self.rng.spread(10_000, 4_000_000);
                    self.schedule(micros, Happening::Heal { a: host, b: primary });
                }
            }
            DoorTrouble::HalfOpen => self.half_open_door(),
            DoorTrouble::Primary | DoorTrouble::PrimaryPower => {
                if let Some(primary) = served_by {
                    self.strike_door(primary, what == DoorTrouble::PrimaryPower);
                }
            }
            DoorTrouble::HandOverHere => {
                if self.members.contains(&host) {
                    self.try_hand_over(host);
                }
            }
            DoorTrouble::HandOverStruck => {
                let from = self.try_hand_over(other);
                let micros = self.rng.spread(50, 60_000);
                let victims = [Some(host), from, Some(other)];
                let victim = victims[self.rng.below(3) as usize].filter(|_| self.rng.chance(60));
                let struck = News::Struck { victim };
                self.schedule(micros, Happening::Door(struck));
            }
            DoorTrouble::TakeOver => {
                if let Some(primary) = served_by.filter(|primary| *primary != other) {
                    if self.rng.chance(60) {
                        self.strike_door(primary, true);
                    }
                    let micros = self.rng.spread(1, 300_000);
                    self.schedule(micros, Happening::TakeOver { node: other });
                }
            }
            DoorTrouble::Leave => self.guest_leaves(),
            DoorTrouble::Move => {
                let to = self.rng.below(self.nodes.len() as u64) as usize;
                if !self.members.contains(&to) || self.nodes[to].engine.is_some() {
                    self.guest_goes_to(to);
                }
            }
        }
    }

    pub(super) fn half_open_door(&mut self) {
        if let Some(Way::There { link }) = self.door.as_ref().map(|door| &door.way) {
            let link = *link;
            self.say(|| format!("HALF OPEN door's link {}", link.0));
            self.count("faults: connection half open");
            let silent = self.rng.chance(70);
            self.lose_link(link, silent);
        }
    }

    /// A daemon or its host dies; it comes back.
    pub(super) fn strike_door(&mut self, node: usize, power: bool) {
        match power {
            true => self.power_cut(node),
            false => self.kill(node),
        }
        if self.members.contains(&node) {
            self.come_back(node);
        }
    }

    /// Whether the session has nothing left to do.
    pub(in crate::world) fn door_rests(&self) -> bool {
        let rests = |door: &Door| {
            let status = door.status();
            door.session.is_some() && status.waiting_requests == 0 && status.copies_bytes == 0
        };
        self.door.as_deref().is_none_or(rests)
    }
}
