//! `poolctl volume`: what can be done with one volume?

mod create;
mod door;
mod log;
mod replica;
mod resize;
mod set;
mod show;
mod snapshot;
mod source;
mod split;
pub mod verify;

use api::ApiError;
use api::pool::DeleteVolume;
use clap::{Args, Subcommand};
use model::VolumeName;

use crate::cli::{Change, Waiting};
use crate::error::{Ending, say};
use crate::job;
use crate::run::Context;

pub use show::{doors, lag};

/// Verbs of `volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    Create(create::CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Delete(DeleteArgs),
    Join(replica::JoinArgs),
    Leave(replica::LeaveArgs),
    Primary(replica::PrimaryArgs),
    Secondary(replica::SecondaryArgs),
    Resize(resize::ResizeArgs),
    Set(set::SetArgs),
    Pause(set::PauseArgs),
    Resume(set::ResumeArgs),
    Source(source::SourceArgs),
    Up(set::UpArgs),
    Down(set::DownArgs),
    Invalidate(replica::InvalidateArgs),
    FakeSync(replica::FakeSyncArgs),
    Attach(door::AttachArgs),
    Detach(door::DetachArgs),
    Verify(verify::VerifyArgs),
    /// Versions of a volume that are kept
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Histories of replicas that have parted
    #[command(subcommand)]
    SplitBrain(split::SplitBrainCommand),
    /// The transaction log of a volume
    #[command(subcommand)]
    Log(log::LogCommand),
}

/// List all volumes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume list

Next: poolctl volume show NAME")]
pub struct ListArgs {}

/// Show one volume: its replicas, how far they are, its doors
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume show web

Positions are bytes since the volume's log began; WRITTEN BACK is on the disk, COMMITTED is durable in the log,
ACKNOWLEDGED is what the primary knows of the replica. LAG is what the replica does not have durably yet.

Next: poolctl volume join|leave|primary|attach NAME …")]
pub struct ShowArgs {
    /// The volume
    name: VolumeName,
}

/// Delete a volume and its data on every host; its doors must be closed
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume delete web --dry-run

Next, if a door is open: poolctl volume detach web")]
pub struct DeleteArgs {
    /// The volume
    name: VolumeName,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume …`.
pub async fn run(command: VolumeCommand, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match command {
        VolumeCommand::Create(args) => create::run(args, context).await,
        VolumeCommand::List(ListArgs {}) => {
            let volumes = context.client.volumes().await?;
            match output.is_json() {
                true => output.object(&volumes)?,
                false if volumes.volumes.is_empty() => {
                    say(
                        "there is no volume yet; next: poolctl volume create NAME SIZE --replicas 2",
                        output,
                    );
                }
                false => output.table(show::list(&volumes.volumes))?,
            }
            Ok(Ending::Done)
        }
        VolumeCommand::Show(args) => {
            let volume = context.client.volume(args.name.as_str()).await?;
            match output.is_json() {
                true => output.object(&volume)?,
                false => show::show(&volume, output)?,
            }
            Ok(Ending::Done)
        }
        VolumeCommand::Delete(args) => {
            let request = DeleteVolume {
                dry_run: args.change.dry_run,
            };
            let changed = context.client.volume_delete(args.name.as_str(), &request).await?;
            job::finish(changed, args.waiting, context).await
        }
        VolumeCommand::Join(args) => replica::join(args, context).await,
        VolumeCommand::Leave(args) => replica::leave(args, context).await,
        VolumeCommand::Primary(args) => replica::primary(args, context).await,
        VolumeCommand::Resize(args) => resize::run(args, context).await,
        VolumeCommand::Set(args) => set::set(args, context).await,
        VolumeCommand::Pause(args) => set::pause(args, context).await,
        VolumeCommand::Resume(args) => set::resume(args, context).await,
        VolumeCommand::Source(args) => source::run(args, context).await,
        VolumeCommand::Up(args) => set::up(args, context).await,
        VolumeCommand::Down(args) => set::down(args, context).await,
        VolumeCommand::Invalidate(args) => replica::invalidate(args, context).await,
        VolumeCommand::FakeSync(args) => replica::fake_sync(args, context).await,
        VolumeCommand::Secondary(args) => replica::secondary(args, context).await,
        VolumeCommand::Attach(args) => door::attach(args, context).await,
        VolumeCommand::Detach(args) => door::detach(args, context).await,
        VolumeCommand::Verify(args) => verify::run(args, context).await,
        VolumeCommand::Snapshot(command) => snapshot::run(command, context).await,
        VolumeCommand::SplitBrain(command) => split::run(command, context).await,
        VolumeCommand::Log(command) => log::run(command, context).await,
    }
}
