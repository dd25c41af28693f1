//! What is a whole cluster? Hosts and networks that several volumes share, each volume with a guest and a history of its own.
//!
//! Each volume is a [`World`]; they live under one clock, and what befalls a host in one of them befalls it in all: a host has
//! one process, one power supply and one network.

use std::collections::BTreeMap;

use model::Tick;

use crate::profile::{Action, DoorTrouble, Profile};
use crate::rng::Rng;
use crate::shrink::Shape;
use crate::world::{Figures, Matrix, SETTLE_MICROS_MAX, Violation, World};

/// So many volumes in a hundred have their guest behind a session, wherever that is.
const DOORS_PERCENT: u64 = 20;

/// Where a guest gets in.
struct Door {
    host: usize,
    copies_bytes_max: u64,
}

impl Door {
    fn random(rng: &mut Rng, hosts: usize) -> Door {
        Door {
            host: rng.below(hosts as u64) as usize,
            copies_bytes_max: rng.spread(4 << 10, 64 << 20),
        }
    }
}

/// The volumes of a cluster.
pub struct Cluster {
    worlds: Vec<World>,
    scripts: Vec<Vec<Action>>,
    now: Tick,
    chaos_micros: u64,
}

impl Cluster {
    /// What a shape leaves of the cluster that belongs to a seed; keeps the last `trace_lines` lines of each volume.
    pub fn shaped(seed: u64, shape: &Shape, trace_lines: usize) -> Cluster {
        let mut rng = Rng::new(seed ^ 0xC4A0_5EED);
        let hosts = [2, 3, 3, 3, 4, 4, 5, 6, 7, 3][rng.below(10) as usize];
        let volumes = if rng.chance(10) { rng.between(2, 3) } else { 1 };
        let mut profiles: Vec<Profile> = (0..volumes).map(|_| Profile::random(&mut rng, hosts)).collect();
        let mut chaos_micros = profiles[0].chaos_micros;
        for profile in &mut profiles {
            profile.chaos_micros = chaos_micros;
        }
        let mut scripts: Vec<Vec<Action>> = profiles.iter().map(|profile| profile.script(&mut rng)).collect();
        // Everything is chosen by now, so that what is left out below changes nothing else.
        let seeds: Vec<u64> = profiles.iter().map(|_| rng.bits()).collect();
        let mut rng = Rng::new(seed ^ 0x000D_0042_5EED);
        let mut doors = Vec::new();
        for script in &mut scripts {
            let door = rng.chance(DOORS_PERCENT).then(|| Door::random(&mut rng, hosts));
            if door.is_some() {
                script.extend(DoorTrouble::script(chaos_micros, &mut rng));
            }
            doors.push(door);
        }
        let mut number = 0;
        for script in &mut scripts {
            script.retain_mut(|action| {
                action.at_micros /= shape.hurry.unwrap_or(1).max(1);
                number += 1;
                let only = shape.only.as_ref();
                only.is_none_or(|only| only.binary_search(&(number - 1)).is_ok())
            });
        }
        chaos_micros = shape.calm_at.map_or(chaos_micros, |at| at.min(chaos_micros));
        let mut worlds = Vec::new();
        for (volume, (mut profile, seed)) in profiles.into_iter().zip(seeds).enumerate() {
            if shape.volume.is_some_and(|only| only != volume) {
                scripts[volume].clear();
                continue;
            }
            profile.chaos_micros = chaos_micros;
            profile
                .members
                .truncate(shape.members.unwrap_or(usize::MAX).max(1));
            profile.sectors = shape
                .sectors
                .map_or(profile.sectors, |max| profile.sectors.min(max.max(8)));
            profile.habits.depth = shape
                .depth
                .map_or(profile.habits.depth, |max| profile.habits.depth.min(max));
            let mut world = World::new(seed, profile, trace_lines);
            if let Some(door) = &doors[volume] {
                world.attach_through(door.host, door.copies_bytes_max);
            }
            worlds.push(world);
        }
        if let Some(script) = shape.volume.and_then(|volume| scripts.get(volume).cloned()) {
            scripts = vec![script];
        }
        Cluster {
            worlds,
            scripts,
            now: Tick(0),
            chaos_micros,
        }
    }

    /// Lives through trouble, then comes to rest; every promise is checked on the way.
    pub fn live(&mut self) -> Result<(), Violation> {
        for (world, script) in self.worlds.iter_mut().zip(&self.scripts) {
            world.begin(script);
        }
        self.run_until(Tick(self.chaos_micros))?;
        for world in &mut self.worlds {
            world.calm_down();
        }
        let until = self.now.after_micros(SETTLE_MICROS_MAX);
        let mut resting = 0;
        while self.now < until && resting < self.worlds.len() {
            self.run_until(self.now.after_micros(100_000))?;
            resting = 0;
            for world in &mut self.worlds {
                resting += usize::from(world.comes_to_rest()?);
            }
        }
        self.worlds.iter_mut().try_for_each(World::check_rest)
    }

    /// Volumes.
    pub(crate) fn volumes(&self) -> usize {
        self.worlds.len()
    }

    /// The troubles in their order, in words.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let all = self.scripts.iter().flatten();
        all.map(|action| format!("{:>10.6} s  {:?}", action.at_micros as f64 / 1e6, action.trouble))
            .collect()
    }

    fn run_until(&mut self, until: Tick) -> Result<(), Violation> {
        loop {
            let first = (0..self.worlds.len())
                .filter_map(|index| Some((self.worlds[index].next_at()?, index)))
                .min()
                .filter(|(at, _)| *at <= until);
            let Some((at, index)) = first else { break };
            self.worlds[index].step(until)?;
            for fault in self.worlds[index].take_befallen() {
                for other in (0..self.worlds.len()).filter(|other| *other != index) {
                    self.worlds[other].wait_until(at);
                    self.worlds[other].befalls(fault);
                }
            }
        }
        self.worlds.iter_mut().for_each(|world| world.wait_until(until));
        self.now = until;
        Ok(())
    }

    /// What is to be told of the run so far.
    pub fn figures(&self) -> Figures {
        let mut sum = Figures {
            digest: 0,
            virtual_micros: 0,
            gate_micros_max: 0,
            counts: BTreeMap::from([("checks: volumes", self.worlds.len() as u64)]),
            matrix: Matrix::new(),
        };
        for figures in self.worlds.iter().map(World::figures) {
            sum.digest = sum.digest.rotate_left(1) ^ figures.digest;
            sum.virtual_micros = sum.virtual_micros.max(figures.virtual_micros);
            sum.gate_micros_max = sum.gate_micros_max.max(figures.gate_micros_max);
            for (kind, count) in figures.counts {
                *sum.counts.entry(kind).or_default() += count;
            }
            for (cell, count) in figures.matrix {
                *sum.matrix.entry(cell).or_default() += count;
            }
        }
        sum
    }

    /// The last lines of what happened in each volume, in the order of time.
    pub fn trace_lines(&self) -> Vec<String> {
        if let [world] = &self.worlds[..] {
            return world.trace_lines();
        }
        let volumes = self.worlds.iter().zip('A'..);
        let mut lines: Vec<String> = volumes
            .flat_map(|(world, name)| {
                let lines = world.trace_lines().into_iter();
                lines.map(move |line| format!("{} {name}{}", &line[..11], &line[11..]))
            })
            .collect();
        lines.sort_by(|a, b| a[..11].cmp(&b[..11]));
        lines
    }
}
