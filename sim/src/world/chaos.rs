//! Which trouble comes when? Chance decides, within what the fault model allows.

use mars::{Command, Limits, MaxLag, Switch, SyncState};
use model::{Lsn, Mode, Role};

use super::{Happening, World};
use crate::profile::{Action, Trouble};
use crate::rng::Rng;

/// No volume grows to more than so many times its first length.
const GROWTH_MAX: u64 = 8;

/// How often it is looked whether copies have overtaken the log, in microseconds, and how many times.
const LOOK_MICROS: u64 = 3_000;
const LOOKS_MAX: u32 = 1000;

/// No guest thinks for less, on the average.
const THINK_MICROS_MIN: u64 = 200;

impl World {
    /// Arranges what is to happen before the calm.
    pub(crate) fn begin(&mut self, script: &[Action]) {
        self.say_profile();
        self.schedule(1000, Happening::Inspect);
        for action in script {
            self.schedule(action.at_micros, Happening::Trouble { action: *action });
        }
    }

    fn say_profile(&mut self) {
        let text = format!("{:?}", self.profile);
        self.say(|| text);
    }

    pub(super) fn trouble(&mut self, action: Action) {
        if self.now >= self.chaos_until {
            return;
        }
        // An action makes its choices by itself: leaving others out does not change it.
        let rng = std::mem::replace(&mut self.rng, Rng::new(action.roll));
        let damaged = (0..self.nodes.len()).find(|node| self.nodes[*node].told_damage);
        match damaged {
            Some(node) => self.replace(node),
            None => self.cause_trouble(action.trouble),
        }
        self.rng = rng;
    }

