//! What can be wished for a volume? Each wish is checked against everything known, then written down.

use std::time::Instant;

use api::ApiError;
use api::control::VolumeSettings;
use api::pool::{Changed, CreateVolume, JobKind, Migrate, OnNode, REPLICAS_MAX, SetVolume};
use migrate::desired::{Life, Placement, VolumeDesired};
use migrate::job::Phase;
use migrate::place::{HostRoom, Request, VgRoom, choose};
use model::{Bytes, NodeId, ReplicaState, SizeError, VolumeId, VolumeName, VolumeSize};

use super::Leader;
use super::errands::kept;
use super::jobs::refusal;
use super::settings::settings;
use super::snapshots::keep_the_last;
use super::view::View;
use crate::catalog::Tx;
use crate::catalog::records::{JobRecord, LifeRecord, PlaceRecord, VolumeRecord};
use crate::inventory::{Snapshot, replica_state};

impl Leader {
    /// `volume create`.
    pub fn volume_create(&self, request: &CreateVolume) -> Result<Changed, ApiError> {
        let object = format!("volume {}", request.name);
        let about = |error: ApiError| error.object(object.clone());
        let name =
            VolumeName::new(&request.name).map_err(|error| about(ApiError::usage(error.to_string())))?;
        let size = VolumeSize::new(request.size_bytes).map_err(|error| about(size_refusal(&error)))?;
        let replicas = request
            .replicas
            .map_or(request.on.len().max(1), |replicas| replicas as usize);
        if replicas == 0 || replicas > REPLICAS_MAX {
            return Err(about(
                ApiError::usage(format!(
                    "{replicas} replicas cannot be: a volume has 1 to {REPLICAS_MAX}"
                ))
                .hint("give another --replicas"),
            ));
        }
        if !request.on.is_empty() && request.on.len() != replicas {
            let message = format!("{replicas} replicas are wanted on {} nodes", request.on.len());
            return Err(about(
                ApiError::usage(message).hint("name one node for each replica with --on"),
            ));
        }
        let how = SetVolume {
            mode: request.mode.clone(),
            lag_millis_max: request.lag_millis_max,
            lag_bytes_max: request.lag_bytes_max,
            ..SetVolume::default()
        };
        let settings = settings(&VolumeSettings::default(), &how, replicas).map_err(about)?;
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            if tx
                .records
                .volumes
                .iter()
                .any(|volume| volume.name == request.name)
            {
                return Err(about(
                    ApiError::refused(format!("a volume `{}` exists already", request.name)).hint(format!(
                        "choose another name, or `poolctl volume show {}`",
                        request.name
                    )),
                ));
            }
            let mut on = Vec::new();
            for node in &request.on {
                tx.records.node(node)?;
                let node = NodeId::new(node).map_err(|error| ApiError::usage(error.to_string()))?;
                if on.contains(&node) {
                    let message = format!("node {node} is named twice; two replicas never lie on one node");
                    let hint = "name each node once, or leave --on out to have them chosen";
                    return Err(about(ApiError::usage(message).hint(hint)));
                }
                on.push(node);
            }
            let hosts = tx.records.nodes.len();
            if replicas > hosts {
                let message = format!("{replicas} replicas need {replicas} nodes; the pool has {hosts}");
                let hint = "let another host join: `poolctl node token`, or give a smaller --replicas";
                return Err(about(ApiError::refused(message).hint(hint)));
            }
            let wanted = Request { size, replicas, on };
            let members = choose(&wanted, &self.rooms(tx, &snapshot, None))
                .map_err(|why| about(no_room(&why.to_string(), size)))?;
            let desired = VolumeDesired {
                id: VolumeId(rand::random()),
                name,
                size,
                generation: 1,
                life: Life::New,
                primary: members[0].node.clone(),
                members,
                leaving: Vec::new(),
                doors: Vec::new(),
            };
            let volume = VolumeRecord::new(&desired, settings);
            let steps = describe_birth(&desired);
            tx.event(&object, format!("is wanted with {size} and {replicas} replicas"))?;
            let job = JobRecord::new(JobKind::Create, &volume, Phase::Start.word());
            tx.put(volume.clone())?;
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `volume delete`.
    pub fn volume_delete(&self, name: &str, dry_run: bool) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            let object = format!("volume {name}");
            tx.no_job_at(&volume)?;
            let (clients, open) = open_doors(&volume, &snapshot);
            if !volume.doors.is_empty() || open > 0 {
                let message = format!(
                    "volume `{name}` is attached: {} doors, {clients} guests connected",
                    volume.doors.len().max(open)
                );
                let hint = format!("`poolctl volume detach {name}` first");
                return Err(ApiError::refused(message).hint(hint).object(object));
            }
            let kept = kept(&volume, &snapshot);
            if !kept.is_empty() {
                let message = format!(
                    "hosts keep {} histories of former split brains of volume `{name}`",
                    kept.len()
                );
                let hint = format!("drop them first: `poolctl volume split-brain drop {name}`");
                return Err(ApiError::refused(message).hint(hint).object(object));
            }
            if !volume.snapshots.is_empty() {
                let names: Vec<&str> = volume.snapshots.keys().map(String::as_str).collect();
                let message = format!("volume `{name}` has snapshots: {}", names.join(", "));
                let hint = format!("delete them first: `poolctl volume snapshot delete {name} SNAP`");
                return Err(ApiError::refused(message).hint(hint).object(object));
            }
            let nodes: Vec<&str> = volume.members.iter().map(|member| member.node.as_str()).collect();
            let steps = vec![format!(
                "the disks on {} and all their contents are removed",
                nodes.join(", ")
            )];
            let desired = desired(&volume)?.deleting();
            volume.set(&desired);
            let job = JobRecord::new(JobKind::Delete, &volume, Phase::Remove.word());
            tx.event(&object, "is to be deleted")?;
            tx.put(volume.clone())?;
            self.begin(tx, dry_run, &volume, job, steps)
        })
    }

    /// `volume join`.
    pub fn volume_join(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            let place = self.place_one(tx, &volume, &request.node, &snapshot)?;
            let steps = vec![
                format!(
                    "a disk is made on node {} in volume group {}",
                    place.node, place.vg
                ),
                "a full sync fills it while the volume is in use".to_owned(),
            ];
            let mut job = JobRecord::new(JobKind::Join, &volume, Phase::Join.word());
            job.to = Some(PlaceRecord {
                node: place.node.to_string(),
                vg: place.vg,
            });
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `volume leave`.
    pub fn volume_leave(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let volume = self.idle(tx, name)?;
            tx.records.node(&request.node)?;
            let node = NodeId::new(&request.node).map_err(|error| ApiError::usage(error.to_string()))?;
            desired(&volume)?
                .leave(&node)
                .map_err(|error| refusal(&error, name))?;
            if snapshot
                .primary(&volume.id, Instant::now())
                .is_some_and(|(primary, _)| primary == request.node)
            {
                return Err(refusal(&migrate::Unsafe::LeavePrimary(node), name));
            }
            self.keeps_a_whole_replica(&volume, &request.node, &snapshot)?;
            let members: Vec<&str> = volume.members.iter().map(|place| place.node.as_str()).collect();
            keep_the_last(&volume, &request.node, &members, &snapshot)?;
            let mut steps = vec![format!("the replica on node {node} and its disk are removed")];
            if volume.doors.iter().any(|door| door.node == request.node) {
                steps.push("the door there goes on as a remote door".to_owned());
            }
            let mut job = JobRecord::new(JobKind::Leave, &volume, Phase::Leave.word());
            job.from = Some(request.node.clone());
            self.begin(tx, request.dry_run, &volume, job, steps)
        })
    }

    /// `migrate`.
    pub fn migrate(&self, request: &Migrate) -> Result<Changed, ApiError> {
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| self.migrate_in(tx, request, &snapshot))
    }

    pub(super) fn migrate_in(
        &self,
        tx: &mut Tx,
        request: &Migrate,
        snapshot: &Snapshot,
    ) -> Result<Changed, ApiError> {
        let name = &request.volume;
        let volume = self.idle(tx, name)?;
        let now = Instant::now();
        let primary = snapshot
            .primary(&volume.id, now)
            .map_or(volume.primary.as_str(), |(node, _)| node);
        let from = request.from.clone().unwrap_or_else(|| primary.to_owned());
        tx.records.node(&from)?;
        let from_id = NodeId::new(&from).map_err(|error| ApiError::usage(error.to_string()))?;
        if !desired(&volume)?.has_member(&from_id) {
            return Err(refusal(&migrate::Unsafe::NotMember(from_id), name)
                .hint(format!("`poolctl volume show {name}` lists its replicas")));
        }
        let to = self.place_one(tx, &volume, &request.to, snapshot)?;
        let members: Vec<&str> = volume.members.iter().map(|place| place.node.as_str()).collect();
        keep_the_last(&volume, &from, &members, snapshot)?;
        let moves_primary = from == primary;
        let mut steps = vec![
            format!(
                "join: a replica is made on node {} in volume group {}",
                to.node, to.vg
            ),
            format!(
                "sync: a full sync of {} fills it while the volume is in use",
                Bytes(volume.size_bytes)
            ),
        ];
        if moves_primary {
            steps.push(format!(
                "hand-over: node {from} gives the primary role to node {}",
                to.node
            ));
        }
        steps.push(format!(
            "leave: the replica on node {from} and its disk are removed"
        ));
        let mut job = JobRecord::new(JobKind::Migrate, &volume, Phase::Join.word());
        (job.from, job.moves_primary) = (Some(from), moves_primary);
        job.to = Some(PlaceRecord {
            node: to.node.to_string(),
            vg: to.vg,
        });
        self.begin(tx, request.dry_run, &volume, job, steps)
    }

    /// The volume, if nothing is at work on it and it is not on its way out.
    pub(super) fn idle(&self, tx: &Tx, name: &str) -> Result<VolumeRecord, ApiError> {
        tx.no_job_at(tx.records.volume(name)?)?;
        self.in_service(tx, name)
    }

    /// A volume that has a primary, or had one.
    pub(super) fn in_service(&self, tx: &Tx, name: &str) -> Result<VolumeRecord, ApiError> {
        let volume = tx.records.volume(name)?.clone();
        if volume.life == LifeRecord::New {
            return Err(ApiError::refused(format!("volume `{name}` has no primary yet"))
                .hint(format!("`poolctl volume show {name}` says what it waits for"))
                .object(format!("volume {name}")));
        }
        Ok(volume)
    }

    pub(super) fn begin(
        &self,
        tx: &mut Tx,
        dry_run: bool,
        volume: &VolumeRecord,
        job: JobRecord,
        steps: Vec<String>,
    ) -> Result<Changed, ApiError> {
        let number = tx.add_job(job)?;
        if !dry_run {
            // A job may begin with its hand-over, and only its own gate is its own.
            self.inventory.forget_gate(&volume.id);
        }
        Ok(Changed {
            object: format!("volume {}", volume.name),
            dry_run,
            generation: volume.generation,
            steps,
            job: (!dry_run).then(|| number.to_string()),
            loss: None,
        })
    }

    /// A place for one more replica, on that node.
    pub(super) fn place_one(
        &self,
        tx: &Tx,
        volume: &VolumeRecord,
        node: &str,
        snapshot: &Snapshot,
    ) -> Result<Placement, ApiError> {
        tx.records.node(node)?;
        let node = NodeId::new(node).map_err(|error| ApiError::usage(error.to_string()))?;
        let object = format!("volume {}", volume.name);
        let desired = desired(volume)?;
        let any = Placement {
            node: node.clone(),
            vg: String::new(),
        };
        desired.join(any).map_err(|error| refusal(&error, &volume.name))?;
        let request = Request {
            size: desired.size,
            replicas: 1,
            on: vec![node],
        };
        let mut places = choose(&request, &self.rooms(tx, snapshot, Some(&desired)))
            .map_err(|why| no_room(&why.to_string(), desired.size).object(object))?;
        Ok(places.remove(0))
    }

    pub(super) fn rooms(
        &self,
        tx: &Tx,
        snapshot: &Snapshot,
        volume: Option<&VolumeDesired>,
    ) -> Vec<HostRoom> {
        let view = View {
            leader: &self.node,
            records: &tx.records,
            snapshot,
            now: Instant::now(),
        };
        let room = |record: &crate::catalog::records::NodeRecord| {
            let node = NodeId::new(&record.name).ok()?;
            let groups = tx
                .records
                .vgs
                .iter()
                .filter(|vg| vg.node == record.name)
                .map(|vg| view.vg(vg));
            let problem = match record.drained {
                true => Some("is drained".to_owned()),
                false => snapshot
                    .marsd(&record.name, view.now)
                    .err()
                    .map(|blind| blind.to_string()),
            };
            let has_replica = volume.is_some_and(|volume| {
                volume
                    .members
                    .iter()
                    .chain(&volume.leaving)
                    .any(|place| place.node == node)
            });
            let vgs = groups.map(|vg| VgRoom {
                name: vg.name,
                free_bytes: vg.free_bytes,
                problem: vg.problem,
            });
            Some(HostRoom {
                node,
                problem,
                has_replica,
                vgs: vgs.collect(),
            })
        };
        tx.records.nodes.iter().filter_map(room).collect()
    }

    /// A replica may go only if another one is whole and reachable: the one that goes may be the only good one.
    pub(super) fn keeps_a_whole_replica(
        &self,
        volume: &VolumeRecord,
        leaves: &str,
        snapshot: &Snapshot,
    ) -> Result<(), ApiError> {
        let primary = snapshot.primary(&volume.id, Instant::now());
        // A primary is a whole version, also where it says that another one's history has parted from its own: that
        // one may have to go.
        let serves = |node: &str| {
            let whole = [ReplicaState::Uptodate, ReplicaState::SplitBrain];
            primary.is_some_and(|(at, replica)| at == node && whole.contains(&replica_state(&replica.state)))
        };
        let mut others = volume.members.iter().filter(|member| member.node != leaves);
        if others.any(|member| serves(&member.node) || in_sync(volume, &member.node, snapshot).is_ok()) {
            return Ok(());
        }
        let message = format!(
            "no other replica of volume `{}` is reachable and in sync",
            volume.name
        );
        let hint = format!("`poolctl volume show {}` says how the others stand", volume.name);
        Err(ApiError::refused(message)
            .hint(hint)
            .object(format!("volume {}", volume.name)))
    }
}

