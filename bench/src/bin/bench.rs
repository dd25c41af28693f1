//! How fast is a volume beside the raw file and beside others who serve NBD? Runs the comparison, writes the page.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::compare::{Course, Job, Kind, run};
use clap::Parser;

/// Compares volumes of ours with the raw file, qemu-nbd and qemu-storage-daemon on the same file system.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A short run with small volumes: shows that everything still works, not how fast it is
    #[arg(long)]
    small: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// MiB per volume
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Where volumes lie; a temporary directory is made in it
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Only contestants with these names
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write the page (Markdown)
    #[arg(long)]
    page: Option<PathBuf>,
    /// Where to write everything (JSON)
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let work = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&arguments.dir);
    let work = work.with_context(|| format!("make a directory in {}", arguments.dir.display()))?;
    let named = |kind: &Kind| arguments.only.is_empty() || arguments.only.contains(&kind.name());
    let mut course = Course {
        dir: work.path().canonicalize().context("find the work directory")?,
        size_bytes: arguments.size_mib << 20,
        rounds: arguments.rounds,
        duration: Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?,
        kinds: Kind::ALL.into_iter().filter(named).collect(),
        jobs: Job::ALL.to_vec(),
    };
    if arguments.small {
        course.size_bytes = 32 << 20;
        course.rounds = 1;
        course.duration = Duration::from_millis(200);
    }
    let report = run(&course, |sample| {
        eprintln!(
            "round {} {:26} {:12} {:>10.0} requests/s {:>8.1} MiB/s",
            sample.round + 1,
            sample.job,
            sample.contestant,
            sample.iops,
            sample.bytes_per_second / f64::from(1 << 20)
        );
    })?;
    let page = report.page();
    match &arguments.page {
        Some(file) => std::fs::write(file, &page).with_context(|| format!("write {}", file.display()))?,
        None => print!("{page}"),
    }
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&report).context("write JSON")?;
        std::fs::write(file, json).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