    fn cause_trouble(&mut self, trouble: Trouble) {
        let members: Vec<usize> = self.members.iter().copied().collect();
        let Some(node) = self.rng.pick(&members).copied() else {
            return;
        };
        match trouble {
            Trouble::Kill => {
                self.kill(node);
                self.come_back(node);
            }
            Trouble::PowerCut => {
                self.power_cut(node);
                self.come_back(node);
            }
            Trouble::Absence => {
                // A primary that is away is only a pause: the others must go on without this node.
                if self.primary().is_some_and(|primary| primary != node) {
                    self.power_cut(node);
                    let micros = self.rng.spread(1_000_000, 8_000_000);
                    self.start_after(node, micros);
                }
            }
            Trouble::PowerCutAll => {
                for node in members {
                    self.power_cut(node);
                    self.come_back(node);
                }
            }
            Trouble::CutLink => {
                let others: Vec<usize> = members.into_iter().filter(|other| *other != node).collect();
                if let Some(other) = self.rng.pick(&others).copied() {
                    let silent = self.rng.chance(30);
                    self.cut_link(node, other, silent);
                    let micros = self.rng.spread(10_000, 4_000_000);
                    self.schedule(micros, Happening::Heal { a: node, b: other });
                }
            }
            Trouble::HalfOpen => self.half_open(),
            Trouble::SlowDisk => {
                let slowness = self.rng.spread(3, 60);
                self.slow_disk(node, slowness);
                let micros = self.rng.spread(10_000, 2_000_000);
                self.schedule(micros, Happening::Recover { node });
            }
            Trouble::SlowNetwork => {
                // Only connections made from now on; those that exist are as they are.
                let (low, high) = self.profile.quality.bytes_per_milli;
                let divisor = self.rng.spread(1, 50);
                self.network.quality.bytes_per_milli = (low / divisor + 20, high / divisor + 20);
                self.half_open();
            }
            Trouble::BitFlip => {
                if self.status(node).is_some_and(|status| status.serving) {
                    self.flip_served_bit(node);
                }
                // What was forced may be the only copy of something.
                if self.meta(node).is_some_and(|meta| meta.role == Role::Secondary)
                    && !self.history.forced
                    && self.nothing_is_handed_over()
                {
                    self.kill(node);
                    self.flip_bit(node);
                    self.come_back(node);
                }
            }
            Trouble::LossyNetwork => {
                self.count("faults: lossy network");
                self.network.quality.loss_percent = self.rng.between(1, 30);
                let micros = self.rng.spread(10_000, 4_000_000);
                self.schedule(micros, Happening::Recover { node });
            }
            Trouble::LostLogWrite | Trouble::MisdirectedLogWrite => {
                if self.nothing_is_handed_over() {
                    self.lose_log_write(node, trouble == Trouble::MisdirectedLogWrite);
                }
            }
            Trouble::DiskFails => {
                let lane = self.rng.below(3);
                self.fail_disk(node, lane);
            }
            Trouble::NoRoom => {
                self.fill_disk(node, true);
                let micros = self.rng.spread(10_000, 4_000_000);
                self.schedule(micros, Happening::Recover { node });
            }
            Trouble::LogFull if self.rng.chance(25) => {
                self.fill_log_late(node);
                let micros = self.rng.spread(10_000, 4_000_000);
                self.schedule(micros, Happening::MakeRoom { node });
            }
            Trouble::LogFull => {
                let used = self.nodes[node].disk.log_bytes();
                let room_bytes = match self.rng.below(3) {
                    0 => 0,
                    1 => self.rng.below(used + 1),
                    _ => used + self.rng.spread(1, 64 << 10),
                };
                self.fill_log(node, room_bytes);
                let micros = self.rng.spread(10_000, 20_000_000);
                self.schedule(micros, Happening::MakeRoom { node });
            }
            Trouble::LogBudget => {
                let budgets = [0, 1 << 10, 40 << 10, 256 << 10, self.profile.log_bytes_max];
                let budget = self.rng.pick(&budgets).copied().unwrap_or(0);
                self.set_log_budget(node, budget);
            }
            Trouble::ClockJump => {
                let micros = self.rng.spread(1000, 60_000_000);
                self.jump_clock(node, micros);
            }
            Trouble::OldMembers => self.restart_with_old_members(node),
            Trouble::WrongVerb => self.type_wrong_verb(),
            Trouble::VerbStruck => {
                if let (Some(verb), Some(fault)) = (
                    self.rng.pick(Trouble::VERBS).copied(),
                    self.rng.pick(Trouble::FAULTS).copied(),
                ) {
                    match verb {
                        // At once: what force() arranges comes later than the fault.
                        Trouble::TakeOver => self.take_over_now(node),
                        _ => self.cause_trouble(verb),
                    }
                    let micros = self.rng.spread(2, 30_000);
                    let roll = self.rng.bits();
                    let action = Action {
                        at_micros: self.now.0 + micros,
                        trouble: fault,
                        roll,
                    };
                    self.schedule(micros, Happening::Trouble { action });
                }
            }
            Trouble::HandOver => {
                self.try_hand_over(node);
            }
            Trouble::HandOverStruck => {
                if let Some(from) = self.try_hand_over(node).filter(|from| *from != node) {
                    let micros = self.rng.spread(50, 60_000);
                    self.schedule(
                        micros,
                        Happening::Strike {
                            node: from,
                            other: node,
                        },
                    );
                }
            }
            Trouble::Join => {
                if members.len() < self.profile.members_max {
                    self.join();
                }
            }
            Trouble::JoinStruck => {
                if members.len() < self.profile.members_max {
                    let joiner = self.join();
                    let micros = self.rng.spread(2_000, 2_000_000);
                    self.schedule(micros, Happening::StrikeSync { joiner });
                }
            }
            Trouble::Leave => {
                let primary = self.serving();
                if members.len() > 1
                    && primary.len() == 1
                    && primary[0] != node
                    && self.is_newest(primary[0])
                    && self.nothing_is_handed_over()
                {
                    self.leave(node);
                }
            }
            Trouble::Checksum => {
                self.checksum(node);
            }
            // What was forced may be what others copy next.
            Trouble::Rot if self.history.forced => {}
            Trouble::Rot => {
                let down = self.rng.chance(50) && self.meta(node).is_some_and(|m| m.role == Role::Secondary);
                if down && self.nothing_is_handed_over() {
                    self.kill(node);
                    self.rot(node);
                    self.come_back(node);
                } else {
                    self.rot(node);
                }
            }
            Trouble::Verify => {
                let primary = self.serving().first().copied().filter(|_| self.rng.chance(90));
                let repair = self.rng.chance(60);
                let rate = if self.rng.chance(50) {
                    0
                } else {
                    self.rng.spread(16 << 10, 8 << 20)
                };
                if self.rng.chance(8) {
                    self.cancel_verify(primary.unwrap_or(node));
                } else {
                    self.verify(primary.unwrap_or(node), repair, rate);
                }
            }
            Trouble::Compression => {
                let compressed = self.rng.chance(70);
                if let Some(primary) = self.serving().first().copied() {
                    self.set_compression(primary, compressed);
                }
            }
            Trouble::Turn => {
                let micros = self.rng.spread(1_000, 3_000_000);
                self.take_turn(node, micros);
            }
            Trouble::Trim => {
                self.trim(node);
            }
            Trouble::Mood => self.change_mood(),
            Trouble::Mode => self.change_mode(),
            Trouble::Pause => {
                let switch = Switch::ALL[self.rng.below(3) as usize];
                let paused = self.rng.chance(60);
                self.switch(node, switch, paused);
            }
            Trouble::Detach => {
                self.detach(node);
                self.come_back(node);
            }
            Trouble::Limit => {
                let limits = Limits {
                    ship_bytes_per_second: self.rng.chance(70).then(|| self.rng.spread(10_000, 10_000_000)),
                    sync_bytes_per_second: self.rng.chance(70).then(|| self.rng.spread(10_000, 10_000_000)),
                };
                if let Some(primary) = self.primary() {
                    self.set_limits(primary, limits);
                }
            }
            Trouble::Sources => {
                let others = members.into_iter().filter(|other| *other != node);
                let mut sources: Vec<usize> = others.filter(|_| self.rng.chance(60)).collect();
                if self.rng.chance(50) {
                    sources.reverse();
                }
                self.set_sources(node, &sources);
            }
            Trouble::Grow => self.try_grow(node),
            Trouble::Snapshot => self.try_snapshot(node),
            Trouble::FakeSync => {
                self.fake_sync(node);
            }
            Trouble::TakeOver => self.force(node),
            Trouble::StepDown => self.vacate(node),
            Trouble::Door(what) => self.trouble_door(what, node),
        }
    }

