//! `poolctl limit`: how much may a volume or a host take?

use api::ApiError;
use api::pool::{Node, SetLimits, SetNodeLimits, Volume};
use clap::{Args, Subcommand};
use model::{NodeId, VolumeName, parse_size};

use crate::cli::Change;
use crate::error::Ending;
use crate::job;
use crate::output::{self, Field, Grid};
use crate::run::Context;

/// Verbs of `limit`.
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    Set(SetArgs),
    Show(ShowArgs),
}

/// Limit what replication takes of the network and of a host, while everything is in use
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl limit set web --sync-rate 100MiB --ship-rate none
  poolctl limit set --node b --parallel-syncs 2 --prefer db,web
  poolctl limit set --node b --peer c --rate 20MiB
  poolctl limit set web --log-budget 4G
  poolctl limit set --node b --log-budget 20G

Of a volume: bytes each second of all its replicas together, and the log that each of its hosts keeps. Of a host: what it sends to all
others, or to one, how many of its replicas are filled at one time (the others wait for their turn), and what all logs there take; that
is divided by what each volume uses. A replica further behind than the log is kept copies what changed. All of it holds over restarts.

Next: poolctl limit show")]
pub struct SetArgs {
    /// The volume
    #[arg(required_unless_present = "node", conflicts_with = "node")]
    name: Option<VolumeName>,
    /// For log sent to replicas; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_rate, requires = "name")]
    ship_rate: Option<u64>,
    /// For contents sent in full syncs and repairs; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_rate, requires = "name")]
    sync_rate: Option<u64>,
    /// Log kept for replicas that are behind, on each host of the volume, or of all volumes on the node; `none` for what is usual
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    log_budget: Option<u64>,
    /// Instead of a volume: this host
    #[arg(long)]
    node: Option<NodeId>,
    /// For everything that replication sends from the host; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_rate, requires = "node")]
    rate: Option<u64>,
    /// Only for what the host sends to this one
    #[arg(long, value_name = "NODE", requires = "rate")]
    peer: Option<NodeId>,
    /// How many replicas on the host are filled at one time; `none` for all
    #[arg(long, value_name = "N", value_parser = parse_count, requires = "node")]
    parallel_syncs: Option<u32>,
    /// Volumes whose replicas on the host are filled first, in order; `none` for none
    #[arg(long, value_name = "VOLUMES", value_delimiter = ',', requires = "node")]
    prefer: Option<Vec<String>>,
    #[command(flatten)]
    change: Change,
}

/// Show all limits, or those of one volume
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl limit show

Next: poolctl limit set NAME --sync-rate 100MiB")]
pub struct ShowArgs {
    /// Only this volume
    name: Option<VolumeName>,
}

