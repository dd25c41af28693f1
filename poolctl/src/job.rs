//! `poolctl job`: which long work runs, how far is it, how did it end? Other nouns wait for their jobs here.

use std::time::{Duration, Instant};

use api::pool::{Changed, Job, JobKind, JobState, Verdict};
use api::{ApiError, ErrorKind};
use clap::{Args, Subcommand};

use crate::cli::{Change, Waiting, parse_time};
use crate::error::{Ending, say, tell};
use crate::output::{self, Field, Grid, Output};
use crate::progress::{self, Progress};
use crate::run::Context;

/// How long one question about a job may wait for news.
const POLL: Duration = Duration::from_secs(10);

/// A poold that restarts is away for a moment; its jobs go on afterwards, so waiting for them does too.
const ABSENCE_MAX: Duration = Duration::from_secs(30);

/// Between two attempts to reach a poold that is away.
const RETRY: Duration = Duration::from_millis(300);

/// Verbs of `job`.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    List(ListArgs),
    Show(ShowArgs),
    Watch(WatchArgs),
    Cancel(CancelArgs),
}

/// List the jobs that run and those that ran
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl job list --running

Next: poolctl job show ID")]
pub struct ListArgs {
    /// Only those at work
    #[arg(long)]
    running: bool,
}

/// Show one job
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl job show 7

Next: poolctl job watch 7")]
pub struct ShowArgs {
    /// The job, as `poolctl job list` names it
    id: String,
}

/// Wait for the end of a job and show its progress; ends as the job ends
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl job watch 7 --timeout 10min

Next: poolctl status")]
pub struct WatchArgs {
    /// The job, as `poolctl job list` names it
    id: String,
    /// Stop waiting after this time, as in 90s, 10min, 2h; exit 6, the job itself goes on
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,
}

/// Undo a job; where it cannot be undone any more it comes to its end
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl job cancel 7

Next: poolctl job watch 7")]
pub struct CancelArgs {
    /// The job, as `poolctl job list` names it
    id: String,
    #[command(flatten)]
    change: Change,
}

/// Answers `poolctl job …`.
pub async fn run(command: JobCommand, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match command {
        JobCommand::List(args) => {
            let mut jobs = context.client.jobs().await?;
            jobs.jobs.retain(|job| !args.running || !job.state.ended());
            match output.is_json() {
                true => output.object(&jobs)?,
                false if jobs.jobs.is_empty() => say("no jobs", output),
                false => output.table(table(&jobs.jobs))?,
            }
            Ok(Ending::Done)
        }
        JobCommand::Show(args) => {
            let job = context.client.job(&args.id).await?;
            match output.is_json() {
                true => output.object(&job)?,
                false => show(&job, output)?,
            }
            Ok(Ending::Done)
        }
        JobCommand::Watch(args) => {
            let job = watch(&args.id, args.timeout, context).await?;
            end(&job, context).await
        }
        JobCommand::Cancel(args) => {
            let request = api::pool::Change {
                dry_run: args.change.dry_run,
            };
            let changed = context.client.job_cancel(&args.id, &request).await?;
            show_change(&changed, output)?;
            if !changed.dry_run {
                say(&format!("next: poolctl job watch {}", args.id), output);
            }
            Ok(Ending::Done)
        }
    }
}

/// Prints what a change did or would do.
pub fn show_change(changed: &Changed, output: Output) -> Result<(), ApiError> {
    if output.is_json() {
        return output.object(changed);
    }
    if changed.dry_run {
        output.line(&format!(
            "{}: nothing is changed; this would be done:",
            changed.object
        ))?;
    }
    match changed.steps.as_slice() {
        [] => output.line(&format!("{}: nothing to do", changed.object)),
        steps if changed.dry_run => steps
            .iter()
            .try_for_each(|step| output.line(&format!("  {step}"))),
        steps => steps
            .iter()
            .try_for_each(|step| output.line(&format!("{}: {step}", changed.object))),
    }
}

/// Waits for the job of a change, if it has one and waiting is wanted, and says how it ended.
pub async fn finish(changed: Changed, waiting: Waiting, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match &changed.job {
        Some(id) if !changed.dry_run && waiting.wanted() => {
            let job = watch(id, waiting.timeout(), context).await?;
            end(&job, context).await
        }
        job => {
            show_change(&changed, output)?;
            if let (Some(id), false) = (job, changed.dry_run) {
                say(&format!("job {id} does it; next: poolctl job watch {id}"), output);
            }
            Ok(Ending::Done)
        }
    }
}

