//! What runs on every host for its volumes? `marsd`: settings, log, signals; everything else is in the library.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use marsd::config::{Args, Config, LogFormat, Verb};
use marsd::control::Control;
use marsd::host::{Farewell, Host};
use marsd::notify::notify;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::new(&args) {
        Ok(config) => config,
        Err(error) => return complain(2, &error),
    };
    if let Some(Verb::CheckConfig) = args.command {
        println!("state_dir  {}", config.host.state_dir.display());
        println!("log_dir    {}", config.host.log_dir.display());
        println!("run_dir    {}", config.host.run_dir.display());
        println!("control    {}", config.control.display());
        println!("listen     {}", config.host.listen);
        return ExitCode::SUCCESS;
    }
    start_log(config.log_format);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &error),
    }
}

fn complain(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("marsd: {error:#}");
    ExitCode::from(code)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("marsd-async")
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let host = Host::start(config.host).await?;
    let control = Control::open(&config.control)
        .await
        .with_context(|| format!("open the control socket {}", config.control.display()))?;
    info!(version = env!("CARGO_PKG_VERSION"), control = %config.control.display(), "ready");
    tell("READY=1");
    tokio::select! {
        () = control.serve(host.clone()) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tell("STOPPING=1");
    info!("closes its doors and ends");
    drop(control);
    host.stop(Farewell::Orderly).await;
    Ok(())
}

fn tell(state: &str) {
    if let Err(error) = notify(state) {
        warn!(%error, state, "cannot tell the service manager");
    }
}
