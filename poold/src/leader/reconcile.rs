//! How does what is become what should be? Look, plan, note what was found out, hand out steps; again at each change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::ApiError;
use api::control::{BirthKind, HostLimits, Member};
use api::pool::agent::{Action, Step, Steps, VgRef};
use migrate::desired::{Life, VolumeDesired};
use migrate::plan::{Birth, Plan, plan};
use model::{Bytes, NodeId};
use tracing::{error, info_span};

use super::Leader;
use super::limits::told;
use super::orders::order_steps;
use super::resize::{resize_steps, served_bytes};
use super::restore::restore_steps;
use super::settings::settings_steps;
use super::snapshots::snapshot_steps;
use super::thin::promise_bytes;
use super::verify::cancel_steps;
use super::watching::Watching;
use crate::catalog::records::{LifeRecord, NodeRecord, VolumeRecord};
use crate::catalog::{Records, Tx};
use crate::clock;
use crate::inventory::{Blind, Snapshot, door_spec};

/// How long guests may wait at the gate of a hand-over before it is given up and tried again.
const GATE_MILLIS_MAX: u64 = 2_000;

/// How often everything is looked at when nothing is heard: for hosts that fall silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most rounds of noting and planning again at one look; each round is another step of some job.
const ROUNDS_MAX: usize = 8;

/// What is laid out for one node.
#[derive(Debug, Default)]
struct Desk {
    steps: Vec<Step>,
    vgs: Vec<VgRef>,
    limits: HostLimits,
}

/// The steps of all nodes.
#[derive(Clone, Debug, Default)]
pub struct Handout {
    newest: u64,
    nodes: BTreeMap<String, Steps>,
}

impl Handout {
    /// Nothing to do yet. Revisions begin at the time, so that none is used twice over restarts.
    pub fn first() -> Handout {
        Handout {
            newest: clock::unix_seconds() << 20,
            nodes: BTreeMap::new(),
        }
    }

    /// Revision of a node's steps.
    pub fn revision(&self, node: &str) -> u64 {
        self.nodes.get(node).map_or(0, |steps| steps.revision)
    }

    /// A node's steps.
    pub fn steps(&self, node: &str) -> Steps {
        let none = Steps {
            revision: 0,
            steps: Vec::new(),
            vgs: Vec::new(),
            revoked: Vec::new(),
            limits: HostLimits::default(),
        };
        self.nodes.get(node).cloned().unwrap_or(none)
    }

    /// The same with new steps; a node whose steps are as before keeps its revision.
    fn next(&self, nodes: BTreeMap<String, Desk>, revoked: &[String]) -> Handout {
        let mut next = Handout {
            newest: self.newest,
            nodes: BTreeMap::new(),
        };
        for (node, desk) in nodes {
            let mut steps = Steps {
                revision: 0,
                steps: desk.steps,
                vgs: desk.vgs,
                revoked: revoked.to_vec(),
                limits: desk.limits,
            };
            let before = self.nodes.get(&node);
            steps.revision = before.map_or(0, |before| before.revision);
            if before != Some(&steps) {
                next.newest += 1;
                steps.revision = next.newest;
            }
            next.nodes.insert(node, steps);
        }
        next
    }
}

/// What was seen last of things whose changes are events.
#[derive(Debug, Default)]
struct Noted {
    /// Nodes.
    online: BTreeMap<String, bool>,
    /// How much trouble the room for a log gives its primary, by volume.
    pressure: BTreeMap<String, String>,
    /// States of replicas.
    watching: Watching,
}

impl Leader {
    /// Reconciles at each change until the task is dropped.
    pub async fn run(self: Arc<Leader>) {
        let mut changed = self.changed.subscribe();
        let mut noted = Noted::default();
        loop {
            changed.mark_unchanged();
            if let Err(error) = self.reconcile(&mut noted) {
                error!(error = %error, "cannot reconcile");
            }
            // Timeout or change: both are reasons to look again.
            let _ = tokio::time::timeout(LOOK_EVERY, changed.changed()).await;
        }
    }

