//! `poolctl pool`: how does a pool come into the world?

use api::ApiError;
use api::pool::PoolInit;
use clap::{Args, Subcommand};
use model::VolumeName;

use crate::cli::Change;
use crate::error::{Ending, say};
use crate::job;
use crate::output::Output;
use crate::run::Context;

/// Verbs of `pool`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    Init(InitArgs),
    Show(ShowArgs),
}

/// Make a pool with this host as its first; makes the pool's CA
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl pool init --name prod

Next: poolctl vg add vg0 --dir /srv/vg0, then poolctl node token for every further host")]
pub struct InitArgs {
    /// What the pool is called
    #[arg(long, default_value = "main")]
    name: VolumeName,
    #[command(flatten)]
    change: Change,
}

/// Say which pool this host is in
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl pool show

Next: poolctl status")]
pub struct ShowArgs {}

/// Answers `poolctl pool …`.
pub async fn run(command: PoolCommand, context: &Context) -> Result<Ending, ApiError> {
    match command {
        PoolCommand::Init(args) => {
            let request = PoolInit {
                name: args.name.to_string(),
                dry_run: args.change.dry_run,
            };
            let changed = context.client.pool_init(&request).await?;
            job::show_change(&changed, context.output)?;
            if !changed.dry_run {
                say(
                    "next: poolctl vg add vg0 --dir DIR; poolctl node token",
                    context.output,
                );
            }
            Ok(Ending::Done)
        }
        PoolCommand::Show(ShowArgs {}) => {
            let info = context.client.pool_info().await?;
            match context.output.is_json() {
                true => context.output.object(&info)?,
                false => show(&info, context.output)?,
            }
            Ok(Ending::Done)
        }
    }
}

fn show(info: &api::pool::PoolInfo, output: Output) -> Result<(), ApiError> {
    match &info.pool {
        Some(pool) => {
            let catalog = if info.catalog {
                ", which holds the catalog"
            } else {
                ""
            };
            output.line(&format!(
                "{}: this is node {}{catalog}",
                output.bold(pool),
                info.node
            ))?;
        }
        None => {
            output.line(&format!("node {} is in no pool", info.node))?;
            say(
                "next: poolctl pool init, or poolctl node join URL --token T",
                output,
            );
        }
    }
    output.line(&format!(
        "address {}, poold {}",
        info.address, info.program_version
    ))
}
