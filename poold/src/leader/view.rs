//! How does everything stand? What should be and what is, merged without hiding that they differ.

use std::time::{Duration, Instant};

use api::ApiError;
use api::control::{ModeSpec, ReplicaStatus};
use api::pool::{
    DoorRow, Event, EventList, JobKind, LogRoom, LogRow, Node, NodeList, NodeState, PoolState, ReplicaRow,
    Status, Vg, VgList, Volume, VolumeList, VolumeLog,
};
use migrate::desired::{DoorAt, VolumeDesired};
use migrate::plan::same_door;
use model::{Bytes, NodeId, ReplicaState};

use super::errands::kept;
use super::limits::named;
use super::settings::{compression_word, mode_word, paused};
use super::thin::{promise_bytes, shortage};
use super::{Leader, WAIT_MAX};
use crate::catalog::Records;
use crate::catalog::records::{LifeRecord, NodeRecord, VgRecord, VolumeRecord, kind_shown};
use crate::clock;
use crate::inventory::{Blind, SEVERITY, Snapshot, door_seen, replica_state, severity};

/// Most events in one answer.
const EVENTS_PER_ANSWER: usize = 1_000;

/// One look at everything.
pub struct View<'a> {
    /// The node that holds the catalog.
    pub leader: &'a str,
    /// What should be.
    pub records: &'a Records,
    /// What is.
    pub snapshot: &'a Snapshot,
    /// When.
    pub now: Instant,
}

impl Leader {
    /// Looks at everything.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let (records, snapshot) = (self.catalog.records(), self.inventory.snapshot());
        look(&View {
            leader: &self.node,
            records: &records,
            snapshot: &snapshot,
            now: Instant::now(),
        })
    }

    /// `volume list`.
    pub fn volumes(&self) -> VolumeList {
        self.view(|view| view.volumes())
    }

    /// `volume show`.
    pub fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.view(|view| view.records.volume(name).map(|volume| view.volume(volume)))
    }

    /// `volume log show`.
    pub fn volume_log(&self, name: &str) -> Result<VolumeLog, ApiError> {
        self.view(|view| view.records.volume(name).map(|volume| view.log(volume)))
    }

    /// `node list`.
    pub fn nodes(&self) -> NodeList {
        self.view(|view| NodeList {
            nodes: view.records.nodes.iter().map(|node| view.node(node)).collect(),
        })
    }

    /// `node show`.
    pub fn node(&self, name: &str) -> Result<Node, ApiError> {
        self.view(|view| view.records.node(name).map(|node| view.node(node)))
    }

    /// `vg list`.
    pub fn vgs(&self) -> VgList {
        self.view(|view| VgList {
            vgs: view.records.vgs.iter().map(|vg| view.vg(vg)).collect(),
        })
    }

    /// `status`.
    pub fn status(&self) -> Result<Status, ApiError> {
        self.view(|view| {
            let nodes: Vec<Node> = view.records.nodes.iter().map(|node| view.node(node)).collect();
            let volumes = view.volumes().volumes;
            let problems = view.problems(&nodes);
            let running = view.records.jobs.iter().filter(|job| !job.state.ended());
            Ok(Status {
                pool: view.records.the_pool()?.name.clone(),
                state: if problems.is_empty() {
                    PoolState::Healthy
                } else {
                    PoolState::Degraded
                },
                seen_from: None,
                problems,
                nodes,
                volumes,
                jobs: running.map(|job| self.show_job(view.records, job)).collect(),
            })
        })
    }

    /// `events`: those behind `after`, waiting for the first one.
    pub async fn events(&self, after: Option<u64>, wait: Duration) -> Result<EventList, ApiError> {
        let look = || {
            let records = self.catalog.records();
            let newest = records.the_pool()?.newest_event;
            // Without a number: the newest that fit into one answer.
            let after = after.unwrap_or(newest.saturating_sub(EVENTS_PER_ANSWER as u64));
            let after = format!("{after:016}");
            let events = records
                .events
                .after(&after)
                .take(EVENTS_PER_ANSWER)
                .map(|event| Event {
                    number: event.number,
                    time: event.time.clone(),
                    object: event.object.clone(),
                    message: event.message.clone(),
                });
            let events: Vec<Event> = events.collect();
            let newest = events.last().map_or(newest, |last| last.number);
            Ok::<_, ApiError>(EventList { events, newest })
        };
        let mut changes = self.catalog.watch();
        let mut list = look()?;
        let newer = async {
            while list.events.is_empty() && changes.changed().await.is_ok() {
                list = look()?;
            }
            Ok(())
        };
        if let Ok(result) = tokio::time::timeout(wait.min(WAIT_MAX), newer).await {
            result?;
        }
        Ok(list)
    }
}

