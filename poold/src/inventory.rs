//! What is, as far as the hosts have said, and how old is that?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::control::{DoorSpec, HostStatus, ReplicaStatus, VolumeStatus};
use api::pool::agent::{Action, Report, Step, StepOutcome};
use api::{ApiError, ErrorKind};
use migrate::desired::{Door, DoorAt, DoorKind, Member};
use migrate::observed::{HostSeen, Replica, VolumeObserved, VolumeSeen};
use model::{NodeId, ReplicaState, Role};

use crate::catalog::records::VolumeRecord;

/// A host that has not reported for this long is unreachable: five reports are missing.
pub const HOST_PATIENCE: Duration = Duration::from_secs(5);

/// The newest report of a host.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// What it says.
    pub report: Arc<Report>,
    /// The newest report in which its marsd had a word, and when that came: what is known once marsd is dead.
    pub told: Option<(Instant, Arc<Report>)>,
}

/// A step that failed, until it succeeds or another takes its place.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The step.
    pub step: Step,
    /// Why.
    pub error: ApiError,
}

/// Everything that the hosts have said; cheap enough to clone for each look.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Newest report of each host.
    pub hosts: BTreeMap<String, Seen>,
    /// Steps that failed, by volume id and host.
    pub troubles: BTreeMap<(String, String), Trouble>,
    /// Gate of the newest hand-over, by volume id, in microseconds.
    pub gates: BTreeMap<String, u64>,
    /// What came of orders, by job and host: in words, or why they are refused for good.
    pub orders: BTreeMap<(u64, String), Result<String, ApiError>>,
    /// When the first host reported to this daemon.
    pub since: Option<Instant>,
}

/// Keeps what the hosts say; nothing of it outlives the daemon.
#[derive(Default)]
pub struct Inventory {
    newest: Mutex<Snapshot>,
}

impl Inventory {
    /// Takes a host's report.
    pub fn report(&self, node: &str, report: Report, now: Instant) {
        let mut newest = self.lock();
        newest.since.get_or_insert(now);
        for result in &report.results {
            let key = (result.step.volume.clone(), node.to_owned());
            match &result.outcome {
                Ok(outcome) => {
                    newest.troubles.remove(&key);
                    match outcome {
                        StepOutcome::Done => {}
                        StepOutcome::Ordered { job, note } => {
                            newest.orders.insert((*job, node.to_owned()), Ok(note.clone()));
                        }
                        StepOutcome::HandedOver { gate_micros } => {
                            newest.gates.insert(key.0, *gate_micros);
                        }
                    }
                }
                Err(error) => {
                    if let Action::Order { job, .. } = &result.step.action
                        && is_final(error.kind)
                    {
                        newest.orders.insert((*job, node.to_owned()), Err(error.clone()));
                    }
                    let trouble = Trouble {
                        step: result.step.clone(),
                        error: error.clone(),
                    };
                    newest.troubles.insert(key, trouble);
                }
            }
        }
        let report = Arc::new(report);
        let told = match &report.marsd {
            Ok(_) => Some((now, report.clone())),
            Err(_) => newest.hosts.get(node).and_then(|before| before.told.clone()),
        };
        newest.hosts.insert(
            node.to_owned(),
            Seen {
                at: now,
                report,
                told,
            },
        );
    }

    /// Forgets a host that left the pool.
    pub fn forget_host(&self, node: &str) {
        let mut newest = self.lock();
        newest.hosts.remove(node);
        newest.troubles.retain(|(_, host), _| host != node);
    }

    /// Forgets volumes that are no more.
    pub fn keep_volumes(&self, volumes: &BTreeSet<String>) {
        let mut newest = self.lock();
        newest.troubles.retain(|(volume, _), _| volumes.contains(volume));
        newest.gates.retain(|volume, _| volumes.contains(volume));
    }

    /// Forgets what came of orders whose job has ended.
    pub fn keep_orders(&self, runs: impl Fn(u64) -> bool) {
        self.lock().orders.retain(|(job, _), _| runs(*job));
    }

    /// Forgets the gate of an earlier hand-over.
    pub fn forget_gate(&self, volume: &str) {
        self.lock().gates.remove(volume);
    }

