//! How fast is a volume beside the raw file and beside others who serve NBD? The same jobs for everyone, in turns.
//!
//! Every round runs every job against every contestant in an order of its own, so that a busy moment of the machine
//! hits nobody in particular; ratios are taken within a round and their median is told.

mod contestant;
mod job;
mod machine;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::seq::SliceRandom;

pub use contestant::{Contestant, Kind};
pub use job::{Job, Sample};
pub use report::{Report, Row};

/// What to compare and how long.
#[derive(Clone, Debug)]
pub struct Course {
    /// Where files, sockets and states go; everybody's data lies on its file system.
    pub dir: PathBuf,
    /// Length of each contestant's volume.
    pub size_bytes: u64,
    /// How often everything is measured.
    pub rounds: usize,
    /// Length of one measurement.
    pub duration: Duration,
    /// Who takes part.
    pub kinds: Vec<Kind>,
    /// What is measured.
    pub jobs: Vec<Job>,
}

/// Runs the whole course; `tell` hears every sample.
pub fn run(course: &Course, mut tell: impl FnMut(&Sample)) -> Result<Report> {
    let mut contestants = Vec::new();
    for kind in &course.kinds {
        let contestant = Contestant::start(*kind, &course.dir, course.size_bytes)
            .with_context(|| format!("start {}", kind.name()))?;
        // Everybody reads and overwrites real data, not holes.
        job::fill(&contestant, course.size_bytes).with_context(|| format!("fill {}", kind.name()))?;
        contestants.push(contestant);
    }
    let mut random = rand::rng();
    let mut samples = Vec::new();
    for round in 0..course.rounds {
        let mut jobs = course.jobs.clone();
        jobs.shuffle(&mut random);
        for job in jobs {
            let mut order: Vec<&Contestant> = contestants.iter().collect();
            order.shuffle(&mut random);
            for contestant in order {
                let sample = job::measure(job, contestant, course, round)
                    .with_context(|| format!("{} against {}", job.name(), contestant.kind().name()))?;
                tell(&sample);
                samples.push(sample);
            }
        }
    }
    let machine = machine::describe(&course.dir);
    Ok(Report::new(
        course,
        machine,
        contestants.iter().map(Contestant::describe).collect(),
        &samples,
    ))
}

/// A path as text for a command line.
fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