/// Follows a job until it has ended, with progress on stderr.
async fn watch(id: &str, timeout: Option<Duration>, context: &Context) -> Result<Job, ApiError> {
    let mut progress = Progress::new(context.output);
    let waited = tokio::select! {
        job = follow(id, context, &mut progress) => job,
        () = pause(timeout) => {
            let limit = humantime::format_duration(timeout.unwrap_or_default());
            Err(goes_on(id, format!("job {id} has not ended within {limit}")))
        }
        _ = tokio::signal::ctrl_c() => Err(goes_on(id, format!("stopped waiting for job {id}"))),
    };
    progress.finish();
    waited
}

/// For ever where no limit is given.
async fn pause(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn goes_on(id: &str, message: String) -> ApiError {
    ApiError::timed_out(message)
        .hint(format!(
            "it goes on: poolctl job watch {id}\nto undo it: poolctl job cancel {id}"
        ))
        .object(format!("job {id}"))
}

async fn follow(id: &str, context: &Context, progress: &mut Progress) -> Result<Job, ApiError> {
    let mut job = context.client.job(id).await?;
    let mut heard = Instant::now();
    loop {
        if job.state.ended() {
            return Ok(job);
        }
        progress.update(&job);
        match context.client.job_wait(id, job.revision, POLL).await {
            Ok(next) => {
                job = next;
                heard = Instant::now();
            }
            Err(error) if error.kind == ErrorKind::Unavailable && heard.elapsed() < ABSENCE_MAX => {
                tokio::time::sleep(RETRY).await;
            }
            Err(error) if error.kind == ErrorKind::Unavailable => {
                return Err(error.hint(format!("the job goes on; later: poolctl job watch {id}")));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Prints how a job ended; one that did not do its work is an error.
async fn end(job: &Job, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    let problem = problem(job);
    if output.is_json() {
        output.object(&Job {
            error: problem.clone(),
            ..job.clone()
        })?;
        return Ok(match problem {
            None => Ending::Done,
            Some(error) => {
                tell(&error);
                Ending::But(error.kind)
            }
        });
    }
    if let Some(verify) = &job.verify {
        output.table(crate::volume::verify::table(verify))?;
    }
    let done = problem
        .as_ref()
        .is_none_or(|error| error.kind == ErrorKind::Degraded);
    if done {
        output.line(&summary(job, longest_pause(job, context).await))?;
    }
    if let Some(error) = problem {
        return Err(error);
    }
    let tells = matches!(
        job.kind,
        JobKind::Resolve
            | JobKind::LogRotate
            | JobKind::LogTrim
            | JobKind::DropKept
            | JobKind::Snapshot
            | JobKind::Restore
    );
    if !job.message.is_empty() && tells {
        say(&job.message, output);
    }
    if let Some(next) = next(job) {
        say(&format!("next: {next}"), output);
    }
    Ok(Ending::Done)
}

/// What is wrong with a job that has ended.
fn problem(job: &Job) -> Option<ApiError> {
    let on_job = |error: ApiError| error.object(format!("job {}", job.id));
    match (job.state, &job.error) {
        (_, Some(error)) => Some(error.clone()),
        (JobState::Failed, None) => Some(on_job(ApiError::failed(format!(
            "job {} failed: {}",
            job.id, job.message
        )))),
        (JobState::Cancelled, None) => {
            let what = match job.kind {
                JobKind::Verify => "what it had found stays known",
                JobKind::Restore => "contents are a mixture of before and after",
                JobKind::Drain | JobKind::LogRotate | JobKind::LogTrim | JobKind::DropKept => {
                    "what it had done stays done"
                }
                _ => "what it had done is undone",
            };
            let message = format!("job {} was cancelled; {what}", job.id);
            Some(on_job(ApiError::failed(message)))
        }
        (JobState::Running | JobState::Cancelling | JobState::Done, None) => job
            .verify
            .as_ref()
            .and_then(|verify| crate::volume::verify::problem(&job.volume, verify)),
    }
}

/// The longest time that a request at one of the volume's open doors has waited because the primary moved, in
/// microseconds. It says more about a guest than the gate does, so it is asked for after a hand-over.
async fn longest_pause(job: &Job, context: &Context) -> Option<u64> {
    if !job.phases.iter().any(|phase| phase == "hand-over") {
        return None;
    }
    let volume = context.client.volume(&job.volume).await.ok()?;
    volume.doors.iter().map(|door| door.pause_micros_max).max()
}

/// What a job did, in one sentence.
fn summary(job: &Job, pause: Option<u64>) -> String {
    let volume = &job.volume;
    let node = |node: &Option<String>| node.clone().unwrap_or_else(|| "?".to_owned());
    let mut text = match job.kind {
        JobKind::Create => format!("volume {volume} is ready"),
        JobKind::Delete => format!("volume {volume} is deleted"),
        JobKind::Join => format!("{} has a replica of {volume}", node(&job.to)),
        JobKind::Leave => format!("{} has no replica of {volume} any more", node(&job.from)),
        JobKind::Primary => format!("{} is primary of {volume}", node(&job.to)),
        JobKind::Migrate => format!("{volume} moved from {} to {}", node(&job.from), node(&job.to)),
        JobKind::Verify => match job.verify.as_ref().map(|report| report.verdict) {
            Some(Verdict::Repaired) => {
                format!("what differed is repaired: all replicas of {volume} are equal")
            }
            _ => format!("all replicas of {volume} are equal"),
        },
        JobKind::Invalidate => format!("the replica of {volume} on {} is whole again", node(&job.to)),
        JobKind::Resolve => format!(
            "the history of {volume} on {} lives on everywhere",
            node(&job.from)
        ),
        JobKind::FakeSync => format!("the replica of {volume} on {} counts as whole", node(&job.to)),
        JobKind::Replicas => format!("{volume} has as many replicas as wanted, all whole"),
        JobKind::Drain => format!("{} is drained", node(&job.from)),
        JobKind::LogRotate => format!("the log of {volume} goes on in other files"),
        JobKind::LogTrim => format!("the log of {volume} holds nothing that nobody needs"),
        JobKind::DropKept => format!("what was kept of former histories of {volume} is gone"),
        JobKind::Resize => format!("{volume} has {}", output::bytes(job.total_bytes)),
        JobKind::Snapshot => format!("this version of {volume} is kept"),
        JobKind::Restore => format!(
            "{volume} has its former contents again: {} compared",
            output::bytes(job.total_bytes)
        ),
        JobKind::TakeOver => format!("{} took over {volume}", node(&job.to)),
        JobKind::Secondary => format!("{} is no longer primary of {volume}, nobody is", node(&job.from)),
    };
    if matches!(job.kind, JobKind::Join | JobKind::Migrate | JobKind::Invalidate) {
        text.push_str(&format!(
            ": {} copied, {} compared",
            output::bytes(job.copied_bytes),
            output::bytes(job.total_bytes)
        ));
    }
    if let Some(took) = duration(job) {
        text.push_str(&format!(", in {took}"));
    }
    if let Some(gate) = job.gate_micros_max {
        text.push_str(&format!(
            "; the hand-over held writes for {}",
            output::micros(gate)
        ));
    }
    if let Some(pause) = pause {
        text.push_str(&format!(", longest guest pause so far {}", output::micros(pause)));
    }
    text
}

/// What a person will want to type after it.
fn next(job: &Job) -> Option<String> {
    match job.kind {
        JobKind::Create => Some(format!("poolctl volume attach {} --door nbd", job.volume)),
        JobKind::FakeSync => Some(format!("poolctl volume verify {}", job.volume)),
        JobKind::Join
        | JobKind::Migrate
        | JobKind::Primary
        | JobKind::TakeOver
        | JobKind::Invalidate
        | JobKind::Resolve
        | JobKind::Resize
        | JobKind::Replicas => Some(format!("poolctl volume show {}", job.volume)),
        JobKind::Secondary => Some(format!("poolctl volume primary {} NODE", job.volume)),
        JobKind::Drain => Some(format!(
            "poolctl node reboot-check {}",
            job.from.as_deref().unwrap_or("NODE")
        )),
        JobKind::Snapshot => Some(format!("poolctl volume snapshot list {}", job.volume)),
        JobKind::Restore => Some(format!("poolctl volume attach {} --door nbd", job.volume)),
        JobKind::LogRotate => Some(format!("poolctl volume log trim {}", job.volume)),
        JobKind::Delete | JobKind::Leave | JobKind::Verify | JobKind::LogTrim | JobKind::DropKept => None,
    }
}

/// From request to end in whole seconds, as far as both are known.
fn duration(job: &Job) -> Option<String> {
    let created = humantime::parse_rfc3339_weak(&job.created).ok()?;
    let ended = humantime::parse_rfc3339_weak(job.ended.as_deref()?).ok()?;
    match ended.duration_since(created).ok()?.as_secs() {
        0 => Some("less than a second".to_owned()),
        seconds @ 1..60 => Some(format!("{seconds} s")),
        seconds => Some(output::seconds(seconds as f64)),
    }
}

fn table(jobs: &[Job]) -> Grid {
    let mut grid = Grid::new(&[
        "JOB", "KIND", "VOLUME", "FROM", "TO", "STATE", "PHASE", "PROGRESS", "CREATED",
    ]);
    for job in jobs {
        let running = !job.state.ended();
        grid.row(vec![
            Field::text(&job.id),
            Field::text(job.kind.word()),
            Field::text(&job.volume),
            Field::text(job.from.as_deref().unwrap_or_default()),
            Field::text(job.to.as_deref().unwrap_or_default()),
            Field::state(job.state.word()),
            Field::text(if running {
                progress::phase(job)
            } else {
                String::new()
            }),
            Field::text(match (&job.error, running) {
                (_, true) => progress::figures(job),
                (Some(error), false) => error.message.clone(),
                (None, false) => String::new(),
            }),
            Field::text(&job.created),
        ]);
    }
    grid
}

fn show(job: &Job, output: Output) -> Result<(), ApiError> {
    let title = format!("job {}: {}", job.id, progress::title(job));
    let way = match (&job.from, &job.to) {
        _ if job.volume.is_empty() => String::new(),
        (Some(from), Some(to)) => format!(" from {from} to {to}"),
        (Some(from), None) => format!(" from {from}"),
        (None, Some(to)) => format!(" to {to}"),
        (None, None) => String::new(),
    };
    output.line(&format!(
        "{}{way}: {}",
        output.bold(&title),
        output.state(job.state.word())
    ))?;
    if !job.state.ended() {
        output.line(&format!("  phase    {} of {}", job.phase, job.phases.join(", ")))?;
        let figures = progress::figures(job);
        if !figures.is_empty() {
            output.line(&format!("  now      {figures}"))?;
        }
    }
    let ended = job
        .ended
        .as_deref()
        .map(|ended| format!(", ended {ended}"))
        .unwrap_or_default();
    output.line(&format!("  created  {}{ended}", job.created))?;
    if let Some(verify) = &job.verify {
        output.table(crate::volume::verify::table(verify))?;
    }
    match (problem(job), job.state) {
        (Some(error), _) => {
            output.line(&format!("  error    {}", error.message))?;
            error
                .hint
                .iter()
                .try_for_each(|hint| output.line(&format!("  hint     {hint}")))
        }
        (None, JobState::Done) => output.line(&format!("  result   {}", summary(job, None))),
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A migration at its hand-over.
    pub fn job() -> Job {
        Job {
            id: "7".to_owned(),
            kind: JobKind::Migrate,
            volume: "web".to_owned(),
            state: JobState::Running,
            phase: "hand-over".to_owned(),
            phases: ["join", "sync", "hand-over", "leave"].map(str::to_owned).to_vec(),
            from: Some("a".to_owned()),
            to: Some("c".to_owned()),
            percent: 100.0,
            done_bytes: 0,
            total_bytes: 0,
            copied_bytes: 0,
            rate_bytes_per_second: 0,
            eta_seconds: None,
            gate_micros_max: None,
            message: String::new(),
            error: None,
            verify: None,
            created: "2026-01-01T00:00:00Z".to_owned(),
            ended: None,
            revision: 1,
        }
    }

    #[test]
    fn a_migration_is_summed_up_in_one_sentence() {
        let job = Job {
            state: JobState::Done,
            copied_bytes: 12 << 20,
            total_bytes: 64 << 20,
            gate_micros_max: Some(12_400),
            ended: Some("2026-01-01T00:00:03.200Z".to_owned()),
            ..job()
        };
        assert_eq!(
            summary(&job, None),
            "web moved from a to c: 12 MiB copied, 64 MiB compared, in 3 s; the hand-over held writes for 12.4 ms"
        );
        assert_eq!(
            summary(&job, Some(14_000)),
            "web moved from a to c: 12 MiB copied, 64 MiB compared, in 3 s; the hand-over held writes for 12.4 ms, \
             longest guest pause so far 14.0 ms"
        );
    }

    #[test]
    fn a_job_that_did_not_do_its_work_is_an_error() {
        let kind = |state, error| {
            problem(&Job {
                state,
                error,
                ..job()
            })
            .map(|error| error.kind)
        };
        assert_eq!(kind(JobState::Done, None), None);
        assert_eq!(kind(JobState::Cancelled, None), Some(ErrorKind::Failed));
        assert_eq!(kind(JobState::Failed, None), Some(ErrorKind::Failed));
        assert_eq!(
            kind(JobState::Failed, Some(ApiError::refused("no"))),
            Some(ErrorKind::Refused)
        );
        let degraded = ApiError::new(ErrorKind::Degraded, "b is away");
        assert_eq!(kind(JobState::Done, Some(degraded)), Some(ErrorKind::Degraded));
    }
}
