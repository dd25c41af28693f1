//! `poolctl volume join|leave|primary|secondary`: which hosts have a replica, and which one writes?

use api::ApiError;
use api::pool::{MakePrimary, OnNode};
use clap::Args;
use model::{NodeId, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::{Ending, say};
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
  poolctl volume primary web b --force --dry-run

With --force the replica takes over without being granted the role: for a primary that is dead or cut off. It says first
what is lost (bytes of log, seconds); --dry-run only says it. A former primary that comes back is told, and what it has
written in the meantime is not part of the volume.

Next: poolctl volume show web")]
pub struct PrimaryArgs {
    #[command(flatten)]
    of: Replica,
    /// Take over without asking the present primary; what it has and the host has not is lost
    #[arg(long)]
    force: bool,
}

/// Let the primary step down for nobody; nobody is served until a replica is made primary
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume secondary web

Next: poolctl volume primary web NODE")]
pub struct SecondaryArgs {
    /// The volume
    name: VolumeName,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Throw a replica's contents away and fill it again by a full sync
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume invalidate web c

For a replica whose disk or log is damaged or not trusted. Only what differs is copied. The primary's contents are the
volume and cannot be invalidated.

Next: poolctl volume show web")]
pub struct InvalidateArgs {
    #[command(flatten)]
    of: Replica,
}

/// Call a replica whole without comparing it; only for whoever knows that its disk is right
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume fake-sync web c

For disks that are known to be equal, such as two new ones of zeroes. It shows as faked until a full sync or a verification
has said the same.

Next: poolctl volume verify web")]
pub struct FakeSyncArgs {
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
    let (name, client) = (args.of.name.as_str(), &context.client);
    let request = MakePrimary {
        node: args.of.node.to_string(),
        force: args.force,
        dry_run: args.of.change.dry_run,
    };
    if args.force && !request.dry_run {
        let told = client
            .volume_primary(
                name,
                &MakePrimary {
                    dry_run: true,
                    ..request.clone()
                },
            )
            .await?;
        told.steps.iter().for_each(|step| say(step, context.output));
    }
    let changed = client.volume_primary(name, &request).await?;
    job::finish(changed, args.of.waiting, context).await
}

/// Answers `poolctl volume secondary`.
pub async fn secondary(args: SecondaryArgs, context: &Context) -> Result<Ending, ApiError> {
    let request = api::pool::Change {
        dry_run: args.change.dry_run,
    };
    let changed = context
        .client
        .volume_secondary(args.name.as_str(), &request)
        .await?;
    job::finish(changed, args.waiting, context).await
}

/// Answers `poolctl volume invalidate`.
pub async fn invalidate(args: InvalidateArgs, context: &Context) -> Result<Ending, ApiError> {
    let changed = context
        .client
        .volume_invalidate(args.of.name.as_str(), &args.of.request())
        .await?;
    job::finish(changed, args.of.waiting, context).await
}

/// Answers `poolctl volume fake-sync`.
pub async fn fake_sync(args: FakeSyncArgs, context: &Context) -> Result<Ending, ApiError> {
    let changed = context
        .client
        .volume_fake_sync(args.of.name.as_str(), &args.of.request())
        .await?;
    job::finish(changed, args.of.waiting, context).await
}
