//! How does a replica come to a host, start again, and leave?

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use api::control::{BirthKind, ControlError, ControlErrorKind, Member, Outcome};
use mars::Birth;
use model::{Epoch, NodeId, Role, VolumeId};
use tracing::{Instrument, error, info, info_span};

use super::doors::Doors;
use super::spec::{self, ReplicaSpec, Spec};
use super::{Host, Replica, Reply, Volume, failed, refuse, stop, usage, volume_size};
use crate::disk::FileDisk;
use crate::disk::file::{DiskUnfit, OpenError, Places};
use crate::length::Length;
use crate::run::{Begin, Dial, Inbox, Running, Shared};

/// Memory for a volume's acknowledged writes that are not yet on its disk; past it, guests wait.
const SHADOW_BYTES_MAX: u64 = 64 << 20;

impl Host {
    fn volume_dir(&self, id: VolumeId) -> PathBuf {
        self.config.state_dir.join("volumes").join(id.to_string())
    }

    pub(super) fn spec_path(&self, id: VolumeId) -> PathBuf {
        self.volume_dir(id).join("spec.json")
    }

    pub(super) fn meta_path(&self, id: VolumeId) -> PathBuf {
        self.volume_dir(id).join("meta")
    }

    pub(super) fn log_path(&self, id: VolumeId) -> PathBuf {
        self.config.log_dir.join(id.to_string())
    }

