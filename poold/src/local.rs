//! What can a host say while the catalog cannot be reached? What its own marsd knows, and that this is all there is.

use std::collections::BTreeMap;

use api::ApiError;
use api::control::{DoorSpec, HostLimits, HostStatus, ReplicaStatus, VolumeStatus};
use api::pool::{DoorKind, DoorRow, Node, NodeState, PoolState, ReplicaRow, Status, Volume};
use model::ReplicaState;

use crate::clock;
use crate::inventory::{SEVERITY, replica_state, severity};
use crate::leader::settings::{compression_word, mode_word};
use crate::leader::view::log_room;

/// Who asks, and where it is.
pub struct Own {
    /// The pool's name.
    pub pool: String,
    /// This node.
    pub node: String,
    /// Where its daemon is.
    pub address: String,
    /// Where its marsd listens for peers.
    pub peer_address: String,
}

/// `status` as far as this host can tell; `why` the catalog cannot.
pub fn status(own: &Own, marsd: Result<HostStatus, ApiError>, why: &ApiError) -> Status {
    let mut problems = vec![why.message.clone()];
    let (state, reason, known) = match marsd {
        Ok(status) => (NodeState::Online, None, Some(status)),
        Err(error) => (NodeState::MarsdDown, Some(error.message), None),
    };
    if let Some(reason) = &reason {
        problems.push(format!("node {} cannot reach its marsd: {reason}", own.node));
    }
    let volumes: Vec<Volume> = known
        .iter()
        .flat_map(|status| &status.volumes)
        .map(|known| volume(own, known))
        .collect();
    for volume in &volumes {
        let row = volume.replicas.iter().find(|row| row.node == own.node);
        if let Some(row) = row
            && severity(replica_state(&row.state)) > severity(ReplicaState::Behind)
        {
            problems.push(format!(
                "volume {}: the replica on {} is {}",
                volume.name, row.node, row.state
            ));
        }
    }
    let is_primary = |volume: &&Volume| volume.primary.as_deref() == Some(&own.node);
    let has_replica = |volume: &&Volume| volume.replicas.iter().any(|row| row.node == own.node);
    let limits = known.as_ref().map(limits).unwrap_or_default();
    let node = Node {
        name: own.node.clone(),
        state,
        reason,
        address: own.address.clone(),
        peer_address: own.peer_address.clone(),
        catalog: false,
        age_seconds: Some(0.0),
        size_bytes: 0,
        reserved_bytes: 0,
        free_bytes: 0,
        replicas: volumes.iter().filter(has_replica).count() as u64,
        primaries: volumes.iter().filter(is_primary).count() as u64,
        poold_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        marsd_version: known.as_ref().map(|status| status.program_version.clone()),
        joined: String::new(),
        limits,
        drained: false,
    };
    Status {
        pool: own.pool.clone(),
        state: PoolState::Degraded,
        seen_from: Some(own.node.clone()),
        problems,
        nodes: vec![node],
        volumes,
        jobs: Vec::new(),
    }
}

/// What replication may take of this host, with names of volumes as far as they are known here.
fn limits(status: &HostStatus) -> HostLimits {
    let name = |id: &String| {
        let known = status.volumes.iter().find(|known| known.volume == *id);
        known.map(|known| known.name.clone())
    };
    HostLimits {
        prefer: status.limits.prefer.iter().filter_map(name).collect(),
        ..status.limits.clone()
    }
}

