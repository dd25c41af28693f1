//! `poolctl status`: how does the whole pool stand, what is wrong, and what should be typed next?

use std::time::Duration;

use api::pool::{Job, NodeState, PoolState, Status, Volume};
use api::{ApiError, ErrorKind};
use clap::Args;

use crate::error::Ending;
use crate::output::{self, Field, Grid, Mood, Output, mood};
use crate::progress;
use crate::run::Context;
use crate::{node, volume};

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show the whole pool on one screen; exit 7 when it is degraded
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl status --watch

The last line says what is wrong and what to type next, or that everything is up to date.
With --json and --watch every line on stdout is one object.

Next: poolctl volume show NAME, poolctl node show NAME")]
pub struct StatusArgs {
    /// Look again every second, until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// Answers `poolctl status`.
pub async fn run(args: StatusArgs, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    if args.watch {
        return watch(context).await;
    }
    let status = context.client.status().await?;
    match output.is_json() {
        true => output.object(&status)?,
        false => output.line(&screen(&status, output))?,
    }
    Ok(match status.state {
        PoolState::Healthy => Ending::Done,
        PoolState::Degraded => Ending::But(ErrorKind::Degraded),
    })
}

/// Looks again and again; a poold that is away for a while is a line on the screen, not the end.
async fn watch(context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    let terminal = console::Term::stdout();
    let mut shown = String::new();
    loop {
        let text = match context.client.status().await {
            Ok(status) if output.is_json() => {
                output.object(&status)?;
                None
            }
            Ok(status) => Some(screen(&status, output)),
            Err(error) if error.kind == ErrorKind::Unavailable && !output.is_json() => {
                Some(format!("{}\n{}", error.message, error.hint.unwrap_or_default()))
            }
            Err(error) => return Err(error),
        };
        if let Some(text) = text.filter(|text| *text != shown) {
            if terminal.is_term() {
                terminal
                    .clear_screen()
                    .map_err(|error| ApiError::failed(format!("cannot clear the screen: {error}")))?;
            }
            output.line(&text)?;
            shown = text;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Everything, as text.
fn screen(status: &Status, output: Output) -> String {
    let mut parts = vec![head(status, output)];
    parts.extend(
        [node::table(&status.nodes), volumes(status)]
            .into_iter()
            .filter_map(|table| (!table.is_empty()).then(|| table.render(output))),
    );
    parts.push(verdict(status, output));
    parts.join("\n\n")
}

fn head(status: &Status, output: Output) -> String {
    let state = match status.state {
        PoolState::Healthy => "healthy",
        PoolState::Degraded => "degraded",
    };
    let online = status
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Online)
        .count();
    if let Some(node) = &status.seen_from {
        return format!(
            "{}: {}, its catalog cannot be reached; this is what node {node} alone knows",
            output.bold(&format!("pool {}", status.pool)),
            output.state(state),
        );
    }
    let free: u64 = status.nodes.iter().map(|node| node.free_bytes).sum();
    let size: u64 = status.nodes.iter().map(|node| node.size_bytes).sum();
    format!(
        "{}: {}, {online} of {} hosts online, {} of {} free, {}",
        output.bold(&format!("pool {}", status.pool)),
        output.state(state),
        status.nodes.len(),
        output::bytes(free),
        output::bytes(size),
        output::count(status.volumes.len(), "volume"),
    )
}

/// Volumes with a line per replica and door.
fn volumes(status: &Status) -> Grid {
    let mut grid = Grid::new(&[
        "VOLUME", "SIZE", "K", "STATE", "PRIMARY", "REPLICA", "STATE", "LAG", "DOOR", "JOB",
    ]);
    for volume in &status.volumes {
        let doors = volume::doors(&volume.doors);
        for line in 0..volume.replicas.len().max(doors.len()).max(1) {
            let mut row = if line == 0 {
                volume_fields(volume)
            } else {
                vec![Field::text(""); 5]
            };
            match volume.replicas.get(line) {
                Some(replica) => row.extend([
                    Field::text(&replica.node),
                    Field::state(&replica.state),
                    Field::text(volume::lag(replica)),
                ]),
                None => row.extend(vec![Field::text(""); 3]),
            }
            row.push(Field::text(
                doors.get(line).map(String::as_str).unwrap_or_default(),
            ));
            let job = volume.job.as_ref().filter(|_| line == 0);
            row.push(Field::text(
                job.map(|id| job_words(id, &status.jobs)).unwrap_or_default(),
            ));
            grid.row(row);
        }
    }
    grid
}

fn volume_fields(volume: &Volume) -> Vec<Field> {
    vec![
        Field::text(&volume.name),
        Field::number(output::bytes(volume.size_bytes)),
        Field::number(volume.replicas.len()),
        Field::state(&volume.state),
        Field::text(volume.primary.as_deref().unwrap_or("none")),
    ]
}

/// A job in a few words; `job show` has the rest.
fn job_words(id: &str, jobs: &[Job]) -> String {
    match jobs.iter().find(|job| job.id == id) {
        Some(job) => format!("{id} {}: {}", job.kind.word(), progress::brief(job)),
        None => id.to_owned(),
    }
}

/// What is wrong and what to type next, or that all is well.
fn verdict(status: &Status, output: Output) -> String {
    let mut lines: Vec<String> = status
        .problems
        .iter()
        .map(|problem| format!("{} {problem}", output.warning("!")))
        .collect();
    let kept: u64 = status.volumes.iter().map(|volume| volume.kept_histories).sum();
    if let Some(first) = status.volumes.iter().find(|volume| volume.kept_histories > 0) {
        lines.push(format!(
            "{} of former split brains kept, the first of volume {}: poolctl volume split-brain show {1}",
            output::count(kept as usize, "log"),
            first.name
        ));
    }
    let late = |volume: &&Volume| mood(&volume.state) == Mood::Busy;
    if let (true, Some(volume)) = (lines.is_empty(), status.volumes.iter().find(late)) {
        lines.push(format!("volume {} is {}", volume.name, volume.state));
    }
    match next(status) {
        Some(next) => lines.push(format!("next: {next}")),
        None if lines.is_empty() => lines.push("everything is up to date".to_owned()),
        None => lines.push("next: poolctl events".to_owned()),
    }
    lines.join("\n")
}

/// The command that helps most now: a host that is away explains its replicas, so hosts come first.
fn next(status: &Status) -> Option<String> {
    if status.seen_from.is_some() {
        return Some("on the host that holds the catalog: systemctl status poold".to_owned());
    }
    if let Some(node) = status.nodes.iter().find(|node| node.state != NodeState::Online) {
        let daemon = if node.state == NodeState::MarsdDown {
            "marsd"
        } else {
            "poold"
        };
        return Some(format!(
            "on host {}: systemctl status {daemon}; here: poolctl node show {0}",
            node.name
        ));
    }
    let bad = |volume: &&Volume| {
        mood(&volume.state) == Mood::Bad
            || volume
                .replicas
                .iter()
                .any(|replica| mood(&replica.state) == Mood::Bad)
    };
    if let Some(volume) = status.volumes.iter().find(bad) {
        return Some(format!("poolctl volume show {}", volume.name));
    }
    if status.nodes.iter().all(|node| node.size_bytes == 0) {
        return Some("poolctl vg add vg0 --dir DIR".to_owned());
    }
    if let Some(job) = status.jobs.first() {
        return Some(format!("poolctl job watch {}", job.id));
    }
    let late = |volume: &&Volume| mood(&volume.state) != Mood::Good;
    if let Some(volume) = status.volumes.iter().find(late) {
        return Some(format!("poolctl volume show {}", volume.name));
    }
    if status.volumes.is_empty() && status.problems.is_empty() {
        return Some("poolctl volume create NAME SIZE --replicas 2".to_owned());
    }
    None
}