    /// One look: notes what was found out, moves jobs on, and hands out steps.
    fn reconcile(&self, noted: &mut Noted) -> Result<(), ApiError> {
        let now = Instant::now();
        let snapshot = self.inventory.snapshot();
        for _ in 0..ROUNDS_MAX {
            let records = self.catalog.records();
            if !self.settle(&records, &snapshot, now)? & !self.advance_jobs(&records, &snapshot, now)? {
                break;
            }
        }
        let records = self.catalog.records();
        self.hand_out(&records, &snapshot, now);
        self.show_progress(&records, &snapshot, now);
        self.note_hosts(&records, &snapshot, now, &mut noted.online)?;
        self.note_pressure(&records, &snapshot, now, &mut noted.pressure)?;
        self.note_states(&records, &snapshot, now, &mut noted.watching)?;
        self.inventory.keep_orders(|job| records.job_runs(job));
        self.inventory
            .keep_volumes(&records.volumes.iter().map(|volume| volume.id.clone()).collect());
        Ok(())
    }

    /// Writes down what the plans found out. Answers whether anything was.
    fn settle(&self, records: &Records, snapshot: &Snapshot, now: Instant) -> Result<bool, ApiError> {
        let mut settled = Vec::new();
        for volume in records.volumes.iter() {
            let Some((desired, plan)) = plan_of(records, volume, snapshot, now) else {
                continue;
            };
            let born = plan.born && desired.life == Life::New;
            let emptied = desired.life == Life::Deleting
                && desired
                    .leaving
                    .iter()
                    .all(|place| plan.gone.contains(&place.node));
            let removed = emptied && plan.steps.is_empty();
            if born || removed || (!plan.gone.is_empty() && desired.life != Life::Deleting) {
                settled.push((volume.id.clone(), born, removed, plan.gone));
            }
        }
        if settled.is_empty() {
            return Ok(false);
        }
        self.catalog.change(false, |tx| {
            for (id, born, removed, gone) in &settled {
                let Some(mut volume) = tx.records.volumes.get(id).cloned() else {
                    continue;
                };
                let object = format!("volume {}", volume.name);
                if *removed {
                    tx.remove::<VolumeRecord>(id);
                    tx.event(object, "is deleted")?;
                    continue;
                }
                if *born {
                    volume.life = LifeRecord::Live;
                    tx.event(
                        &object,
                        format!("has its first primary on node {}", volume.primary),
                    )?;
                }
                for node in gone {
                    volume.leaving.retain(|place| place.node != node.as_str());
                    tx.event(&object, format!("node {node} has removed its replica"))?;
                }
                tx.put(volume)?;
            }
            Ok(())
        })?;
        Ok(true)
    }

