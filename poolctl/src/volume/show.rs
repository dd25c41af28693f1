//! `poolctl volume show|list`: how does a volume stand, for people?

use api::ApiError;
use api::control::{ModeSpec, SwitchWord};
use api::pool::{DoorKind, DoorRow, LogRoom, ReplicaRow, Volume};

use crate::output::{self, Field, Grid, Output};

/// Figures older than this are marked with their age.
const AGE_SECONDS_FRESH: f64 = 10.0;

/// Shorter lags are what asynchronous replication is; only their bytes are shown.
const LAG_SECONDS_SHOWN: f64 = 0.1;

/// One line per volume.
pub fn list(volumes: &[Volume]) -> Grid {
    let mut grid = Grid::new(&[
        "NAME", "SIZE", "K", "STATE", "PRIMARY", "REPLICAS", "DOORS", "JOB",
    ]);
    for volume in volumes {
        grid.row(vec![
            Field::text(&volume.name),
            Field::number(output::bytes(volume.size_bytes)),
            Field::number(volume.replicas.len()),
            Field::state(&volume.state),
            Field::text(volume.primary.as_deref().unwrap_or("none")),
            Field::text(nodes(&volume.replicas)),
            Field::text(doors(&volume.doors).join(", ")),
            Field::text(volume.job.as_deref().unwrap_or_default()),
        ]);
    }
    grid
}

fn nodes(replicas: &[ReplicaRow]) -> String {
    replicas
        .iter()
        .map(|replica| replica.node.as_str())
        .collect::<Vec<_>>()
        .join(",")
}

/// Everything about one volume.
pub fn show(volume: &Volume, output: Output) -> Result<(), ApiError> {
    let primary = match &volume.primary {
        Some(node) => format!("primary {node} (epoch {})", volume.epoch),
        None => "no primary".to_owned(),
    };
    output.line(&format!(
        "{}: {}, {}, {}, {}, {primary}",
        output.bold(&format!("volume {}", volume.name)),
        output.state(&volume.state),
        output::bytes(volume.size_bytes),
        volume.mode,
        output::count(volume.replicas.len(), "replica"),
    ))?;
    output.line(&format!("  id        {}", volume.id))?;
    let verified = volume.last_verified.as_deref().unwrap_or("never");
    let differing = volume.differing_bytes.iter();
    let differing: Vec<String> = differing
        .map(|(node, bytes)| format!("{} of {node} differ", output::bytes(*bytes)))
        .collect();
    let differing = match differing.is_empty() {
        true => String::new(),
        false => format!(
            "; {}: poolctl volume verify {} --repair",
            differing.join(", "),
            volume.name
        ),
    };
    output.line(&format!("  verified  {verified}{differing}"))?;
    if let Some(room) = room(&volume.room) {
        output.line(&format!("  log       {room}"))?;
    }
    if volume.kept_histories > 0 {
        output.line(&format!(
            "  kept      {} of former split brains, {}: poolctl volume split-brain show {}",
            output::count(volume.kept_histories as usize, "log"),
            output::bytes(volume.kept_bytes),
            volume.name
        ))?;
    }
    if let Some(how) = how(volume) {
        output.line(&format!("  mode      {how}"))?;
    }
    if let Some(job) = &volume.job {
        output.line(&format!("  job       {job} is at work: poolctl job watch {job}"))?;
    }
    output.line("")?;
    output.table(replicas(volume))?;
    for replica in &volume.replicas {
        if let Some(reason) = &replica.reason {
            output.line(&format!("  {}: {reason}", replica.node))?;
        }
    }
    if !volume.doors.is_empty() {
        output.line("")?;
        output.table(door_table(&volume.doors))?;
    }
    Ok(())
}

/// What trouble the room for its log gives; `None` when it gives none.
fn room(room: &LogRoom) -> Option<String> {
    if room.pressure.is_empty() || room.pressure == "normal" {
        return None;
    }
    let mut words = format!(
        "{}: {} of {}",
        room.pressure,
        output::bytes(room.log_bytes),
        output::bytes(room.log_bytes_max)
    );
    if let Some(holder) = &room.log_held_by {
        words += &format!(", held by {holder}");
    }
    if let Some(seconds) = room.unlogged_seconds {
        words += &format!(
            "; changes go straight to the disk for {}",
            output::seconds(seconds)
        );
    }
    Some(words)
}

/// How it is replicated, where there is more to say than the mode's word.
fn how(volume: &Volume) -> Option<String> {
    let settings = &volume.settings;
    let mut words = Vec::new();
    match settings.mode {
        ModeSpec::Async => {}
        ModeSpec::NearSync {
            replicas,
            wait_millis_max,
        } => words.push(format!(
            "flushes wait for {replicas}, {wait_millis_max} ms at most"
        )),
        ModeSpec::Sync { replicas } => words.push(format!("flushes wait for {replicas}")),
    }
    if let Some(millis) = settings.lag_millis_max {
        words.push(format!("max lag {}", output::seconds(millis as f64 / 1000.0)));
    }
    if let Some(bytes) = settings.lag_bytes_max {
        words.push(format!("max lag {}", output::bytes(bytes)));
    }
    if settings.throttle {
        words.push("throttled past it".to_owned());
    }
    if volume.compression != "none" {
        words.push(format!("log compressed ({})", volume.compression));
    }
    if let Some(seconds) = volume.short_seconds {
        words.push(format!(
            "too few replicas keep up for {}",
            output::seconds(seconds)
        ));
    }
    if let Some(seconds) = volume.late_seconds {
        words.push(format!(
            "further behind than allowed for {}",
            output::seconds(seconds)
        ));
    }
    (!words.is_empty()).then(|| format!("{}: {}", volume.mode, words.join(", ")))
}

