//! `poolctl volume join|leave|primary`: which hosts have a replica, and which one writes?

use api::ApiError;
use api::pool::OnNode;
use clap::Args;
use model::{NodeId, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Give a host a replica; ends when it is whole
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume join web c

Next: poolctl volume primary web c")]
pub struct JoinArgs {
    #[command(flatten)]
    of: Replica,
}

/// Take a host's replica away; its copy of the data is removed
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume leave web a

Next, if it is the primary: poolctl volume primary web OTHER")]
pub struct LeaveArgs {
    #[command(flatten)]
    of: Replica,
}

/// Hand the primary role over to a replica that is up to date; guests stay connected
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume primary web b

Next: poolctl volume show web")]
pub struct PrimaryArgs {
    #[command(flatten)]
    of: Replica,
}

#[derive(Debug, Args)]
struct Replica {
    /// The volume
    name: VolumeName,
    /// The host
    node: NodeId,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

impl Replica {
    fn request(&self) -> OnNode {
        OnNode {
            node: self.node.to_string(),
            dry_run: self.change.dry_run,
        }
    }
}

/// Answers `poolctl volume join`.
pub async fn join(args: JoinArgs, context: &Context) -> Result<Ending, ApiError> {
    let changed = context
        .client
        .volume_join(args.of.name.as_str(), &args.of.request())
        .await?;
    job::finish(changed, args.of.waiting, context).await
}

/// Answers `poolctl volume leave`.
pub async fn leave(args: LeaveArgs, context: &Context) -> Result<Ending, ApiError> {
    let changed = context
        .client
        .volume_leave(args.of.name.as_str(), &args.of.request())
        .await?;
    job::finish(changed, args.of.waiting, context).await
}

/// Answers `poolctl volume primary`.
pub async fn primary(args: PrimaryArgs, context: &Context) -> Result<Ending, ApiError> {
    let changed = context
        .client
        .volume_primary(args.of.name.as_str(), &args.of.request())
        .await?;
    job::finish(changed, args.of.waiting, context).await
}
