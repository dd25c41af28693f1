//! `poolctl limit`: how much may a volume take?

use api::ApiError;
use api::pool::SetLimits;
use clap::{Args, Subcommand};
use model::{VolumeName, parse_size};

use crate::cli::Change;
use crate::error::Ending;
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `limit`.
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    Set(SetArgs),
    Show(ShowArgs),
}

/// Limit how much of the network a volume takes, while it is in use
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl limit set web --sync-rate 100MiB --ship-rate none

Rates are bytes each second, of all replicas of the volume together. They hold over restarts and changes of the primary.

Next: poolctl limit show")]
pub struct SetArgs {
    /// The volume
    name: VolumeName,
    /// For log sent to replicas; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_rate, required_unless_present = "sync_rate")]
    ship_rate: Option<u64>,
    /// For contents sent in full syncs and repairs; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    sync_rate: Option<u64>,
    #[command(flatten)]
    change: Change,
}

/// Show the limits of all volumes, or of one
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl limit show

Next: poolctl limit set NAME --sync-rate 100MiB")]
pub struct ShowArgs {
    /// Only this volume
    name: Option<VolumeName>,
}

/// Reads `100MiB` or `none`, which is 0.
fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    match parse_size(text) {
        Ok(0) => Err("a rate of nothing would stop it; write `none` for no limit".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Answers `poolctl limit …`.
pub async fn run(command: LimitCommand, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match command {
        LimitCommand::Set(args) => {
            let request = SetLimits {
                ship_bytes_per_second: args.ship_rate,
                sync_bytes_per_second: args.sync_rate,
                dry_run: args.change.dry_run,
            };
            let changed = context.client.volume_limits(args.name.as_str(), &request).await?;
            job::show_change(&changed, output)?;
        }
        LimitCommand::Show(args) => {
            let volumes = match args.name {
                Some(name) => vec![context.client.volume(name.as_str()).await?],
                None => context.client.volumes().await?.volumes,
            };
            if output.is_json() {
                let limits: Vec<serde_json::Value> = volumes
                    .iter()
                    .map(|volume| serde_json::json!({ "volume": volume.name, "limits": volume.limits }))
                    .collect();
                output.object(&serde_json::json!({ "volumes": limits }))?;
            } else {
                let mut grid = Grid::new(&["VOLUME", "SHIP RATE", "SYNC RATE"]);
                for volume in &volumes {
                    grid.row(vec![
                        Field::text(&volume.name),
                        Field::number(rate(volume.limits.ship_bytes_per_second)),
                        Field::number(rate(volume.limits.sync_bytes_per_second)),
                    ]);
                }
                output.table(grid)?;
            }
        }
    }
    Ok(Ending::Done)
}

fn rate(limit: Option<u64>) -> String {
    limit.map_or("none".to_owned(), |rate| format!("{}/s", output::bytes(rate)))
}