/// The planner's form of a record that was checked when the catalog was opened.
pub fn desired(volume: &VolumeRecord) -> Result<VolumeDesired, ApiError> {
    volume
        .desired()
        .map_err(|what| ApiError::failed(what).object(format!("volume {}", volume.name)))
}

/// Guests connected and doors open, as far as is known.
pub fn open_doors(volume: &VolumeRecord, snapshot: &Snapshot) -> (u64, usize) {
    // Doors end with their marsd; those of a host that is silent may still be open.
    let alive = snapshot
        .hosts
        .iter()
        .filter(|(_, seen)| seen.report.marsd.is_ok());
    let hosts = alive.filter_map(|(host, _)| snapshot.last_known(host, &volume.id));
    hosts.fold((0, 0), |(clients, open), known| {
        (
            clients + known.doors.iter().map(|door| door.clients).sum::<u64>(),
            open + known.doors.len(),
        )
    })
}

pub(super) fn in_sync(volume: &VolumeRecord, node: &str, snapshot: &Snapshot) -> Result<(), ApiError> {
    let now = Instant::now();
    let refused = |message: String| {
        Err(ApiError::refused(message)
            .hint(format!(
                "wait until `poolctl volume show {}` calls it uptodate",
                volume.name
            ))
            .object(format!("volume {}", volume.name)))
    };
    if let Err(blind) = snapshot.marsd(node, now) {
        return refused(format!(
            "the replica on node {node} cannot be used: the node {blind}"
        ));
    }
    let observed = snapshot.observed(&volume.id, now);
    let replica = NodeId::new(node)
        .ok()
        .and_then(|node| observed.replica(&node).cloned());
    match replica {
        None => refused(format!("the replica on node {node} does not exist yet")),
        Some(replica) if replica.is_whole() => Ok(()),
        Some(replica) => refused(format!(
            "the replica on node {node} is not in sync: it is {} ({:.0} %)",
            replica.state, replica.sync_percent
        )),
    }
}

fn describe_birth(desired: &VolumeDesired) -> Vec<String> {
    let step = |place: &Placement| {
        let role = if place.node == desired.primary {
            "primary"
        } else {
            "secondary"
        };
        format!(
            "a disk of {} is made on node {} in volume group {} ({role})",
            desired.size, place.node, place.vg
        )
    };
    desired.members.iter().map(step).collect()
}

pub(super) fn no_room(why: &str, size: VolumeSize) -> ApiError {
    ApiError::refused(format!(
        "there is no place for {size} ({} bytes): {why}",
        size.bytes()
    ))
    .hint("`poolctl vg list` shows the room; `poolctl vg add` gives more")
}

pub(super) fn size_refusal(error: &SizeError) -> ApiError {
    let refused = ApiError::usage(error.to_string());
    match error {
        SizeError::Unaligned { next, .. } => refused.hint(format!("give {next} bytes")),
        SizeError::Syntax { .. } | SizeError::Zero | SizeError::TooLarge { .. } => {
            refused.hint("give a size such as 10G, 512MiB, 1.5T")
        }
    }
}
