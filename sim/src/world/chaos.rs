//! Which trouble comes when? Chance decides, within what the fault model allows.

use model::Role;

use super::{Happening, Trouble, Violation, World};
use crate::profile::Profile;
use crate::rng::Rng;

impl World {
    /// The cluster that belongs to a seed.
    pub fn random(seed: u64, trace_lines: usize) -> World {
        let profile = Profile::random(&mut Rng::new(seed ^ 0xC4A0_5EED));
        World::new(seed, profile, trace_lines)
    }

    /// Lives through trouble, then comes to rest; every promise is checked on the way.
    pub fn live(&mut self) -> Result<(), Violation> {
        self.say_profile();
        self.schedule(1000, Happening::Inspect);
        self.schedule(10_000, Happening::Trouble);
        self.run_for(self.profile.chaos_micros)?;
        self.settle()
    }

    fn say_profile(&mut self) {
        let text = format!("{:?}", self.profile);
        self.say(|| text);
    }

    pub(super) fn trouble(&mut self) -> Result<(), Violation> {
        if self.now >= self.chaos_until {
            return Ok(());
        }
        let damaged = (0..self.nodes.len()).find(|node| self.nodes[*node].told_damage);
        match damaged {
            Some(node) => self.replace(node),
            None => self.cause_trouble(),
        }
        let (low, high) = self.profile.peace_micros;
        let micros = self.rng.between(low, high);
        self.schedule(micros, Happening::Trouble);
        Ok(())
    }

    fn cause_trouble(&mut self) {
        let total: u64 = self.profile.troubles.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.rng.below(total.max(1));
        let found = self.profile.troubles.iter().find(|(_, weight)| {
            let here = roll < *weight;
            roll = roll.saturating_sub(*weight);
            here
        });
        let Some((trouble, _)) = found.copied() else {
            return;
        };
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
                if self.meta(node).is_some_and(|meta| meta.role == Role::Secondary)
                    && self.nothing_is_handed_over()
                {
                    self.kill(node);
                    self.flip_bit(node);
                    self.come_back(node);
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
                if members.len() < self.profile.nodes_max {
                    self.join();
                }
            }
            Trouble::Leave => {
                let primary = self.serving();
                if members.len() > 1
                    && primary.len() == 1
                    && primary[0] != node
                    && self.nothing_is_handed_over()
                {
                    self.leave(node);
                }
            }
            Trouble::Checksum => {
                self.checksum(node);
            }
            Trouble::Mood => self.change_mood(),
        }
    }

    fn come_back(&mut self, node: usize) {
        let micros = self.rng.spread(1000, 3_000_000);
        self.start_after(node, micros);
    }

    /// Whether nobody is about to become primary: a grant under way could make a secondary the only one that matters.
    fn nothing_is_handed_over(&self) -> bool {
        let asked = self
            .commands
            .values()
            .any(|c| matches!(c.command, mars::Command::HandOver { .. }));
        !asked && self.serving().len() == 1
    }

    /// A fault at one end of a hand-over, or between both.
    pub(super) fn strike(&mut self, node: usize, other: usize) {
        self.count("faults: in the middle of a hand-over");
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

    /// Asks whoever serves, seldom somebody else, to give its role to `to`; returns who was asked.
    fn try_hand_over(&mut self, to: usize) -> Option<usize> {
        // A replica with a damaged log that nobody has found yet must not become the only one.
        if self.nodes.iter().any(|node| node.disk.log.is_damaged()) {
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
            (low / factor + 1, high / factor + 1)
        };
    }
}
