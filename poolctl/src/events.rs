//! `poolctl events`: what happened in the pool, and what happens now?

use std::time::Duration;

use api::ApiError;
use api::pool::{Event, EventList};
use clap::Args;

use crate::error::Ending;
use crate::output::Output;
use crate::run::Context;

/// How long one question may wait for news.
const POLL: Duration = Duration::from_secs(30);

/// Show what happened in the pool, the oldest first
#[derive(Debug, Args)]
#[command(after_help = "Example:
  poolctl events --last 20 --follow

With --json and --follow every line on stdout is one event as an object.

Next: poolctl status")]
pub struct EventsArgs {
    /// Go on with new events as they happen, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin this many events before the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    last: u64,
}

/// Answers `poolctl events`.
pub async fn run(args: EventsArgs, context: &Context) -> Result<Ending, ApiError> {
    let output = context.output;
    let mut list = past(args.last, context).await?;
    if output.is_json() && !args.follow {
        output.object(&list)?;
        return Ok(Ending::Done);
    }
    loop {
        list.events.iter().try_for_each(|event| show(event, output))?;
        if !args.follow {
            return Ok(Ending::Done);
        }
        list = context.client.events(list.newest, POLL).await?;
    }
}

/// The last `count` events; an answer holds only so many, so it may take several.
async fn past(count: u64, context: &Context) -> Result<EventList, ApiError> {
    // Nothing is newer than this, so the answer is only the newest number.
    let newest = context
        .client
        .events(i64::MAX as u64, Duration::ZERO)
        .await?
        .newest;
    let mut after = newest.saturating_sub(count);
    let mut events: Vec<Event> = Vec::new();
    while after < newest {
        let more = context.client.events(after, Duration::ZERO).await?.events;
        match more.last() {
            Some(last) => after = last.number,
            None => break,
        }
        events.extend(more);
    }
    Ok(EventList {
        newest: newest.max(after),
        events,
    })
}

fn show(event: &Event, output: Output) -> Result<(), ApiError> {
    if output.is_json() {
        return output.object(event);
    }
    output.line(&format!(
        "{}  {}: {}",
        event.time,
        output.bold(&event.object),
        event.message
    ))
}
