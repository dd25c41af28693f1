//! `poolctl vg`: where may hosts keep replicas?

use std::path::PathBuf;

use api::ApiError;
use api::pool::{AddVg, LvmLayout, RemoveVg, Vg};
use clap::{Args, Subcommand};
use model::{NodeId, VolumeName, parse_size};

use crate::cli::Change;
use crate::error::{Ending, say};
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `vg`.
#[derive(Debug, Subcommand)]
pub enum VgCommand {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Give an LVM volume group, or a directory, to the pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl vg add vg0
  poolctl vg add vg0 --thin-pool pool0 --overcommit 2
  poolctl vg add files --dir /srv/files --size 500G
  poolctl vg add thin --dir /srv/thin --size 500G --overcommit 3

Without --dir it is the LVM group of that name: replicas become logical volumes beside those that are there already, which
are left alone.

A group with --overcommit promises more than it has. When it is full, its replicas go out of service until there is room;
poolctl status says so when less than a tenth is left, and then no new replica is placed there.

Next: poolctl volume create web 10G --replicas 2")]
pub struct AddArgs {
    /// Name of the group, without --dir as LVM knows it; several hosts may each have one of the same name
    name: VolumeName,
    /// A directory of sparse files instead: empty or already this group's; made if its parent exists
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Thin volumes in this pool of the LVM group [default: thick volumes]
    #[arg(long, value_name = "LV", conflicts_with = "dir")]
    thin_pool: Option<String>,
    /// Spread each volume over so many disks of the LVM group
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["dir", "thin_pool"], value_parser = clap::value_parser!(u32).range(1..=128))]
    stripes: Option<u32>,
    /// How much of it the pool may use, as in 500G, 1.5T [default: what it, or its file system, has free]
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// How many times that its disks may have together, as in 3 or 1.5: they take room only as they are written
    #[arg(long, value_name = "TIMES", value_parser = parse_times)]
    overcommit: Option<u32>,
    /// The host [default: this one]
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
}

/// Reads `1.5` as 150 percent.
fn parse_times(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        Ok(times) if (1.0..=1000.0).contains(&times) => Ok((times * 100.0).round() as u32),
        _ => Err("write how many times its size, from 1 to 1000, as in 3 or 1.5".to_owned()),
    }
}

/// List all volume groups of the pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl vg list

Next: poolctl node list")]
pub struct ListArgs {}

/// Take a volume group without replicas out of the pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl vg remove vg0 --node c

Next, if it still has replicas: poolctl volume leave VOLUME NODE or poolctl migrate VOLUME --from NODE --to OTHER")]
pub struct RemoveArgs {
    /// Name of the group
    name: VolumeName,
    /// The host [default: this one]
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
}

/// Answers `poolctl vg …`.
pub async fn run(command: VgCommand, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match command {
        VgCommand::Add(args) => {
            let request = AddVg {
                name: args.name.to_string(),
                node: args.node.map(|node| node.to_string()),
                dir: args.dir.map(absolute).transpose()?,
                layout: LvmLayout {
                    thin_pool: args.thin_pool,
                    stripes: args.stripes,
                },
                size_bytes: args.size,
                overcommit_percent: args.overcommit,
                dry_run: args.change.dry_run,
            };
            let changed = context.client.vg_add(&request).await?;
            job::show_change(&changed, output)?;
            if !changed.dry_run {
                say("next: poolctl volume create NAME SIZE --replicas 2", output);
            }
        }
        VgCommand::List(ListArgs {}) => {
            let vgs = context.client.vgs().await?;
            match output.is_json() {
                true => output.object(&vgs)?,
                false if vgs.vgs.is_empty() => {
                    say(
                        "no host has a volume group yet; next: poolctl vg add VG, or poolctl vg add NAME --dir DIR",
                        output,
                    );
                }
                false => output.table(table(&vgs.vgs))?,
            }
        }
        VgCommand::Remove(args) => {
            let request = RemoveVg {
                node: args.node.map(|node| node.to_string()),
                dry_run: args.change.dry_run,
            };
            let changed = context.client.vg_remove(args.name.as_str(), &request).await?;
            job::show_change(&changed, output)?;
        }
    }
    Ok(Ending::Done)
}

/// poold has a working directory of its own, so it gets the path that the person meant.
pub fn absolute(path: PathBuf) -> Result<String, ApiError> {
    let path = std::path::absolute(&path)
        .map_err(|error| ApiError::usage(format!("cannot make {} absolute: {error}", path.display())))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| ApiError::usage(format!("{} is not UTF-8; use another path", path.display())))
}

/// Groups as a table; `node show` shows it too.
pub fn table(vgs: &[Vg]) -> Grid {
    let mut grid = Grid::new(&["NODE", "VG", "FREE", "SIZE", "USED", "REPLICAS", "PATH", ""]);
    for vg in vgs {
        grid.row(vec![
            Field::text(&vg.node),
            Field::text(&vg.name),
            Field::number(output::bytes(vg.free_bytes)),
            Field::number(output::bytes(vg.size_bytes)),
            Field::number(vg.used_bytes.map_or_else(|| "?".to_owned(), output::bytes)),
            Field::number(vg.replicas),
            Field::text(&vg.path),
            Field::text(remarks(vg)),
        ]);
    }
    grid
}

fn remarks(vg: &Vg) -> String {
    let times = f64::from(vg.overcommit_percent) / 100.0;
    let promises = (vg.overcommit_percent > 100).then(|| format!("promises {times} times its size"));
    let remarks = [promises, vg.problem.clone()];
    remarks.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
