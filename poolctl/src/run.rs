//! How does a command line become an exit code? Parse, ask, print; errors are told here and nowhere else.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use api::{ApiError, Client};
use clap::Parser;
use clap::error::ErrorKind as ClapKind;

use crate::cli::{Cli, Command};
use crate::error::{Ending, report};
use crate::output::Output;
use crate::{completion, events, job, limit, migrate, node, pool, status, vg, volume};

/// What every command needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// The local poold.
    pub client: Client,
    /// Where answers go.
    pub output: Output,
}

/// Runs the command line `args`, program name included.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = with_noun_of_program_name(args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misread(&error, &args),
    };
    let output = Output::new(cli.global.json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&ApiError::failed(format!("cannot start: {error}")), output),
    };
    match runtime.block_on(run(cli, output)) {
        Ok(ending) => ending.exit_code(),
        Err(error) => report(&error, output),
    }
}

async fn run(cli: Cli, output: Output) -> Result<Ending, ApiError> {
    let context = Context {
        client: Client::unix(cli.global.socket()),
        output,
    };
    match cli.command {
        Command::Pool(command) => pool::run(command, &context).await,
        Command::Node(command) => node::run(command, &context).await,
        Command::Vg(command) => vg::run(command, &context).await,
        Command::Volume(command) => volume::run(command, &context).await,
        Command::Limit(command) => limit::run(command, &context).await,
        Command::Migrate(args) => migrate::run(args, &context).await,
        Command::Job(command) => job::run(command, &context).await,
        Command::Status(args) => status::run(args, &context).await,
        Command::Events(args) => events::run(args, &context).await,
        Command::Completion(args) => completion::completion(&args, output).map(|()| Ending::Done),
        Command::Man(args) => completion::man(&args, output).map(|()| Ending::Done),
    }
}

/// Called as `pool-migrate`, the program is `poolctl migrate`; as `mars-status`, `poolctl status`.
fn with_noun_of_program_name(mut args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().and_then(|path| Path::new(path).file_name());
    let noun = match called.and_then(|name| name.to_str()) {
        Some("pool-migrate") => "migrate",
        Some("mars-status") => "status",
        _ => return args,
    };
    args.splice(0..1, ["poolctl".into(), noun.into()]);
    args
}

/// Help and version are answers; anything else that clap stops at is wrong usage.
fn misread(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let json = args
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json");
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => {
            // A reader that went away has all it wanted.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ if json => {
            let text = error.to_string();
            let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
            let message = message.trim_start_matches("error: ").trim_end();
            let usage = ApiError::usage(message).hint(rest.trim());
            report(&usage, Output::new(true))
        }
        _ => {
            let _ = error.print();
            ExitCode::from(api::ErrorKind::Usage.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_migrate_is_poolctl_migrate() {
        let check = |line: &[&str], want: &[&str]| {
            let args = line.iter().map(OsString::from).collect();
            assert_eq!(with_noun_of_program_name(args), want);
        };
        check(
            &["/usr/bin/pool-migrate", "web", "--to", "c"],
            &["poolctl", "migrate", "web", "--to", "c"],
        );
        check(&["mars-status", "--json"], &["poolctl", "status", "--json"]);
        check(&["poolctl", "status"], &["poolctl", "status"]);
        check(&[], &[]);
    }
}
