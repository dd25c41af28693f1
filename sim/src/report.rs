//! What came of many seeds? Lives on all cores, figures of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use crate::run::{Failure, Outcome, run_seed};
use crate::world::{Matrix, is_ruled_out};

/// Figures of a series of seeds.
#[derive(Clone, Debug)]
pub struct Report {
    /// Seeds lived.
    pub seeds: u64,
    /// xxh3-64 over the digests of all seeds, in their order.
    pub digest: u64,
    /// Seeds with a promise that was not kept.
    pub failures: BTreeMap<u64, Failure>,
    /// Happenings by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Faults by class and verb.
    pub matrix: Matrix,
    /// Virtual time of all seeds together, in microseconds.
    pub virtual_micros: u64,
    /// Longest time at the gate of a hand-over, in microseconds.
    pub gate_micros_max: u64,
    /// Time that cores spent on it.
    pub core_time: Duration,
    /// Real time.
    pub elapsed: Duration,
}

/// Lives `count` seeds from `from` on, on so many threads, and tells of each as it ends, in any order.
pub fn run_seeds(from: u64, count: u64, jobs: usize, mut ended: impl FnMut(&Outcome)) -> Report {
    let began = Instant::now();
    let next = AtomicU64::new(from);
    let (tell, told) = mpsc::sync_channel::<Outcome>(64);
    let mut digests = BTreeMap::new();
    let mut report = Report {
        seeds: 0,
        digest: 0,
        failures: BTreeMap::new(),
        counts: BTreeMap::new(),
        matrix: Matrix::new(),
        virtual_micros: 0,
        gate_micros_max: 0,
        core_time: Duration::ZERO,
        elapsed: Duration::ZERO,
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || tell.send(run_seed(seed, 0)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for outcome in told {
            ended(&outcome);
            digests.insert(outcome.seed, outcome.digest);
            report.take(outcome);
        }
    });
    let mut hasher = Xxh3::new();
    digests
        .values()
        .for_each(|digest| hasher.update(&digest.to_le_bytes()));
    report.digest = hasher.digest();
    report.elapsed = began.elapsed();
    report
}

impl Report {
    fn take(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.virtual_micros += outcome.virtual_micros;
        self.core_time += outcome.core_time;
        self.gate_micros_max = self.gate_micros_max.max(outcome.gate_micros_max);
        for (kind, count) in outcome.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (cell, count) in outcome.matrix {
            *self.matrix.entry(cell).or_default() += count;
        }
        if let Some(failure) = outcome.failure {
            self.failures.insert(outcome.seed, failure);
        }
    }
}

impl Report {
    /// Cells of faults and verbs that never met.
    pub fn empty_cells(&self) -> Vec<(&'static str, &'static str)> {
        let (classes, verbs) = self.classes_and_verbs();
        let cells = classes
            .iter()
            .flat_map(|class| verbs.iter().map(move |verb| (*class, *verb)));
        cells
            .filter(|cell| !self.matrix.contains_key(cell) && !is_ruled_out(cell.0, cell.1))
            .collect()
    }

    fn classes_and_verbs(&self) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
        self.matrix.keys().copied().unzip()
    }

    fn write_matrix(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (classes, verbs) = self.classes_and_verbs();
        write!(f, "{:38}", "faults in the middle of")?;
        verbs.iter().try_for_each(|verb| write!(f, "{verb:>11}"))?;
        writeln!(f)?;
        for class in classes {
            write!(f, "  {class:36}")?;
            for verb in &verbs {
                match self.matrix.get(&(class, *verb)) {
                    None if is_ruled_out(class, verb) => write!(f, "{:>11}", "–")?,
                    count => write!(f, "{:>11}", count.copied().unwrap_or(0))?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f, "cells without a fault: {}", self.empty_cells().len())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let virtual_seconds = self.virtual_micros as f64 / 1e6;
        let real_seconds = self.elapsed.as_secs_f64();
        let core_seconds = self.core_time.as_secs_f64();
        writeln!(
            f,
            "{} seeds: {:.2} cluster-hours in {real_seconds:.1} s; {core_seconds:.1} s on cores, {:.0} times as fast as real \
             time on each",
            self.seeds,
            virtual_seconds / 3600.0,
            virtual_seconds / core_seconds.max(1e-9)
        )?;
        writeln!(f, "digest of everything that happened: {:016x}", self.digest)?;
        writeln!(
            f,
            "longest time at the gate of a hand-over: {:.1} ms",
            self.gate_micros_max as f64 / 1e3
        )?;
        let groups: BTreeSet<&str> = self
            .counts
            .keys()
            .filter_map(|kind| kind.split(": ").next())
            .collect();
        for group in groups {
            let mut parts: Vec<(&str, u64)> = self
                .counts
                .iter()
                .filter_map(|(kind, count)| Some((kind.strip_prefix(group)?.strip_prefix(": ")?, *count)))
                .collect();
            parts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
            writeln!(f, "{group}")?;
            for (kind, count) in parts {
                writeln!(f, "  {count:>12}  {kind}")?;
            }
        }
        self.write_matrix(f)?;
        for (seed, failure) in &self.failures {
            writeln!(f, "FAILED seed {seed} {}", failure.what)?;
        }
        match self.failures.len() {
            0 => write!(f, "every promise was kept"),
            failed => write!(
                f,
                "{failed} of {} seeds failed; see one with: sim --seed N --trace",
                self.seeds
            ),
        }
    }
}
