//! What does a person see while a job runs? A bar on a terminal, a line at each change elsewhere, nothing for scripts.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use api::pool::Job;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{self, Output};

/// Without a terminal, a line at most this often while a phase lasts.
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// The phases in which a volume is gone through; only there do percent, rate and time to go mean something.
const MEASURED: [&str; 2] = ["sync", "compare"];

/// What a job does now and which part of it that is: `sync (2 of 4)`.
pub fn phase(job: &Job) -> String {
    match job.phases.iter().position(|phase| *phase == job.phase) {
        Some(index) if job.phases.len() > 1 => {
            format!("{} ({} of {})", job.phase, index + 1, job.phases.len())
        }
        _ => job.phase.clone(),
    }
}

/// What a job does, and to what: `migrate web`, `drain c`.
pub fn title(job: &Job) -> String {
    let object = match (&job.from, job.volume.is_empty()) {
        (Some(node), true) => node,
        _ => &job.volume,
    };
    format!("{} {object}", job.kind.word())
}

/// Phase and percent, for a column.
pub fn brief(job: &Job) -> String {
    if MEASURED.contains(&job.phase.as_str()) {
        format!("{} {}", job.phase, output::percent(job.percent))
    } else {
        job.phase.clone()
    }
}

/// How far a sync or a comparison is, as far as is known; in other phases what the job waits for.
pub fn figures(job: &Job) -> String {
    if !MEASURED.contains(&job.phase.as_str()) {
        return job.message.clone();
    }
    let mut parts = vec![output::percent(job.percent)];
    if job.total_bytes > 0 {
        parts.push(format!(
            "{} of {}",
            output::bytes(job.done_bytes),
            output::bytes(job.total_bytes)
        ));
    }
    if job.rate_bytes_per_second > 0 {
        parts.push(format!("{}/s", output::bytes(job.rate_bytes_per_second)));
    }
    if let Some(eta) = job.eta_seconds {
        parts.push(format!("{} left", output::seconds(eta)));
    }
    parts.join(", ")
}

/// Shows one job on stderr.
pub struct Progress(Form);

enum Form {
    /// Made with the first figures, so that it is never drawn empty.
    Bar(Option<ProgressBar>),
    Lines {
        last: String,
        phase: String,
        at: Instant,
    },
    Nothing,
}

impl Progress {
    /// For the form of output that was asked for.
    pub fn new(output: Output) -> Progress {
        if output.is_json() {
            return Progress(Form::Nothing);
        }
        if !std::io::stderr().is_terminal() {
            return Progress(Form::Lines {
                last: String::new(),
                phase: String::new(),
                at: Instant::now(),
            });
        }
        Progress(Form::Bar(None))
    }

    /// Shows how far the job is now.
    pub fn update(&mut self, job: &Job) {
        match &mut self.0 {
            Form::Bar(bar) => {
                let bar = bar.get_or_insert_with(|| {
                    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
                    bar.with_style(style()).with_prefix(title(job))
                });
                bar.set_message(with_figures(job));
                bar.set_position((job.percent.clamp(0.0, 100.0) * 10.0) as u64);
                bar.tick();
            }
            Form::Lines { last, phase, at } => {
                let line = format!("{}: {}", title(job), with_figures(job));
                if *phase != job.phase || (at.elapsed() >= LINE_INTERVAL && *last != line) {
                    // Nobody to talk to is no reason to stop waiting for the job.
                    let _ = writeln!(std::io::stderr(), "{line}");
                    phase.clone_from(&job.phase);
                    *last = line;
                    *at = Instant::now();
                }
            }
            Form::Nothing => {}
        }
    }

    /// Takes the bar away, so that the summary stands alone.
    pub fn finish(self) {
        if let Form::Bar(Some(bar)) = self.0 {
            bar.finish_and_clear();
        }
    }
}

fn with_figures(job: &Job) -> String {
    let figures = figures(job);
    if figures.is_empty() {
        phase(job)
    } else {
        format!("{}: {figures}", phase(job))
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:.bold} {bar:20.cyan/dim} {msg}")
        .expect("the template is a constant that a test renders")
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;

    #[test]
    fn figures_leave_out_what_is_not_known() {
        let mut job = job();
        job.phase = "sync".to_owned();
        job.percent = 42.0;
        assert_eq!(figures(&job), "42.0%");
        assert_eq!(phase(&job), "sync (2 of 4)");
        job.done_bytes = 42 << 20;
        job.total_bytes = 100 << 20;
        job.rate_bytes_per_second = 1 << 20;
        job.eta_seconds = Some(58.0);
        assert_eq!(
            with_figures(&job),
            "sync (2 of 4): 42.0%, 42 MiB of 100 MiB, 1 MiB/s, 58 s left"
        );
    }

    #[test]
    fn outside_the_sync_the_job_says_what_it_waits_for() {
        let mut job = job();
        job.message = "waits for b".to_owned();
        assert_eq!(with_figures(&job), "hand-over (3 of 4): waits for b");
    }

    #[test]
    fn the_bar_can_be_drawn() {
        ProgressBar::hidden().set_style(style());
    }
}
