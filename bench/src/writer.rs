//! Does a volume keep every acknowledged write while things happen to it? A writer that never stops and verifies.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::nbd::{Answer, Client, Completion, Error, Options, Request, Target};
use crate::verify::{Expectation, Model, SECTOR_BYTES, Version};

/// How long the writer waits for an answer before it looks whether it should stop.
const TICK: Duration = Duration::from_millis(20);
/// Longest write and read in sectors: 64 KiB.
const REQUEST_SECTORS_MAX: u64 = 128;
/// Sectors per request of the last, complete reading: 256 KiB.
const FINAL_READ_SECTORS: u64 = 512;
/// Mismatches and errors told in words; all are counted.
const WORDS_MAX: usize = 20;

/// What to write, how, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Marks every sector, so that two writers' data can be told apart; never use one twice on the same region. It also
    /// makes the choices repeatable.
    pub seed: u64,
    /// First byte of the region; a multiple of 512.
    pub offset_bytes: u64,
    /// Length of the region; up to the volume's end when absent.
    pub length_bytes: Option<u64>,
    /// Requests in flight.
    pub depth: usize,
    /// Requests per second at most; no limit when absent.
    pub rate: Option<f64>,
    /// How long a lost connection is tried again; zero: any loss is an error.
    pub reconnect: Duration,
    /// How long to write; until [`Writer::stop`] when absent.
    pub duration: Option<Duration>,
    /// The region reads as zeroes before the first write.
    pub zeroed: bool,
    /// Trim too, and expect zeroes afterwards.
    pub trim: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            // Data that an earlier writer left there must not pass for ours.
            seed: rand::random(),
            offset_bytes: 0,
            length_bytes: None,
            depth: 8,
            rate: None,
            reconnect: Duration::ZERO,
            duration: None,
            zeroed: false,
            trim: false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Of the writer.
    pub seed: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Clears and trims acknowledged.
    pub clears: u64,
    /// Reads answered and verified.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Failed requests and wrong sectors.
    pub errors: u64,
    /// The first of them in words.
    pub error_words: Vec<String>,
    /// Longest time from a request to its answer, in milliseconds.
    pub longest_pause_ms: f64,
    /// Connections made again.
    pub reconnects: u64,
    /// Sectors verified by the last, complete reading.
    pub verified_sectors: u64,
    /// Length of the run in seconds.
    pub seconds: f64,
}

impl Summary {
    /// No error, and everything was verified at the end.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    fn error(&mut self, words: String) {
        self.errors += 1;
        if self.error_words.len() < WORDS_MAX {
            self.error_words.push(words);
        }
    }
}

/// A writer at work in a thread of its own.
#[derive(Debug)]
pub struct Writer {
    control: Arc<Control>,
    thread: JoinHandle<(Summary, Model)>,
}

/// What is told to a writer, and heard from it, while it works.
#[derive(Debug, Default)]
struct Control {
    stop: AtomicBool,
    answered: AtomicU64,
    errors: AtomicU64,
    pause_micros_max: AtomicU64,
}

impl Writer {
    /// Connects and begins.
    pub fn start(target: &Target, plan: Plan) -> Result<Writer, Error> {
        let options = Options {
            reconnect: plan.reconnect,
            ..Options::default()
        };
        let client = Client::open(target, options)?;
        let region = region(&plan, client.export().size_bytes)?;
        if client.export().read_only() {
            return Err(Error::Refused("the export is read-only".into()));
        }
        let control = Arc::new(Control::default());
        let thread = thread::Builder::new().name("verified-writer".into()).spawn({
            let control = control.clone();
            move || Run::new(client, plan, region, control).run()
        })?;
        Ok(Writer { control, thread })
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.control.answered.load(Ordering::Relaxed)
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.control.errors.load(Ordering::Relaxed)
    }

    /// The longest time from a request to its answer since this was last asked.
    pub fn take_longest_pause(&self) -> Duration {
        Duration::from_micros(self.control.pause_micros_max.swap(0, Ordering::Relaxed))
    }

