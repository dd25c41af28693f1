//! How is the pool daemon started and stopped?

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use poold::config::{Config, Flags};
use poold::daemon::Daemon;
use poold::notify;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("POOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %format!("{error:#}"), "poold cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let daemon = Daemon::new(Config::load(flags)?)?;
    daemon.start().await?;
    tell("READY=1");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("poold ends");
    tell("STOPPING=1");
    daemon.stop().await;
    Ok(())
}

fn tell(state: &str) {
    if let Err(error) = notify::tell(state) {
        warn!(error = %error, state, "the service manager cannot be told");
    }
}
