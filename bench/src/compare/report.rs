//! What came out? Medians, spread, ratios, as a page for people and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::Course;
use super::contestant::Kind;
use super::job::{Job, Sample};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// `(what, which)`.
    pub machine: Vec<(String, String)>,
    /// `(name, command)`.
    pub contestants: Vec<(String, String)>,
    /// How often everything was measured.
    pub rounds: usize,
    /// Length of one measurement in seconds.
    pub seconds: f64,
    /// Length of each volume.
    pub size_bytes: u64,
    /// One per job and contestant.
    pub rows: Vec<Row>,
}

/// What one contestant did in one job.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The job.
    pub job: String,
    /// Whether bytes per second say more.
    pub sequential: bool,
    /// The contestant.
    pub contestant: String,
    /// Median over the rounds.
    pub iops: f64,
    /// Median over the rounds.
    pub bytes_per_second: f64,
    /// Best minus worst round, as a part of the median.
    pub spread: f64,
    /// Median over the rounds of each round's median, in microseconds.
    pub latency_us_p50: f64,
    /// Median over the rounds of each round's 99th percentile.
    pub latency_us_p99: f64,
    /// Requests per second as a multiple of the raw file's in the same round; median.
    pub to_raw: Option<f64>,
    /// The same beside `qemu-storage-daemon` through the page cache.
    pub to_qsd: Option<f64>,
}

impl Report {
    pub(super) fn new(
        course: &Course,
        machine: Vec<(String, String)>,
        contestants: Vec<(String, String)>,
        samples: &[Sample],
    ) -> Report {
        let mut rows = Vec::new();
        for job in &course.jobs {
            for kind in &course.kinds {
                rows.push(row(*job, *kind, samples));
            }
        }
        Report {
            schema: 1,
            machine,
            contestants,
            rounds: course.rounds,
            seconds: course.duration.as_secs_f64(),
            size_bytes: course.size_bytes,
            rows,
        }
    }

    /// The page `docs/benchmarks.md`.
    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        let mut line = |text: String| {
            page.push_str(&text);
            page.push('\n');
        };
        line("## Machine\n\n| | |\n|---|---|".into());
        self.machine
            .iter()
            .for_each(|(what, which)| line(format!("| {what} | {which} |")));
        line(format!(
            "\n{} rounds of {} s each; volumes of {} MiB, written once before.\n",
            self.rounds,
            self.seconds,
            self.size_bytes >> 20
        ));
        line("## Contestants\n".into());
        self.contestants
            .iter()
            .for_each(|(name, command)| line(format!("- **{name}**: `{command}`")));
        line("\n## Results".into());
        let mut job = "";
        for row in &self.rows {
            if row.job != job {
                job = &row.job;
                let unit = if row.sequential { "MiB/s" } else { "requests/s" };
                line(format!("\n### {job}\n"));
                line(format!(
                    "| | {unit} | spread | p50 µs | p99 µs | to raw | to qsd |"
                ));
                line("|---|---:|---:|---:|---:|---:|---:|".into());
            }
            line(row.line());
        }
        page
    }
}

impl Row {
    fn line(&self) -> String {
        let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let speed = match self.sequential {
            true => self.bytes_per_second / f64::from(1 << 20),
            false => self.iops,
        };
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _infallible = write!(
            line,
            "| {} | {speed:.0} | ±{:.0} % | {:.0} | {:.0} | {} | {} |",
            self.contestant,
            self.spread * 50.0,
            self.latency_us_p50,
            self.latency_us_p99,
            ratio(self.to_raw),
            ratio(self.to_qsd)
        );
        line
    }
}

fn row(job: Job, kind: Kind, samples: &[Sample]) -> Row {
    let of = |kind: Kind| {
        let (job, contestant) = (job.name(), kind.name());
        samples
            .iter()
            .filter(move |sample| sample.job == job && sample.contestant == contestant)
    };
    let median_of = |figure: fn(&Sample) -> f64| median(of(kind).map(figure).collect()).unwrap_or(0.0);
    let ratio_to = |other: Kind| {
        let ratios = of(kind).filter_map(|sample| {
            let rival = of(other).find(|rival| rival.round == sample.round)?;
            (rival.iops > 0.0).then(|| sample.iops / rival.iops)
        });
        median(ratios.collect())
    };
    let iops = median_of(|sample| sample.iops);
    let best = of(kind).map(|sample| sample.iops).fold(0.0, f64::max);
    let worst = of(kind).map(|sample| sample.iops).fold(f64::INFINITY, f64::min);
    Row {
        job: job.name(),
        sequential: job.is_sequential(),
        contestant: kind.name(),
        iops,
        bytes_per_second: median_of(|sample| sample.bytes_per_second),
        spread: if iops > 0.0 { (best - worst) / iops } else { 0.0 },
        latency_us_p50: median_of(|sample| sample.latency_us_p50),
        latency_us_p99: median_of(|sample| sample.latency_us_p99),
        to_raw: ratio_to(Kind::Raw),
        to_qsd: ratio_to(Kind::QsdCached),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => values.get(middle).copied(),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

const HEAD: &str = "# Benchmarks

Written by `make bench`; do not edit. Everybody serves a volume on the same file system; jobs alternate in random order
within every round; ratios are taken within a round, and their median over the rounds is shown. Rows that we lose stay.

- **raw** is the file itself by O_DIRECT: no server, no process in between. Reads of the others may come from the page
  cache, which is why they can be faster.
- **qsd** is `qemu-storage-daemon` through the page cache. Its promise for a plain write is ours: it survives `kill -9`
  of the server; a flush makes it durable. **qsd-direct** is the same with O_DIRECT and io_uring.
- **poold-k2** has both replicas on this one machine: each write is written twice, by the same disk and processors.
- fio's NBD engine does not wait for the flushes of `fdatasync=1`; the row with flushes is measured by our own client for
  every server alike, and by write + fdatasync for the raw file.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let sample = |kind: Kind, round, iops| Sample {
            job: Job::WriteFlush.name(),
            contestant: kind.name(),
            round,
            iops,
            bytes_per_second: 0.0,
            latency_us_p50: 0.0,
            latency_us_p99: 0.0,
        };
        // The machine was ten times slower in the second round; the ratio stays.
        let samples = [
            sample(Kind::Raw, 0, 1000.0),
            sample(Kind::Ours(1), 0, 500.0),
            sample(Kind::Raw, 1, 100.0),
            sample(Kind::Ours(1), 1, 50.0),
        ];
        let row = row(Job::WriteFlush, Kind::Ours(1), &samples);
        assert_eq!(row.to_raw, Some(0.5));
        assert_eq!(row.to_qsd, None);
    }
}
