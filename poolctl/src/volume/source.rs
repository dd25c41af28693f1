//! `poolctl volume source`: from whom does a replica get its log?

use api::ApiError;
use api::pool::SetSource;
use clap::Args;
use model::{NodeId, VolumeName};

use crate::cli::Change;
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Let a replica get its log from another replica rather than from the primary
#[derive(Debug, Args)]
#[command(
    after_help = "Example, so that a second replica in a far data centre fetches nothing over the long line:
  poolctl volume source web c b

The sources are tried in the order given; one that does not answer is left alone for a while, and the primary serves
meanwhile. Without a source it is the primary again.

Next: poolctl volume show web"
)]
pub struct SourceArgs {
    /// The volume
    name: VolumeName,
    /// Whose replica
    node: NodeId,
    /// Other hosts with a replica, best first
    sources: Vec<NodeId>,
    #[command(flatten)]
    change: Change,
}

/// Answers `poolctl volume source`.
pub async fn run(args: SourceArgs, context: &Context) -> Result<Ending, ApiError> {
    let request = SetSource {
        node: args.node.to_string(),
        sources: args.sources.iter().map(ToString::to_string).collect(),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.volume_source(args.name.as_str(), &request).await?;
    job::show_change(&changed, context.output)?;
    Ok(Ending::Done)
}
