//! `poolctl volume verify`: do all replicas hold the same bytes?

use api::pool::{Change as Wish, Verdict, Verify, VerifyReport};
use api::{ApiError, ErrorKind};
use clap::Args;
use model::{VolumeName, parse_size};

use crate::cli::{Change, Waiting};
use crate::error::Ending;
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Compare the contents of all replicas while guests write
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume verify web
  poolctl volume verify web --repair --rate 100MiB

Each piece is digested on every replica as it is at the same position of the log; nobody waits for it. A replica that is away
for a minute is left out (exit 5). Differences that are left end it with exit 1.

Next, if they differ: poolctl volume verify web --repair")]
pub struct VerifyArgs {
    /// The volume
    name: VolumeName,
    /// Copy from the primary what differs, and compare it again
    #[arg(long)]
    repair: bool,
    /// Compare no more than this each second, as in 100MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,
    /// End the comparison that is under way; what it has found stays known
    #[arg(long, conflicts_with_all = ["repair", "rate"])]
    cancel: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume verify`.
pub async fn run(args: VerifyArgs, context: &Context) -> Result<Ending, ApiError> {
    let dry_run = args.change.dry_run;
    if args.cancel {
        let wish = Wish { dry_run };
        let changed = context
            .client
            .volume_verify_cancel(args.name.as_str(), &wish)
            .await?;
        job::show_change(&changed, context.output)?;
        return Ok(Ending::Done);
    }
    let request = Verify {
        repair: args.repair,
        bytes_per_second_max: args.rate,
        dry_run,
    };
    let changed = context.client.volume_verify(args.name.as_str(), &request).await?;
    job::finish(changed, args.waiting, context).await
}

/// What was found out about each replica, as a table.
pub fn table(report: &VerifyReport) -> Grid {
    let mut grid = Grid::new(&["NODE", "COMPARED", "DIFFERENT", "REPAIRED", "FIRST AT"]);
    for replica in &report.replicas {
        let first = report
            .differences
            .iter()
            .find(|difference| difference.node == replica.node);
        let compared = match replica.compared {
            _ if replica.node == report.primary => "primary",
            true => "yes",
            false => "no",
        };
        grid.row(vec![
            Field::text(&replica.node),
            Field::text(compared),
            Field::number(output::bytes(replica.different_bytes)),
            Field::number(output::bytes(replica.repaired_bytes)),
            Field::number(first.map_or(String::new(), |first| first.offset_bytes.to_string())),
        ]);
    }
    grid
}

/// What is wrong, unless all replicas are equal.
pub fn problem(volume: &str, report: &VerifyReport) -> Option<ApiError> {
    let left = |node: &str| {
        let row = report.replicas.iter().find(|row| row.node == node);
        row.is_some_and(|row| row.different_bytes > row.repaired_bytes)
    };
    let error = match report.verdict {
        Verdict::Running | Verdict::Equal | Verdict::Repaired => return None,
        // All others agree against it: copying from it would spread the damage.
        Verdict::Different if left(&report.primary) => ApiError::failed(format!(
            "the replicas of {volume} differ, and it is the primary on {} that is alone with its contents",
            report.primary
        ))
        .hint(format!(
            "let another be primary, then repair: poolctl volume primary {volume} NODE; poolctl volume verify {volume} --repair"
        )),
        Verdict::Different if report.repair => ApiError::failed(format!(
            "the replicas of {volume} differ, also after they were repaired"
        ))
        .hint(format!(
            "is a disk failing? fill the replica again: poolctl volume invalidate {volume} NODE"
        )),
        Verdict::Different => ApiError::failed(format!("the replicas of {volume} differ")).hint(format!(
            "copy from the primary what differs: poolctl volume verify {volume} --repair"
        )),
        Verdict::Incomplete => {
            let missing: Vec<&str> = report
                .replicas
                .iter()
                .filter(|row| !row.compared)
                .map(|row| row.node.as_str())
                .collect();
            let message = format!("not every replica of {volume} was compared: {}", missing.join(", "));
            ApiError::new(ErrorKind::PartlyDone, message).hint(format!("poolctl volume show {volume}"))
        }
    };
    Some(error.object(format!("volume {volume}")))
}
