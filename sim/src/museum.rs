//! Which published bugs are found, and how fast? Each mutant lives under seeds until a promise is seen broken.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use mars::museum::{Mutant, let_loose};

use crate::run::run_seed;

/// Where the searches for one mutant begin: far from each other, and from the seeds that everybody runs.
const RANGES: [u64; 3] = [1 << 32, 2 << 32, 3 << 32];

/// What came of the searches for one mutant.
#[derive(Clone, Debug)]
pub struct Exhibit {
    /// Which.
    pub mutant: Mutant,
    /// For each range of seeds: time on a core until it was found.
    pub found_after: Vec<Option<Duration>>,
    /// The first seed that shows it, and what is seen.
    pub seen: Option<(u64, String)>,
}

impl Exhibit {
    /// Whether every search found it.
    pub fn is_found(&self) -> bool {
        self.found_after.iter().all(Option::is_some)
    }

    /// The middle one of the times; `None` when most searches failed.
    pub fn median(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self
            .found_after
            .iter()
            .map(|found| found.unwrap_or(Duration::MAX))
            .collect();
        times.sort();
        times
            .get(times.len() / 2)
            .copied()
            .filter(|time| *time < Duration::MAX)
    }
}

impl fmt::Display for Exhibit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = match self.median() {
            Some(time) => format!("{:.2} s", time.as_secs_f64()),
            None => "not found".to_owned(),
        };
        let seed = self
            .seen
            .as_ref()
            .map_or("–".to_owned(), |(seed, _)| seed.to_string());
        let (name, what) = (format!("{:?}", self.mutant), self.mutant.what());
        write!(
            f,
            "| {name} | {what} | {} | {time} | {seed} |",
            self.mutant.origin()
        )
    }
}

/// Looks for each mutant under seeds of its own until it is seen, at most so long on a core and so often in a row, and tells
/// of each as it ends, in any order; the answer is in the order of `mutants`.
pub fn visit(
    mutants: &[Mutant],
    jobs: usize,
    core_time_max: Duration,
    mut ended: impl FnMut(&Exhibit),
) -> Vec<Exhibit> {
    let (tell, told) = mpsc::sync_channel::<(usize, Exhibit)>(64);
    let next = AtomicUsize::new(0);
    let mut done = vec![None; mutants.len()];
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(index) else { return };
                    if tell.send((index, look_for(*mutant, core_time_max))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (index, exhibit) in told {
            ended(&exhibit);
            done[index] = Some(exhibit);
        }
    });
    done.into_iter().flatten().collect()
}

fn look_for(mutant: Mutant, core_time_max: Duration) -> Exhibit {
    let mut exhibit = Exhibit {
        mutant,
        found_after: Vec::new(),
        seen: None,
    };
    let_loose(Some(mutant));
    for range in RANGES {
        let mut spent = Duration::ZERO;
        let mut found = None;
        for seed in range.. {
            let outcome = run_seed(seed, 0);
            spent += outcome.core_time;
            if let Some(failure) = outcome.failure {
                found = Some(spent);
                exhibit.seen.get_or_insert((seed, failure.what));
                break;
            }
            if spent > core_time_max {
                break;
            }
        }
        exhibit.found_after.push(found);
    }
    let_loose(None);
    exhibit
}