    /// Whether it has come to its end by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Asks it to stop; it still waits for its answers and reads everything once more.
    pub fn ask_to_stop(&self) {
        self.control.stop.store(true, Ordering::Relaxed);
    }

    /// Stops it, or waits for its end: what happened and what the region must contain.
    pub fn finish(self) -> (Summary, Model) {
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// [`Writer::ask_to_stop`] and [`Writer::finish`].
    pub fn stop(self) -> (Summary, Model) {
        self.ask_to_stop();
        self.finish()
    }
}

/// Reads everything a model knows through `target` and compares.
pub fn check(
    target: &Target,
    model: &Model,
    depth: usize,
    after_power_failure: bool,
) -> Result<Summary, Error> {
    let client = Client::open(target, Options::default())?;
    let end_bytes = model.region().end * SECTOR_BYTES;
    if end_bytes > client.export().size_bytes {
        let message = format!(
            "the region ends at byte {end_bytes}, the volume at {}",
            client.export().size_bytes
        );
        return Err(Error::Refused(message));
    }
    let began = Instant::now();
    let mut summary = Summary {
        seed: model.seed(),
        ..Summary::default()
    };
    read_everything(&client, model, depth, after_power_failure, &mut summary);
    summary.seconds = began.elapsed().as_secs_f64();
    Ok(summary)
}

fn region(plan: &Plan, size_bytes: u64) -> Result<Range<u64>, Error> {
    let end = match plan.length_bytes {
        Some(length) => plan.offset_bytes.saturating_add(length),
        None => size_bytes / SECTOR_BYTES * SECTOR_BYTES,
    };
    let whole = [plan.offset_bytes, end]
        .iter()
        .all(|bytes| bytes.is_multiple_of(SECTOR_BYTES));
    if !whole || plan.offset_bytes >= end || end > size_bytes {
        let message = format!(
            "bytes {}..{end} are no region of a volume of {size_bytes} bytes",
            plan.offset_bytes
        );
        return Err(Error::Refused(message));
    }
    Ok(plan.offset_bytes / SECTOR_BYTES..end / SECTOR_BYTES)
}

/// What is in flight under a cookie.
#[derive(Debug)]
enum Flight {
    Write {
        sectors: Range<u64>,
        version: Version,
        fua: bool,
    },
    Read {
        sectors: Range<u64>,
        expectation: Expectation,
    },
    Flush {
        mark: u64,
    },
}

impl Flight {
    /// Whether a request over `sectors` may be under way beside this one. Two writes have no order, so no model could
    /// tell who wins; a read beside a clear could not tell old zeroes from new ones.
    fn bears(&self, sectors: &Range<u64>, what: What) -> bool {
        let overlaps = |other: &Range<u64>| other.start < sectors.end && sectors.start < other.end;
        match (self, what) {
            (Flight::Flush { .. }, _) | (Flight::Read { .. }, What::Read | What::Write) => true,
            (Flight::Write { sectors, version, .. }, What::Read) => {
                *version != Version::zeroes(version.sequence()) || !overlaps(sectors)
            }
            (Flight::Write { sectors, .. } | Flight::Read { sectors, .. }, _) => !overlaps(sectors),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write,
    Clear,
    Read,
}

struct Run {
    client: Client,
    plan: Plan,
    control: Arc<Control>,
    model: Model,
    random: StdRng,
    flights: HashMap<u64, Flight>,
    answer_to: Sender<Completion>,
    answers: Receiver<Completion>,
    summary: Summary,
    dead: bool,
}

impl Run {
    fn new(client: Client, plan: Plan, region: Range<u64>, control: Arc<Control>) -> Run {
        let (answer_to, answers) = mpsc::channel();
        Run {
            model: Model::new(plan.seed, region, plan.zeroed),
            random: StdRng::seed_from_u64(plan.seed),
            client,
            plan,
            control,
            flights: HashMap::new(),
            answer_to,
            answers,
            summary: Summary::default(),
            dead: false,
        }
    }

    fn run(mut self) -> (Summary, Model) {
        let began = Instant::now();
        let mut submitted = 0u64;
        while !self.over(began) {
            let due = self
                .plan
                .rate
                .map_or(u64::MAX, |rate| (began.elapsed().as_secs_f64() * rate) as u64 + 1);
            while self.flights.len() < self.plan.depth.max(1) && submitted < due {
                self.submit();
                submitted += 1;
            }
            self.take_answers();
        }
        while !self.flights.is_empty() {
            self.take_answers();
        }
        if !self.dead {
            let depth = self.plan.depth.max(1);
            read_everything(&self.client, &self.model, depth, false, &mut self.summary);
        }
        self.summary.seed = self.plan.seed;
        self.summary.reconnects = self.client.reconnects();
        self.summary.seconds = began.elapsed().as_secs_f64();
        (self.summary, self.model)
    }

    fn over(&self, began: Instant) -> bool {
        let timed_out = self
            .plan
            .duration
            .is_some_and(|duration| began.elapsed() >= duration);
        self.dead || timed_out || self.control.stop.load(Ordering::Relaxed)
    }

    fn submit(&mut self) {
        let export = self.client.export().clone();
        let fua = export.can_fua() && self.random.random_ratio(1, 16);
        let (request, flight) = match self.random.random_range(0..100) {
            0..3 if export.can_flush() => (
                Request::Flush,
                Flight::Flush {
                    mark: self.model.begin_flush(),
                },
            ),
            3..6 if export.can_write_zeroes() => {
                let Some(sectors) = self.choose(What::Clear) else {
                    return;
                };
                let version = self.model.begin_zeroes(sectors.clone());
                let (offset, length) = bytes(&sectors);
                let no_hole = self.random.random_bool(0.5);
                (
                    Request::WriteZeroes {
                        offset,
                        length,
                        no_hole,
                        fua,
                    },
                    Flight::Write {
                        sectors,
                        version,
                        fua,
                    },
                )
            }
            6..8 if export.can_trim() && self.plan.trim => {
                let Some(sectors) = self.choose(What::Clear) else {
                    return;
                };
                let version = self.model.begin_zeroes(sectors.clone());
                let (offset, length) = bytes(&sectors);
                (
                    Request::Trim { offset, length },
                    Flight::Write {
                        sectors,
                        version,
                        fua: false,
                    },
                )
            }
            0..60 => {
                let Some(sectors) = self.choose(What::Write) else {
                    return;
                };
                let (version, data) = self.model.begin_data(sectors.clone());
                let (offset, _) = bytes(&sectors);
                (
                    Request::Write {
                        offset,
                        data: data.into(),
                        fua,
                    },
                    Flight::Write {
                        sectors,
                        version,
                        fua,
                    },
                )
            }
            _ => {
                let Some(sectors) = self.choose(What::Read) else {
                    return;
                };
                let expectation = self.model.expect(sectors.clone());
                let (offset, length) = bytes(&sectors);
                (
                    Request::Read { offset, length },
                    Flight::Read { sectors, expectation },
                )
            }
        };
        let cookie = self.client.submit(request, &self.answer_to);
        self.flights.insert(cookie, flight);
    }

    /// Sectors that what is in flight leaves free; none if the region is crowded.
    fn choose(&mut self, what: What) -> Option<Range<u64>> {
        let region = self.model.region();
        let region_sectors = region.end - region.start;
        for _ in 0..16 {
            let sectors = match self.random.random_range(0..10) {
                // Mostly what file systems do: whole, aligned 4 KiB blocks.
                0..6 => 8,
                6..9 => 8 * self.random.random_range(1..=REQUEST_SECTORS_MAX / 8),
                _ => self.random.random_range(1..=REQUEST_SECTORS_MAX),
            }
            .min(region_sectors);
            let mut start = region.start + self.random.random_range(0..=region_sectors - sectors);
            if sectors % 8 == 0 && start - start % 8 >= region.start {
                start -= start % 8;
            }
            let chosen = start..start + sectors;
            if self.flights.values().all(|flight| flight.bears(&chosen, what)) {
                return Some(chosen);
            }
        }
        None
    }

    fn take_answers(&mut self) {
        match self.answers.recv_timeout(TICK) {
            Ok(completion) => self.take(completion),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(completion) = self.answers.try_recv() {
            self.take(completion);
        }
    }

    fn take(&mut self, completion: Completion) {
        let Some(flight) = self.flights.remove(&completion.cookie) else {
            return;
        };
        let pause_ms = completion.latency.as_secs_f64() * 1000.0;
        self.summary.longest_pause_ms = self.summary.longest_pause_ms.max(pause_ms);
        self.control
            .pause_micros_max
            .fetch_max(completion.latency.as_micros() as u64, Ordering::Relaxed);
        match (flight, completion.result) {
            (
                Flight::Write {
                    sectors,
                    version,
                    fua,
                },
                Ok(_),
            ) => {
                match completion.request {
                    Request::Write { .. } => self.summary.writes += 1,
                    _ => self.summary.clears += 1,
                }
                self.model.acknowledge(sectors, version, fua);
            }
            (Flight::Read { expectation, .. }, Ok(Answer::Data(data))) => {
                self.summary.reads += 1;
                for mismatch in self.model.check(&expectation, &data) {
                    self.summary.error(mismatch.to_string());
                }
            }
            (Flight::Flush { mark }, Ok(_)) => {
                self.summary.flushes += 1;
                self.model.flushed(mark);
            }
            (flight, Ok(answer)) => self
                .summary
                .error(format!("{flight:?} was answered by {answer:?}")),
            (flight, Err(error)) => {
                self.dead |= !matches!(error, Error::Server(_));
                let what = match &flight {
                    Flight::Write { sectors, version, .. } => format!("{version} to sectors {sectors:?}"),
                    Flight::Read { sectors, .. } => format!("read of sectors {sectors:?}"),
                    Flight::Flush { .. } => "flush".to_owned(),
                };
                self.summary.error(format!("{what}: {error}"));
            }
        }
        self.control.answered.fetch_add(1, Ordering::Relaxed);
        self.control.errors.store(self.summary.errors, Ordering::Relaxed);
    }
}

fn bytes(sectors: &Range<u64>) -> (u64, u32) {
    (
        sectors.start * SECTOR_BYTES,
        ((sectors.end - sectors.start) * SECTOR_BYTES) as u32,
    )
}

/// Nothing may be in flight.
fn read_everything(
    client: &Client,
    model: &Model,
    depth: usize,
    after_power_failure: bool,
    summary: &mut Summary,
) {
    let (answer_to, answers) = mpsc::channel();
    let region = model.region();
    let mut next = region.start;
    let mut flights: HashMap<u64, Range<u64>> = HashMap::new();
    while next < region.end || !flights.is_empty() {
        while next < region.end && flights.len() < depth {
            let sectors = next..region.end.min(next + FINAL_READ_SECTORS);
            next = sectors.end;
            let (offset, length) = bytes(&sectors);
            flights.insert(
                client.submit(Request::Read { offset, length }, &answer_to),
                sectors,
            );
        }
        let Ok(completion) = answers.recv() else { return };
        let Some(sectors) = flights.remove(&completion.cookie) else {
            continue;
        };
        match completion.result {
            Ok(Answer::Data(data)) => {
                let mismatches = match after_power_failure {
                    true => model.check_after_power_failure(sectors.start, &data),
                    false => model.check(&model.expect(sectors.clone()), &data),
                };
                summary.verified_sectors += sectors.end - sectors.start;
                mismatches
                    .iter()
                    .for_each(|mismatch| summary.error(mismatch.to_string()));
            }
            Ok(answer) => summary.error(format!("read of sectors {sectors:?} was answered by {answer:?}")),
            Err(error) => summary.error(format!("last read of sectors {sectors:?}: {error}")),
        }
    }
}
