//! What is measured? Jobs for fio, and one that fio's NBD engine cannot do: a flush after every write.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::Rng;
use serde::Serialize;
use serde_json::Value;

use super::contestant::{Contestant, Door};
use super::{Course, text};
use crate::nbd::{Client, Options};

const BLOCK_BYTES: usize = 4096;

/// Kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// fio: `--rw`, block size in bytes, requests in flight.
    Fio(&'static str, u32, u32),
    /// 4 KiB at random, each followed by a flush, one at a time. Our own client: with fdatasync=1 fio's NBD engine does
    /// not wait for its flushes and reports figures no disk has.
    WriteFlush,
}

impl Job {
    /// Everything.
    pub const ALL: [Job; 7] = [
        Job::Fio("randread", 4096, 1),
        Job::Fio("randread", 4096, 32),
        Job::Fio("randwrite", 4096, 1),
        Job::Fio("randwrite", 4096, 32),
        Job::Fio("read", 131_072, 8),
        Job::Fio("write", 131_072, 8),
        Job::WriteFlush,
    ];

    /// Short name for tables.
    pub fn name(self) -> String {
        match self {
            Job::Fio(rw, block_bytes, depth) => format!("{rw} {}k qd{depth}", block_bytes / 1024),
            Job::WriteFlush => "randwrite 4k qd1 + flush".into(),
        }
    }

    /// Whether bytes per second say more than requests per second.
    pub fn is_sequential(self) -> bool {
        matches!(self, Job::Fio("read" | "write", ..))
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Name of the job.
    pub job: String,
    /// Name of the contestant.
    pub contestant: String,
    /// Number of the round, from 0.
    pub round: usize,
    /// Requests per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Median time from request to answer, in microseconds.
    pub latency_us_p50: f64,
    /// 99th percentile of it.
    pub latency_us_p99: f64,
}

/// Writes the whole volume once.
pub(super) fn fill(contestant: &Contestant, size_bytes: u64) -> Result<()> {
    let size = format!("--size={size_bytes}");
    fio(
        contestant,
        &["--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1", &size],
    )
    .map(drop)
}

/// One sample.
pub(super) fn measure(job: Job, contestant: &Contestant, course: &Course, round: usize) -> Result<Sample> {
    let (iops, bytes_per_second, latency_us_p50, latency_us_p99) = match job {
        Job::Fio(rw, block_bytes, depth) => run_fio(contestant, course, rw, block_bytes, depth)?,
        Job::WriteFlush => write_flush(contestant, course)?,
    };
    Ok(Sample {
        job: job.name(),
        contestant: contestant.kind().name(),
        round,
        iops,
        bytes_per_second,
        latency_us_p50,
        latency_us_p99,
    })
}

fn run_fio(
    contestant: &Contestant,
    course: &Course,
    rw: &str,
    block_bytes: u32,
    depth: u32,
) -> Result<(f64, f64, f64, f64)> {
    let output = fio(
        contestant,
        &[
            &format!("--rw={rw}"),
            &format!("--bs={block_bytes}"),
            &format!("--iodepth={depth}"),
            &format!("--size={}", course.size_bytes),
            "--time_based=1",
            &format!("--runtime={}ms", course.duration.as_millis()),
            "--norandommap",
            "--randrepeat=0",
        ],
    )?;
    let side = if rw.ends_with("read") { "read" } else { "write" };
    let side = &output["jobs"][0][side];
    let number = |value: &Value| {
        value
            .as_f64()
            .with_context(|| format!("fio gave no figure: {side}"))
    };
    let percentile = |name: &str| number(&side["clat_ns"]["percentile"][name]).map(|ns| ns / 1000.0);
    let bytes_per_second = number(&side["bw_bytes"])?;
    Ok((
        number(&side["iops"])?,
        bytes_per_second,
        percentile("50.000000")?,
        percentile("99.000000")?,
    ))
}

fn fio(contestant: &Contestant, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new("fio");
    command
        .args(["--name=job", "--output-format=json", "--thread=1"])
        .args(arguments);
    match contestant.door() {
        Door::File(path) => {
            command
                .args(["--ioengine=io_uring", "--direct=1"])
                .arg(format!("--filename={}", text(path)?));
        }
        Door::Nbd(target) => {
            command.arg("--ioengine=nbd").arg(format!("--uri={target}"));
        }
    }
    let output = command
        .output()
        .context("run fio: is the package `fio` installed?")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}{stdout}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // Notes may stand before the object.
    let json = stdout.find('{').map_or("", |start| &stdout[start..]);
    serde_json::from_str(json).with_context(|| format!("understand fio's answer: {stdout}"))
}

fn write_flush(contestant: &Contestant, course: &Course) -> Result<(f64, f64, f64, f64)> {
    let mut random = rand::rng();
    let blocks = course.size_bytes / BLOCK_BYTES as u64;
    let mut data = vec![0; BLOCK_BYTES];
    random.fill(&mut data[..]);
    let offset = || rand::rng().random_range(0..blocks) * BLOCK_BYTES as u64;
    let latencies = match contestant.door() {
        Door::File(path) => {
            let file = OpenOptions::new().write(true).open(path)?;
            repeat(course.duration, || {
                Ok(file
                    .write_all_at(&data, offset())
                    .and_then(|()| file.sync_data())?)
            })?
        }
        Door::Nbd(target) => {
            let client = Client::open(target, Options::default())?;
            let data = bytes::Bytes::from(data);
            repeat(course.duration, || {
                Ok(client
                    .write(offset(), data.clone(), false)
                    .and_then(|()| client.flush())?)
            })?
        }
    };
    let seconds: f64 = latencies.iter().map(Duration::as_secs_f64).sum();
    let iops = latencies.len() as f64 / seconds;
    let percentile = |percent: usize| {
        let index = (latencies.len() * percent / 100).min(latencies.len() - 1);
        latencies[index].as_secs_f64() * 1e6
    };
    Ok((iops, iops * BLOCK_BYTES as f64, percentile(50), percentile(99)))
}

/// How long each call took, the shortest first; at least one.
fn repeat(duration: Duration, mut call: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut latencies = Vec::new();
    while latencies.is_empty() || began.elapsed() < duration {
        let since = Instant::now();
        call()?;
        latencies.push(since.elapsed());
    }
    latencies.sort();
    Ok(latencies)
}
