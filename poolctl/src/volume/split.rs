//! `poolctl volume split-brain`: have histories parted, which one lives on, and what is kept of the others?

use api::ApiError;
use api::pool::{DropKept, KeptHistory, ResolveSplitBrain, SplitBrain, SplitSide};
use clap::{Args, Subcommand};
use model::{NodeId, VolumeName};

use crate::cli::{Change, Waiting};
use crate::error::Ending;
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `volume split-brain`.
#[derive(Debug, Subcommand)]
pub enum SplitBrainCommand {
    Show(ShowArgs),
    Resolve(ResolveArgs),
    Drop(DropArgs),
}

/// Show where the histories of two replicas part, and what each side has behind that place
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume split-brain show web

FIRST and LAST are the times of the changes behind the parting, by the clock of whoever wrote them.

Next: poolctl volume split-brain resolve web --winner NODE")]
pub struct ShowArgs {
    /// The volume
    name: VolumeName,
}

/// Let one side live on; the other replicas begin anew, their former logs are kept
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume split-brain resolve web --winner a --dry-run

The winner must be primary; if it is not: poolctl volume primary web NODE --force. What the losers have written behind the
parting is no part of the volume any more; their logs stay on their hosts until somebody drops them.

Next: poolctl volume split-brain show web")]
pub struct ResolveArgs {
    /// The volume
    name: VolumeName,
    /// The host whose history lives on [default: the primary of the newest term]
    #[arg(long)]
    winner: Option<NodeId>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Remove what is kept of histories that lost a split brain; nothing can bring it back
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume split-brain drop web 1700000000000 --dry-run

Without a history: all of the volume's.

Next: poolctl volume split-brain show web")]
pub struct DropArgs {
    /// The volume
    name: VolumeName,
    /// Only this one, as `split-brain show` names it
    history: Option<String>,
    /// Only on this host
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Answers `poolctl volume split-brain …`.
pub async fn run(command: SplitBrainCommand, context: &Context) -> Result<Ending, ApiError> {
    match command {
        SplitBrainCommand::Show(args) => {
            let split = context.client.volume_split_brain(args.name.as_str()).await?;
            match context.output.is_json() {
                true => context.output.object(&split)?,
                false => show(&split, context)?,
            }
            Ok(Ending::Done)
        }
        SplitBrainCommand::Resolve(args) => {
            let request = ResolveSplitBrain {
                winner: args.winner.map(|node| node.to_string()),
                dry_run: args.change.dry_run,
            };
            let changed = context
                .client
                .volume_resolve(args.name.as_str(), &request)
                .await?;
            job::finish(changed, args.waiting, context).await
        }
        SplitBrainCommand::Drop(args) => {
            let request = DropKept {
                history: args.history,
                node: args.node.map(|node| node.to_string()),
                dry_run: args.change.dry_run,
            };
            let changed = context
                .client
                .volume_drop_kept(args.name.as_str(), &request)
                .await?;
            job::finish(changed, args.waiting, context).await
        }
    }
}

/// Histories that hosts keep, with what each has that the volume has not.
fn kept(rows: &[KeptHistory]) -> Grid {
    let mut grid = Grid::new(&[
        "KEPT ON",
        "HISTORY",
        "SIZE",
        "SINCE",
        "PARTED FROM",
        "CHANGES",
        "FIRST",
        "LAST",
    ]);
    for row in rows {
        let here = row.here.as_ref();
        let time = |time: Option<&String>| Field::text(time.map_or("?", String::as_str));
        grid.row(vec![
            Field::text(&row.node),
            Field::text(&row.history),
            Field::number(output::bytes(row.bytes)),
            Field::text(&row.kept),
            Field::text(row.parted_from.as_deref().unwrap_or("?")),
            Field::number(here.map_or("?".to_owned(), |here| here.records.to_string())),
            time(here.and_then(|here| here.first.as_ref())),
            time(here.and_then(|here| here.last.as_ref())),
        ]);
    }
    grid
}

fn show(split: &SplitBrain, context: &Context) -> Result<(), ApiError> {
    if !split.parted {
        context.output.line(&format!(
            "{}: no histories have parted, as far as is known",
            split.name
        ))?;
        if !split.kept.is_empty() {
            context.output.table(kept(&split.kept))?;
        }
        return Ok(());
    }
    let mut grid = Grid::new(&[
        "NODE",
        "PARTED FROM",
        "AT",
        "SIDE",
        "LOG",
        "CHANGES",
        "FIRST",
        "LAST",
    ]);
    for pair in &split.pairs {
        let mut row = |node: &str, other: &str, at: String, name: &str, side: &SplitSide| {
            let more = if side.complete { "" } else { " or more" };
            grid.row(vec![
                Field::text(node),
                Field::text(other),
                Field::number(at),
                Field::text(name),
                Field::number(output::bytes(side.bytes)),
                Field::number(format!("{}{more}", side.records)),
                Field::text(side.first.as_deref().unwrap_or("?")),
                Field::text(side.last.as_deref().unwrap_or("?")),
            ]);
        };
        row(
            &pair.node,
            &pair.other,
            pair.at.to_string(),
            &pair.node,
            &pair.here,
        );
        if let Some(there) = &pair.there {
            row("", "", String::new(), &pair.other, there);
        }
    }
    context.output.table(grid)?;
    let primary = split.primary.as_deref().unwrap_or("nobody");
    context
        .output
        .line(&format!("primary of the newest term: {primary}"))?;
    match split.kept.is_empty() {
        true => Ok(()),
        false => context.output.table(kept(&split.kept)),
    }
}
