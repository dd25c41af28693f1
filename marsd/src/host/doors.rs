//! Which doors of a volume are open here? Doors in front, one session to the primary behind all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::control::{ControlErrorKind, DoorSpec, DoorStatus, Member, Outcome};
use model::{NodeId, VolumeId};
use tracing::warn;

use super::spec::{DoorEntry, Spec};
use super::{Host, Reply, failed, not_found, refuse, volume_name};
use crate::door::nbd::Offer;
use crate::door::port::PrimaryPort;
use crate::door::router::Router;
use crate::door::{Door, DoorError};

/// The doors of one volume.
#[derive(Default)]
pub(super) struct Doors {
    /// What guests talk to, once a door was opened.
    pub(super) router: Option<Arc<Router>>,
    open: Vec<(DoorEntry, Door)>,
}

impl Doors {
    /// Whoever serves guests must know where the primary may be.
    pub fn set_members(&self, members: &[Member]) {
        if let Some(router) = &self.router {
            router.set_members(members.to_vec());
        }
    }

    /// There is a replica here now, or not any more.
    pub fn set_local(&self, port: Option<Arc<dyn PrimaryPort>>) {
        if let Some(router) = &self.router {
            router.set_local(port);
        }
    }

    /// Guests connected now.
    pub fn clients(&self) -> u64 {
        self.open.iter().map(|(_, door)| door.status().clients).sum()
    }

    /// How they stand, named as they were asked for.
    pub fn status(&self) -> Vec<DoorStatus> {
        let one = |(entry, door): &(DoorEntry, Door)| DoorStatus {
            door: entry.door.clone(),
            ..door.status()
        };
        self.open.iter().map(one).collect()
    }

    /// Cuts everybody off.
    pub async fn close_all(&mut self) {
        for (_, door) in self.open.drain(..) {
            door.close().await;
        }
        self.router = None;
    }
}

/// The same door with its default path filled in.
fn resolve(door: DoorSpec, run_dir: &Path, name: &str) -> DoorSpec {
    match door {
        DoorSpec::Nbd {
            path: None,
            read_only,
        } => {
            let path = run_dir.join(format!("{name}.nbd.sock")).display().to_string();
            DoorSpec::Nbd {
                path: Some(path),
                read_only,
            }
        }
        DoorSpec::VhostUserBlk {
            path: None,
            read_only,
        } => {
            let path = run_dir.join(format!("{name}.vhost.sock")).display().to_string();
            DoorSpec::VhostUserBlk {
                path: Some(path),
                read_only,
            }
        }
        door => door,
    }
}

/// What must differ between two doors.
fn place(door: &DoorSpec) -> PathBuf {
    match door {
        DoorSpec::Nbd { path, .. } | DoorSpec::VhostUserBlk { path, .. } => {
            PathBuf::from(path.as_deref().unwrap_or_default())
        }
        DoorSpec::NbdTcp { addr, .. } => PathBuf::from(format!("tcp:{addr}")),
    }
}

/// The same door where it was before.
fn reopened(entry: &DoorEntry) -> DoorSpec {
    match &entry.door {
        DoorSpec::NbdTcp { read_only, .. } => DoorSpec::NbdTcp {
            addr: entry.address.clone(),
            read_only: *read_only,
        },
        door => door.clone(),
    }
}