    /// Everything as it is known now.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing is known of a host.
#[derive(Clone, Debug, PartialEq)]
pub enum Blind {
    /// It has never reported to this daemon.
    Never,
    /// It has not reported for so long.
    Silent(Duration),
    /// Its marsd does not answer.
    MarsdDown(String),
}

impl std::fmt::Display for Blind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Blind::Never => f.write_str("has not reported yet"),
            Blind::Silent(age) => write!(f, "has not reported for {} s", age.as_secs()),
            Blind::MarsdDown(why) => write!(f, "cannot reach its marsd: {why}"),
        }
    }
}

impl Snapshot {
    /// Whether a host may still report that was there all the time: this daemon has just started.
    pub fn awaits(&self, node: &str, now: Instant) -> bool {
        let listens = |since| now.saturating_duration_since(since) > HOST_PATIENCE;
        !self.hosts.contains_key(node) && !self.since.is_some_and(listens)
    }

    /// How marsd stands on a host, if that is known and fresh.
    pub fn marsd(&self, node: &str, now: Instant) -> Result<&HostStatus, Blind> {
        let seen = self.hosts.get(node).ok_or(Blind::Never)?;
        let age = now.saturating_duration_since(seen.at);
        if age > HOST_PATIENCE {
            return Err(Blind::Silent(age));
        }
        seen.report
            .marsd
            .as_ref()
            .map_err(|why| Blind::MarsdDown(why.clone()))
    }

    /// Age of the newest report of a host.
    pub fn age_seconds(&self, node: &str, now: Instant) -> Option<f64> {
        self.hosts
            .get(node)
            .map(|seen| now.saturating_duration_since(seen.at).as_secs_f64())
    }

    /// What marsd on a host last said about a volume; stale or not, and whether it is still there or not.
    pub fn last_known(&self, node: &str, volume: &str) -> Option<&VolumeStatus> {
        let (_, report) = self.hosts.get(node)?.told.as_ref()?;
        let status = report.marsd.as_ref().ok()?;
        status.volumes.iter().find(|known| known.volume == volume)
    }

    /// Age of what marsd on a host last said.
    pub fn told_seconds_ago(&self, node: &str, now: Instant) -> Option<f64> {
        let (at, _) = self.hosts.get(node)?.told.as_ref()?;
        Some(now.saturating_duration_since(*at).as_secs_f64())
    }

    /// What marsd on a host says about a volume, if that is fresh.
    pub fn volume(&self, node: &str, volume: &str, now: Instant) -> Option<&VolumeStatus> {
        self.marsd(node, now)
            .ok()?
            .volumes
            .iter()
            .find(|known| known.volume == volume)
    }

    /// The host whose replica is primary, with what it says: the one of the highest term.
    pub fn primary(&self, volume: &str, now: Instant) -> Option<(&str, &ReplicaStatus)> {
        let primaries = self.hosts.keys().filter_map(|node| {
            let replica = self.volume(node, volume, now)?.replica.as_ref()?;
            (replica.role == "primary").then_some((node.as_str(), replica))
        });
        primaries.max_by_key(|(node, replica)| (replica.epoch, *node))
    }

    /// [`Snapshot::primary`], for what only it can do: `whose` says what that is. Errors: refused, when none is reachable.
    pub fn reachable_primary(
        &self,
        volume: &VolumeRecord,
        whose: &str,
        now: Instant,
    ) -> Result<(&str, &ReplicaStatus), ApiError> {
        self.primary(&volume.id, now).ok_or_else(|| {
            let name = &volume.name;
            let message =
                format!("no primary of volume `{name}` is reachable, and it is the primary that {whose}");
            ApiError::refused(message)
                .hint(format!(
                    "`poolctl volume show {name}` says how its replicas stand"
                ))
                .object(format!("volume {name}"))
        })
    }

    /// The newest term of a volume that any host has ever reported to this daemon.
    pub fn term(&self, volume: &str) -> u32 {
        let replicas = self
            .hosts
            .keys()
            .filter_map(|node| self.last_known(node, volume)?.replica.as_ref());
        replicas.map(|replica| replica.epoch).max().unwrap_or(0)
    }