    fn hand_out(&self, records: &Records, snapshot: &Snapshot, now: Instant) {
        let desk = |node: &NodeRecord| Desk {
            limits: told(node, records),
            ..Desk::default()
        };
        let mut nodes: BTreeMap<String, Desk> = records
            .nodes
            .iter()
            .map(|node| (node.name.clone(), desk(node)))
            .collect();
        for vg in records.vgs.iter() {
            if let Some(desk) = nodes.get_mut(&vg.node) {
                desk.vgs.push(vg_ref(vg));
            }
        }
        for volume in records.volumes.iter() {
            let _span = info_span!("plan", volume = %volume.name).entered();
            let Some((desired, plan)) = plan_of(records, volume, snapshot, now) else {
                continue;
            };
            let served = served_bytes(volume, snapshot, now);
            for step in &plan.steps {
                let action = match wire_action(records, &desired, served, step) {
                    Ok(action) => action,
                    Err(error) => {
                        error!(error = %error, "a step cannot be handed out");
                        continue;
                    }
                };
                let step_out = Step {
                    volume: volume.id.clone(),
                    generation: step.generation,
                    action,
                };
                if let Some(desk) = nodes.get_mut(step.node.as_str()) {
                    desk.steps.push(step_out);
                }
            }
        }
        // Orders first: a wish that cannot be met must not hold them up.
        let mut more = order_steps(records, snapshot, now);
        more.extend(cancel_steps(records, snapshot, now));
        more.extend(settings_steps(records, snapshot, now));
        more.extend(resize_steps(records, snapshot, now));
        more.extend(snapshot_steps(records, snapshot, now));
        more.extend(restore_steps(records, snapshot, now));
        more.extend(stale_steps(records, snapshot, now));
        for (node, step) in more {
            if let Some(desk) = nodes.get_mut(&node) {
                desk.steps.push(step);
            }
        }
        let revoked: Vec<String> = records
            .revoked
            .iter()
            .map(|record| record.serial.clone())
            .collect();
        self.handout.send_if_modified(|handout| {
            let next = handout.next(nodes, &revoked);
            let changed = next.newest != handout.newest || next.nodes.len() != handout.nodes.len();
            if changed {
                *handout = Arc::new(next);
            }
            changed
        });
    }

    /// An event for each volume whose log gives its primary more trouble than before, or less.
    fn note_pressure(
        &self,
        records: &Records,
        snapshot: &Snapshot,
        now: Instant,
        levels: &mut BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        let mut turned = Vec::new();
        for volume in records.volumes.iter() {
            let Some((node, primary)) = snapshot.primary(&volume.id, now) else {
                continue;
            };
            let level = &primary.pressure;
            let before = levels.insert(volume.id.clone(), level.clone());
            if before.is_some_and(|before| before != *level) {
                let held = Bytes(primary.log_bytes);
                let what = format!("its log on node {node} is at level {level}, with {held}");
                turned.push((format!("volume {}", volume.name), what));
            }
        }
        levels.retain(|id, _| records.volumes.get(id).is_some());
        if turned.is_empty() {
            return Ok(());
        }
        let note = |tx: &mut Tx| {
            turned
                .iter()
                .try_for_each(|(volume, what)| tx.event(volume, what))
        };
        self.catalog.change(false, note)
    }

    fn note_hosts(
        &self,
        records: &Records,
        snapshot: &Snapshot,
        now: Instant,
        online: &mut BTreeMap<String, bool>,
    ) -> Result<(), ApiError> {
        let mut turned = Vec::new();
        for node in records.nodes.iter() {
            let seen = snapshot.marsd(&node.name, now);
            if matches!(seen, Err(Blind::Never)) {
                continue;
            }
            let before = online.insert(node.name.clone(), seen.is_ok());
            match (before, seen) {
                (Some(true), Err(why)) => turned.push((node.name.clone(), why.to_string())),
                (Some(false), Ok(_)) => turned.push((node.name.clone(), "is online again".to_owned())),
                _ => {}
            }
        }
        online.retain(|node, _| records.nodes.get(node).is_some());
        if turned.is_empty() {
            return Ok(());
        }
        let note = |tx: &mut Tx| {
            turned
                .iter()
                .try_for_each(|(node, what)| tx.event(format!("node {node}"), what))
        };
        self.catalog.change(false, note)
    }
}

/// What is left of volumes that are no more: a host that was away when a volume was deleted still knows it for its doors. Only
/// what holds no data goes, and nobody who is connected is cut off: a replica that nobody knows is left to people.
fn stale_steps(records: &Records, snapshot: &Snapshot, now: Instant) -> Vec<(String, Step)> {
    let mut steps = Vec::new();
    for (node, seen) in &snapshot.hosts {
        let Ok(status) = snapshot.marsd(node, now) else {
            continue;
        };
        let stale = status.volumes.iter().filter(|known| {
            records.volumes.get(&known.volume).is_none()
                && known.replica.is_none()
                && known.doors.iter().all(|door| door.clients == 0)
        });
        for known in stale {
            let generation = seen.report.generations.get(&known.volume).copied().unwrap_or(0);
            let closing = known.doors.iter().map(|door| Action::DoorClose {
                door: door.door.clone(),
            });
            for action in closing.chain([Action::Forget]) {
                let volume = known.volume.clone();
                steps.push((
                    node.clone(),
                    Step {
                        volume,
                        generation,
                        action,
                    },
                ));
            }
        }
    }
    steps
}

