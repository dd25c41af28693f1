//! Does the engine keep its promises under these seeds? The simulator as a command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Last lines shown of a seed that failed.
const FAILED_LINES: usize = 50;

/// Simulates clusters with every kind of fault, one per seed, and checks every promise of the engine.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Arguments {
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
    /// Threads [default: one per core]
    #[arg(long, conflicts_with = "seed")]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kept = match arguments.seed {
        Some(seed) => one(seed, arguments.trace),
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

fn one(seed: u64, trace: bool) -> io::Result<bool> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let outcome = sim::run_seed(seed, if trace { usize::MAX } else { 0 });
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}")
        .expect("the template is well formed");
    let progress = ProgressBar::new(arguments.seeds).with_style(style);
    let mut failed = 0;
    let report = sim::run_seeds(
        arguments.from,
        arguments.seeds,
        arguments.jobs.unwrap_or(cores),
        |outcome| {
            failed += u64::from(outcome.failure.is_some());
            if failed > 0 {
                progress.set_message(format!("{failed} failed"));
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
