//! Does the engine keep its promises under these seeds? The simulator as a command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sim::Shape;

/// Last lines shown of a seed that failed.
const FAILED_LINES: usize = 50;

/// Simulates clusters with every kind of fault, one per seed, and checks every promise of the engine.
#[derive(Parser)]
#[command(name = "sim", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[cfg(feature = "museum")]
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How many seeds to live
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Live this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Find the shortest story of this seed that breaks the same promise
    #[arg(long, requires = "seed", conflicts_with = "shape")]
    shrink: bool,
    /// Live only what this leaves of the seed, as --shrink prints it
    #[arg(long, requires = "seed", default_value = "")]
    shape: Shape,
    /// Let this mutant of the museum loose
    #[cfg(feature = "museum")]
    #[arg(long, requires = "seed")]
    mutant: Option<String>,
    /// Threads [default: one per core]
    #[arg(long, conflicts_with = "seed")]
    jobs: Option<usize>,
}

/// What else can be done.
#[cfg(feature = "museum")]
#[derive(clap::Subcommand)]
enum Verb {
    /// Lets published bugs of others loose in the engine, one at a time, and looks for each until it is found
    Museum {
        /// Threads [default: one per core]
        #[arg(long)]
        jobs: Option<usize>,
        /// Time on a core after which one search is given up, in seconds
        #[arg(long, default_value_t = 600)]
        seconds_max: u64,
        /// Only mutants whose name contains this
        #[arg(long, default_value = "")]
        only: String,
    },
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kept = match arguments.seed {
        #[cfg(feature = "museum")]
        _ if arguments.verb.is_some() => museum(&arguments),
        Some(seed) => {
            #[cfg(feature = "museum")]
            if let Some(name) = &arguments.mutant {
                let all = mars::museum::Mutant::ALL.iter().copied();
                let found = all.into_iter().find(|mutant| format!("{mutant:?}") == *name);
                if found.is_none() {
                    eprintln!("sim: no mutant is named `{name}`; `sim museum --help` says how to list them");
                    return ExitCode::FAILURE;
                }
                mars::museum::let_loose(found);
            }
            if arguments.shrink {
                shortest(seed)
            } else {
                one(seed, &arguments.shape, arguments.trace)
            }
        }
        None => many(&arguments),
    };
    match kept {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads us has seen enough, as with `sim --seed 1 --trace | head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sim: cannot print: {e}");
            ExitCode::FAILURE
        }
    }
}

fn shortest(seed: u64) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let Some(shrunk) = sim::shrink(seed) else {
        writeln!(out, "seed {seed}: every promise was kept")?;
        return Ok(true);
    };
    let shape = &shrunk.shape;
    writeln!(
        out,
        "the last of {} lines:",
        sim::run_shaped(seed, shape, usize::MAX).trace.len()
    )?;
    for line in sim::run_shaped(seed, shape, FAILED_LINES).trace {
        writeln!(out, "{line}")?;
    }
    let (now, before) = (shrunk.script.len(), shrunk.troubles_before);
    writeln!(
        out,
        "\n{now} of {before} troubles are left, after {} lives:",
        shrunk.tries
    )?;
    for line in &shrunk.script {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "FAILED {}\nagain: sim --seed {seed} --shape {shape} --trace",
        shrunk.failure.what
    )?;
    Ok(false)
}

fn one(seed: u64, shape: &Shape, trace: bool) -> io::Result<bool> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let outcome = sim::run_shaped(seed, shape, if trace { usize::MAX } else { 0 });
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    for (kind, count) in &outcome.counts {
        writeln!(out, "{count:>12}  {kind}")?;
    }
    let seconds = outcome.virtual_micros as f64 / 1e6;
    writeln!(
        out,
        "seed {seed}: {seconds:.3} virtual seconds, digest {:016x}",
        outcome.digest
    )?;
    match &outcome.failure {
        None => writeln!(out, "every promise was kept")?,
        Some(failure) => writeln!(out, "FAILED {}", failure.what)?,
    }
    out.flush()?;
    Ok(outcome.failure.is_none())
}

fn many(arguments: &Arguments) -> io::Result<bool> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}")
        .expect("the template is well formed");
    let progress = ProgressBar::new(arguments.seeds).with_style(style);
    let mut failed = 0;
    let report = sim::run_seeds(
        arguments.from,
        arguments.seeds,
        arguments.jobs.unwrap_or_else(cores),
        |outcome| {
            if let Some(failure) = &outcome.failure {
                failed += 1;
                progress.set_message(format!("{failed} failed"));
                // A long campaign is looked into before it ends.
                progress.suspend(|| eprintln!("seed {} FAILED {}", outcome.seed, failure.what));
            }
            progress.inc(1);
        },
    );
    progress.finish_and_clear();
    let mut out = io::stdout().lock();
    if let Some((seed, failure)) = report.failures.first_key_value() {
        writeln!(out, "seed {seed} FAILED {}\nthe last lines of it:", failure.what)?;
        for line in sim::run_seed(*seed, FAILED_LINES).trace {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{report}")?;
    Ok(report.failures.is_empty())
}

#[cfg(feature = "museum")]
fn museum(arguments: &Arguments) -> io::Result<bool> {
    let Some(Verb::Museum {
        jobs,
        seconds_max,
        only,
    }) = &arguments.verb
    else {
        return Ok(true);
    };
    let all = mars::museum::Mutant::ALL.iter().copied();
    let mutants: Vec<_> = all
        .filter(|mutant| format!("{mutant:?}").contains(only))
        .collect();
    let time_max = std::time::Duration::from_secs(*seconds_max);
    let exhibits = sim::visit(&mutants, jobs.unwrap_or_else(cores), time_max, |exhibit| {
        let seen = exhibit
            .seen
            .as_ref()
            .map_or("", |(_, what)| what.lines().next().unwrap_or(""));
        eprintln!("{:?}: {:?} {seen}", exhibit.mutant, exhibit.found_after);
    });
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| mutant | what goes wrong | published as | found after (median, on one core) | seed |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for exhibit in &exhibits {
        writeln!(out, "{exhibit}")?;
    }
    let found = exhibits.iter().filter(|exhibit| exhibit.is_found()).count();
    writeln!(
        out,
        "\n{found} of {} found in every range of seeds",
        exhibits.len()
    )?;
    Ok(found == exhibits.len())
}
