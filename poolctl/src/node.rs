//! `poolctl node`: which hosts are in the pool, how do they come and go?

use std::time::Duration;

use api::pool::{DrainNode, IssueToken, JoinPool, Node, NodeState, RebootCheck, RemoveNode, Vg};
use api::{ApiError, ErrorKind};
use clap::{Args, Subcommand};
use model::NodeId;

use crate::cli::{Change, Waiting, parse_time};
use crate::error::{Ending, say};
use crate::job;
use crate::output::{self, Field, Grid, Output};
use crate::run::Context;

/// Verbs of `node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    Token(TokenArgs),
    Join(JoinArgs),
    List(ListArgs),
    Show(ShowArgs),
    Remove(RemoveArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
    RebootCheck(RebootCheckArgs),
}

/// Make a token with which one more host may join, once
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node token --ttl 10min

Next, on the new host: poolctl node join URL --token T")]
pub struct TokenArgs {
    /// How long the token may be used, as in 90s, 10min, 2h [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    ttl: Option<Duration>,
    #[command(flatten)]
    change: Change,
}

/// Let this host join a pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node join https://10.0.0.1:7778 --token T

Next: poolctl vg add vg0 --dir /srv/vg0")]
pub struct JoinArgs {
    /// Where a host of the pool is, as `poolctl node token` printed it
    #[arg(value_name = "URL")]
    url: String,
    /// The token from `poolctl node token`; the environment keeps it out of process lists
    #[arg(long, env = "POOLCTL_TOKEN", hide_env_values = true)]
    token: String,
    #[command(flatten)]
    change: Change,
}

/// List the hosts of the pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node list

Next: poolctl node show NAME")]
pub struct ListArgs {}

/// Show one host with its volume groups and replicas
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node show a

Next: poolctl vg list, poolctl volume list")]
pub struct ShowArgs {
    /// The host
    name: NodeId,
}

/// Take a host without replicas out of the pool
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node remove c --dry-run

Next, if it still has replicas: poolctl migrate VOLUME --from NAME --to OTHER")]
pub struct RemoveArgs {
    /// The host
    name: NodeId,
    #[command(flatten)]
    change: Change,
}

/// Free a host: primaries are handed over, and nothing new is placed on it
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node drain c
  poolctl node drain c --evacuate --dry-run

Guests go on: their doors stay where they are and follow the primary. With --evacuate replicas move to other hosts too. Refused
where nobody can take something, with every host and its reason.

