//! What can be typed? The command tree, the flags every command shares, and who answers each noun.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use model::{SizeError, VolumeSize, parse_size};

use crate::completion::{CompletionArgs, ManArgs};
use crate::events::EventsArgs;
use crate::job::JobCommand;
use crate::limit::LimitCommand;
use crate::migrate::MigrateArgs;
use crate::node::NodeCommand;
use crate::pool::PoolCommand;
use crate::status::StatusArgs;
use crate::vg::VgCommand;
use crate::volume::VolumeCommand;

/// Where the package lets poold listen.
const SOCKET_DEFAULT: &str = "/run/poold/api.sock";

/// Manage a pool of replicated volumes
#[derive(Debug, Parser)]
#[command(
    name = "poolctl",
    version,
    disable_help_subcommand = true,
    after_help = "Sizes: 10G, 512MiB, 1.5T or plain bytes; K, M, G, T are powers of 1024, as in LVM.
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused for safety, 5 partly done,
  6 timed out, 7 done, but the pool is degraded.

First steps:
  poolctl pool init                      on the first host
  poolctl vg add vg0 --dir /srv/vg0      on every host
  poolctl volume create web 10G --replicas 2
  poolctl status"
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Socket of this host's poold [env: POOLCTL_SOCKET] [default: /run/poold/api.sock]
    // Read from the environment by hand: clap would list it as given in every usage line.
    #[arg(long, global = true, value_name = "PATH", help_heading = "For every command")]
    socket: Option<PathBuf>,
    /// Print one JSON object on stdout, for scripts
    #[arg(long, global = true, help_heading = "For every command")]
    pub json: bool,
}

impl Global {
    /// The socket by flag, else by environment, else where the package puts it.
    pub fn socket(&self) -> PathBuf {
        let from_environment = || std::env::var_os("POOLCTL_SOCKET").filter(|path| !path.is_empty());
        self.socket
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(SOCKET_DEFAULT))
    }
}

/// The nouns, and the verbs that need none.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The pool itself
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Hosts of the pool
    #[command(subcommand)]
    Node(NodeCommand),
    /// Volume groups: where hosts keep replicas
    #[command(subcommand)]
    Vg(VgCommand),
    /// Volumes: replicated block devices
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Limits: what replication takes of the network and of hosts
    #[command(subcommand)]
    Limit(LimitCommand),
    #[command(name = "migrate")]
    Migrate(MigrateArgs),
    /// Long work: what runs, what ran
    #[command(subcommand)]
    Job(JobCommand),
    #[command(name = "status")]
    Status(StatusArgs),
    #[command(name = "events")]
    Events(EventsArgs),
    #[command(name = "completion")]
    Completion(CompletionArgs),
    #[command(name = "man")]
    Man(ManArgs),
}

/// For commands that change something.
#[derive(Clone, Copy, Debug, Args)]
pub struct Change {
    /// Only check the request and say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// For commands whose work goes on after poold has accepted it.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// Wait until the work is done and show its progress (this is the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the work is accepted; `poolctl job watch` shows it later
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Stop waiting after this time, as in 90s, 10min, 2h; exit 6, the work itself goes on
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "no_wait")]
    timeout: Option<Duration>,
}

impl Waiting {
    /// Whether to wait at all.
    pub fn wanted(self) -> bool {
        !self.no_wait
    }

    /// For how long at most.
    pub fn timeout(self) -> Option<Duration> {
        self.timeout
    }
}

/// Reads a size that a volume can have.
pub fn parse_volume_size(text: &str) -> Result<VolumeSize, SizeError> {
    parse_size(text).and_then(VolumeSize::new)
}

/// Reads `90s`, `10min`, `1h 30min`; a plain number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time; write seconds or 90s, 10min, 2h"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_its_purpose_and_an_example() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no purpose");
            if !command.has_subcommands() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("Example"), "{path} has no example");
                assert!(help.contains("poolctl "), "{path} names no command to type");
            }
            for child in command.get_subcommands() {
                check(child, &format!("{path} {}", child.get_name()));
            }
        }
        check(&Cli::command(), "poolctl");
    }

    #[test]
    fn times_are_read_with_units_or_as_seconds() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("10min"), Ok(Duration::from_secs(600)));
        assert!(parse_time("soon").is_err());
    }

    #[test]
    fn the_last_of_wait_and_no_wait_counts() {
        let parse = |flags: &[&str]| {
            let line = ["poolctl", "migrate", "web", "--to", "n3"].iter().chain(flags);
            match Cli::try_parse_from(line).expect("valid").command {
                Command::Migrate(args) => args.waiting.wanted(),
                other => panic!("{other:?}"),
            }
        };
        assert!(parse(&[]));
        assert!(!parse(&["--no-wait"]));
        assert!(parse(&["--no-wait", "--wait"]));
        assert!(!parse(&["--wait", "--no-wait"]));
    }
}
