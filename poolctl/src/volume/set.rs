//! `poolctl volume set|pause|resume|up|down`: how is a volume replicated, and what stands still on purpose?

use api::ApiError;
use api::control::SwitchWord;
use api::pool::{SetVolume, SwitchVolume};
use clap::{Args, ValueEnum};
use model::{NodeId, VolumeName, parse_size};

use crate::cli::{Change, Waiting, parse_time};
use crate::error::Ending;
use crate::job;
use crate::run::Context;

/// Change how a volume is replicated while it is in use
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume set web --mode near-sync --wait-for 100ms --max-lag 5s
  poolctl volume set web --replicas 3
  poolctl volume set web --compression lz4

async: a flush is answered once it is durable at the primary. near-sync: it waits for replicas too, for a while; then it
goes on without them, loudly, until they keep up again. sync: it waits however long that takes.

Next: poolctl volume show web")]
pub struct SetArgs {
    /// The volume
    name: VolumeName,
    /// When a guest's flush is answered
    #[arg(long, value_enum)]
    mode: Option<ModeWord>,
    /// How many replicas a flush waits for in near-sync and sync mode [default: 1]
    #[arg(long, value_name = "R")]
    flush_replicas: Option<u8>,
    /// How long a flush waits for them in near-sync mode, as in 100ms, 2s [default: 200ms]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    wait_for: Option<std::time::Duration>,
    /// A lag above this is alarming: a time such as 5s, a size such as 64M, or none
    #[arg(long, value_name = "TIME|SIZE", value_parser = parse_lag)]
    max_lag: Option<MaxLag>,
    /// Whether guests are slowed down then
    #[arg(long, value_enum, value_name = "ON")]
    throttle: Option<OnOff>,
    /// How many replicas; the planner chooses where one more goes and which one leaves, never the primary
    #[arg(long, value_name = "K")]
    replicas: Option<u32>,
    /// Whether the log, and so what goes over the network, is compressed
    #[arg(long, value_enum)]
    compression: Option<Compression>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    waiting: Waiting,
}

/// Modes as they are typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeWord {
    /// Once durable at the primary; replicas follow as fast as they can
    Async,
    /// Once durable at replicas too, or after a while without them
    NearSync,
    /// Once durable at replicas too
    Sync,
}

impl ModeWord {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            ModeWord::Async => "async",
            ModeWord::NearSync => "near-sync",
            ModeWord::Sync => "sync",
        }
    }
}

/// Compressions as they are typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    /// Fast, on whatever gets shorter by it
    Lz4,
    /// Not at all
    None,
}