/// What an operator has done to a replica, and how old its figures are.
fn remarks(row: &ReplicaRow, size_bytes: u64) -> String {
    let mut words = Vec::new();
    let paused: Vec<&str> = row.paused.iter().map(|switch| switch_word(*switch)).collect();
    if !paused.is_empty() {
        words.push(format!("stopped: {}", paused.join(", ")));
    }
    if let [_, via @ ..] = row.path.as_slice()
        && let Some(source) = via.last()
    {
        words.push(format!("log from {source}"));
    }
    if row.faked {
        words.push("faked".to_owned());
    }
    if (1..size_bytes).contains(&row.size_bytes) {
        words.push(format!("{} so far", output::bytes(row.size_bytes)));
    }
    if let Some(bytes) = row.dirty_bytes {
        words.push(format!("may lack {}", output::bytes(bytes)));
    }
    words.extend(Some(age(row.age_seconds)).filter(|age| !age.is_empty()));
    words.join("; ")
}

fn switch_word(switch: SwitchWord) -> &'static str {
    match switch {
        SwitchWord::Sync => "sync",
        SwitchWord::Fetch => "fetch",
        SwitchWord::Replay => "replay",
        SwitchWord::Attach => "detached",
        SwitchWord::All => "all",
    }
}

/// Replicas with their watermarks.
fn replicas(volume: &Volume) -> Grid {
    let mut grid = Grid::new(&[
        "NODE",
        "ROLE",
        "STATE",
        "SYNC",
        "LAG",
        "BEHIND BY",
        "WRITTEN BACK",
        "COMMITTED",
        "APPENDED",
        "ACKNOWLEDGED",
        "VG",
        "",
    ]);
    for row in &volume.replicas {
        grid.row(vec![
            Field::text(&row.node),
            Field::text(&row.role),
            Field::state(&row.state),
            Field::number(output::percent(row.sync_percent)),
            Field::number(output::bytes(row.lag_bytes)),
            Field::number(output::seconds(row.lag_seconds)),
            Field::number(row.written_back),
            Field::number(row.committed),
            Field::number(row.appended),
            Field::number(row.peer_committed),
            Field::text(&row.vg),
            Field::text(remarks(row, volume.size_bytes)),
        ]);
    }
    grid
}

/// Says so where figures are not fresh.
fn age(seconds: Option<f64>) -> String {
    match seconds {
        None => "never reported".to_owned(),
        Some(age) if age > AGE_SECONDS_FRESH => format!("as of {} ago", output::seconds(age)),
        Some(_) => String::new(),
    }
}

/// What a replica lacks, in words; empty when nothing, or when nobody knows.
pub fn lag(replica: &ReplicaRow) -> String {
    if replica.state == model::ReplicaState::Unreachable.to_string() {
        return String::new();
    }
    if replica.sync_percent < 100.0 {
        return output::percent(replica.sync_percent);
    }
    match replica.lag_bytes {
        0 => String::new(),
        bytes if replica.lag_seconds < LAG_SECONDS_SHOWN => output::bytes(bytes),
        bytes => format!(
            "{}, {}",
            output::bytes(bytes),
            output::seconds(replica.lag_seconds)
        ),
    }
}

/// Each door in a word or two: `nbd@a (1 guest)`.
pub fn doors(doors: &[DoorRow]) -> Vec<String> {
    doors
        .iter()
        .map(|door| {
            let use_of_it = match (door.open, door.clients) {
                (false, _) => " (opening)".to_owned(),
                (true, 0) => String::new(),
                (true, 1) => " (1 guest)".to_owned(),
                (true, clients) => format!(" ({clients} guests)"),
            };
            format!("{}@{}{use_of_it}", kind(door.kind), door.node)
        })
        .collect()
}

fn kind(kind: DoorKind) -> &'static str {
    match kind {
        DoorKind::Nbd => "nbd",
        DoorKind::VhostUserBlk => "vhost-user-blk",
    }
}

fn door_table(doors: &[DoorRow]) -> Grid {
    let mut grid = Grid::new(&[
        "DOOR",
        "NODE",
        "STATE",
        "GUESTS",
        "LONGEST PAUSE",
        "URI OR PATH",
        "",
    ]);
    for door in doors {
        let mut remarks = Vec::new();
        if door.remote {
            remarks.push("remote");
        }
        if door.read_only {
            remarks.push("read-only");
        }
        grid.row(vec![
            Field::text(kind(door.kind)),
            Field::text(&door.node),
            Field::state(if door.open { "open" } else { "opening" }),
            Field::number(door.clients),
            Field::number(output::micros(door.pause_micros_max)),
            Field::text(if door.uri.is_empty() {
                &door.path
            } else {
                &door.uri
            }),
            Field::text(remarks.join(", ")),
        ]);
    }
    grid
}