impl Host {
    pub(super) async fn open_door(&self, id: VolumeId, door: DoorSpec) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let node = self.node()?;
        let spec = match self.volumes().get(&id) {
            Some(volume) => volume.spec.clone(),
            None => return not_found(id),
        };
        let asked = resolve(door, &self.config.run_dir, &spec.name);
        if let Some(open) = self.find_door(id, &asked) {
            let (entry, outcome) = open;
            return if entry.door == asked {
                Ok(outcome)
            } else {
                let text = format!("the door at {} is open otherwise; close it first", entry.address);
                refuse(ControlErrorKind::Refused, text)
            };
        }
        // One that is to be open but could not be: it goes where it was.
        let known = spec.doors.iter().find(|entry| entry.door == asked);
        let how = known.map_or_else(|| asked.clone(), reopened);
        let opened = self.start_door(id, &node, &spec, how).await.map_err(|e| {
            let kind = match e {
                DoorError::PathTooLong { .. } | DoorError::BadAddress { .. } => ControlErrorKind::Usage,
                DoorError::NotLoopback { .. } | DoorError::Occupied { .. } => ControlErrorKind::Refused,
                DoorError::Listen { .. } => ControlErrorKind::Failed,
            };
            api::control::ControlError {
                kind,
                message: crate::chain(&e),
            }
        })?;
        let entry = DoorEntry {
            door: asked,
            address: opened.address().to_owned(),
        };
        let outcome = Outcome::Door {
            path: opened.address().to_owned(),
            uri: opened.uri().to_owned(),
        };
        let mut spec = spec;
        spec.doors.retain(|known| known.door != entry.door);
        spec.doors.push(entry.clone());
        self.save(id, &spec)?;
        if let Some(volume) = self.volumes().get_mut(&id) {
            volume.spec = spec;
            volume.doors.open.push((entry, opened));
        }
        Ok(outcome)
    }

    pub(super) async fn close_door(&self, id: VolumeId, door: DoorSpec) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let closing = {
            let mut volumes = self.volumes();
            let Some(volume) = volumes.get_mut(&id) else {
                return not_found(id);
            };
            let at = place(&resolve(door, &self.config.run_dir, &volume.spec.name));
            let mut spec = volume.spec.clone();
            spec.doors.retain(|entry| place(&entry.door) != at);
            if spec != volume.spec {
                self.save(id, &spec)?;
                volume.spec = spec;
            }
            let found = volume
                .doors
                .open
                .iter()
                .position(|(entry, _)| place(&entry.door) == at);
            found.map(|index| volume.doors.open.swap_remove(index).1)
        };
        if let Some(door) = closing {
            door.close().await;
        }
        Ok(Outcome::Done)
    }

    /// Opens every door that is to be open; one that cannot be is told about and tried again when it is asked for.
    pub(super) async fn resume_doors(&self, id: VolumeId) {
        let Some(spec) = self.volumes().get(&id).map(|volume| volume.spec.clone()) else {
            return;
        };
        let Ok(node) = self.node() else { return };
        for entry in &spec.doors {
            match self.start_door(id, &node, &spec, reopened(entry)).await {
                Ok(door) => {
                    if let Some(volume) = self.volumes().get_mut(&id) {
                        volume.doors.open.push((entry.clone(), door));
                    }
                }
                Err(error) => {
                    let error = crate::chain(&error);
                    warn!(
                        volume = spec.name,
                        address = entry.address,
                        error,
                        "cannot open a door again"
                    );
                }
            }
        }
    }

    fn find_door(&self, id: VolumeId, asked: &DoorSpec) -> Option<(DoorEntry, Outcome)> {
        let volumes = self.volumes();
        let open = &volumes.get(&id)?.doors.open;
        let (entry, door) = open
            .iter()
            .find(|(entry, _)| place(&entry.door) == place(asked))?;
        let outcome = Outcome::Door {
            path: door.address().to_owned(),
            uri: door.uri().to_owned(),
        };
        Some((entry.clone(), outcome))
    }

    async fn start_door(
        &self,
        id: VolumeId,
        node: &NodeId,
        spec: &Spec,
        door: DoorSpec,
    ) -> Result<Door, DoorError> {
        let name = volume_name(&spec.name).map_err(|e| DoorError::Listen {
            address: spec.name.clone(),
            source: std::io::Error::other(e.to_string()),
        })?;
        let (router, length) = {
            let mut volumes = self.volumes();
            let volume = volumes.get_mut(&id).expect("changes are made one at a time");
            let port = volume.port();
            let new = || {
                let dialer = self.links.clone();
                Arc::new(Router::new(id, node.clone(), spec.members.clone(), port, dialer))
            };
            let router = volume.doors.router.get_or_insert_with(new).clone();
            (router, volume.length.clone())
        };
        Door::open(
            door,
            &self.config.run_dir,
            Offer {
                name,
                length,
                read_only: false,
            },
            router,
        )
        .await
    }

    pub(super) fn save(&self, id: VolumeId, spec: &Spec) -> Reply<()> {
        let path = self.spec_path(id);
        spec.save(&path)
            .map_err(|e| failed(&format!("write {}", path.display()), &e))
    }
}
