//! `poolctl volume snapshot`: which versions of a volume are kept, and how does one come back?

use api::ApiError;
use api::pool::{CreateSnapshot, DeleteSnapshot, RestoreSnapshot, SnapshotList};
use clap::{Args, Subcommand};
use model::{SnapshotName, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::{Ending, say};
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `volume snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    Create(CreateArgs),
    List(ListArgs),
    Delete(DeleteArgs),
    Restore(RestoreArgs),
}

/// Keep the present version of a volume, the same on every replica, while it is in use
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume snapshot create web before-upgrade

It holds every write that was answered before, as after a power cut: freeze the guest's file system first if that is not enough. A
replica that is being filled has none (exit 5). Where the file system cannot share blocks it is a copy: the replica's disk waits for
it, its log does not.

Next: poolctl volume snapshot list web")]
pub struct CreateArgs {
    /// The volume
    name: VolumeName,
    /// What to call it [default: the time]
    snapshot: Option<SnapshotName>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Show which versions of a volume are kept, and where
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume snapshot list web

kept: it is there. pending: the replica has not come to it. failed: the disk refused. missing: the replica was being filled, or never
came to it. parted: one of this name, of a history that lost a split brain. --json tells the files.

Next: poolctl volume snapshot restore web SNAP")]
pub struct ListArgs {
    /// The volume
    name: VolumeName,
}

/// Give a kept version up on every host; nothing can bring it back
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume snapshot delete web before-upgrade --dry-run

A host that is away drops it when it is back.

Next: poolctl volume snapshot list web")]
pub struct DeleteArgs {
    /// The volume
    name: VolumeName,
    /// Which
    snapshot: SnapshotName,
    #[command(flatten)]
    change: Change,
}

/// Bring the contents of a kept version back, on all replicas; what was written since is gone
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume snapshot restore web before-upgrade

What differs is written like a guest's writes: replicas follow, and other snapshots stay. Refused while guests are connected. Until it
has ended, contents are a mixture of before and after. Keep the present version first: poolctl volume snapshot create web

Next: poolctl volume attach web --door nbd")]
pub struct RestoreArgs {
    /// The volume
    name: VolumeName,
    /// Which
    snapshot: SnapshotName,
    /// Although guests are connected: they see contents change under them
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume snapshot …`.
pub async fn run(command: SnapshotCommand, context: &Context) -> Result<Ending, ApiError> {
    let (client, output) = (&context.client, context.output);
    match command {
        SnapshotCommand::Create(args) => {
            let request = CreateSnapshot {
                snapshot: args.snapshot.map(|snapshot| snapshot.to_string()),
                dry_run: args.change.dry_run,
            };
            let changed = client
                .volume_snapshot_create(args.name.as_str(), &request)
                .await?;
            job::finish(changed, args.waiting, context).await
        }
        SnapshotCommand::List(args) => {
            let list = client.volume_snapshots(args.name.as_str()).await?;
            match output.is_json() {
                true => output.object(&list)?,
                false if list.snapshots.is_empty() => {
                    let name = &list.name;
                    say(
                        &format!("{name} has no snapshot; next: poolctl volume snapshot create {name}"),
                        output,
                    );
                }
                false => output.table(table(&list))?,
            }
            Ok(Ending::Done)
        }
        SnapshotCommand::Delete(args) => {
            let request = DeleteSnapshot {
                snapshot: args.snapshot.to_string(),
                dry_run: args.change.dry_run,
            };
            let changed = client
                .volume_snapshot_delete(args.name.as_str(), &request)
                .await?;
            job::show_change(&changed, output)?;
            Ok(Ending::Done)
        }
        SnapshotCommand::Restore(args) => {
            let request = RestoreSnapshot {
                snapshot: args.snapshot.to_string(),
                force: args.force,
                dry_run: args.change.dry_run,
            };
            let changed = client
                .volume_snapshot_restore(args.name.as_str(), &request)
                .await?;
            job::finish(changed, args.waiting, context).await
        }
    }
}

/// One line for each replica of each.
fn table(list: &SnapshotList) -> Grid {
    let mut grid = Grid::new(&[
        "SNAPSHOT", "CREATED", "SIZE", "AT", "NODE", "STATE", "USED", "WHY",
    ]);
    for row in &list.snapshots {
        for (i, replica) in row.replicas.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            grid.row(vec![
                Field::text(first(row.snapshot.clone())),
                Field::text(first(row.created.clone())),
                Field::number(first(row.size_bytes.map_or("?".to_owned(), output::bytes))),
                Field::number(first(row.at.map_or("?".to_owned(), |at| at.to_string()))),
                Field::text(&replica.node),
                Field::text(replica.state.word()),
                Field::number(output::bytes(replica.used_bytes)),
                Field::text(replica.reason.as_deref().unwrap_or("")),
            ]);
        }
    }
    grid
}