/// What a volume should be and the steps to it; `None` only for a record that `Catalog::open` would have refused.
pub fn plan_of(
    records: &Records,
    volume: &VolumeRecord,
    snapshot: &Snapshot,
    now: Instant,
) -> Option<(VolumeDesired, Plan)> {
    let desired = volume.desired().ok()?;
    let mut observed = snapshot.observed(&volume.id, now);
    let in_pool: BTreeSet<&str> = records.nodes.iter().map(|node| node.name.as_str()).collect();
    observed.hosts.retain(|node, _| in_pool.contains(node.as_str()));
    let address = |node: &NodeId| {
        records
            .nodes
            .get(node.as_str())
            .map(|node| node.peer_address.clone())
    };
    let plan = plan(&desired, &observed, address);
    Some((desired, plan))
}

pub(super) fn vg_ref(vg: &crate::catalog::records::VgRecord) -> VgRef {
    VgRef {
        name: vg.name.clone(),
        kind: vg.kind,
        path: vg.path.clone(),
        layout: vg.layout.clone(),
        size_bytes: vg.size_bytes,
        promise_bytes: promise_bytes(vg),
    }
}

fn wire_action(
    records: &Records,
    desired: &VolumeDesired,
    served: u64,
    step: &migrate::plan::Step,
) -> Result<Action, ApiError> {
    let vg = |name: &str| {
        records.vg(step.node.as_str(), name).map(vg_ref).ok_or_else(|| {
            ApiError::failed(format!(
                "node {} has no volume group `{name}` any more",
                step.node
            ))
        })
    };
    let wire = |members: &[migrate::desired::Member]| -> Vec<Member> {
        let member = |member: &migrate::desired::Member| Member {
            node: member.node.to_string(),
            addr: member.addr.clone(),
        };
        members.iter().map(member).collect()
    };
    // A volume that grows is offered to guests as long as it is; only its disks are ahead.
    let (name, size_bytes) = (desired.name.to_string(), served);
    Ok(match &step.action {
        migrate::Action::DiskCreate { vg: group } => Action::DiskCreate {
            vg: vg(group)?,
            size_bytes: desired.size.bytes(),
        },
        migrate::Action::ReplicaCreate {
            vg: group,
            birth,
            members,
        } => {
            let birth = match birth {
                Birth::Primary => BirthKind::Primary,
                Birth::Secondary => BirthKind::Secondary,
            };
            Action::ReplicaCreate {
                vg: vg(group)?,
                name,
                size_bytes,
                birth,
                members: wire(members),
            }
        }
        migrate::Action::RemoteCreate { members } => Action::RemoteCreate {
            name,
            size_bytes,
            members: wire(members),
        },
        migrate::Action::SetMembers { members } => Action::SetMembers {
            members: wire(members),
        },
        migrate::Action::HandOver { to } => Action::HandOver {
            to: to.to_string(),
            gate_millis_max: GATE_MILLIS_MAX,
        },
        migrate::Action::DoorOpen { door } => Action::DoorOpen {
            door: door_spec(door),
        },
        migrate::Action::DoorClose { door } => Action::DoorClose {
            door: door_spec(door),
        },
        migrate::Action::Forget => Action::Forget,
        migrate::Action::DiskRemove { vg: group } => Action::DiskRemove { vg: vg(group)? },
    })
}
