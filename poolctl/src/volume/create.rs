//! `poolctl volume create`: how does a volume come into the world?

use api::ApiError;
use api::pool::{CreateVolume, REPLICAS_MAX};
use clap::Args;
use model::{NodeId, VolumeName, VolumeSize};

use super::set::{MaxLag, ModeWord, parse_lag};
use crate::cli::{Change, Waiting, parse_volume_size};
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Create a volume; it is ready when all its replicas are
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume create web 10G --replicas 2
  poolctl volume create db 1.5T --on a,c

Sizes: 10G, 512MiB, 1.5T or plain bytes; K, M, G, T are powers of 1024; a multiple of 4096.
Names: 1 to 63 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit.

Next: poolctl volume attach web --door nbd")]
pub struct CreateArgs {
    /// What it is called
    name: VolumeName,
    /// How large it is
    #[arg(value_parser = parse_volume_size)]
    size: VolumeSize,
    /// How many replicas, 1 to 8 [default: as many as --on names, else 1]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u32>,
    /// Which replicas a guest's flush waits for
    #[arg(long, value_enum, default_value_t = ModeWord::Async)]
    mode: ModeWord,
    /// A lag above this is alarming: a time such as 5s, a size such as 64M
    #[arg(long, value_name = "TIME|SIZE", value_parser = parse_lag)]
    max_lag: Option<MaxLag>,
    /// These hosts exactly, the first being primary [default: where there is most room]
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    on: Vec<NodeId>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume create`.
pub async fn run(args: CreateArgs, context: &Context) -> Result<Ending, ApiError> {
    let (lag_millis_max, lag_bytes_max) = MaxLag::fields(args.max_lag);
    let request = CreateVolume {
        name: args.name.to_string(),
        size_bytes: args.size.bytes(),
        replicas: args.replicas,
        mode: Some(args.mode.word().to_owned()),
        lag_millis_max,
        lag_bytes_max,
        on: args.on.iter().map(NodeId::to_string).collect(),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.volume_create(&request).await?;
    job::finish(changed, args.waiting, context).await
}
