//! How is a volume replicated, and what has an operator stopped? Wishes, kept here and told to marsd until it lives by them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use api::control::{ModeSpec, ReplicaStatus, SwitchWord, VolumeLimits, VolumeSettings};
use api::pool::agent::{Action, Order, Step};
use api::pool::{Changed, JobKind, OnNode, REPLICAS_MAX, SetLimits, SetVolume, SwitchVolume};
use api::{ApiError, ErrorKind};
use migrate::job::Phase;
use migrate::place::{Request, choose};
use model::{NodeId, ReplicaState};

use super::Leader;
use super::jobs::{ORDER_PHASE, refusal};
use super::snapshots::keep_the_last;
use super::volumes::{desired, no_room};
use crate::catalog::records::{JobRecord, LifeRecord, PlaceRecord, VolumeRecord};
use crate::catalog::{Records, Tx};
use crate::inventory::{Snapshot, Trouble, replica_state};

/// How long a flush waits for replicas in near-sync mode, in milliseconds, unless somebody says otherwise.
const FLUSH_WAIT_MILLIS: u32 = 200;

/// How long a switch may take to be seen as wished on the hosts that are there.
const SWITCH_PATIENCE: Duration = Duration::from_secs(15);

/// Below this many bytes per second a volume would stand still.
pub(super) const RATE_MIN: u64 = 64 << 10;

/// A budget below this is none: see `api::control::Call::VolumeLogBudget`.
const NO_LOG_BYTES: u64 = 32 << 10;

/// The four that `all` stands for.
const SWITCHES: [SwitchWord; 4] = [
    SwitchWord::Sync,
    SwitchWord::Fetch,
    SwitchWord::Replay,
    SwitchWord::Attach,
];

/// The steps that bring marsds to what is wished for; those to hosts that are away wait until they are back.
pub fn settings_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let mut steps = Vec::new();
    for volume in records.live_volumes() {
        let mut add = |node: &str, action| {
            let (id, generation) = (volume.id.clone(), volume.generation);
            steps.push((
                node.to_owned(),
                Step {
                    volume: id,
                    generation,
                    action,
                },
            ));
        };
        for place in &volume.members {
            let known = snapshot.volume(&place.node, &volume.id, now);
            let Some(replica) = known.and_then(|known| known.replica.as_ref()) else {
                continue;
            };
            let wanted = volume.paused.get(&place.node).cloned().unwrap_or_default();
            let paused: BTreeSet<SwitchWord> = replica.paused.iter().copied().collect();
            let mut switches = differing(&wanted, &paused);
            if is_out_of_service(replica) {
                // Nothing comes behind what nobody there can do.
                switches.sort_by_key(|switch| *switch != SwitchWord::Attach);
            }
            for switch in switches {
                let on = !wanted.contains(&switch);
                add(&place.node, Action::Switch { switch, on });
            }
            let sources = volume.sources.get(&place.node).cloned().unwrap_or_default();
            let bytes = volume.log_budget_bytes;
            if replica.log_budget_bytes != bytes {
                add(&place.node, Action::LogBudget { bytes });
            }
            // A replica that is detached cannot be told.
            if replica.sources != sources && !paused.contains(&SwitchWord::Attach) {
                add(&place.node, Action::Sources { sources });
            }
        }
        let Some((node, replica)) = snapshot.primary(&volume.id, now) else {
            continue;
        };
        let (settings, limits) = (volume.settings, volume.limits);
        if replica.limits != limits {
            add(node, Action::Limits { limits });
        }
        if replica.settings != settings {
            add(node, Action::Settings { settings });
        }
        let compressed = volume.compressed;
        if replica.compressed != compressed {
            add(node, Action::Compression { compressed });
        }
    }
    steps
}

/// The switches to be told, in order. A detached replica has nothing but its disk to be told of; the rest follows once it is back.
fn differing(wanted: &BTreeSet<SwitchWord>, seen: &BTreeSet<SwitchWord>) -> Vec<SwitchWord> {
    match (
        seen.contains(&SwitchWord::Attach),
        wanted.contains(&SwitchWord::Attach),
    ) {
        (true, true) => Vec::new(),
        (true, false) => vec![SwitchWord::Attach],
        (false, _) => wanted.symmetric_difference(seen).copied().collect(),
    }
}

