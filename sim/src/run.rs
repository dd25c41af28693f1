//! How does one seed go? From its first moment to rest, or to the first promise that was not kept.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::shrink::Shape;
use crate::world::{Figures, Matrix};

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// xxh3-64 of everything that happened: the same for every run of the seed.
    pub digest: u64,
    /// Virtual time, in microseconds.
    pub virtual_micros: u64,
    /// Time that a core spent on it.
    pub core_time: Duration,
    /// Longest time at the gate of a hand-over, in microseconds.
    pub gate_micros_max: u64,
    /// Happenings by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Faults by class and verb.
    pub matrix: Matrix,
    /// The promise that was not kept.
    pub failure: Option<Failure>,
    /// The last lines of what happened.
    pub trace: Vec<String>,
}

/// Why a seed failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words: when, who, what.
    pub what: String,
}

thread_local! {
    static SIMULATING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside a simulation is a finding, not noise: its message is kept instead of printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if SIMULATING.get() {
                PANIC.with_borrow_mut(|kept| *kept = Some(info.to_string()));
            } else {
                print(info);
            }
        }));
    });
}

/// Time that this thread has spent on a core so far; real time where the system does not tell.
fn core_time(began: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or(began.elapsed(), Duration::from_nanos)
}

/// Lives one seed's life; keeps the last `trace_lines` lines of it.
pub fn run_seed(seed: u64, trace_lines: usize) -> Outcome {
    live(seed, Cluster::shaped(seed, &Shape::default(), trace_lines))
}

/// Lives a cluster's life.
pub(crate) fn live(seed: u64, mut cluster: Cluster) -> Outcome {
    keep_panics();
    let real_time = Instant::now();
    let began = core_time(real_time);
    SIMULATING.set(true);
    let lived = catch_unwind(AssertUnwindSafe(|| cluster.live()));
    SIMULATING.set(false);
    let failure = match lived {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(Failure {
            what: violation.to_string(),
        }),
        Err(_) => {
            let what = PANIC
                .with_borrow_mut(Option::take)
                .unwrap_or_else(|| "panic without words".to_owned());
            Some(Failure {
                what: format!("at {} s: {what}", cluster.figures().virtual_micros as f64 / 1e6),
            })
        }
    };
    let Figures {
        digest,
        virtual_micros,
        gate_micros_max,
        counts,
        matrix,
    } = cluster.figures();
    Outcome {
        seed,
        digest,
        virtual_micros,
        core_time: core_time(real_time).saturating_sub(began),
        gate_micros_max,
        counts,
        matrix,
        failure,
        trace: cluster.trace_lines(),
    }
}
