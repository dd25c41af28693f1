//! What would marsd answer? A world of volumes in memory behind real control sockets, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use api::control::{
    BirthKind, CONTROL_VERSION, Call, ControlError, ControlErrorKind, ControlRequest, ControlResponse,
    DoorSpec, DoorStatus, HostLimits, HostStatus, KeptStatus, Member, Outcome, PeerStatus, ReplicaStatus,
    RestoreEndWord, RestoreStatus, SnapshotStatus, SnapshotWord, SwitchWord, VerifiedStatus, VerifyEndWord,
    VerifyNodeStatus, VerifyStatus, VolumeLimits, VolumeSettings, VolumeStatus,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What all fake marsds share: replicas see each other through it.
#[derive(Default)]
pub struct World {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    hosts: BTreeMap<String, BTreeMap<String, Known>>,
    /// Whether new replicas are whole at once.
    instant_sync: bool,
    /// Whether comparisons do not come to their end.
    slow: bool,
    /// Nodes whose disk differs.
    rotten: Vec<String>,
    hand_overs: u64,
    limits: BTreeMap<String, HostLimits>,
    /// By host.
    kept: Vec<(String, KeptStatus)>,
    /// What any of them was told.
    revoked: Vec<String>,
}

#[derive(Clone)]
struct Known {
    name: String,
    size_bytes: u64,
    members: Vec<Member>,
    doors: Vec<DoorStatus>,
    replica: Option<Replica>,
}

#[derive(Clone)]
struct Replica {
    primary: bool,
    percent: f64,
    disk: String,
    epoch: u32,
    settings: VolumeSettings,
    limits: VolumeLimits,
    log_budget_bytes: Option<u64>,
    compressed: bool,
    paused: Vec<SwitchWord>,
    sources: Vec<String>,
    faked: bool,
    parted: bool,
    failed: bool,
    verify: Option<VerifyStatus>,
    snapshots: Vec<SnapshotStatus>,
    restore: Option<RestoreStatus>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// From now on new replicas are whole at once, and those there are become whole.
    pub fn sync_all(&self) {
        self.lock().instant_sync = true;
        self.sync_to(100.0);
    }

    /// Every replica that is not whole is at that percentage.
    pub fn sync_to(&self, percent: f64) {
        for known in self.lock().hosts.values_mut().flat_map(BTreeMap::values_mut) {
            if let Some(replica) = known.replica.as_mut().filter(|replica| !replica.primary) {
                replica.percent = percent;
            }
        }
    }

    pub fn set_slow(&self, slow: bool) {
        self.lock().slow = slow;
    }

    pub fn rot(&self, node: &str) {
        self.lock().rotten.push(node.to_owned());
    }

    pub fn hand_overs(&self) -> u64 {
        self.lock().hand_overs
    }

    /// What is stopped at the replica of a host, in order.
    pub fn paused(&self, node: &str) -> Vec<SwitchWord> {
        let mut paused = self
            .replica(node)
            .map(|replica| replica.paused)
            .unwrap_or_default();
        paused.sort_unstable();
        paused
    }

    /// The settings that a host's replica lives by.
    pub fn settings(&self, node: &str) -> VolumeSettings {
        self.replica(node)
            .map(|replica| replica.settings)
            .unwrap_or_default()
    }

    /// The history of a host's replica parts from the others'.
    pub fn part(&self, node: &str) {
        for known in self.lock().hosts.entry(node.to_owned()).or_default().values_mut() {
            if let Some(replica) = &mut known.replica {
                replica.parted = true;
            }
        }
    }

    /// The disk of a host's replica fails, or works again.
    pub fn set_failed(&self, node: &str, failed: bool) {
        for known in self.lock().hosts.entry(node.to_owned()).or_default().values_mut() {
            if let Some(replica) = &mut known.replica {
                replica.failed = failed;
            }
        }
    }

    /// What replication may take of a host.
    pub fn host_limits(&self, node: &str) -> HostLimits {
        self.lock().limits.get(node).cloned().unwrap_or_default()
    }