    /// A volume as the planner sees it.
    pub fn observed(&self, volume: &str, now: Instant) -> VolumeObserved {
        let mut observed = VolumeObserved::default();
        for (name, seen) in &self.hosts {
            let (Ok(status), Ok(node)) = (self.marsd(name, now), NodeId::new(name)) else {
                continue;
            };
            let known = status.volumes.iter().find(|known| known.volume == volume);
            let groups = seen.report.vgs.iter();
            let holding = groups.filter(|vg| vg.disks.contains_key(volume));
            let host = HostSeen {
                generation: seen.report.generations.get(volume).copied().unwrap_or(0),
                disks: holding.map(|vg| vg.name.clone()).collect(),
                volume: known.map(|known| see(&node, known)),
            };
            observed.hosts.insert(node, host);
        }
        if let Some((_, primary)) = self.primary(volume, now) {
            // A replica cannot know what it has missed: where its primary thinks worse of it, that counts.
            for peer in &primary.peers {
                let host = NodeId::new(&peer.node)
                    .ok()
                    .and_then(|node| observed.hosts.get_mut(&node));
                let seen = host.and_then(|host| host.volume.as_mut());
                if let Some(replica) = seen.and_then(|seen| seen.replica.as_mut()) {
                    let state = replica_state(&peer.state);
                    if severity(state) > severity(replica.state) {
                        replica.state = state;
                    }
                }
            }
        }
        observed
    }
}

/// Whether an order that ended so will end so again: what marsd refuses, not what it cannot do just now.
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Refused | ErrorKind::Usage | ErrorKind::NotFound)
}

fn see(node: &NodeId, known: &VolumeStatus) -> VolumeSeen {
    let members = known.members.iter().filter_map(|member| {
        Some(Member {
            node: NodeId::new(&member.node).ok()?,
            addr: member.addr.clone(),
        })
    });
    let replica = known.replica.as_ref().map(|replica| Replica {
        role: if replica.role == "primary" {
            Role::Primary
        } else {
            Role::Secondary
        },
        state: replica_state(&replica.state),
        term: replica.epoch,
        sync_percent: replica.sync_percent,
        sync_copied_bytes: replica.sync_copied_bytes,
    });
    let doors = known
        .doors
        .iter()
        .map(|door| door_seen(node, &door.door))
        .collect();
    VolumeSeen {
        members: members.collect(),
        replica,
        doors,
    }
}

/// A door as the planner sees it.
pub fn door_seen(node: &NodeId, spec: &DoorSpec) -> Door {
    let unix = |path: &Option<String>| path.clone().map_or(DoorAt::UnixDefault, DoorAt::Unix);
    let (kind, at) = match spec {
        DoorSpec::Nbd { path, .. } => (DoorKind::Nbd, unix(path)),
        DoorSpec::NbdTcp { addr, .. } => (DoorKind::Nbd, DoorAt::Tcp(addr.clone())),
        DoorSpec::VhostUserBlk { path, .. } => (DoorKind::VhostUserBlk, unix(path)),
    };
    Door {
        node: node.clone(),
        kind,
        at,
        read_only: spec.read_only(),
    }
}

/// A door as marsd wants to hear of it.
pub fn door_spec(door: &Door) -> DoorSpec {
    let read_only = door.read_only;
    let path = match &door.at {
        DoorAt::UnixDefault => None,
        DoorAt::Unix(path) => Some(path.clone()),
        // Other kinds have no TCP: a request for one is refused.
        DoorAt::Tcp(addr) => {
            return DoorSpec::NbdTcp {
                addr: addr.clone(),
                read_only,
            };
        }
    };
    match door.kind {
        DoorKind::Nbd => DoorSpec::Nbd { path, read_only },
        DoorKind::VhostUserBlk => DoorSpec::VhostUserBlk { path, read_only },
    }
}

/// The state that a word stands for; one that is not known is never taken for a good one.
pub fn replica_state(word: &str) -> ReplicaState {
    let known = ReplicaState::ALL
        .into_iter()
        .find(|state| state.to_string() == word);
    known.unwrap_or(ReplicaState::Inconsistent)
}

/// Whether a step opens a door; its failure is told to whoever waits for it.
pub fn opens_door(step: &Step) -> bool {
    matches!(step.action, Action::DoorOpen { .. } | Action::RemoteCreate { .. })
}

/// All states from the best to the worst.
pub const SEVERITY: [ReplicaState; 9] = [
    ReplicaState::Uptodate,
    ReplicaState::Behind,
    ReplicaState::Paused,
    ReplicaState::Syncing,
    ReplicaState::Inconsistent,
    ReplicaState::Unreachable,
    ReplicaState::Detached,
    ReplicaState::SplitBrain,
    ReplicaState::DefectiveLog,
];

/// How bad a state is: its place in [`SEVERITY`].
pub fn severity(state: ReplicaState) -> usize {
    SEVERITY
        .iter()
        .position(|other| *other == state)
        .unwrap_or(SEVERITY.len() - 1)
}