/// Why a replica that was told of these switches does not take them up before somebody brings it back; its disk can be let go of, and
/// taken up, all the same.
fn reason_deaf(
    replica: &ReplicaStatus,
    differing: &[SwitchWord],
    trouble: Option<&Trouble>,
) -> Option<String> {
    let was_told = trouble.is_some_and(|trouble| trouble.error.kind == ErrorKind::Unavailable);
    let waits = !is_out_of_service(replica) || !was_told || differing.contains(&SwitchWord::Attach);
    let why = replica.reason.as_deref().unwrap_or("it says no reason");
    let state = &replica.state;
    (!waits).then(|| format!("its replica is in service again, which is {state} now: {why}"))
}

/// Whether a replica has no engine that could do anything, for now or until somebody helps.
fn is_out_of_service(replica: &ReplicaStatus) -> bool {
    let state = replica_state(&replica.state);
    matches!(state, ReplicaState::Detached | ReplicaState::DefectiveLog)
}

/// What is wished for after a request; `replicas` is how many the volume has then. Errors: `usage`.
pub fn settings(
    before: &VolumeSettings,
    request: &SetVolume,
    replicas: usize,
) -> Result<VolumeSettings, ApiError> {
    let (mut count, mut wait) = match before.mode {
        ModeSpec::Async => (1, FLUSH_WAIT_MILLIS),
        ModeSpec::NearSync {
            replicas,
            wait_millis_max,
        } => (replicas, wait_millis_max),
        ModeSpec::Sync { replicas } => (replicas, FLUSH_WAIT_MILLIS),
    };
    count = request.flush_replicas.unwrap_or(count);
    wait = request.flush_wait_millis.unwrap_or(wait);
    let mode = match request.mode.as_deref().unwrap_or(mode_word(&before.mode)) {
        "async" if request.flush_replicas.is_some() || request.flush_wait_millis.is_some() => {
            return Err(ApiError::usage("in async mode no flush waits for a replica")
                .hint("give `--mode near-sync` or `--mode sync` too"));
        }
        "async" => ModeSpec::Async,
        "near-sync" => ModeSpec::NearSync {
            replicas: count,
            wait_millis_max: wait,
        },
        "sync" => ModeSpec::Sync { replicas: count },
        other => {
            return Err(ApiError::usage(format!("the mode `{other}` is not known"))
                .hint("use async, near-sync or sync"));
        }
    };
    let waits = mode != ModeSpec::Async;
    if waits && (count == 0 || usize::from(count) >= replicas) {
        return Err(ApiError::usage(format!(
            "mode {} cannot wait for {count} replicas: the volume has {} beside its primary",
            mode_word(&mode),
            replicas.saturating_sub(1)
        ))
        .hint("give fewer --flush-replicas, or more --replicas first"));
    }
    if waits && wait == 0 {
        return Err(ApiError::usage("near-sync with no time to wait is async").hint("use `--mode async`"));
    }
    let limit = |before: Option<u64>, asked: Option<u64>| {
        asked.map_or(before, |max| Some(max).filter(|max| *max > 0))
    };
    Ok(VolumeSettings {
        mode,
        lag_millis_max: limit(before.lag_millis_max, request.lag_millis_max),
        lag_bytes_max: limit(before.lag_bytes_max, request.lag_bytes_max),
        throttle: request.throttle.unwrap_or(before.throttle),
    })
}

/// Whether a log is to be compressed after a request. Errors: `usage`.
fn compressed(word: Option<&str>, before: bool) -> Result<bool, ApiError> {
    match word {
        None => Ok(before),
        Some("lz4") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => {
            Err(ApiError::usage(format!("the compression `{other}` is not known")).hint("use lz4 or none"))
        }
    }
}

/// The word for a compression.
pub fn compression_word(compressed: bool) -> &'static str {
    if compressed { "lz4" } else { "none" }
}

/// The word for a mode.
pub fn mode_word(mode: &ModeSpec) -> &'static str {
    match mode {
        ModeSpec::Async => "async",
        ModeSpec::NearSync { .. } => "near-sync",
        ModeSpec::Sync { .. } => "sync",
    }
}

/// What is to be stopped on a node.
pub fn paused(volume: &VolumeRecord, node: &str) -> Vec<SwitchWord> {
    volume.paused.get(node).into_iter().flatten().copied().collect()
}