    /// Takes up every volume in the state directory.
    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        let dir = self.config.state_dir.join("volumes");
        crate::persist::create_directory(&dir).with_context(|| format!("create {}", dir.display()))?;
        let entries = std::fs::read_dir(&dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.with_context(|| format!("read {}", dir.display()))? {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<VolumeId>().ok()) else {
                continue;
            };
            let span = info_span!("volume", volume = %id);
            // One volume's trouble must not keep the others down.
            if let Err(error) = self.resume_volume(id).instrument(span).await {
                error!(volume = %id, error = format!("{error:#}"), "cannot resume a volume");
            }
        }
        Ok(())
    }

    async fn resume_volume(&self, id: VolumeId) -> anyhow::Result<()> {
        let path = self.spec_path(id);
        let mut spec = match Spec::load(&path) {
            // Its creation was cut short before anything was promised.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !self.meta_path(id).exists() => {
                return Ok(self.remove_volume(id)?);
            }
            spec => spec.with_context(|| format!("read {}", path.display()))?,
        };
        let length = Length::new(volume_size(spec.size_bytes)?);
        if spec.forgotten {
            return Ok(self.remove_volume(id)?);
        }
        if spec.dropping {
            self.remove_replica(id)?;
            spec.dropping = false;
            self.save(id, &spec)?;
        }
        let members = Arc::new(RwLock::new(spec.members.clone()));
        let replica = match &spec.replica {
            None => Replica::Remote,
            Some(replica) if replica.detached => Replica::Detached,
            Some(replica) => match self.start_replica(id, &spec, replica, &members, &length).await {
                Ok(running) => Replica::Running(running),
                Err(error) => {
                    error!(%error, "the replica is out of service");
                    Replica::Broken(error.message)
                }
            },
        };
        let volume = Volume {
            spec,
            members,
            replica,
            doors: Doors::default(),
            length,
        };
        self.volumes().insert(id, volume);
        self.resume_doors(id).await;
        Ok(())
    }

    pub(super) async fn create(&self, id: VolumeId, spec: Spec) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let node = self.node()?;
        if !spec.members.iter().any(|member| member.node == node.as_str()) {
            return usage(format!(
                "node {node} is to have a replica but is not among the members"
            ));
        }
        let replica = spec.replica.clone().expect("a spec for a replica has one");
        let known = self.check_agreement(id, &spec)?;
        let (spec, members, length) = match known {
            Some(Known { running: true, .. }) => return Ok(Outcome::Done),
            Some(Known {
                spec: mut known,
                members,
                length,
                ..
            }) => {
                // Remote so far; one that could not be started before stays as it was asked for.
                if known.replica.is_none() {
                    known.replica = Some(replica);
                    known.members = spec.members;
                }
                (known, members, length)
            }
            None => {
                let length = Length::new(volume_size(spec.size_bytes)?);
                (spec, Arc::default(), length)
            }
        };
        let is_new = !self.volume_dir(id).exists();
        let replica = spec.replica.clone().expect("it was put there above");
        members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&spec.members);
        let dir = self.volume_dir(id);
        crate::persist::create_directory(&dir).map_err(|e| failed("create the volume's directory", &e))?;
        // The disk is tried before anything is promised, and the promise is written before the replica lives.
        let opened = self.open_disk(id, &spec, &replica).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if is_new {
                    self.remove_volume(id)?;
                }
                return Err(error);
            }
        };
        self.save(id, &spec)?;
        let running = self.run(id, &spec, &replica, &members, &length, opened)?;
        info!(volume = %id, name = spec.name, disk = replica.disk, "has a replica");
        let mut volumes = self.volumes();
        match volumes.get_mut(&id) {
            Some(volume) => {
                volume.replica = Replica::Running(running);
                volume.set_members(spec.members.clone());
                volume.spec = spec;
                volume.doors.set_local(volume.port());
            }
            None => {
                let replica = Replica::Running(running);
                volumes.insert(
                    id,
                    Volume {
                        spec,
                        members,
                        replica,
                        doors: Doors::default(),
                        length,
                    },
                );
            }
        }
        Ok(Outcome::Done)
    }

    /// What is known of a volume that is to be created, if that agrees with what is asked.
    fn check_agreement(&self, id: VolumeId, asked: &Spec) -> Reply<Option<Known>> {
        let volumes = self.volumes();
        for (other, volume) in volumes.iter().filter(|(other, _)| **other != id) {
            if volume.spec.name == asked.name {
                let text = format!("another volume on this host is called {}: {other}", asked.name);
                return refuse(ControlErrorKind::Refused, text);
            }
            let disk = |spec: &Spec| spec.replica.as_ref().map(|replica| replica.disk.clone());
            if disk(asked).is_some() && disk(&volume.spec) == disk(asked) {
                let text = format!(
                    "the disk belongs to another volume on this host: {}",
                    volume.spec.name
                );
                return refuse(ControlErrorKind::Refused, text);
            }
        }
        let Some(volume) = volumes.get(&id) else {
            return Ok(None);
        };
        let known = &volume.spec;
        if known.size_bytes > asked.size_bytes {
            let text = format!(
                "volume {} has {} bytes here, not {}",
                known.name, known.size_bytes, asked.size_bytes
            );
            return refuse(ControlErrorKind::Refused, text);
        }
        if let (Some(known_replica), Some(asked_replica)) = (&known.replica, &asked.replica)
            && known_replica.disk != asked_replica.disk
        {
            let text = format!("volume {} is on disk {} here", known.name, known_replica.disk);
            return refuse(ControlErrorKind::Refused, text);
        }
        Ok(Some(Known {
            spec: known.clone(),
            members: volume.members.clone(),
            length: volume.length.clone(),
            // A detached one stays so until an operator says otherwise.
            running: matches!(volume.replica, Replica::Running(_) | Replica::Detached),
        }))
    }

    /// A volume without a replica here; one that was here leaves, and its doors become remote ones.
    pub(super) async fn remote(&self, id: VolumeId, asked: Spec) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let node = self.node()?;
        if asked.members.iter().any(|member| member.node == node.as_str()) {
            return usage(format!(
                "node {node} is among the members, so its replica cannot be elsewhere only"
            ));
        }
        let Some(known) = self.check_agreement(id, &asked)? else {
            let dir = self.volume_dir(id);
            crate::persist::create_directory(&dir)
                .map_err(|e| failed("create the volume's directory", &e))?;
            self.save(id, &asked)?;
            let members = Arc::new(RwLock::new(asked.members.clone()));
            let length = Length::new(volume_size(asked.size_bytes)?);
            let volume = Volume {
                spec: asked,
                members,
                replica: Replica::Remote,
                doors: Doors::default(),
                length,
            };
            self.volumes().insert(id, volume);
            return Ok(Outcome::Done);
        };
        known.length.raise(volume_size(asked.size_bytes)?);
        let leaves = known.spec.replica.is_some();
        if leaves {
            self.refuse_primary(id, &node).await?;
        }
        let mut spec = Spec {
            size_bytes: asked.size_bytes,
            members: asked.members,
            replica: None,
            dropping: leaves,
            ..known.spec
        };
        self.save(id, &spec)?;
        let replica = {
            let mut volumes = self.volumes();
            let volume = volumes.get_mut(&id).expect("changes are made one at a time");
            volume.set_members(spec.members.clone());
            volume.doors.set_local(None);
            volume.spec = spec.clone();
            std::mem::replace(&mut volume.replica, Replica::Remote)
        };
        if leaves {
            if let Replica::Running(running) = replica {
                stop(running).await;
            }
            self.remove_replica(id)?;
            spec.dropping = false;
            self.save(id, &spec)?;
            info!(volume = %id, name = spec.name, "has no replica any more");
        }
        if let Some(volume) = self.volumes().get_mut(&id) {
            volume.spec = spec;
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn forget(&self, id: VolumeId) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let mut spec = match self.volumes().get(&id) {
            Some(volume) if volume.doors.clients() > 0 => {
                let text = format!(
                    "a guest is connected to volume {}; disconnect it first",
                    volume.spec.name
                );
                return refuse(ControlErrorKind::Refused, text);
            }
            Some(volume) => volume.spec.clone(),
            // Forgotten already.
            None => return Ok(Outcome::Done),
        };
        if spec.replica.is_some() {
            let node = self.node()?;
            self.refuse_primary(id, &node).await?;
        }
        spec.forgotten = true;
        self.save(id, &spec)?;
        let Some(mut volume) = self.volumes().remove(&id) else {
            return Ok(Outcome::Done);
        };
        volume.doors.close_all().await;
        if let Replica::Running(running) = volume.replica {
            stop(running).await;
        }
        self.remove_volume(id)?;
        info!(volume = %id, name = spec.name, "forgotten");
        Ok(Outcome::Done)
    }

    /// A primary does not leave the others behind.
    pub(super) async fn refuse_primary(&self, id: VolumeId, node: &NodeId) -> Reply<()> {
        let (handle, spec) = match self.volumes().get(&id) {
            Some(volume) => (volume.handle().cloned(), volume.spec.clone()),
            None => return Ok(()),
        };
        let alone = spec.members.iter().all(|member| member.node == node.as_str());
        let Some(handle) = handle.filter(|_| !alone) else {
            return Ok(());
        };
        match handle.status().await {
            Some(status) if status.role == Role::Primary => refuse(
                ControlErrorKind::Refused,
                format!(
                    "node {node} is primary of volume {}; hand the role over first",
                    spec.name
                ),
            ),
            _ => Ok(()),
        }
    }

    pub(super) async fn start_replica(
        &self,
        id: VolumeId,
        spec: &Spec,
        replica: &ReplicaSpec,
        members: &Arc<RwLock<Vec<Member>>>,
        length: &Length,
    ) -> Reply<Running> {
        let opened = self.open_disk(id, spec, replica).await?;
        self.run(id, spec, replica, members, length, opened)
    }

    async fn open_disk(&self, id: VolumeId, spec: &Spec, replica: &ReplicaSpec) -> Reply<Opened> {
        let node = self.node()?;
        let size = volume_size(spec.size_bytes)?;
        let places = Places {
            log: self.log_path(id),
            meta: self.meta_path(id),
            disk: PathBuf::from(&replica.disk),
        };
        let (inbox, inputs) = Inbox::new();
        let span = info_span!(parent: None, "volume", volume = %id, name = spec.name, %node);
        let (to_disk, within) = (inbox.clone(), span.clone());
        let opening =
            tokio::task::spawn_blocking(move || within.in_scope(|| FileDisk::open(&places, size, &to_disk)));
        let opened = opening.await.map_err(|e| failed("open the replica", &e))?;
        let (disk, meta) = opened.map_err(open_error)?;
        if let Some(meta) = &meta
            && (meta.volume != id || meta.node != node)
        {
            let text = format!(
                "{} is the memory of volume {} on node {}, not of this replica",
                self.meta_path(id).display(),
                meta.volume,
                meta.node
            );
            return refuse(ControlErrorKind::Failed, text);
        }
        let begin = match (meta, replica.birth) {
            (Some(meta), _) => Begin::Open(Box::new(meta)),
            (None, BirthKind::Primary) => Begin::Create(Birth::Primary {
                epoch: Epoch::NONE.next_term(),
            }),
            (None, BirthKind::Secondary) => Begin::Create(Birth::Secondary),
        };
        Ok(Opened {
            begin,
            disk,
            inbox,
            inputs,
            span,
        })
    }

    fn run(
        &self,
        id: VolumeId,
        spec: &Spec,
        replica: &ReplicaSpec,
        members: &Arc<RwLock<Vec<Member>>>,
        length: &Length,
        opened: Opened,
    ) -> Reply<Running> {
        let Opened {
            begin,
            disk,
            inbox,
            inputs,
            span,
        } = opened;
        let config = mars::Config {
            volume: id,
            node: self.node()?,
            size: volume_size(spec.size_bytes)?,
            members: spec::nodes(&spec.members)?,
            shadow_bytes_max: SHADOW_BYTES_MAX,
            log_bytes_max: replica.log_bytes_max.unwrap_or(super::budget::LOG_BYTES_MAX),
        };
        self.forget_share(id);
        let (links, answers, members) = (self.links.clone(), inbox.clone(), members.clone());
        let dial: Dial = Box::new(move |peer| {
            let known = members.read().unwrap_or_else(PoisonError::into_inner);
            let addr = known
                .iter()
                .find(|member| member.node == peer.as_str())
                .map(|m| m.addr.clone());
            links.dial_stream(id, peer, addr, answers.clone());
        });
        let shared = Shared {
            turns: self.turns.clone(),
            length: length.clone(),
        };
        let disk = Box::new(disk);
        let started = span.in_scope(|| Running::start(config, begin, inbox, inputs, disk, dial, shared));
        started.map_err(|e| failed("start a volume", &e))
    }

    /// Removes log and memory of a replica that has stopped.
    pub(super) fn remove_replica(&self, id: VolumeId) -> Reply<()> {
        self.restores.forget(id);
        remove(&self.log_path(id), |path| std::fs::remove_dir_all(path))?;
        remove(&self.meta_path(id), |path| std::fs::remove_file(path))
    }

    fn remove_volume(&self, id: VolumeId) -> Reply<()> {
        self.remove_replica(id)?;
        remove(&self.spec_path(id), |path| std::fs::remove_file(path))?;
        remove(&self.volume_dir(id), |path| std::fs::remove_dir_all(path))
    }
}

/// What is known of a volume before it changes.
struct Known {
    spec: Spec,
    members: Arc<RwLock<Vec<Member>>>,
    length: Length,
    running: bool,
}

/// A replica whose parts are open.
struct Opened {
    begin: Begin,
    disk: FileDisk,
    inbox: Inbox,
    inputs: crossbeam_channel::Receiver<crate::run::Input>,
    span: tracing::Span,
}

fn open_error(error: OpenError) -> ControlError {
    let kind = match &error {
        OpenError::Disk(DiskUnfit::Io { error, .. }) => match error.kind() {
            std::io::ErrorKind::ResourceBusy => ControlErrorKind::Refused,
            _ => ControlErrorKind::Failed,
        },
        OpenError::Disk(DiskUnfit::Kind { .. } | DiskUnfit::TooSmall { .. }) => ControlErrorKind::Refused,
        OpenError::Meta(_) | OpenError::Io { .. } => ControlErrorKind::Failed,
    };
    ControlError {
        kind,
        message: error.to_string(),
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Reply<()> {
    match how(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|e| failed(&format!("remove {}", path.display()), &e)),
    }
}
