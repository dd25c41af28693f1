//! Does a guest read what it wrote? A driver that verifies, and connects again when it is cut off.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::verify::{Expectation, Model, Version};
use bench::vhost::{Answered, FEATURES, Guest, Op, Slot};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Most sectors of one request.
const SECTORS_MAX: u64 = 64;

enum Work {
    Write(Range<u64>, Version),
    Read(Expectation),
    Flush(u64),
}

/// A guest at work.
pub struct Driver {
    guest: Guest,
    queues: usize,
    path: PathBuf,
    model: Model,
    random: StdRng,
    sectors: u64,
    open: HashMap<Slot, (Range<u64>, Work)>,
    connections: u64,
}

impl Driver {
    /// Connects a guest with so many queues to a volume that was never written.
    pub fn new(path: PathBuf, queues: usize, bytes: u64) -> Driver {
        let sectors = bytes / 512;
        let mut driver = Driver {
            guest: Guest::new(queues, FEATURES).unwrap(),
            queues,
            path,
            model: Model::new(rand::random(), 0..sectors, true),
            random: StdRng::from_os_rng(),
            sectors,
            open: HashMap::new(),
            connections: 0,
        };
        driver.connect();
        driver
    }

    fn connect(&mut self) {
        self.connections += 1;
        self.guest.connect(&self.path, PATIENCE).unwrap();
    }

    /// Goes away in the middle of everything and comes back.
    pub fn disconnect(&mut self) {
        self.guest.disconnect();
        self.connect();
    }

    /// Works until so many requests were answered, right.
    pub fn work(&mut self, answers: u64) {
        let until = Instant::now() + PATIENCE;
        let mut left = answers;
        while left > 0 {
            assert!(
                Instant::now() < until,
                "{left} of {answers} answers have not come"
            );
            self.fill();
            left = left.saturating_sub(self.collect());
        }
    }

    /// Waits for all answers and reads everything; how often it had to connect.
    pub fn finish(mut self) -> u64 {
        let until = Instant::now() + PATIENCE;
        while !self.open.is_empty() {
            assert!(
                Instant::now() < until,
                "{} answers have not come",
                self.open.len()
            );
            self.collect();
        }
        for sector in (0..self.sectors).step_by(SECTORS_MAX as usize) {
            let sectors = sector..self.sectors.min(sector + SECTORS_MAX);
            let expectation = self.model.expect(sectors.clone());
            let count = (sectors.end - sectors.start) as u32;
            let answer = self.guest.call(&Op::Read { sector, count }).unwrap();
            assert_eq!(answer.status, 0);
            let wrong = self.model.check(&expectation, &answer.data);
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        for queue in 0..self.queues {
            self.guest.stop(queue).unwrap();
        }
        self.connections
    }

    fn fill(&mut self) {
        for queue in 0..self.queues {
            while let Some(slot) = self.guest.free(queue) {
                let count = self.random.random_range(1..=SECTORS_MAX);
                let sector = self.random.random_range(0..self.sectors - count);
                let sectors = sector..sector + count;
                // Of two writes at the same time to the same place, either may win: nothing to verify.
                let meets = |other: &Range<u64>| other.start < sectors.end && sectors.start < other.end;
                if self.open.values().any(|(other, _)| meets(other)) {
                    break;
                }
                let (op, work) = self.choose(sectors.clone());
                let sectors = if matches!(work, Work::Flush(_)) {
                    0..0
                } else {
                    sectors
                };
                self.open.insert(slot, (sectors, work));
                self.guest.submit(slot, &op).unwrap();
            }
        }
    }

    fn choose(&mut self, sectors: Range<u64>) -> (Op, Work) {
        let (sector, count) = (sectors.start, (sectors.end - sectors.start) as u32);
        match self.random.random_range(0..20) {
            0..10 => {
                let (version, data) = self.model.begin_data(sectors.clone());
                (Op::Write { sector, data }, Work::Write(sectors, version))
            }
            10..12 => {
                let version = self.model.begin_zeroes(sectors.clone());
                (Op::Zeroes { sector, count }, Work::Write(sectors, version))
            }
            12 => {
                let version = self.model.begin_zeroes(sectors.clone());
                (Op::Discard { sector, count }, Work::Write(sectors, version))
            }
            13..19 => {
                let expectation = self.model.expect(sectors);
                (Op::Read { sector, count }, Work::Read(expectation))
            }
            _ => (Op::Flush, Work::Flush(self.model.begin_flush())),
        }
    }

    fn collect(&mut self) -> u64 {
        let answers = match self.guest.answers(Duration::from_secs(1)) {
            Ok(answers) => answers,
            Err(_) => {
                self.connect();
                return 0;
            }
        };
        for Answered { slot, status, data } in &answers {
            let (_, work) = self.open.remove(slot).expect("asked");
            assert_eq!(*status, 0, "a request failed");
            match work {
                Work::Write(sectors, version) => self.model.acknowledge(sectors, version, false),
                Work::Read(expectation) => {
                    let wrong = self.model.check(&expectation, data);
                    assert!(wrong.is_empty(), "{wrong:#?}");
                }
                Work::Flush(mark) => self.model.flushed(mark),
            }
        }
        answers.len() as u64
    }
}
