//! `poolctl volume attach|detach`: where does a guest reach a volume?

use std::path::PathBuf;

use api::ApiError;
use api::control::SwitchWord;
use api::pool::{Attach, Detach, DoorKind};
use clap::{Args, ValueEnum};
use model::{NodeId, VolumeName};

use super::set;
use crate::cli::Change;
use crate::error::{Ending, say};
use crate::job;
use crate::run::Context;

/// Open a door for a guest and print its URI or its socket's path
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume attach web --door nbd
  poolctl volume attach web --door nbd --tcp 127.0.0.1:10809
  qemu-img info \"$(poolctl volume attach web)\"
  poolctl volume attach web --door vhost-user-blk

On a host without a replica it is a remote door: it reaches the primary wherever that is.

Next: give the URI to qemu, nbdcopy or nbd-client, or the path to a virtual machine as the socket of a vhost-user-blk
chardev with reconnect; poolctl volume detach web")]
pub struct AttachArgs {
    /// The volume
    name: VolumeName,
    /// Kind of the door
    #[arg(long, value_enum, default_value_t = Door::Nbd)]
    door: Door,
    /// The host [default: the primary's]
    #[arg(long)]
    node: Option<NodeId>,
    /// A Unix socket at this path [default: in marsd's run directory]
    #[arg(long, value_name = "PATH", conflicts_with = "tcp")]
    path: Option<PathBuf>,
    /// A TCP address instead of a Unix socket; port 0 is any free one; not encrypted, so loopback only
    #[arg(long, value_name = "HOST:PORT")]
    tcp: Option<String>,
    /// Not a door: put the replica itself on this host into service again, its disk and log (see `volume up`)
    #[arg(long, value_name = "NODE", conflicts_with_all = ["node", "path", "tcp", "read_only"])]
    replica: Option<NodeId>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    /// Network block device, for qemu, nbdcopy, nbd-client
    Nbd,
    /// A virtual machine's disk, in memory shared with it
    VhostUserBlk,
}

/// Close the doors of a volume; guests that use them are cut off
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume detach web --node a

Next: poolctl volume show web")]
pub struct DetachArgs {
    /// The volume
    name: VolumeName,
    /// Only those on this host
    #[arg(long)]
    node: Option<NodeId>,
    /// Not a door: take the replica itself on this host out of service, its disk and log; not for the primary
    #[arg(long, value_name = "NODE", conflicts_with = "node")]
    replica: Option<NodeId>,
    #[command(flatten)]
    change: Change,
}

/// Answers `poolctl volume attach`.
pub async fn attach(args: AttachArgs, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    if let Some(node) = args.replica {
        return set::switch(
            &args.name,
            SwitchWord::Attach,
            true,
            Some(node),
            args.change,
            context,
        )
        .await;
    }
    let door = match args.door {
        Door::Nbd => DoorKind::Nbd,
        Door::VhostUserBlk => DoorKind::VhostUserBlk,
    };
    let request = Attach {
        door,
        node: args.node.map(|node| node.to_string()),
        tcp: args.tcp,
        path: args.path.map(crate::vg::absolute).transpose()?,
        read_only: args.read_only,
        dry_run: args.change.dry_run,
    };
    let door = context.client.volume_attach(args.name.as_str(), &request).await?;
    let remote = if door.remote { ", a remote door" } else { "" };
    if output.is_json() {
        output.object(&door)?;
    } else if door.dry_run {
        output.line(&format!(
            "would open a door to {} on {}{remote}",
            door.volume, door.node
        ))?;
    } else {
        output.line(if door.uri.is_empty() {
            &door.path
        } else {
            &door.uri
        })?;
        say(
            &format!("the door to {} is open on {}{remote}", door.volume, door.node),
            output,
        );
    }
    Ok(Ending::Done)
}

/// Answers `poolctl volume detach`.
pub async fn detach(args: DetachArgs, context: &Context) -> Result<Ending, ApiError> {
    if let Some(node) = args.replica {
        return set::switch(
            &args.name,
            SwitchWord::Attach,
            false,
            Some(node),
            args.change,
            context,
        )
        .await;
    }
    let request = Detach {
        node: args.node.map(|node| node.to_string()),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.volume_detach(args.name.as_str(), &request).await?;
    job::show_change(&changed, context.output)?;
    Ok(Ending::Done)
}
