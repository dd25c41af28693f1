//! Does a volume keep every acknowledged write while things happen to it? The verified writer as a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::nbd::Target;
use bench::verify::State;
use bench::writer::{Plan, Summary, Writer, check};
use clap::Parser;

/// Writes and reads an NBD export at random, all the time, and verifies every byte it reads.
///
/// Every sector says who wrote it and in which write, so stale, lost, torn, misplaced and foreign content is told
/// apart. Ends with a complete reading. Exit status 0 only if nothing failed and everything was verified.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME
    #[arg(long, conflicts_with_all = ["socket", "tcp"], required_unless_present_any = ["socket", "tcp"])]
    uri: Option<Target>,
    /// Unix socket of the server
    #[arg(long, conflicts_with = "tcp")]
    socket: Option<PathBuf>,
    /// HOST:PORT of the server
    #[arg(long)]
    tcp: Option<String>,
    /// Name of the export
    #[arg(long, default_value = "")]
    export: String,
    /// How long to write; until SIGTERM or SIGINT when absent
    #[arg(long)]
    seconds: Option<f64>,
    /// First byte to write to
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Length of the region in bytes; to the end when absent
    #[arg(long)]
    length: Option<u64>,
    /// Requests in flight
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Seconds to try a lost connection again; 0: any loss is an error
    #[arg(long, default_value_t = 0.0)]
    reconnect: f64,
    /// Marks this writer's data; never use one twice on the same region [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Requests per second at most
    #[arg(long)]
    rate: Option<f64>,
    /// The region reads as zeroes before the first write
    #[arg(long)]
    zeroed: bool,
    /// Trim too, and expect zeroes afterwards (poold promises that; not every server does)
    #[arg(long)]
    trim: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Where to save what the region must contain
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write nothing: compare the region with what was saved in FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state", "seconds", "offset", "length", "rate"])]
    check: Option<PathBuf>,
    /// With --check: the power failed, so only flushed writes must be there
    #[arg(long, requires = "check")]
    after_power_failure: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(summary) if summary.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nbd-writer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Summary> {
    let target = match (&arguments.uri, &arguments.socket, &arguments.tcp) {
        (Some(target), ..) => target.clone(),
        (None, Some(socket), _) => Target::unix(socket, &arguments.export),
        (None, None, Some(address)) => Target::tcp(address, &arguments.export),
        (None, None, None) => bail!("no target"),
    };
    let summary = match &arguments.check {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            let state: State =
                serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))?;
            let model = state.into_model().map_err(anyhow::Error::msg)?;
            check(
                &target,
                &model,
                arguments.depth.into(),
                arguments.after_power_failure,
            )?
        }
        None => write(arguments, &target)?,
    };
    print(arguments, &summary)?;
    Ok(summary)
}

fn write(arguments: &Arguments, target: &Target) -> Result<Summary> {
    let seconds = |value: f64| Duration::try_from_secs_f64(value).with_context(|| format!("{value} seconds"));
    let plan = Plan {
        seed: arguments.seed.unwrap_or_else(rand::random),
        offset_bytes: arguments.offset,
        length_bytes: arguments.length,
        depth: arguments.depth.into(),
        rate: arguments.rate,
        reconnect: seconds(arguments.reconnect)?,
        duration: arguments.seconds.map(seconds).transpose()?,
        zeroed: arguments.zeroed,
        trim: arguments.trim,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).context("listen to signals")?;
    }
    let writer = Writer::start(target, plan).with_context(|| format!("open {target}"))?;
    while !writer.is_finished() {
        if stop.load(Ordering::Relaxed) {
            writer.ask_to_stop();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let (summary, model) = writer.finish();
    if let Some(file) = &arguments.state {
        let text = serde_json::to_vec(&State::of(&model)).context("save the state")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(summary)
}

fn print(arguments: &Arguments, summary: &Summary) -> Result<()> {
    for words in &summary.error_words {
        eprintln!("nbd-writer: {words}");
    }
    if arguments.json {
        println!("{}", serde_json::to_string(summary).context("print the summary")?);
        return Ok(());
    }
    println!(
        "writes {} clears {} reads {} flushes {} errors {} longest_pause_ms {:.3} reconnects {} verified_sectors {} seconds {:.1}",
        summary.writes,
        summary.clears,
        summary.reads,
        summary.flushes,
        summary.errors,
        summary.longest_pause_ms,
        summary.reconnects,
        summary.verified_sectors,
        summary.seconds
    );
    Ok(())
}