/// Reads `100MiB` or `none`, which is 0.
fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    match parse_size(text) {
        Ok(0) => Err("a rate of nothing would stop it; write `none` for no limit".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads `4G` or `none`, which is 0.
fn parse_budget(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    match parse_size(text) {
        Ok(0) => Err("write `none` for the usual budget, or `4K` for no log".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads `3` or `none`, which is 0.
fn parse_count(text: &str) -> Result<u32, String> {
    match (text, text.parse::<u32>()) {
        ("none", _) => Ok(0),
        (_, Ok(count)) if count > 0 => Ok(count),
        _ => Err("write a number from 1 on, or `none` for no limit".to_owned()),
    }
}

/// Answers `poolctl limit …`.
pub async fn run(command: LimitCommand, context: &Context) -> Result<Ending, ApiError> {
    match command {
        LimitCommand::Set(args) => set(args, context).await?,
        LimitCommand::Show(args) => show(args, context).await?,
    }
    Ok(Ending::Done)
}

async fn set(args: SetArgs, context: &Context) -> Result<(), ApiError> {
    let dry_run = args.change.dry_run;
    let changed = match (&args.name, &args.node) {
        (Some(name), _) => {
            let request = SetLimits {
                ship_bytes_per_second: args.ship_rate,
                sync_bytes_per_second: args.sync_rate,
                log_budget_bytes: args.log_budget,
                dry_run,
            };
            if args.ship_rate.is_none() && args.sync_rate.is_none() && args.log_budget.is_none() {
                return Err(ApiError::usage("nothing is to be set")
                    .hint("give --ship-rate, --sync-rate or --log-budget")
                    .object(format!("volume {name}")));
            }
            context.client.volume_limits(name.as_str(), &request).await?
        }
        (None, Some(node)) => {
            let mut prefer = args.prefer;
            if let Some(names) = prefer.as_mut().filter(|names| *names == &["none"]) {
                names.clear();
            }
            let others = args.rate.or(args.log_budget);
            if prefer.is_none() && others.is_none() && args.parallel_syncs.is_none() {
                return Err(ApiError::usage("nothing is to be set")
                    .hint("give --rate, --parallel-syncs, --prefer or --log-budget")
                    .object(format!("node {node}")));
            }
            let request = SetNodeLimits {
                parallel_syncs: args.parallel_syncs,
                prefer,
                bytes_per_second: args.rate,
                peer: args.peer.map(|peer| peer.to_string()),
                log_budget_bytes: args.log_budget,
                dry_run,
            };
            context.client.node_limits(node.as_str(), &request).await?
        }
        (None, None) => return Err(ApiError::usage("name a volume, or a host with --node")),
    };
    job::show_change(&changed, context.output)
}

async fn show(args: ShowArgs, context: &Context) -> Result<(), ApiError> {
    let output = context.output;
    let (volumes, nodes) = match args.name {
        Some(name) => (vec![context.client.volume(name.as_str()).await?], Vec::new()),
        None => (
            context.client.volumes().await?.volumes,
            context.client.nodes().await?.nodes,
        ),
    };
    if output.is_json() {
        let of_volume = |volume: &Volume| {
            let (limits, log_budget_bytes) = (volume.limits, volume.log_budget_bytes);
            serde_json::json!({ "volume": volume.name, "limits": limits, "log_budget_bytes": log_budget_bytes })
        };
        let of_node = |node: &Node| serde_json::json!({ "node": node.name, "limits": node.limits });
        let volumes: Vec<_> = volumes.iter().map(of_volume).collect();
        let nodes: Vec<_> = nodes.iter().map(of_node).collect();
        return output.object(&serde_json::json!({ "volumes": volumes, "nodes": nodes }));
    }
    let mut grid = Grid::new(&["VOLUME", "SHIP RATE", "SYNC RATE", "LOG BUDGET"]);
    for volume in &volumes {
        grid.row(vec![
            Field::text(&volume.name),
            Field::number(rate(volume.limits.ship_bytes_per_second)),
            Field::number(rate(volume.limits.sync_bytes_per_second)),
            Field::number(budget(volume.log_budget_bytes)),
        ]);
    }
    output.table(grid)?;
    if nodes.is_empty() {
        return Ok(());
    }
    let mut grid = Grid::new(&["NODE", "SENDS", "TO", "SYNCS AT A TIME", "LOG BUDGET", "FIRST"]);
    for node in &nodes {
        let limits = &node.limits;
        let peers = limits.peer_bytes_per_second.iter();
        let peers: Vec<String> = peers
            .map(|(peer, max)| format!("{peer} {}", rate(Some(*max))))
            .collect();
        let syncs = limits.parallel_syncs;
        grid.row(vec![
            Field::text(&node.name),
            Field::number(rate(limits.send_bytes_per_second)),
            Field::text(peers.join(", ")),
            Field::number(syncs.map_or("all".to_owned(), |syncs| syncs.to_string())),
            Field::number(budget(limits.log_bytes_max)),
            Field::text(limits.prefer.join(", ")),
        ]);
    }
    output.line("")?;
    output.table(grid)
}

fn rate(limit: Option<u64>) -> String {
    limit.map_or("none".to_owned(), |rate| format!("{}/s", output::bytes(rate)))
}

fn budget(bytes: Option<u64>) -> String {
    bytes.map_or("usual".to_owned(), output::bytes)
}