fn describe(settings: &VolumeSettings) -> String {
    let mode = match settings.mode {
        ModeSpec::Async => "a flush is answered once durable at the primary (async)".to_owned(),
        ModeSpec::NearSync {
            replicas,
            wait_millis_max,
        } => format!(
            "a flush waits for {replicas} replicas, {wait_millis_max} ms at most, then goes on without (near-sync)"
        ),
        ModeSpec::Sync { replicas } => {
            format!("a flush waits for {replicas} replicas, however long that takes (sync)")
        }
    };
    let limits: Vec<String> = settings
        .lag_millis_max
        .map(|millis| format!("{} s", millis as f64 / 1000.0))
        .into_iter()
        .chain(
            settings
                .lag_bytes_max
                .map(|bytes| model::Bytes(bytes).to_string()),
        )
        .collect();
    match (limits.is_empty(), settings.throttle) {
        (true, _) => mode,
        (false, false) => format!("{mode}; a lag above {} is alarming", limits.join(" or ")),
        (false, true) => format!(
            "{mode}; a lag above {} is alarming and slows guests down",
            limits.join(" or ")
        ),
    }
}

/// What is added to a step on a host that is not there.
pub(super) fn if_away(snapshot: &Snapshot, node: &str, now: Instant) -> &'static str {
    match snapshot.marsd(node, now) {
        Ok(_) => "",
        Err(_) => " (it is away and hears of it when it is back)",
    }
}

/// Keeps a volume's new wishes, of which the steps tell; without a step it is as wished already, and the one that says so is added.
pub(super) fn keep_wishes(
    tx: &mut Tx,
    volume: &mut VolumeRecord,
    steps: &mut Vec<String>,
) -> Result<(), ApiError> {
    if steps.is_empty() {
        steps.push("nothing: it is so already".to_owned());
        return Ok(());
    }
    volume.generation += 1;
    tx.event(format!("volume {}", volume.name), steps.join("; "))?;
    tx.put(volume.clone())
}

pub(super) fn refused(volume: &VolumeRecord, message: String, hint: String) -> ApiError {
    ApiError::refused(message)
        .hint(hint)
        .object(format!("volume {}", volume.name))
}

/// What a budget of a volume's log means.
fn budget_words(bytes: Option<u64>) -> String {
    match bytes {
        None => "the log keeps its usual budget on each host".to_owned(),
        Some(bytes) if bytes < NO_LOG_BYTES => {
            let bytes = model::Bytes(bytes);
            format!(
                "{bytes} are too few for a log: changes go straight to the disk, and what replicas lack is remembered"
            )
        }
        Some(bytes) => {
            let bytes = model::Bytes(bytes);
            format!("each host keeps {bytes} of log at most; who is further behind copies what changed")
        }
    }
}

