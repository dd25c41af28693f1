//! `poolctl volume verify`: do all replicas hold the same bytes?

use std::time::Duration;

use api::pool::{Verdict, Verify, VerifyReport};
use api::{ApiError, ErrorKind};
use clap::Args;
use model::VolumeName;

use crate::cli::{Change, Waiting, parse_time};
use crate::error::Ending;
use crate::job;
use crate::output::{Field, Grid};
use crate::run::Context;

/// Compare the contents of all replicas
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume verify web

Replicas can be compared only at the same position of the log, so it waits for a moment without writes.

Next, if they differ: poolctl volume show web, poolctl volume log show web")]
pub struct VerifyArgs {
    /// The volume
    name: VolumeName,
    /// How long to wait for a moment without writes, as in 90s, 10min [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    limit: Option<Duration>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume verify`.
pub async fn run(args: VerifyArgs, context: &Context) -> Result<Ending, ApiError> {
    let request = Verify {
        limit_seconds: args.limit.map(|limit| limit.as_secs()),
        dry_run: args.change.dry_run,
    };
    let changed = context.client.volume_verify(args.name.as_str(), &request).await?;
    job::finish(changed, args.waiting, context).await
}

/// The digests as a table.
pub fn table(report: &VerifyReport) -> Grid {
    let mut grid = Grid::new(&["NODE", "DIGEST", "FROM", "TO"]);
    for replica in &report.replicas {
        grid.row(vec![
            Field::text(&replica.node),
            Field::text(&replica.digest),
            Field::number(replica.from_lsn),
            Field::number(replica.to_lsn),
        ]);
    }
    grid
}

/// What is wrong, unless all replicas are equal.
pub fn problem(volume: &str, report: &VerifyReport) -> Option<ApiError> {
    let error = match report.verdict {
        Verdict::Equal => return None,
        Verdict::Different => ApiError::failed(format!("the replicas of {volume} differ")).hint(format!(
            "which one is right? poolctl volume show {volume}; poolctl volume log show {volume}"
        )),
        Verdict::Busy => ApiError::new(
            ErrorKind::TimedOut,
            format!("{volume} was written all the time, so its replicas could not be compared"),
        )
        .hint(format!("poolctl volume verify {volume} --limit 10min")),
    };
    Some(error.object(format!("volume {volume}")))
}