    pub(super) fn come_back(&mut self, node: usize) {
        let micros = self.rng.spread(1000, 3_000_000);
        self.start_after(node, micros);
    }

    /// Whether nobody is about to become primary: a grant under way could make a secondary the only one that matters.
    pub(super) fn nothing_is_handed_over(&self) -> bool {
        let asked = self
            .commands
            .values()
            .any(|c| matches!(c.command, Command::HandOver { .. } | Command::TakeOver { .. }));
        !asked && self.serving().len() == 1
    }

    /// A fault at one end of a hand-over, or between both.
    pub(super) fn strike(&mut self, node: usize, other: usize) {
        self.count("aimed: at a hand-over");
        let victim = if self.rng.chance(50) { node } else { other };
        match self.rng.below(5) {
            0 | 1 => self.kill(victim),
            2 | 3 => self.power_cut(victim),
            _ => {
                let silent = self.rng.chance(30);
                self.cut_link(node, other, silent);
                let micros = self.rng.spread(1_000, 4_000_000);
                self.schedule(micros, Happening::Heal { a: node, b: other });
            }
        }
        if self.members.contains(&victim) {
            self.come_back(victim);
        }
    }

    /// A fault of the source of a full sync or of its target, or another source for it.
    pub(super) fn strike_sync(&mut self, joiner: usize) {
        let Some(source) = self.serving().first().copied() else {
            return;
        };
        self.count("aimed: at a full sync");
        let others: Vec<usize> = self
            .members
            .iter()
            .copied()
            .filter(|m| ![source, joiner].contains(m))
            .collect();
        match (self.rng.below(7), self.rng.pick(&others).copied()) {
            (0, Some(other)) => {
                self.try_hand_over(other);
            }
            (4.., Some(other)) => self.lose_source(joiner, source, other),
            (1, _) if self.members.contains(&joiner) => {
                self.kill(joiner);
                self.come_back(joiner);
            }
            (2, _) => {
                self.kill(source);
                self.come_back(source);
            }
            _ => {
                self.power_cut(source);
                self.come_back(source);
            }
        }
    }

    /// The log goes out so slowly that copies overtake it; then its source dies, and a member takes over that has as little of it.
    /// The joiner's log may stand still all the while: then it goes on with the successor's, as if nothing had happened.
    fn lose_source(&mut self, joiner: usize, source: usize, other: usize) {
        let limits = Limits {
            ship_bytes_per_second: Some(self.rng.spread(1, 20_000)),
            sync_bytes_per_second: None,
        };
        if self.rng.chance(80) {
            self.switch(joiner, Switch::Fetch, true);
            let micros = self.rng.spread(10_000, 1_000_000);
            self.take_turn(joiner, micros);
        }
        self.set_limits(source, limits);
        self.schedule(
            LOOK_MICROS,
            Happening::LoseSource {
                joiner,
                source,
                other,
                looks: LOOKS_MAX,
            },
        );
    }