    /// Whether a host's replica compresses its log.
    pub fn compressed(&self, node: &str) -> bool {
        self.replica(node).is_some_and(|replica| replica.compressed)
    }

    /// The limits that a host's replica lives by.
    pub fn limits(&self, node: &str) -> VolumeLimits {
        self.replica(node)
            .map(|replica| replica.limits)
            .unwrap_or_default()
    }

    /// The budget that was set for the log of a host's replica.
    pub fn log_budget(&self, node: &str) -> Option<u64> {
        self.replica(node)?.log_budget_bytes
    }

    /// Every replica loses its settings.
    pub fn forget_settings(&self) {
        for known in self.lock().hosts.values_mut().flat_map(BTreeMap::values_mut) {
            if let Some(replica) = &mut known.replica {
                replica.settings = VolumeSettings::default();
            }
        }
    }

    fn replica(&self, node: &str) -> Option<Replica> {
        let inner = self.lock();
        inner
            .hosts
            .get(node)?
            .values()
            .find_map(|known| known.replica.clone())
    }

    /// Addresses of all members that a host was told.
    pub fn addresses(&self, node: &str) -> Vec<String> {
        let inner = self.lock();
        let known = inner.hosts.get(node).into_iter().flat_map(BTreeMap::values);
        known
            .flat_map(|known| known.members.iter().map(|member| member.addr.clone()))
            .collect()
    }

    /// Serial numbers that were told to be revoked.
    pub fn revoked(&self) -> Vec<String> {
        self.lock().revoked.clone()
    }

    /// Whether a host knows any volume.
    pub fn knows(&self, node: &str) -> bool {
        self.lock()
            .hosts
            .get(node)
            .is_some_and(|volumes| !volumes.is_empty())
    }

    /// Hosts that have a replica, the primary in capitals.
    pub fn replicas(&self) -> String {
        let inner = self.lock();
        let replica = |(node, volumes): (&String, &BTreeMap<String, Known>)| {
            let replica = volumes.values().find_map(|known| known.replica.as_ref())?;
            Some(if replica.primary {
                node.to_uppercase()
            } else {
                node.clone()
            })
        };
        inner.hosts.iter().filter_map(replica).collect()
    }

    /// A guest comes to or goes from every door on a node.
    pub fn set_clients(&self, node: &str, clients: u64) {
        for known in self.lock().hosts.entry(node.to_owned()).or_default().values_mut() {
            known.doors.iter_mut().for_each(|door| door.clients = clients);
        }
    }
}

/// A marsd on a control socket; ends when dropped, its volumes stay in the world.
pub struct FakeMarsd {
    pub socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for FakeMarsd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeMarsd {
    pub fn start(dir: &Path, node: &str, world: Arc<World>) -> FakeMarsd {
        let socket = dir.join(format!("{node}.marsd.sock"));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let host = Arc::new(Host {
            node: node.to_owned(),
            identity: Mutex::default(),
            world,
        });
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, host.clone()));
            }
        });
        FakeMarsd { socket, task }
    }
}

struct Host {
    node: String,
    identity: Mutex<Option<String>>,
    world: Arc<World>,
}