impl Compression {
    fn word(self) -> &'static str {
        match self {
            Compression::Lz4 => "lz4",
            Compression::None => "none",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnOff {
    On,
    Off,
}

/// A limit as it can be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLag {
    /// There is none.
    None,
    /// In milliseconds.
    Millis(u64),
    /// In bytes.
    Bytes(u64),
}

impl MaxLag {
    /// As the API wants it: milliseconds and bytes, 0 for none.
    pub fn fields(limit: Option<MaxLag>) -> (Option<u64>, Option<u64>) {
        match limit {
            None => (None, None),
            Some(MaxLag::None) => (Some(0), Some(0)),
            Some(MaxLag::Millis(millis)) => (Some(millis), None),
            Some(MaxLag::Bytes(bytes)) => (None, Some(bytes)),
        }
    }
}

/// Reads `5s`, `64M`, `none`. A plain number is refused: it could be either.
pub fn parse_lag(text: &str) -> Result<MaxLag, String> {
    if text == "none" {
        return Ok(MaxLag::None);
    }
    let wrong = || format!("`{text}` is neither a time such as 5s nor a size such as 64M, nor `none`");
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // `5m` is five minutes; `5M` is five mebibytes, though humantime takes it for months.
    let time = humantime::parse_duration(text)
        .ok()
        .filter(|_| !text.ends_with('M'));
    if let Some(time) = time {
        return match time.as_millis() as u64 {
            0 => Err("a lag of no time at all is always exceeded; write `none` for no limit".to_owned()),
            millis => Ok(MaxLag::Millis(millis)),
        };
    }
    match parse_size(text) {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(bytes) => Ok(MaxLag::Bytes(bytes)),
    }
}

/// Stop full sync, fetching of log or replay; guests notice nothing
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume pause web replay --node b

sync: comparing disks. fetch: taking log from a source. replay: bringing the log to the disk. It stays so over restarts;
without --node it holds on every host with a replica.

Next: poolctl volume resume web replay")]
pub struct PauseArgs {
    #[command(flatten)]
    of: Switched,
}

/// Let go on what was stopped by pause
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume resume web replay --node b

Next: poolctl volume show web")]
pub struct ResumeArgs {
    #[command(flatten)]
    of: Switched,
}

/// Let everything go on at once: the replica's disk and log, fetch, replay, sync
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume up web --node b

Next: poolctl volume show web")]
pub struct UpArgs {
    #[command(flatten)]
    of: Whole,
}

/// Take a replica out of service: its disk and log are closed and left alone; not for the primary
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl volume down web --node b

Next: poolctl volume up web --node b")]
pub struct DownArgs {
    #[command(flatten)]
    of: Whole,
}

#[derive(Debug, Args)]
struct Switched {
    /// The volume
    name: VolumeName,
    /// What
    #[arg(value_enum)]
    what: What,
    /// Only on this host
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct Whole {
    /// The volume
    name: VolumeName,
    /// Only on this host
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    change: Change,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Comparing disks in a full sync
    Sync,
    /// Taking log from a source
    Fetch,
    /// Bringing the log to the disk
    Replay,
}

impl What {
    fn word(self) -> SwitchWord {
        match self {
            What::Sync => SwitchWord::Sync,
            What::Fetch => SwitchWord::Fetch,
            What::Replay => SwitchWord::Replay,
        }
    }
}

/// Answers `poolctl volume set`.
pub async fn set(args: SetArgs, context: &Context) -> Result<Ending, ApiError> {
    let (lag_millis_max, lag_bytes_max) = MaxLag::fields(args.max_lag);
    let request = SetVolume {
        mode: args.mode.map(|mode| mode.word().to_owned()),
        flush_replicas: args.flush_replicas,
        flush_wait_millis: args
            .wait_for
            .map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
        lag_millis_max,
        lag_bytes_max,
        throttle: args.throttle.map(|throttle| matches!(throttle, OnOff::On)),
        replicas: args.replicas,
        compression: args.compression.map(|compression| compression.word().to_owned()),
        dry_run: args.change.dry_run,
    };
    let nothing = SetVolume {
        dry_run: request.dry_run,
        ..SetVolume::default()
    };
    if request == nothing {
        return Err(ApiError::usage("nothing is to be set")
            .hint("give --mode, --flush-replicas, --wait-for, --max-lag, --throttle, --compression or --replicas")
            .object(format!("volume {}", args.name)));
    }
    let changed = context.client.volume_set(args.name.as_str(), &request).await?;
    job::finish(changed, args.waiting, context).await
}

/// Answers `poolctl volume pause`.
pub async fn pause(args: PauseArgs, context: &Context) -> Result<Ending, ApiError> {
    let of = args.of;
    switch(&of.name, of.what.word(), false, of.node, of.change, context).await
}

/// Answers `poolctl volume resume`.
pub async fn resume(args: ResumeArgs, context: &Context) -> Result<Ending, ApiError> {
    let of = args.of;
    switch(&of.name, of.what.word(), true, of.node, of.change, context).await
}

/// Answers `poolctl volume up`.
pub async fn up(args: UpArgs, context: &Context) -> Result<Ending, ApiError> {
    let of = args.of;
    switch(&of.name, SwitchWord::All, true, of.node, of.change, context).await
}

/// Answers `poolctl volume down`.
pub async fn down(args: DownArgs, context: &Context) -> Result<Ending, ApiError> {
    let of = args.of;
    switch(&of.name, SwitchWord::All, false, of.node, of.change, context).await
}

/// Stops something, or lets it go on, and says what became of it.
pub async fn switch(
    name: &VolumeName,
    switch: SwitchWord,
    on: bool,
    node: Option<NodeId>,
    change: Change,
    context: &Context,
) -> Result<Ending, ApiError> {
    let request = SwitchVolume {
        switch,
        on,
        node: node.map(|node| node.to_string()),
        dry_run: change.dry_run,
    };
    let changed = context.client.volume_switch(name.as_str(), &request).await?;
    job::show_change(&changed, context.output)?;
    Ok(Ending::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_a_time_or_a_size() {
        assert_eq!(parse_lag("5s"), Ok(MaxLag::Millis(5000)));
        assert_eq!(parse_lag("250ms"), Ok(MaxLag::Millis(250)));
        assert_eq!(parse_lag("5m"), Ok(MaxLag::Millis(300_000)));
        assert_eq!(parse_lag("64M"), Ok(MaxLag::Bytes(64 << 20)));
        assert_eq!(parse_lag("1GiB"), Ok(MaxLag::Bytes(1 << 30)));
        assert_eq!(parse_lag("none"), Ok(MaxLag::None));
        for bad in ["5", "0s", "0M", "soon", ""] {
            assert!(parse_lag(bad).is_err(), "{bad}");
        }
    }
}
