//! How do shells and `man` learn the commands? Completion scripts and manual pages made from the command tree itself.

use std::path::PathBuf;

use api::ApiError;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::cli::Cli;
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl completion bash > /etc/bash_completion.d/poolctl

Next: open a new shell, type `poolctl vol` and press TAB")]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl man /usr/local/share/man/man1

Next: man poolctl-volume-create")]
pub struct ManArgs {
    /// Directory to write poolctl.1, poolctl-volume.1, … into; made if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints the script.
pub fn completion(args: &CompletionArgs, output: Output) -> Result<(), ApiError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "poolctl", &mut script);
    let script = String::from_utf8_lossy(&script);
    if output.is_json() {
        return output.object(&json!({"shell": args.shell.to_string(), "script": script}));
    }
    output.line(script.trim_end())
}

/// Writes one page per command (`poolctl-volume-create.1`).
pub fn man(args: &ManArgs, output: Output) -> Result<(), ApiError> {
    std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir))
        .map_err(|error| {
            ApiError::failed(format!(
                "cannot write manual pages into {}: {error}",
                args.dir.display()
            ))
        })?;
    if output.is_json() {
        return output.object(&json!({"dir": args.dir}));
    }
    output.line(&format!("the manual pages are in {}", args.dir.display()))
}