async fn serve(stream: UnixStream, host: Arc<Host>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: ControlRequest = serde_json::from_str(&line).unwrap();
        assert_eq!(request.version, CONTROL_VERSION);
        let (ok, error) = match host.answer(request.call) {
            Ok(outcome) => (Some(outcome), None),
            Err((kind, message)) => (
                None,
                Some(ControlError {
                    kind,
                    message: message.to_owned(),
                }),
            ),
        };
        let mut line = serde_json::to_vec(&ControlResponse {
            id: request.id,
            ok,
            error,
        })
        .unwrap();
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

type Bad = (ControlErrorKind, &'static str);

const NOT_FOUND: Bad = (ControlErrorKind::NotFound, "no such volume");

impl Host {
    /// The primary grows, and with it every replica whose disk is long enough.
    fn resize(&self, inner: &mut Inner, volume: &str, size_bytes: u64) -> Result<Outcome, Bad> {
        let long = |replica: &Replica| {
            std::fs::metadata(&replica.disk).is_ok_and(|metadata| metadata.len() >= size_bytes)
        };
        let here = inner.hosts.get(&self.node).and_then(|here| here.get(volume));
        let primary = here.and_then(|known| known.replica.as_ref()).ok_or(NOT_FOUND)?;
        if !primary.primary || !long(primary) {
            return Err((ControlErrorKind::Refused, "the disk cannot grow"));
        }
        for known in inner.hosts.values_mut().filter_map(|host| host.get_mut(volume)) {
            if known.replica.as_ref().is_some_and(long) {
                known.size_bytes = size_bytes;
            }
        }
        Ok(Outcome::Done)
    }

    fn answer(&self, call: Call) -> Result<Outcome, Bad> {
        let mut inner = self.world.lock();
        let (instant_sync, slow) = (inner.instant_sync, inner.slow);
        let rotten = inner.rotten.clone();
        if let Call::VolumeHandOver { volume, to, .. } = &call {
            return self.hand_over(&mut inner, volume, to);
        }
        if let Call::VolumeResize { volume, size_bytes } = call {
            return self.resize(&mut inner, &volume, size_bytes);
        }
        if let Call::VolumeSnapshot { volume, name } = call {
            return Ok(snapshot(&mut inner, &volume, &name));
        }
        if let Call::Status { .. } = call {
            return Ok(Outcome::Status(self.status(&inner)));
        }
        if let Call::HostLimits { limits } = call {
            inner.limits.insert(self.node.clone(), limits);
            return Ok(Outcome::Done);
        }
        if let Call::Revoked { serials } = call {
            inner.revoked = serials;
            return Ok(Outcome::Done);
        }
        let here = inner.hosts.entry(self.node.clone()).or_default();
        match call {
            Call::Identity { node, key_pem, .. } => {
                assert!(key_pem.contains("PRIVATE KEY"));
                *self.identity.lock().unwrap() = Some(node);
            }
            Call::VolumeCreate {
                volume,
                name,
                size_bytes,
                disk,
                birth,
                members,
                ..
            } => {
                let length = std::fs::metadata(&disk)
                    .map(|metadata| metadata.len())
                    .unwrap_or(0);
                if length != size_bytes {
                    return Err((ControlErrorKind::Failed, "the disk has another size"));
                }
                let primary = birth == BirthKind::Primary;
                let percent = if primary || instant_sync { 100.0 } else { 0.0 };
                let epoch = 1;
                let fresh = Known {
                    name,
                    size_bytes,
                    members,
                    doors: Vec::new(),
                    replica: None,
                };
                let known = here.entry(volume).or_insert(fresh);
                known.replica.get_or_insert(Replica {
                    primary,
                    percent,
                    disk,
                    epoch,
                    settings: VolumeSettings::default(),
                    limits: VolumeLimits::default(),
                    log_budget_bytes: None,
                    compressed: false,
                    paused: Vec::new(),
                    sources: Vec::new(),
                    faked: false,
                    parted: false,
                    failed: false,
                    verify: None,
                    snapshots: Vec::new(),
                    restore: None,
                });
            }
            Call::VolumeRemote {
                volume,
                name,
                size_bytes,
                members,
            } => {
                let fresh = Known {
                    name,
                    size_bytes,
                    members,
                    doors: Vec::new(),
                    replica: None,
                };
                let known = here.entry(volume).or_insert(fresh);
                (known.replica, known.size_bytes) = (None, size_bytes);
            }
            Call::VolumeMembers { volume, members } => {
                here.get_mut(&volume).ok_or(NOT_FOUND)?.members = members;
            }
            Call::VolumeForget { volume } => {
                let known = here.get(&volume);
                if known.is_some_and(|known| known.doors.iter().any(|door| door.clients > 0)) {
                    return Err((ControlErrorKind::Refused, "a guest is connected"));
                }
                let primary =
                    known.filter(|known| known.replica.as_ref().is_some_and(|replica| replica.primary));
                if primary.is_some_and(|known| known.members.len() > 1) {
                    return Err((ControlErrorKind::Refused, "hand the role over first"));
                }
                here.remove(&volume);
            }
            Call::DoorOpen { volume, door } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let path = match &door {
                    DoorSpec::Nbd { path, .. } => path
                        .clone()
                        .unwrap_or_else(|| format!("/run/marsd/{}.nbd.sock", known.name)),
                    DoorSpec::NbdTcp { addr, .. } => addr.clone(),
                    DoorSpec::VhostUserBlk { path, .. } => path
                        .clone()
                        .unwrap_or_else(|| format!("/run/marsd/{}.vhost.sock", known.name)),
                };
                if path.contains("taken") {
                    return Err((ControlErrorKind::Failed, "the path is taken"));
                }
                if !known.doors.iter().any(|open| open.door == door) {
                    let uri = format!("nbd+unix:///{}?socket={path}", known.name);
                    known.doors.push(DoorStatus {
                        door,
                        path,
                        uri,
                        clients: 0,
                        pause_micros_max: 0,
                    });
                }
            }
            Call::DoorClose { volume, door } => {
                here.get_mut(&volume)
                    .ok_or(NOT_FOUND)?
                    .doors
                    .retain(|open| open.door != door);
            }
            Call::VolumeVerify { volume, repair, .. } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let nodes = known.members.iter().map(|member| VerifyNodeStatus {
                    node: member.node.clone(),
                    left_out: false,
                    different_bytes: if rotten.contains(&member.node) { 4096 } else { 0 },
                    repaired_bytes: if rotten.contains(&member.node) && repair {
                        4096
                    } else {
                        0
                    },
                });
                let began = VerifiedStatus {
                    from_lsn: 100,
                    unix_seconds: 1_700_000_000,
                };
                let run = VerifyStatus {
                    began,
                    percent: if slow { 40.0 } else { 100.0 },
                    repair,
                    ended: (!slow).then_some(VerifyEndWord::Finished),
                    nodes: nodes.collect(),
                    differences: Vec::new(),
                };
                known.replica.as_mut().ok_or(NOT_FOUND)?.verify = Some(run);
            }
            Call::VolumeVerifyCancel { volume } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                if let Some(run) = &mut replica.verify {
                    run.ended.get_or_insert(VerifyEndWord::Cancelled);
                }
            }
            Call::VolumeSnapshot { .. } => unreachable!("it was answered above"),
            Call::VolumeSnapshotDrop { volume, name, .. } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                replica.snapshots.retain(|known| known.name != name);
            }
            Call::VolumeRestore {
                volume,
                name,
                at_lsn,
                run,
                ..
            } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.restore = Some(RestoreStatus {
                    run,
                    name,
                    at_lsn,
                    percent: if slow { 40.0 } else { 100.0 },
                    restored_bytes: 4096,
                    bytes_per_second: 0,
                    seconds_left: None,
                    ended: (!slow).then_some(RestoreEndWord::Finished),
                    reason: None,
                });
            }
            Call::VolumeRestoreCancel { volume } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                if let Some(run) = &mut replica.restore {
                    run.ended.get_or_insert(RestoreEndWord::Cancelled);
                }
            }
            Call::VolumeSources { volume, sources } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.sources = sources;
            }
            Call::VolumeLimits { volume, limits } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.limits = limits;
            }
            Call::VolumeCompression { volume, compressed } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.compressed = compressed;
            }
            Call::VolumeLogBudget {
                volume,
                log_bytes_max,
            } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.log_budget_bytes = log_bytes_max;
            }
            Call::VolumeChecksum { .. } => {
                return Err((ControlErrorKind::Refused, "it stays as it is"));
            }
            Call::VolumeSettings { volume, settings } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.settings = settings;
            }
            Call::VolumeHandOver { .. }
            | Call::VolumeResize { .. }
            | Call::Status { .. }
            | Call::Revoked { .. }
            | Call::HostLimits { .. } => {
                unreachable!("answered above")
            }
            Call::VolumeTakeOver { volume, term } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                if replica.percent < 100.0 {
                    return Err((ControlErrorKind::Refused, "its full sync is under way"));
                }
                (replica.primary, replica.epoch) = (true, term);
                return Ok(Outcome::TookOver { term, from_lsn: 100 });
            }
            Call::VolumeSwitch { volume, switch, on } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                if replica.failed && switch != SwitchWord::Attach {
                    return Err((ControlErrorKind::Busy, "not in service"));
                }
                replica.paused.retain(|paused| *paused != switch);
                if !on {
                    replica.paused.push(switch);
                }
            }
            Call::VolumeInvalidate { volume, keep } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                (replica.percent, replica.parted) = (0.0, false);
                if keep {
                    let history = KeptStatus {
                        volume,
                        history: "1700000000000".to_owned(),
                        path: "/var/lib/marsd/log/kept/1".to_owned(),
                        bytes: 4096,
                        unix_seconds: 1_700_000_000,
                        split: None,
                    };
                    inner.kept.push((self.node.clone(), history));
                    let path = "/var/lib/marsd/log/kept/1".to_owned();
                    return Ok(Outcome::Kept { path });
                }
            }
            Call::VolumeFakeSync { volume } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                let replica = known.replica.as_mut().ok_or(NOT_FOUND)?;
                (replica.percent, replica.faked) = (100.0, true);
            }
            Call::VolumeLogRotate { volume } | Call::VolumeLogTrim { volume } => {
                here.get(&volume)
                    .and_then(|known| known.replica.as_ref())
                    .ok_or(NOT_FOUND)?;
                return Ok(Outcome::Log {
                    files: 1,
                    bytes: 4096,
                    given_back_bytes: 8192,
                    held_by: "write-back to the disk".to_owned(),
                });
            }
            Call::KeptDrop { volume, .. } => {
                inner
                    .kept
                    .retain(|(node, kept)| *node != self.node || kept.volume != volume);
                return Ok(Outcome::Dropped {
                    histories: 1,
                    bytes: 4096,
                });
            }
            Call::VolumeSecondary { volume } => {
                let known = here.get_mut(&volume).ok_or(NOT_FOUND)?;
                known.replica.as_mut().ok_or(NOT_FOUND)?.primary = false;
            }
        }
        Ok(Outcome::Done)
    }

    fn hand_over(&self, inner: &mut Inner, volume: &str, to: &str) -> Result<Outcome, Bad> {
        let role = |inner: &mut Inner, node: &str| -> Option<Replica> {
            inner.hosts.get(node)?.get(volume)?.replica.clone()
        };
        let (own, other) = (
            role(inner, &self.node).ok_or(NOT_FOUND)?,
            role(inner, to).ok_or(NOT_FOUND)?,
        );
        if other.primary {
            return Ok(Outcome::Done);
        }
        if !own.primary || other.percent < 100.0 {
            return Err((ControlErrorKind::Refused, "not now"));
        }
        let mut set = |node: &str, primary| {
            let known = inner
                .hosts
                .get_mut(node)
                .and_then(|volumes| volumes.get_mut(volume));
            let replica = known.and_then(|known| known.replica.as_mut()).unwrap();
            (replica.primary, replica.epoch) = (primary, own.epoch + 1);
            replica.settings = own.settings;
        };
        set(&self.node, false);
        set(to, true);
        inner.hand_overs += 1;
        Ok(Outcome::HandedOver {
            term: own.epoch + 1,
            gate_micros: 1234 / inner.hand_overs,
        })
    }

    fn status(&self, inner: &Inner) -> HostStatus {
        let volumes = inner
            .hosts
            .get(&self.node)
            .into_iter()
            .flatten()
            .map(|(id, known)| {
                let peers = known
                    .members
                    .iter()
                    .filter(|member| member.node != self.node)
                    .map(|member| {
                        let peer = inner.hosts.get(&member.node).and_then(|volumes| volumes.get(id));
                        let percent = peer
                            .and_then(|peer| peer.replica.as_ref())
                            .map_or(0.0, |replica| replica.percent);
                        PeerStatus {
                            node: member.node.clone(),
                            state: state(percent).to_owned(),
                            sent_lsn: 100,
                            committed_lsn: 100,
                            replayed_lsn: 100,
                            sync_percent: percent,
                            ..PeerStatus::default()
                        }
                    });
                let replica = known.replica.as_ref().map(|replica| ReplicaStatus {
                    role: if replica.primary { "primary" } else { "secondary" }.to_owned(),
                    state: match (replica.failed, replica.parted) {
                        (true, _) => "detached",
                        (false, true) => "split-brain",
                        (false, false) => state(replica.percent),
                    }
                    .to_owned(),
                    size_bytes: known.size_bytes,
                    epoch: replica.epoch,
                    epoch_start: 1,
                    disk: replica.disk.clone(),
                    written_back_lsn: 100,
                    touched_lsn: 100,
                    committed_lsn: 100,
                    appended_lsn: 100,
                    settings: replica.settings,
                    limits: replica.limits,
                    log_budget_bytes: replica.log_budget_bytes,
                    compressed: replica.compressed,
                    paused: replica.paused.clone(),
                    sources: replica.sources.clone(),
                    faked: replica.faked,
                    verify: replica.verify.clone(),
                    snapshots: replica.snapshots.clone(),
                    restore: replica.restore.clone(),
                    chain_digest: "c".repeat(32),
                    sync_percent: replica.percent,
                    peers: if replica.primary {
                        peers.collect()
                    } else {
                        Vec::new()
                    },
                    ..ReplicaStatus::default()
                });
                VolumeStatus {
                    volume: id.clone(),
                    name: known.name.clone(),
                    size_bytes: known.size_bytes,
                    members: known.members.clone(),
                    doors: known.doors.clone(),
                    replica,
                }
            });
        HostStatus {
            node: self.identity.lock().unwrap().clone(),
            peer_addr: None,
            program_version: "fake".to_owned(),
            revoked: inner.revoked.clone(),
            log_bytes_max: None,
            limits: inner.limits.get(&self.node).cloned().unwrap_or_default(),
            kept: inner
                .kept
                .iter()
                .filter(|(node, _)| *node == self.node)
                .map(|(_, kept)| kept.clone())
                .collect(),
            volumes: volumes.collect(),
        }
    }
}

