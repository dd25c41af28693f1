//! `poolctl migrate`: how does a volume move to another host while it is written?

use api::ApiError;
use api::pool::Migrate;
use clap::Args;
use model::{NodeId, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Move a replica, primary or not, to another host while guests write
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl migrate web --to c
  pool-migrate web --to c --from a --timeout 10min

Four phases: join (a replica on the new host), sync, hand-over of the primary role, leave (the old replica goes).
Guests stay connected; the end says what was copied and how long they paused at most.

Next: poolctl volume show web; while it runs: poolctl job list")]
pub struct MigrateArgs {
    /// The volume
    name: VolumeName,
    /// The host that gets a replica
    #[arg(long, value_name = "NODE")]
    to: NodeId,
    /// The host that gives its replica up [default: the primary's]
    #[arg(long, value_name = "NODE")]
    from: Option<NodeId>,
    #[command(flatten)]
    change: Change,
    /// Whether and how long to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// Answers `poolctl migrate`.
pub async fn run(args: MigrateArgs, context: &Context) -> Result<Ending, ApiError> {
    let request = Migrate {
        volume: args.name.to_string(),
        to: args.to.to_string(),
        from: args.from.map(|from| from.to_string()),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.migrate(&request).await?;
    job::finish(changed, args.waiting, context).await
}