Next: poolctl node reboot-check c")]
pub struct DrainArgs {
    /// The host
    name: NodeId,
    /// Move its replicas to other hosts too
    #[arg(long)]
    evacuate: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Let a drained host take replicas again; nothing is moved back by itself
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node undrain c

Next: poolctl status")]
pub struct UndrainArgs {
    /// The host
    name: NodeId,
    #[command(flatten)]
    change: Change,
}

/// May this host be rebooted now? Exit 0 if so, 4 if not, with the reasons
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl node reboot-check c && ssh c reboot

It asks whether a guest would notice, and whether something would be lost if nothing else fails meanwhile.

Next, if not: poolctl node drain c")]
pub struct RebootCheckArgs {
    /// The host
    name: NodeId,
}

/// Answers `poolctl node …`.
pub async fn run(command: NodeCommand, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    match command {
        NodeCommand::Token(args) => token(args, context).await?,
        NodeCommand::Join(args) => {
            let request = JoinPool {
                url: args.url,
                token: args.token,
                dry_run: args.change.dry_run,
            };
            let changed = context.client.node_join(&request).await?;
            job::show_change(&changed, output)?;
            if !changed.dry_run {
                say("next: poolctl vg add vg0 --dir DIR", output);
            }
        }
        NodeCommand::List(ListArgs {}) => {
            let nodes = context.client.nodes().await?;
            match output.is_json() {
                true => output.object(&nodes)?,
                false => output.table(table(&nodes.nodes))?,
            }
        }
        NodeCommand::Show(args) => {
            let node = context.client.node(args.name.as_str()).await?;
            if output.is_json() {
                output.object(&node)?;
            } else {
                let vgs = context.client.vgs().await?.vgs;
                show(&node, &vgs, output)?;
            }
        }
        NodeCommand::Remove(args) => {
            let request = RemoveNode {
                dry_run: args.change.dry_run,
            };
            let changed = context.client.node_remove(args.name.as_str(), &request).await?;
            job::show_change(&changed, output)?;
        }
        NodeCommand::Drain(args) => {
            let request = DrainNode {
                evacuate: args.evacuate,
                dry_run: args.change.dry_run,
            };
            let changed = context.client.node_drain(args.name.as_str(), &request).await?;
            return job::finish(changed, args.waiting, context).await;
        }
        NodeCommand::Undrain(args) => {
            let request = api::pool::Change {
                dry_run: args.change.dry_run,
            };
            let changed = context.client.node_undrain(args.name.as_str(), &request).await?;
            job::show_change(&changed, output)?;
        }
        NodeCommand::RebootCheck(args) => {
            let check = context.client.node_reboot_check(args.name.as_str()).await?;
            return reboot_check(&check, output);
        }
    }
    Ok(Ending::Done)
}

fn reboot_check(check: &RebootCheck, output: Output) -> Result<Ending, ApiError> {
    if output.is_json() {
        output.object(check)?;
    } else {
        let may = if check.may_reboot { "may" } else { "may not" };
        output.line(&format!(
            "{} {may} be rebooted now ({})",
            check.node, check.checked
        ))?;
        for reason in &check.reasons {
            output.line(&format!("  {reason}"))?;
        }
        for note in &check.notes {
            output.line(&format!("  note: {note}"))?;
        }
    }
    Ok(match check.may_reboot {
        true => Ending::Done,
        false => Ending::But(ErrorKind::Refused),
    })
}

async fn token(args: TokenArgs, context: &Context) -> Result<(), ApiError> {
    let output = context.output;
    let request = IssueToken {
        ttl_seconds: args.ttl.map(|ttl| ttl.as_secs()),
        dry_run: args.change.dry_run,
    };
    let token = context.client.node_token(&request).await?;
    if output.is_json() {
        return output.object(&token);
    }
    if args.change.dry_run {
        return output.line(&format!(
            "would make a token for {}, valid until {}",
            token.url, token.expires
        ));
    }
    output.line(&token.token)?;
    say(
        &format!(
            "valid once, until {}; on the new host:\n  poolctl node join {} --token {}",
            token.expires, token.url, token.token
        ),
        output,
    );
    Ok(())
}

/// The hosts as a table; `status` shows it too.
pub fn table(nodes: &[Node]) -> Grid {
    let mut grid = Grid::new(&[
        "NODE",
        "STATE",
        "FREE",
        "SIZE",
        "REPLICAS",
        "PRIMARIES",
        "MARSD",
        "ADDRESS",
        "",
    ]);
    for node in nodes {
        grid.row(vec![
            Field::text(&node.name),
            Field::state(state_word(node.state)),
            Field::number(output::bytes(node.free_bytes)),
            Field::number(output::bytes(node.size_bytes)),
            Field::number(node.replicas),
            Field::number(node.primaries),
            Field::text(marsd(node)),
            Field::text(&node.address),
            Field::text(remarks(node)),
        ]);
    }
    grid
}

fn remarks(node: &Node) -> String {
    let words = [(node.catalog, "catalog"), (node.drained, "drained")];
    let words: Vec<&str> = words
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| *word)
        .collect();
    words.join(", ")
}

fn marsd(node: &Node) -> &str {
    match node.state {
        NodeState::MarsdDown => "down",
        NodeState::Online => node.marsd_version.as_deref().unwrap_or("up"),
        NodeState::Unreachable => "?",
    }
}

/// The word for a host's state, as in JSON.
pub fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Online => "online",
        NodeState::MarsdDown => "marsd-down",
        NodeState::Unreachable => "unreachable",
    }
}

fn show(node: &Node, vgs: &[Vg], output: Output) -> Result<(), ApiError> {
    let catalog = if node.catalog { ", holds the catalog" } else { "" };
    output.line(&format!(
        "{}: {}{catalog}",
        output.bold(&format!("node {}", node.name)),
        output.state(state_word(node.state))
    ))?;
    if let Some(reason) = &node.reason {
        output.line(&format!("  why       {reason}"))?;
    }
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "not reported".to_owned());
    output.line(&format!(
        "  address   {} (peers: {})",
        node.address, node.peer_address
    ))?;
    output.line(&format!(
        "  space     {} free of {}, {} reserved",
        output::bytes(node.free_bytes),
        output::bytes(node.size_bytes),
        output::bytes(node.reserved_bytes)
    ))?;
    output.line(&format!(
        "  volumes   {}, {} of them primary",
        output::count(node.replicas as usize, "replica"),
        node.primaries
    ))?;
    output.line(&format!(
        "  programs  poold {}, marsd {}",
        version(&node.poold_version),
        version(&node.marsd_version)
    ))?;
    let heard = match node.age_seconds {
        Some(age) => format!("{} ago", output::seconds(age)),
        None => "never".to_owned(),
    };
    output.line(&format!("  heard of  {heard}; joined {}", node.joined))?;
    let own: Vec<Vg> = vgs.iter().filter(|vg| vg.node == node.name).cloned().collect();
    if !own.is_empty() {
        output.line("")?;
    }
    output.table(crate::vg::table(&own))
}