fn volume(own: &Own, known: &VolumeStatus) -> Volume {
    let here = known.replica.as_ref();
    let primary = here.and_then(|replica| match replica.role == "primary" {
        true => Some(own.node.clone()),
        false => replica.primary.clone(),
    });
    let mut replicas: Vec<ReplicaRow> = known
        .members
        .iter()
        .map(|member| replica(own, &member.node, here))
        .collect();
    replicas.sort_by_key(|row| Some(&row.node) != primary.as_ref());
    let worst = replicas
        .iter()
        .map(|row| severity(replica_state(&row.state)))
        .max();
    let settings = here.map(|replica| replica.settings).unwrap_or_default();
    Volume {
        name: known.name.clone(),
        id: known.volume.clone(),
        size_bytes: known.size_bytes,
        mode: mode_word(&settings.mode).to_owned(),
        settings,
        limits: here.map(|replica| replica.limits).unwrap_or_default(),
        log_budget_bytes: here.and_then(|replica| replica.log_budget_bytes),
        compression: compression_word(here.is_some_and(|replica| replica.compressed)).to_owned(),
        short_seconds: here.and_then(|replica| replica.short_seconds),
        late_seconds: here.and_then(|replica| replica.late_seconds),
        room: here
            .filter(|replica| replica.role == "primary")
            .map(log_room)
            .unwrap_or_default(),
        state: SEVERITY[worst.unwrap_or_default()].to_string(),
        primary,
        epoch: here.map_or(0, |replica| replica.epoch),
        generation: 0,
        replicas,
        doors: doors(own, known),
        last_verified: None,
        differing_bytes: BTreeMap::new(),
        kept_histories: 0,
        kept_bytes: 0,
        job: None,
    }
}

/// A primary knows its peers; a replica knows itself only.
fn replica(own: &Own, node: &str, here: Option<&ReplicaStatus>) -> ReplicaRow {
    let mut row = ReplicaRow {
        node: node.to_owned(),
        role: "secondary".to_owned(),
        state: ReplicaState::Unreachable.to_string(),
        reason: Some("nothing is known of it here".to_owned()),
        size_bytes: 0,
        sync_percent: 0.0,
        lag_bytes: 0,
        lag_seconds: 0.0,
        dirty_bytes: None,
        appended: 0,
        committed: 0,
        written_back: 0,
        peer_committed: 0,
        vg: String::new(),
        paused: Vec::new(),
        path: Vec::new(),
        sources: Vec::new(),
        faked: false,
        verified: None,
        age_seconds: None,
    };
    let Some(here) = here else { return row };
    if node == own.node {
        (row.role, row.state, row.reason) = (here.role.clone(), here.state.clone(), here.reason.clone());
        (row.appended, row.committed) = (here.appended_lsn, here.committed_lsn);
        (row.written_back, row.peer_committed) = (here.written_back_lsn, here.committed_lsn);
        (row.paused, row.faked) = (here.paused.clone(), here.faked);
        (row.path, row.sources) = (here.path.clone(), here.sources.clone());
        row.size_bytes = here.size_bytes;
        (row.sync_percent, row.age_seconds) = (here.sync_percent, Some(0.0));
        row.verified = here
            .verified
            .map(|verified| clock::from_unix_seconds(verified.unix_seconds));
        return row;
    }
    if here.primary.as_deref() == Some(node) {
        row.role = "primary".to_owned();
    }
    if let Some(peer) = here.peers.iter().find(|peer| peer.node == node) {
        row.state.clone_from(&peer.state);
        row.reason = Some(format!("as its primary on {} sees it", own.node));
        (row.lag_bytes, row.lag_seconds) = (peer.lag_bytes, peer.lag_seconds);
        (row.committed, row.peer_committed) = (peer.committed_lsn, peer.committed_lsn);
        (row.written_back, row.sync_percent) = (peer.replayed_lsn, peer.sync_percent);
        row.age_seconds = Some(0.0);
    }
    row
}

fn doors(own: &Own, known: &VolumeStatus) -> Vec<DoorRow> {
    let row = |door: &api::control::DoorStatus| DoorRow {
        kind: match door.door {
            DoorSpec::Nbd { .. } | DoorSpec::NbdTcp { .. } => DoorKind::Nbd,
            DoorSpec::VhostUserBlk { .. } => DoorKind::VhostUserBlk,
        },
        node: own.node.clone(),
        path: door.path.clone(),
        uri: door.uri.clone(),
        open: true,
        read_only: door.door.read_only(),
        remote: known.replica.is_none(),
        clients: door.clients,
        pause_micros_max: door.pause_micros_max,
    };
    known.doors.iter().map(row).collect()
}
