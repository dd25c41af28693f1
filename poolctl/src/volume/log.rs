//! `poolctl volume log`: where is each replica's log, for whom is it kept, and how does its space come back?

use api::ApiError;
use api::pool::{OnNodes, VolumeLog};
use clap::{Args, Subcommand};
use model::{NodeId, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::Ending;
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `volume log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    Show(ShowArgs),
    Rotate(RotateArgs),
    Trim(TrimArgs),
}

/// Show positions, sizes and the chain digest of the log on every replica
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume log show web

Positions are bytes since the log began: TRIMMED <= WRITTEN BACK <= TOUCHED <= COMMITTED <= APPENDED.
Two replicas at the same APPENDED position have the same chain digest, or their histories have parted. KEPT is what is
there behind TRIMMED.
LEVEL says how much trouble the room for the log gives: normal, throttled (guests are slowed), dropping (it stops waiting for laggards),
unlogged (changes go straight to the disk), stalled (it waits). HELD BY says for whom the primary keeps its oldest part.

Next: poolctl volume log trim web")]
pub struct ShowArgs {
    /// The volume
    name: VolumeName,
}

/// Let the log go over to another file on every replica, while it is written
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume log rotate web

Space is given back by whole files, and a file is full after 64 MiB; after this, a trim gives back everything up to here.

Next: poolctl volume log trim web")]
pub struct RotateArgs {
    #[command(flatten)]
    of: Of,
}

/// Give back what nobody needs of the log, however little it is
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume log trim web

This happens by itself when there is more of it. What write-back or a replica still needs stays.

Next: poolctl volume log show web")]
pub struct TrimArgs {
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
struct Of {
    /// The volume
    name: VolumeName,
    /// Only on this host
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

impl Of {
    fn request(&self) -> OnNodes {
        OnNodes {
            node: self.node.as_ref().map(ToString::to_string),
            dry_run: self.change.dry_run,
        }
    }
}

/// Answers `poolctl volume log …`.
pub async fn run(command: LogCommand, context: &Context) -> Result<Ending, ApiError> {
    let client = &context.client;
    let (changed, waiting) = match command {
        LogCommand::Show(args) => return show(&args, context).await,
        LogCommand::Rotate(RotateArgs { of }) => {
            let changed = client.volume_log_rotate(of.name.as_str(), &of.request()).await?;
            (changed, of.waiting)
        }
        LogCommand::Trim(TrimArgs { of }) => {
            let changed = client.volume_log_trim(of.name.as_str(), &of.request()).await?;
            (changed, of.waiting)
        }
    };
    job::finish(changed, waiting, context).await
}

async fn show(args: &ShowArgs, context: &Context) -> Result<Ending, ApiError> {
    let log = context.client.volume_log(args.name.as_str()).await?;
    match context.output.is_json() {
        true => context.output.object(&log)?,
        false => context.output.table(table(&log))?,
    }
    Ok(Ending::Done)
}

fn table(log: &VolumeLog) -> Grid {
    let mut grid = Grid::new(&[
        "NODE",
        "ROLE",
        "EPOCH",
        "TRIMMED",
        "WRITTEN BACK",
        "TOUCHED",
        "COMMITTED",
        "APPENDED",
        "KEPT",
        "BUDGET",
        "LEVEL",
        "HELD BY",
        "CHAIN DIGEST",
    ]);
    for row in &log.replicas {
        grid.row(vec![
            Field::text(&row.node),
            Field::text(&row.role),
            Field::text(&row.epoch),
            Field::number(row.trimmed),
            Field::number(row.written_back),
            Field::number(row.touched),
            Field::number(row.committed),
            Field::number(row.appended),
            Field::number(output::bytes(row.kept_bytes)),
            Field::number(output::bytes(row.budget_bytes)),
            Field::text(&row.pressure),
            Field::text(row.held_by.as_deref().unwrap_or_default()),
            Field::text(&row.chain_digest),
        ]);
    }
    grid
}