impl View<'_> {
    fn volumes(&self) -> VolumeList {
        let mut volumes: Vec<Volume> = self
            .records
            .volumes
            .iter()
            .map(|volume| self.volume(volume))
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        VolumeList { volumes }
    }

    /// One volume.
    pub fn volume(&self, volume: &VolumeRecord) -> Volume {
        let primary = self.snapshot.primary(&volume.id, self.now);
        let mut replicas = Vec::new();
        let mut worst = None;
        for place in volume.members.iter().chain(&volume.leaving) {
            let (state, row) = self.replica(volume, &place.node, &place.vg, primary);
            if volume.members.iter().any(|member| member.node == place.node) {
                worst = worst.max(Some(severity(state)));
            }
            replicas.push(row);
        }
        let kept = kept(volume, self.snapshot);
        let primary_node = primary.map(|(node, _)| node.to_owned());
        let first = primary_node.clone().unwrap_or_else(|| volume.primary.clone());
        replicas.sort_by(|a, b| (a.node != first, &a.node).cmp(&(b.node != first, &b.node)));
        let state = match (volume.life, worst) {
            (LifeRecord::Deleting, _) => "deleting".to_owned(),
            (LifeRecord::New, _) => "creating".to_owned(),
            (LifeRecord::Live, Some(worst)) => SEVERITY[worst].to_string(),
            (LifeRecord::Live, None) => ReplicaState::Detached.to_string(),
        };
        Volume {
            name: volume.name.clone(),
            id: volume.id.clone(),
            size_bytes: volume.size_bytes,
            mode: mode_word(&volume.settings.mode).to_owned(),
            settings: volume.settings,
            limits: volume.limits,
            log_budget_bytes: volume.log_budget_bytes,
            compression: compression_word(volume.compressed).to_owned(),
            short_seconds: primary.and_then(|(_, replica)| replica.short_seconds),
            late_seconds: primary.and_then(|(_, replica)| replica.late_seconds),
            room: primary.map(|(_, replica)| log_room(replica)).unwrap_or_default(),
            state,
            primary: Some(first).filter(|_| {
                let nobody = volume.stepped_down && primary.is_none();
                volume.life != LifeRecord::Deleting && !nobody
            }),
            epoch: self.snapshot.term(&volume.id),
            generation: volume.generation,
            replicas,
            doors: self.doors(volume),
            last_verified: volume.last_verified.clone(),
            differing_bytes: volume.differing_bytes.clone(),
            kept_histories: kept.len() as u64,
            kept_bytes: kept.iter().map(|kept| kept.bytes).sum(),
            job: self.records.job_at(&volume.id).map(|job| job.number.to_string()),
        }
    }

    pub(super) fn replica(
        &self,
        volume: &VolumeRecord,
        node: &str,
        vg: &str,
        primary: Option<(&str, &ReplicaStatus)>,
    ) -> (ReplicaState, ReplicaRow) {
        let fresh = self.snapshot.marsd(node, self.now);
        let known = self
            .snapshot
            .last_known(node, &volume.id)
            .and_then(|known| known.replica.as_ref());
        let as_peer = primary.and_then(|(_, replica)| replica.peers.iter().find(|peer| peer.node == node));
        let leaving = volume.leaving.iter().any(|place| place.node == node);
        let (state, mut reason) = match (&fresh, known) {
            (Err(blind), _) => (ReplicaState::Unreachable, Some(format!("node {node} {blind}"))),
            (Ok(_), None) if leaving => (ReplicaState::Detached, None),
            (Ok(_), None) => (
                ReplicaState::Inconsistent,
                Some("the replica does not exist yet".to_owned()),
            ),
            (Ok(_), Some(replica)) => {
                let own = replica_state(&replica.state);
                // What the primary sees counts where it is worse: a replica cannot know what it has missed.
                let seen = as_peer.map_or(own, |peer| replica_state(&peer.state));
                if severity(seen) > severity(own) {
                    let primary = primary.map_or("", |(node, _)| node);
                    (
                        seen,
                        replica
                            .reason
                            .clone()
                            .or_else(|| Some(format!("as its primary on {primary} sees it"))),
                    )
                } else {
                    (own, replica.reason.clone())
                }
            }
        };
        if leaving {
            reason = Some(reason.map_or("it is being removed".to_owned(), |why| {
                format!("it is being removed; {why}")
            }));
        }
        // What a host last said of its role may have changed since without it.
        let role = known.filter(|_| fresh.is_ok()).map_or(
            if volume.primary == node {
                "primary"
            } else {
                "secondary"
            },
            |known| &known.role,
        );
        let row = ReplicaRow {
            node: node.to_owned(),
            role: role.to_owned(),
            state: state.to_string(),
            reason,
            size_bytes: known.map_or(0, |known| known.size_bytes),
            sync_percent: known.map_or(0.0, |known| known.sync_percent),
            lag_bytes: as_peer.map_or(0, |peer| peer.lag_bytes),
            lag_seconds: as_peer.map_or(0.0, |peer| peer.lag_seconds),
            dirty_bytes: as_peer.and_then(|peer| peer.dirty_bytes),
            appended: known.map_or(0, |known| known.appended_lsn),
            committed: known.map_or(0, |known| known.committed_lsn),
            written_back: known.map_or(0, |known| known.written_back_lsn),
            peer_committed: as_peer.map_or(known.map_or(0, |known| known.committed_lsn), |peer| {
                peer.committed_lsn
            }),
            vg: vg.to_owned(),
            paused: paused(volume, node),
            path: known.map_or_else(Vec::new, |known| known.path.clone()),
            sources: volume.sources.get(node).cloned().unwrap_or_default(),
            faked: known.is_some_and(|known| known.faked),
            verified: known
                .and_then(|known| known.verified)
                .map(|verified| clock::from_unix_seconds(verified.unix_seconds)),
            age_seconds: self
                .snapshot
                .told_seconds_ago(node, self.now)
                .map(|age| (age * 10.0).round() / 10.0),
        };
        (state, row)
    }

    fn doors(&self, volume: &VolumeRecord) -> Vec<DoorRow> {
        let Ok(desired) = volume.desired() else {
            return Vec::new();
        };
        let mut rows: Vec<DoorRow> = desired
            .doors
            .iter()
            .map(|door| door_row(&desired, door, None))
            .collect();
        for host in self.snapshot.hosts.keys() {
            let (Ok(node), Some(known)) = (
                NodeId::new(host),
                self.snapshot.volume(host, &volume.id, self.now),
            ) else {
                continue;
            };
            for status in &known.doors {
                let seen = door_seen(&node, &status.door);
                let index = desired
                    .doors
                    .iter()
                    .position(|door| same_door(door, &seen, &desired));
                let row = DoorRow {
                    path: status.path.clone(),
                    uri: status.uri.clone(),
                    open: true,
                    clients: status.clients,
                    pause_micros_max: status.pause_micros_max,
                    ..door_row(&desired, &seen, known.replica.as_ref())
                };
                match index {
                    Some(index) => rows[index] = row,
                    None => rows.push(row),
                }
            }
        }
        rows
    }

    fn log(&self, volume: &VolumeRecord) -> VolumeLog {
        let shown = self.volume(volume);
        let row = |row: &ReplicaRow| {
            let known = self
                .snapshot
                .last_known(&row.node, &volume.id)?
                .replica
                .as_ref()?;
            Some(LogRow {
                node: row.node.clone(),
                role: known.role.clone(),
                epoch: format!("{}.{}", known.epoch, known.epoch_start),
                trimmed: known.trimmed_lsn,
                written_back: known.written_back_lsn,
                touched: known.touched_lsn,
                committed: known.committed_lsn,
                appended: known.appended_lsn,
                kept_bytes: known.appended_lsn.saturating_sub(known.trimmed_lsn),
                budget_bytes: known.log_bytes_max,
                pressure: known.pressure.clone(),
                held_by: known.log_held_by.clone(),
                chain_digest: known.chain_digest.clone(),
            })
        };
        VolumeLog {
            name: volume.name.clone(),
            replicas: shown.replicas.iter().filter_map(row).collect(),
        }
    }

    /// One volume group. Reserved is what the catalog has promised, on their way or there.
    pub fn vg(&self, vg: &VgRecord) -> Vg {
        let (replicas, reserved_bytes) = self.reserved(&vg.node, &vg.name);
        let report = self.snapshot.hosts.get(&vg.node);
        let report = report.and_then(|seen| seen.report.vgs.iter().find(|report| report.name == vg.name));
        let problem = report.and_then(|report| report.problem.clone());
        let sound = report.filter(|report| report.problem.is_none());
        let shortage =
            sound.and_then(|report| shortage(vg, reserved_bytes, report.used_bytes, report.left_bytes));
        Vg {
            node: vg.node.clone(),
            name: vg.name.clone(),
            kind: vg.kind,
            path: vg.path.clone(),
            size_bytes: vg.size_bytes,
            reserved_bytes,
            overcommit_percent: vg.overcommit_percent,
            free_bytes: promise_bytes(vg).saturating_sub(reserved_bytes),
            used_bytes: sound.map(|report| report.used_bytes),
            left_bytes: sound.map(|report| report.left_bytes),
            replicas,
            problem: problem.or(shortage),
        }
    }

    fn reserved(&self, node: &str, vg: &str) -> (u64, u64) {
        let mut sum = (0, 0);
        for volume in self.records.volumes.iter() {
            let here = volume.members.iter().chain(&volume.leaving);
            let count = here.filter(|place| place.node == node && place.vg == vg).count() as u64;
            sum = (sum.0 + count, sum.1 + count * volume.size_bytes);
        }
        sum
    }

    /// One host.
    pub fn node(&self, node: &NodeRecord) -> Node {
        let vgs: Vec<Vg> = self
            .records
            .vgs
            .iter()
            .filter(|vg| vg.node == node.name)
            .map(|vg| self.vg(vg))
            .collect();
        let fresh = self.snapshot.marsd(&node.name, self.now);
        let report = self.snapshot.hosts.get(&node.name).map(|seen| &seen.report);
        let volumes = self.records.volumes.iter();
        let replicas = volumes
            .clone()
            .filter(|volume| volume.members.iter().any(|place| place.node == node.name));
        let primaries = volumes.filter(|volume| {
            volume.life != LifeRecord::Deleting
                && self
                    .snapshot
                    .primary(&volume.id, self.now)
                    .map_or(volume.primary.as_str(), |(node, _)| node)
                    == node.name
        });
        Node {
            name: node.name.clone(),
            state: match &fresh {
                Ok(_) => NodeState::Online,
                Err(Blind::MarsdDown(_)) => NodeState::MarsdDown,
                Err(Blind::Never | Blind::Silent(_)) => NodeState::Unreachable,
            },
            reason: fresh.as_ref().err().map(ToString::to_string),
            address: node.address.clone(),
            peer_address: node.peer_address.clone(),
            catalog: node.name == self.leader,
            age_seconds: self
                .snapshot
                .age_seconds(&node.name, self.now)
                .map(|age| (age * 10.0).round() / 10.0),
            size_bytes: vgs.iter().map(|vg| vg.size_bytes).sum(),
            reserved_bytes: vgs.iter().map(|vg| vg.reserved_bytes).sum(),
            free_bytes: vgs.iter().map(|vg| vg.free_bytes).sum(),
            replicas: replicas.count() as u64,
            primaries: primaries.count() as u64,
            poold_version: report.map(|report| report.program_version.clone()),
            marsd_version: fresh.ok().map(|status| status.program_version.clone()),
            joined: node.joined.clone(),
            limits: named(&node.limits, self.records),
            drained: node.drained,
        }
    }

    fn problems(&self, nodes: &[Node]) -> Vec<String> {
        let mut problems = Vec::new();
        for node in nodes.iter().filter(|node| node.state != NodeState::Online) {
            problems.push(format!(
                "node {} {}",
                node.name,
                node.reason.as_deref().unwrap_or("is not online")
            ));
        }
        for vg in self.records.vgs.iter().map(|vg| self.vg(vg)) {
            if let Some(problem) = vg.problem {
                problems.push(format!("volume group {} on node {}: {problem}", vg.name, vg.node));
            }
        }
        for volume in self.records.live_volumes() {
            let shown = self.volume(volume);
            let job = self.records.job_at(&volume.id);
            for row in &shown.replicas {
                let good = severity(replica_state(&row.state)) <= severity(ReplicaState::Behind);
                // A replica that a job is filling takes nothing away from those that were there before.
                let expected = job.is_some_and(|job| match job.kind {
                    JobKind::Create | JobKind::Replicas => true,
                    JobKind::Join | JobKind::Migrate | JobKind::Invalidate | JobKind::Resolve => {
                        job.to.as_ref().is_some_and(|to| to.node == row.node)
                    }
                    JobKind::Delete
                    | JobKind::Leave
                    | JobKind::Primary
                    | JobKind::Verify
                    | JobKind::TakeOver
                    | JobKind::FakeSync
                    | JobKind::Drain
                    | JobKind::LogRotate
                    | JobKind::LogTrim
                    | JobKind::DropKept
                    | JobKind::Resize
                    | JobKind::Snapshot
                    | JobKind::Restore
                    | JobKind::Secondary => false,
                });
                // Stopped by an operator's wish, which is no trouble of the pool's.
                let wished = row.state == ReplicaState::Paused.to_string() && !row.paused.is_empty();
                let expected = expected || wished;
                let leaving = volume.leaving.iter().any(|place| place.node == row.node);
                if !good && !expected && !leaving {
                    let why = row
                        .reason
                        .as_ref()
                        .map(|why| format!(" ({why})"))
                        .unwrap_or_default();
                    problems.push(format!(
                        "volume {}: the replica on {} is {}{why}",
                        volume.name, row.node, row.state
                    ));
                }
            }
            for (node, bytes) in &volume.differing_bytes {
                problems.push(format!(
                    "volume {}: {} of the replica on {node} differ from the others",
                    volume.name,
                    Bytes(*bytes)
                ));
            }
            if let Some(seconds) = shown.short_seconds {
                let what = match volume.settings.mode {
                    ModeSpec::Sync { .. } => "guests' flushes wait",
                    ModeSpec::Async | ModeSpec::NearSync { .. } => "flushes are answered without them",
                };
                problems.push(format!(
                    "volume {}: too few replicas keep up with mode {} for {seconds:.0} s; {what}",
                    volume.name, shown.mode
                ));
            }
            if let Some(seconds) = shown.late_seconds {
                problems.push(format!(
                    "volume {}: its replicas are further behind than --max-lag allows, for {seconds:.0} s",
                    volume.name
                ));
            }
            if let Some(seconds) = shown.room.unlogged_seconds {
                problems.push(format!(
                    "volume {}: there is no room for its log for {seconds:.0} s; what its replicas lack is remembered",
                    volume.name
                ));
            } else if shown.room.pressure == "stalled" {
                problems.push(format!(
                    "volume {}: there is no room for its log, and guests' writes wait; mode async would let them go on",
                    volume.name
                ));
            }
            for door in shown.doors.iter().filter(|door| !door.open) {
                problems.push(format!(
                    "volume {}: the door on {} is not open",
                    volume.name, door.node
                ));
            }
        }
        problems
    }
}

/// The room for a log, as its primary tells it.
pub fn log_room(primary: &ReplicaStatus) -> LogRoom {
    LogRoom {
        pressure: primary.pressure.clone(),
        unlogged_seconds: primary.unlogged_seconds,
        log_bytes: primary.log_bytes,
        log_bytes_max: primary.log_bytes_max,
        log_held_by: primary.log_held_by.clone(),
    }
}

fn door_row(desired: &VolumeDesired, door: &migrate::Door, replica: Option<&ReplicaStatus>) -> DoorRow {
    DoorRow {
        kind: kind_shown(door.kind),
        node: door.node.to_string(),
        path: match &door.at {
            DoorAt::UnixDefault => String::new(),
            DoorAt::Unix(path) => path.clone(),
            DoorAt::Tcp(addr) => addr.clone(),
        },
        uri: String::new(),
        open: false,
        read_only: door.read_only,
        remote: replica.is_none() && !desired.has_member(&door.node),
        clients: 0,
        pause_micros_max: 0,
    }
}