    /// Once the joiner has copies that are newer than all that the other has, the source is no more.
    pub(super) fn lose_source_now(&mut self, joiner: usize, source: usize, other: usize, looks: u32) {
        if self.now >= self.chaos_until || !self.serving().contains(&source) || looks == 0 {
            return;
        }
        let has = self.meta(other).map_or(Lsn(0), |meta| meta.committed.lsn);
        let overtaken = self.meta(joiner).is_some_and(|meta| match meta.sync {
            SyncState::Copying { next, end, .. } => next.0 > 0 && end > has,
            SyncState::Whole | SyncState::Fresh => false,
        });
        if !overtaken {
            let looks = looks - 1;
            return self.schedule(
                LOOK_MICROS,
                Happening::LoseSource {
                    joiner,
                    source,
                    other,
                    looks,
                },
            );
        }
        self.count("aimed: at the source of copies that are newer than its successor");
        self.power_cut(source);
        self.come_back(source);
        self.take_over_now(other);
    }

    /// Asks whoever serves, seldom somebody else, to give its role to `to`; returns who was asked.
    pub(super) fn try_hand_over(&mut self, to: usize) -> Option<usize> {
        // A replica with damage that nobody has found yet must not become the only one.
        if !self.all_are_sound() {
            return None;
        }
        // Nor one whose operator only said that its disk is right.
        if self.is_faked(to) {
            return None;
        }
        let members: Vec<usize> = self.members.iter().copied().collect();
        let wild = self.rng.chance(10);
        let from = if wild {
            self.rng.pick(&members).copied()
        } else {
            self.serving().first().copied()
        };
        let gate_micros_max = self.rng.spread(2_000, 3_000_000);
        self.hand_over(from?, to, gate_micros_max)?;
        from
    }

    /// Asks whoever serves, seldom somebody else, for a longer volume, now and then a shorter one; perhaps `full` has no room
    /// for it at first.
    fn try_grow(&mut self, full: usize) {
        let wild = self.rng.chance(10).then_some(full);
        let Some(primary) = wild.or(self.primary()) else {
            return;
        };
        let Some(sectors) = self.status(primary).map(|status| status.size.sectors().0) else {
            return;
        };
        if self.rng.chance(30) {
            self.fill_disk(full, true);
            let micros = self.rng.spread(10_000, 4_000_000);
            self.schedule(micros, Happening::Recover { node: full });
        }
        self.probe(primary);
        let to = match self.rng.below(10) {
            0 => sectors.saturating_sub(8).max(8),
            _ => sectors + self.rng.spread(1, 64) * 8,
        };
        if to <= self.profile.sectors * GROWTH_MAX {
            self.grow(primary, to);
        }
        self.probe(primary);
    }

    /// Asks whoever serves for another mode, sometimes one that cannot be.
    fn change_mode(&mut self) {
        let Some(primary) = self.primary() else { return };
        let replicas = self.rng.between(1, 2) as u8;
        let mode = match self.rng.below(3) {
            0 => Mode::Async,
            1 => Mode::NearSync {
                replicas,
                wait_millis_max: self.rng.spread(1, 3000) as u32,
            },
            _ => Mode::Sync { replicas },
        };
        let max_lag = MaxLag {
            millis: self.rng.chance(50).then(|| self.rng.spread(5, 3000)),
            bytes: self.rng.chance(30).then(|| self.rng.spread(1 << 10, 1 << 20)),
            throttle: self.rng.chance(50),
        };
        self.set_mode(primary, mode, max_lag);
    }

    fn change_mood(&mut self) {
        let depth = self.rng.between(1, 16) as usize;
        let write_percent = self.rng.between(10, 80);
        self.guest.habits.depth = depth;
        self.guest.habits.write_percent = write_percent;
        let (low, high) = self.profile.think_micros;
        let factor = self.rng.between(1, 4);
        self.profile.think_micros = if self.rng.chance(50) {
            (low * factor, high * factor)
        } else {
            // However often it is hurried: a guest without any pause would be all there is to simulate.
            (
                (low / factor).max(THINK_MICROS_MIN / 4),
                (high / factor).max(THINK_MICROS_MIN),
            )
        };
    }
}
