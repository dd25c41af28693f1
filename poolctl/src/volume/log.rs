//! `poolctl volume log`: where is each replica's log?

use api::ApiError;
use api::pool::VolumeLog;
use clap::{Args, Subcommand};
use model::VolumeName;

use crate::error::Ending;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `volume log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    Show(ShowArgs),
}

/// Show positions, sizes and the chain digest of the log on every replica
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume log show web

Positions are bytes since the log began: TRIMMED <= WRITTEN BACK <= TOUCHED <= COMMITTED <= APPENDED.
LEVEL says how much trouble the room for the log gives: normal, throttled (guests are slowed), dropping (it stops waiting for laggards),
unlogged (changes go straight to the disk), stalled (it waits). HELD BY says for whom the primary keeps its oldest part.
Two replicas at the same APPENDED position have the same chain digest, or their histories have parted.

Next: poolctl volume verify web")]
pub struct ShowArgs {
    /// The volume
    name: VolumeName,
}

/// Answers `poolctl volume log …`.
pub async fn run(command: LogCommand, context: &Context) -> Result<Ending, ApiError> {
    let LogCommand::Show(args) = command;
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