impl Leader {
    /// `volume set`.
    pub fn volume_set(&self, name: &str, request: &SetVolume) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let about = |error: ApiError| error.object(object.clone());
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            if volume.life != LifeRecord::Live {
                return Err(refused(
                    &volume,
                    format!("volume `{name}` is not in service"),
                    format!("`poolctl volume show {name}` says how it stands"),
                ));
            }
            let count = request
                .replicas
                .map_or(volume.members.len(), |count| count as usize);
            let next = settings(&volume.settings, request, count).map_err(about)?;
            let mut steps = Vec::new();
            if next != volume.settings {
                volume.settings = next;
                volume.generation += 1;
                let what = describe(&next);
                tx.event(&object, what.clone())?;
                tx.put(volume.clone())?;
                steps.push(what);
            }
            let compressed = compressed(request.compression.as_deref(), volume.compressed).map_err(about)?;
            if compressed != volume.compressed {
                volume.compressed = compressed;
                volume.generation += 1;
                let what = match compressed {
                    true => "the log is compressed from now on (lz4)",
                    false => "the log is not compressed any more",
                };
                tx.event(&object, what)?;
                tx.put(volume.clone())?;
                steps.push(what.to_owned());
            }
            if count != volume.members.len() {
                return self.set_replicas(tx, volume, count, steps, request.dry_run, &snapshot);
            }
            if steps.is_empty() {
                steps.push("nothing: it is so already".to_owned());
            }
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                generation: volume.generation,
                steps,
                ..Changed::default()
            })
        })
    }

    fn set_replicas(
        &self,
        tx: &mut Tx,
        mut volume: VolumeRecord,
        count: usize,
        mut steps: Vec<String>,
        dry_run: bool,
        snapshot: &Snapshot,
    ) -> Result<Changed, ApiError> {
        tx.no_job_at(&volume)?;
        let object = format!("volume {}", volume.name);
        if count == 0 || count > REPLICAS_MAX {
            let message = format!("{count} replicas cannot be: a volume has 1 to {REPLICAS_MAX}");
            return Err(ApiError::usage(message)
                .hint("give another --replicas")
                .object(object));
        }
        let mut wanted = desired(&volume)?;
        if count > wanted.members.len() {
            let request = Request {
                size: wanted.size,
                replicas: count - wanted.members.len(),
                on: Vec::new(),
            };
            let places = choose(&request, &self.rooms(tx, snapshot, Some(&wanted)))
                .map_err(|why| no_room(&why.to_string(), wanted.size).object(object.clone()))?;
            for place in places {
                steps.push(format!(
                    "node {} gets a replica in volume group {}; a full sync fills it",
                    place.node, place.vg
                ));
                wanted = wanted
                    .join(place)
                    .map_err(|error| refusal(&error, &volume.name))?;
            }
        }
        while count < wanted.members.len() {
            let node = first_to_go(&wanted.members, &volume, snapshot)
                .ok_or_else(|| ApiError::failed("no replica can go").object(object.clone()))?;
            self.keeps_a_whole_replica(&volume, node.as_str(), snapshot)?;
            let staying: Vec<&str> = wanted.members.iter().map(|place| place.node.as_str()).collect();
            keep_the_last(&volume, node.as_str(), &staying, snapshot)?;
            steps.push(format!("the replica on node {node} and its disk are removed"));
            wanted = wanted
                .leave(&node)
                .map_err(|error| refusal(&error, &volume.name))?;
        }
        volume.set(&wanted);
        tx.put(volume.clone())?;
        let job = JobRecord::new(JobKind::Replicas, &volume, Phase::Sync.word());
        self.begin(tx, dry_run, &volume, job, steps)
    }

    /// `limit set`.
    pub fn volume_limits(&self, name: &str, request: &SetLimits) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        for rate in [request.ship_bytes_per_second, request.sync_bytes_per_second] {
            if rate.is_some_and(|rate| rate > 0 && rate < RATE_MIN) {
                return Err(ApiError::usage(format!(
                    "less than {} each second is no rate at which anything comes to an end",
                    model::Bytes(RATE_MIN)
                ))
                .hint("give more, or pause it: `poolctl volume pause`")
                .object(object));
            }
        }
        self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            if volume.life == LifeRecord::Deleting {
                return Err(refusal(&migrate::Unsafe::Deleting, name));
            }
            let limit = |before: Option<u64>, asked: Option<u64>| {
                asked.map_or(before, |rate| Some(rate).filter(|rate| *rate > 0))
            };
            let next = VolumeLimits {
                ship_bytes_per_second: limit(
                    volume.limits.ship_bytes_per_second,
                    request.ship_bytes_per_second,
                ),
                sync_bytes_per_second: limit(
                    volume.limits.sync_bytes_per_second,
                    request.sync_bytes_per_second,
                ),
            };
            let rate = |rate: Option<u64>| {
                rate.map_or("as fast as it goes".to_owned(), |rate| {
                    format!("{}/s at most", model::Bytes(rate))
                })
            };
            let mut steps = Vec::new();
            if next != volume.limits {
                steps.push(format!("log is shipped {}", rate(next.ship_bytes_per_second)));
                steps.push(format!(
                    "full syncs are sent {}",
                    rate(next.sync_bytes_per_second)
                ));
                volume.limits = next;
            }
            let budget = limit(volume.log_budget_bytes, request.log_budget_bytes);
            if budget != volume.log_budget_bytes {
                steps.push(budget_words(budget));
                volume.log_budget_bytes = budget;
            }
            keep_wishes(tx, &mut volume, &mut steps)?;
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                generation: volume.generation,
                steps,
                ..Changed::default()
            })
        })
    }

    /// `volume pause`, `resume`, `up`, `down`, and the replica's own `attach` and `detach`.
    pub async fn volume_switch(&self, name: &str, request: &SwitchVolume) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let switches: Vec<SwitchWord> = match request.switch {
            SwitchWord::All => SWITCHES.to_vec(),
            one => vec![one],
        };
        let snapshot = self.inventory.snapshot();
        let now = Instant::now();
        let mut before = None;
        let (volume, nodes, mut steps) = self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            if volume.life == LifeRecord::Deleting {
                return Err(refusal(&migrate::Unsafe::Deleting, name));
            }
            let nodes = chosen(tx, &volume, request.node.as_deref())?;
            let stops = !request.on && switches.contains(&SwitchWord::Attach);
            let primary = snapshot.primary(&volume.id, now).map(|(node, _)| node);
            let primary = primary.unwrap_or(&volume.primary);
            if stops && !volume.stepped_down && nodes.iter().any(|node| node == primary) {
                return Err(refused(
                    &volume,
                    format!("node {primary} is the volume's primary; without its disk guests would hang"),
                    format!(
                        "hand the role over first: `poolctl volume primary {name} NODE`, or name another --node"
                    ),
                ));
            }
            let mut steps = Vec::new();
            before = Some(volume.paused.clone());
            for node in &nodes {
                let paused = volume.paused.entry(node.clone()).or_default();
                for switch in &switches {
                    let changes = if request.on {
                        paused.remove(switch)
                    } else {
                        paused.insert(*switch)
                    };
                    if changes {
                        let away = if_away(&snapshot, node, now);
                        let what = if request.on { "goes on" } else { "stops" };
                        steps.push(format!("{} {what} on node {node}{away}", word(*switch)));
                    }
                }
            }
            volume.paused.retain(|_, paused| !paused.is_empty());
            keep_wishes(tx, &mut volume, &mut steps)?;
            Ok((volume, nodes, steps))
        })?;
        if !request.dry_run {
            match self.wait_for_switches(&volume, &nodes).await {
                Ok(deaf) => steps.extend(deaf),
                Err(error) => {
                    // What marsd refuses for good is no longer wished for.
                    if error.kind == ErrorKind::Refused {
                        self.change(false, |tx| {
                            let mut volume = tx.records.volume(name)?.clone();
                            volume.paused = before.unwrap_or_default();
                            volume.generation += 1;
                            tx.put(volume)
                        })?;
                    }
                    return Err(error.object(object));
                }
            }
        }
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation: volume.generation,
            steps,
            ..Changed::default()
        })
    }

    /// Until all who can have taken it up; about each who cannot, words.
    async fn wait_for_switches(
        &self,
        volume: &VolumeRecord,
        nodes: &[String],
    ) -> Result<Vec<String>, ApiError> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + SWITCH_PATIENCE;
        loop {
            changed.mark_unchanged();
            let snapshot = self.inventory.snapshot();
            let now = Instant::now();
            let trouble_of = |node: &String| {
                let trouble = snapshot.troubles.get(&(volume.id.clone(), node.clone()));
                trouble.filter(|trouble| {
                    trouble.step.generation >= volume.generation
                        && matches!(trouble.step.action, Action::Switch { .. })
                })
            };
            let (mut deaf, mut late) = (Vec::new(), None);
            for node in nodes {
                let known = snapshot.volume(node, &volume.id, now);
                let Some(replica) = known.and_then(|known| known.replica.as_ref()) else {
                    continue;
                };
                let wanted = volume.paused.get(node).cloned().unwrap_or_default();
                let seen = replica.paused.iter().copied().collect();
                let differing = differing(&wanted, &seen);
                let trouble = trouble_of(node);
                if differing.is_empty() {
                    continue;
                }
                match reason_deaf(replica, &differing, trouble) {
                    Some(why) => deaf.push(format!("node {node} hears of it when {why}")),
                    None => late = late.or(Some((node, trouble))),
                }
            }
            let Some((node, trouble)) = late else {
                return Ok(deaf);
            };
            if let Some(trouble) = trouble.filter(|trouble| trouble.error.kind == ErrorKind::Refused) {
                return Err(
                    ApiError::refused(format!("node {node}: {}", trouble.error)).hint(format!(
                        "`poolctl volume show {}` says how it stands",
                        volume.name
                    )),
                );
            }
            if tokio::time::timeout_at(deadline, changed.changed())
                .await
                .is_err()
            {
                let why = trouble
                    .map(|trouble| format!(": {}", trouble.error))
                    .unwrap_or_default();
                let message = format!("node {node} has not taken it up within {SWITCH_PATIENCE:?}{why}");
                return Err(
                    ApiError::timed_out(message).hint("it stays wished for and is told again and again")
                );
            }
        }
    }

    /// `volume invalidate`.
    pub fn volume_invalidate(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let (volume, node) = self.secondary_of(tx, name, &request.node, &snapshot)?;
            let now = Instant::now();
            let Some((primary, _)) = snapshot.primary(&volume.id, now) else {
                return Err(refused(
                    &volume,
                    format!(
                        "no primary of volume `{name}` is reachable, so nobody could fill the replica again"
                    ),
                    "bring it back first, or make a replica primary".to_owned(),
                ));
            };
            let members: Vec<&str> = volume.members.iter().map(|place| place.node.as_str()).collect();
            keep_the_last(&volume, node.as_str(), &members, &snapshot)?;
            let steps = vec![
                format!("the replica on node {node} throws its contents and its log away"),
                format!("a full sync from node {primary} fills it again; only what differs is copied"),
            ];
            let mut job = JobRecord::new(JobKind::Invalidate, &volume, ORDER_PHASE);
            job.to = Some(place(&node));
            job.order = Some(Order::Invalidate { keep: false });
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `volume fake-sync`.
    pub fn volume_fake_sync(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let (volume, node) = self.secondary_of(tx, name, &request.node, &snapshot)?;
            // As its primary sees it too: a replica cannot know what it has missed.
            let observed = snapshot.observed(&volume.id, Instant::now());
            if observed
                .replica(&node)
                .is_some_and(|replica| replica.is_whole() && replica.sync_percent >= 100.0)
            {
                return Ok(Changed {
                    object: format!("volume {name}"),
                    dry_run: request.dry_run,
                    generation: volume.generation,
                    steps: vec![format!("nothing: the replica on node {node} is whole")],
                    ..Changed::default()
                });
            }
            let steps = vec![format!(
                "the replica on node {node} is called whole without comparing it; only right if its disk is known to be equal"
            )];
            let mut job = JobRecord::new(JobKind::FakeSync, &volume, ORDER_PHASE);
            job.to = Some(place(&node));
            job.order = Some(Order::FakeSync);
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// A replica that is seen and is not the primary.
    fn secondary_of(
        &self,
        tx: &Tx,
        name: &str,
        node: &str,
        snapshot: &Snapshot,
    ) -> Result<(VolumeRecord, NodeId), ApiError> {
        let volume = self.idle(tx, name)?;
        let nodes = chosen(tx, &volume, Some(node))?;
        let node = NodeId::new(&nodes[0]).map_err(|error| ApiError::usage(error.to_string()))?;
        let now = Instant::now();
        if let Err(blind) = snapshot.marsd(node.as_str(), now) {
            return Err(refused(
                &volume,
                format!("node {node} cannot be asked: it {blind}"),
                "bring it back first".to_owned(),
            ));
        }
        let primary = snapshot.primary(&volume.id, now).map(|(node, _)| node);
        if primary == Some(node.as_str()) {
            return Err(refused(
                &volume,
                format!("node {node} is the volume's primary: its contents are the volume"),
                format!("hand the role over first: `poolctl volume primary {name} NODE`"),
            ));
        }
        Ok((volume, node))
    }
}

/// The nodes that a request is about: those with a replica. Errors: `not-found`, `refused`.
pub(super) fn chosen(tx: &Tx, volume: &VolumeRecord, node: Option<&str>) -> Result<Vec<String>, ApiError> {
    let Some(node) = node else {
        return Ok(volume.members.iter().map(|place| place.node.clone()).collect());
    };
    tx.records.node(node)?;
    if volume.members.iter().any(|place| place.node == node) {
        return Ok(vec![node.to_owned()]);
    }
    let id = NodeId::new(node).map_err(|error| ApiError::usage(error.to_string()))?;
    Err(refusal(&migrate::Unsafe::NotMember(id), &volume.name))
}

/// Which replica goes first: never the primary; the worst one, of equals the one that was added last.
fn first_to_go(members: &[migrate::Placement], volume: &VolumeRecord, snapshot: &Snapshot) -> Option<NodeId> {
    let now = Instant::now();
    let primary = snapshot.primary(&volume.id, now).map(|(node, _)| node.to_owned());
    let primary = primary.unwrap_or_else(|| volume.primary.clone());
    let observed = snapshot.observed(&volume.id, now);
    let candidates = members
        .iter()
        .enumerate()
        .filter(|(_, place)| place.node.as_str() != primary && place.node.as_str() != volume.primary);
    let bad = |node: &NodeId| !observed.replica(node).is_some_and(|replica| replica.is_whole());
    candidates
        .max_by_key(|(index, place)| (bad(&place.node), *index))
        .map(|(_, place)| place.node.clone())
}

fn place(node: &NodeId) -> PlaceRecord {
    PlaceRecord {
        node: node.to_string(),
        vg: String::new(),
    }
}

fn word(switch: SwitchWord) -> &'static str {
    match switch {
        SwitchWord::Sync => "full sync",
        SwitchWord::Fetch => "fetching log",
        SwitchWord::Replay => "replay",
        SwitchWord::Attach => "the replica (its disk and log)",
        SwitchWord::All => "everything",
    }
}
