//! `poolctl volume resize`: how does a volume get longer while it is in use?

use api::ApiError;
use api::pool::ResizeVolume;
use clap::Args;
use model::{VolumeName, VolumeSize};

use crate::cli::{Change, Waiting, parse_volume_size};
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Make a volume longer while it is in use; it never gets shorter
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume resize web 20G

The disks of all replicas grow first, then the volume; the new part reads as zeroes. Guests that are connected see the new
size when they connect again; then the file system in it can grow. A host that is away follows when it is back.

Next: poolctl volume show web")]
pub struct ResizeArgs {
    /// The volume
    name: VolumeName,
    /// How large it is to be
    #[arg(value_parser = parse_volume_size)]
    size: VolumeSize,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume resize`.
pub async fn run(args: ResizeArgs, context: &Context) -> Result<Ending, ApiError> {
    let request = ResizeVolume {
        size_bytes: args.size.bytes(),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.volume_resize(args.name.as_str(), &request).await?;
    job::finish(changed, args.waiting, context).await
}