/// Everybody keeps it, except who has no room.
fn snapshot(inner: &mut Inner, volume: &str, name: &str) -> Outcome {
    let (at_lsn, at_digest) = (101, "d".repeat(32));
    let rotten = inner.rotten.clone();
    for (node, volumes) in &mut inner.hosts {
        let known = volumes.get_mut(volume);
        let Some((size_bytes, replica)) =
            known.and_then(|known| Some((known.size_bytes, known.replica.as_mut()?)))
        else {
            continue;
        };
        if replica.snapshots.iter().any(|known| known.name == name) {
            continue;
        }
        let full = rotten.contains(node);
        replica.snapshots.push(SnapshotStatus {
            name: name.to_owned(),
            at_lsn,
            at_digest: at_digest.clone(),
            size_bytes,
            unix_seconds: 1_700_000_000,
            state: if full {
                SnapshotWord::Failed
            } else {
                SnapshotWord::Kept
            },
            reason: full.then(|| "no space left on device".to_owned()),
            path: (!full).then(|| format!("/vg/{name}")),
            used_bytes: if full { 0 } else { 4096 },
        });
    }
    Outcome::Snapshot { at_lsn, at_digest }
}

fn state(percent: f64) -> &'static str {
    if percent >= 100.0 { "uptodate" } else { "syncing" }
}
