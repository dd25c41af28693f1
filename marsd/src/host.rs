//! Which volumes does this host have, and what becomes of them? Everything that can be asked of marsd, as calls.
//!
//! What a volume is supposed to be lies in its `Spec` on disk before anything is done about it, so a host that
//! was killed resumes every replica and every door by itself. Changes are made one at a time; looking is always possible.

mod budget;
mod doors;
mod invalidate;
mod kept;
mod limits;
mod log;
mod replica;
mod restore;
mod settings;
mod snapshot;
pub(crate) mod spec;
mod status;
mod switch;
mod verify;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use api::Repeats;
use api::control::{Call, ControlError, ControlErrorKind, HostLimits, Member, Outcome};
use mars::{Answer, Command, CommandError, GuestRequest};
use model::{Epoch, NodeId, Role, VolumeId, VolumeName, VolumeSize};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::door::port::PrimaryPort;
use crate::length::Length;
use crate::link::identity::{Credentials, Identity, Revoked};
use crate::link::{Links, Reception};
use crate::run::{Inbox, Running, VolumeHandle};
use crate::turns::Turns;
use doors::Doors;
use spec::{ReplicaSpec, Spec};

/// Where a host keeps things, and where it listens.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Identity and volumes.
    pub state_dir: PathBuf,
    /// Logs of volumes.
    pub log_dir: PathBuf,
    /// Sockets of doors.
    pub run_dir: PathBuf,
    /// `host:port` for other hosts.
    pub listen: String,
    /// Budget of all logs together, unless an operator has set another.
    pub log_bytes_max: Option<u64>,
}

/// How a host goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Close doors, make everything durable, end.
    Orderly,
    /// End at once, as after `kill -9`: only what reached the page cache is there afterwards.
    Abrupt,
}

/// How long a flush may take on the way out; what it would make durable survives the process anyway.
const FAREWELL_FLUSH: Duration = Duration::from_secs(10);

/// How long a daemon that was killed just now may take to let go of its directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often that is looked at.
const LOCK_RETRY: Duration = Duration::from_millis(50);

type Reply<T> = Result<T, ControlError>;

fn refuse<T>(kind: ControlErrorKind, message: impl Into<String>) -> Reply<T> {
    Err(ControlError {
        kind,
        message: message.into(),
    })
}

fn usage<T>(message: impl Into<String>) -> Reply<T> {
    refuse(ControlErrorKind::Usage, message)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError {
        kind: ControlErrorKind::Failed,
        message: format!("{what}: {error}"),
    }
}

/// One volume on this host.
struct Volume {
    spec: Spec,
    members: Arc<RwLock<Vec<Member>>>,
    replica: Replica,
    doors: Doors,
    length: Length,
}

/// The part of a volume that is here.
enum Replica {
    /// None: the volume is known for its doors.
    Remote,
    Running(Running),
    /// It should run but cannot, for this reason.
    Broken(String),
    /// An operator has taken it out of service.
    Detached,
}

impl Volume {
    fn handle(&self) -> Option<&VolumeHandle> {
        match &self.replica {
            Replica::Running(running) => Some(running.handle()),
            Replica::Remote | Replica::Broken(_) | Replica::Detached => None,
        }
    }

    fn set_members(&mut self, members: Vec<Member>) {
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&members);
        self.doors.set_members(&members);
        self.spec.members = members;
    }

    fn port(&self) -> Option<Arc<dyn PrimaryPort>> {
        self.handle()
            .map(|handle| Arc::new(handle.clone()) as Arc<dyn PrimaryPort>)
    }
}

struct Listening {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

/// All volumes of a host.
pub struct Host {
    config: HostConfig,
    links: Arc<Links>,
    listening: Mutex<Option<Listening>>,
    volumes: Mutex<BTreeMap<VolumeId, Volume>>,
    budget: Mutex<budget::Budget>,
    /// Which full syncs go on.
    turns: Arc<Turns>,
    limits: Mutex<HostLimits>,
    restores: restore::Restores,
    /// Held by whatever changes volumes or doors.
    changing: tokio::sync::Mutex<()>,
    /// Refusals told lately: whoever is refused may ask again soon.
    pub(crate) refusals: Repeats,
    _lock: File,
}

impl Host {
    /// Takes possession of the state directory and resumes every volume and door in it. Within a tokio runtime.
    ///
    /// Errors: another marsd has the directory, it cannot be read, or nothing can listen on the peer address. A volume
    /// that cannot be resumed does not keep the others down; its status says why.
    pub async fn start(config: HostConfig) -> anyhow::Result<Arc<Host>> {
        use anyhow::Context;
        for dir in [&config.state_dir, &config.log_dir, &config.run_dir] {
            crate::persist::create_directory(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let lock = take_possession(&config.state_dir.join("lock")).await?;
        let host = Arc::new_cyclic(|weak: &Weak<Host>| {
            let reception: Weak<dyn Reception> = weak.clone();
            Host {
                links: Arc::new(Links::new(Handle::current(), reception)),
                config,
                listening: Mutex::default(),
                volumes: Mutex::default(),
                budget: Mutex::default(),
                turns: Arc::default(),
                limits: Mutex::default(),
                restores: restore::Restores::default(),
                changing: tokio::sync::Mutex::default(),
                refusals: Repeats::default(),
                _lock: lock,
            }
        });
        if let Some(identity) = Identity::load(&host.identity_path())? {
            host.links.set_identity(Arc::new(identity));
        }
        host.links.set_revoked(Revoked::load(&host.revoked_path())?);
        host.resume_limits()?;
        host.resume().await?;
        host.start_division();
        // Last, so that peers find the volumes they ask for.
        if host.links.identity().is_some() {
            host.listen()
                .await
                .with_context(|| format!("listen on {}", host.config.listen))?;
        }
        Ok(host)
    }

    /// Does what is asked.
    ///
    /// Errors: nothing was changed, except that `Failed` may leave a step half done; asking again goes on from there.
    pub async fn call(&self, call: Call) -> Reply<Outcome> {
        match call {
            Call::Identity {
                node,
                ca_pem,
                cert_pem,
                key_pem,
            } => {
                self.set_identity(Credentials {
                    node,
                    ca_pem,
                    cert_pem,
                    key_pem,
                })
                .await
            }
            Call::Revoked { serials } => self.set_revoked(serials).await,
            Call::HostLimits { limits } => self.set_limits(limits).await,
            Call::VolumeCreate {
                volume,
                name,
                size_bytes,
                disk,
                birth,
                members,
                log_bytes_max,
            } => {
                let (volume, name, size) =
                    (volume_id(&volume)?, volume_name(&name)?, volume_size(size_bytes)?);
                let replica = ReplicaSpec {
                    disk,
                    birth,
                    log_bytes_max,
                    detached: false,
                };
                self.create(volume, Spec::new(&name, size, members, Some(replica))?)
                    .await
            }
            Call::VolumeRemote {
                volume,
                name,
                size_bytes,
                members,
            } => {
                let (volume, name, size) =
                    (volume_id(&volume)?, volume_name(&name)?, volume_size(size_bytes)?);
                self.remote(volume, Spec::new(&name, size, members, None)?).await
            }
            Call::VolumeResize { volume, size_bytes } => {
                self.resize(volume_id(&volume)?, volume_size(size_bytes)?).await
            }
            Call::VolumeMembers { volume, members } => {
                spec::check_members(&members)?;
                self.set_members(volume_id(&volume)?, members).await
            }
            Call::VolumeHandOver {
                volume,
                to,
                gate_millis_max,
            } => self.hand_over(volume_id(&volume)?, &to, gate_millis_max).await,
            Call::VolumeTakeOver { volume, term } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                let epoch = Epoch { term, start: 1 };
                answered(handle.command(Command::TakeOver { epoch }).await)
            }
            Call::VolumeSecondary { volume } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                answered(handle.command(Command::Secondary).await)
            }
            Call::VolumeChecksum { volume } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                answered(handle.command(Command::Checksum).await)
            }
            Call::VolumeVerify {
                volume,
                repair,
                bytes_per_second_max,
            } => {
                self.verify(volume_id(&volume)?, repair, bytes_per_second_max)
                    .await
            }
            Call::VolumeVerifyCancel { volume } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                answered(handle.command(Command::VerifyCancel).await)
            }
            Call::VolumeSnapshot { volume, name } => self.take_snapshot(volume_id(&volume)?, &name).await,
            Call::VolumeSnapshotDrop {
                volume,
                name,
                at_lsn,
                at_digest,
            } => {
                let which = snapshot::which(&name, at_lsn, &at_digest)?;
                self.drop_snapshot(volume_id(&volume)?, which).await
            }
            Call::VolumeRestore {
                volume,
                name,
                at_lsn,
                at_digest,
                run,
            } => {
                let which = snapshot::which(&name, at_lsn, &at_digest)?;
                self.restore(volume_id(&volume)?, which, run).await
            }
            Call::VolumeRestoreCancel { volume } => self.cancel_restore(volume_id(&volume)?),
            Call::VolumeCompression { volume, compressed } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                answered(handle.command(Command::SetCompression { compressed }).await)
            }
            Call::VolumeSettings { volume, settings } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                let (mode, max_lag) = settings::asked(&settings);
                answered(handle.command(Command::SetMode { mode, max_lag }).await)
            }
            Call::VolumeLimits { volume, limits } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                let limits = settings::limits_asked(&limits);
                answered(handle.command(Command::SetLimits { limits }).await)
            }
            Call::VolumeSources { volume, sources } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                let sources = sources.iter().map(|node| NodeId::new(node));
                let sources = sources
                    .collect::<Result<_, _>>()
                    .or_else(|e| usage(e.to_string()))?;
                answered(handle.command(Command::SetSources { sources }).await)
            }
            Call::VolumeLogBudget {
                volume,
                log_bytes_max,
            } => self.set_log_budget(volume_id(&volume)?, log_bytes_max).await,
            Call::VolumeLogRotate { volume } => self.rotate_log(volume_id(&volume)?).await,
            Call::VolumeLogTrim { volume } => self.trim_log(volume_id(&volume)?).await,
            Call::KeptDrop { volume, history } => self.drop_kept(volume_id(&volume)?, history).await,
            Call::VolumeSwitch { volume, switch, on } => self.switch(volume_id(&volume)?, switch, on).await,
            Call::VolumeInvalidate { volume, keep } => self.invalidate(volume_id(&volume)?, keep).await,
            Call::VolumeFakeSync { volume } => {
                let handle = self.replica_handle(volume_id(&volume)?)?;
                answered(handle.command(Command::FakeSync).await)
            }
            Call::VolumeForget { volume } => self.forget(volume_id(&volume)?).await,
            Call::DoorOpen { volume, door } => self.open_door(volume_id(&volume)?, door).await,
            Call::DoorClose { volume, door } => self.close_door(volume_id(&volume)?, door).await,
            Call::Status { volume } => {
                let volume = volume.map(|volume| volume_id(&volume)).transpose()?;
                self.status(volume).await.map(Outcome::Status)
            }
        }
    }

    /// Ends everything; the state directory is free once the last `Arc` of the host is gone.
    pub async fn stop(&self, farewell: Farewell) {
        let _changing = self.changing.lock().await;
        let listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(listening) = listening {
            listening.task.abort();
            // The port is free once the task is gone, not when that was asked for.
            drop(listening.task.await);
        }
        let volumes = std::mem::take(&mut *self.volumes());
        for (id, mut volume) in volumes {
            volume.doors.close_all().await;
            let Replica::Running(running) = volume.replica else {
                continue;
            };
            if farewell == Farewell::Orderly && running.handle().standing().borrow().serving {
                let flush = running.handle().call(GuestRequest::Flush);
                match tokio::time::timeout(FAREWELL_FLUSH, flush).await {
                    Ok(Ok(_)) => {}
                    // It lost the role meanwhile, so it has nothing to flush for guests.
                    Ok(Err(error)) => info!(volume = %id, %error, "did not flush on the way out"),
                    Err(_) => warn!(volume = %id, "a flush on the way out takes too long; going without"),
                }
            }
            stop(running).await;
        }
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Volume>> {
        // No code panics while it holds the map; if one did, the volumes in it would still be whole.
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, HostLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity_path(&self) -> PathBuf {
        self.config.state_dir.join("identity").join("identity.json")
    }

    fn revoked_path(&self) -> PathBuf {
        self.config.state_dir.join("identity").join("revoked.json")
    }

    fn node(&self) -> Reply<NodeId> {
        match self.links.identity() {
            Some(identity) => Ok(identity.node.clone()),
            None => refuse(
                ControlErrorKind::Refused,
                "this host has no identity yet; make it part of a pool first (poolctl pool init, or node join)",
            ),
        }
    }

    fn replica_handle(&self, id: VolumeId) -> Reply<VolumeHandle> {
        let volumes = self.volumes();
        match volumes.get(&id).map(|volume| (&volume.replica, volume)) {
            Some((Replica::Running(running), _)) => Ok(running.handle().clone()),
            Some((Replica::Broken(reason), volume)) => refuse(
                ControlErrorKind::Failed,
                format!(
                    "the replica of volume {} is out of service here: {reason}",
                    volume.spec.name
                ),
            ),
            Some((Replica::Detached, volume)) => refuse(
                ControlErrorKind::Refused,
                format!(
                    "the replica of volume {} is detached here; attach it first (volume-switch attach on)",
                    volume.spec.name
                ),
            ),
            Some((Replica::Remote, volume)) => refuse(
                ControlErrorKind::NotFound,
                format!("volume {} has no replica on this host", volume.spec.name),
            ),
            None => not_found(id),
        }
    }

    async fn set_identity(&self, credentials: Credentials) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let present = self.links.identity();
        if present
            .as_ref()
            .is_some_and(|present| present.holds(&credentials))
        {
            return Ok(Outcome::Done);
        }
        let identity = Identity::new(credentials).map_err(|e| ControlError {
            kind: ControlErrorKind::Usage,
            message: e.to_string(),
        })?;
        if let Some(present) = &present
            && present.node != identity.node
            && !self.volumes().is_empty()
        {
            return refuse(
                ControlErrorKind::Refused,
                format!(
                    "this host is node {} and has volumes as such; it cannot become node {}",
                    present.node, identity.node
                ),
            );
        }
        let identity = Arc::new(identity);
        self.links.set_identity(identity.clone());
        let set = match self.listen().await {
            Ok(()) => identity
                .save(&self.identity_path())
                .map_err(|e| failed("keep the identity", &e)),
            Err(e) => Err(failed(&format!("listen on {}", self.config.listen), &e)),
        };
        if set.is_err()
            && let Some(present) = present
        {
            self.links.set_identity(present);
        }
        set?;
        info!(node = %identity.node, "has an identity");
        Ok(Outcome::Done)
    }

    async fn set_revoked(&self, serials: Vec<String>) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let good = |serial: &String| {
            (1..=64).contains(&serial.len())
                && serial
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some(bad) = serials.iter().find(|serial| !good(serial)) {
            return usage(format!(
                "`{bad}` is no serial number of a certificate: hex digits"
            ));
        }
        let revoked = Revoked {
            serials: serials.into_iter().collect(),
        };
        if *self.links.revoked() != revoked {
            revoked
                .save(&self.revoked_path())
                .map_err(|e| failed("keep the revoked certificates", &e))?;
            self.links.set_revoked(revoked);
        }
        Ok(Outcome::Done)
    }

    async fn listen(&self) -> std::io::Result<()> {
        if self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            return Ok(());
        }
        let (addr, task) = self.links.listen(&self.config.listen).await?;
        info!(%addr, "listens for peers");
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(Listening { addr, task });
        Ok(())
    }

    fn listening_on(&self) -> Option<String> {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        listening.as_ref().map(|listening| listening.addr.to_string())
    }

    async fn set_members(&self, id: VolumeId, members: Vec<Member>) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let handle = {
            let mut volumes = self.volumes();
            let Some(volume) = volumes.get_mut(&id) else {
                return not_found(id);
            };
            if volume.spec.members != members {
                let spec = Spec {
                    members: members.clone(),
                    ..volume.spec.clone()
                };
                self.save(id, &spec)?;
                volume.set_members(members.clone());
            }
            volume.handle().cloned()
        };
        match handle {
            // Even when the spec says so already: the engine may have been told of it never or only in part.
            Some(handle) => {
                let members = spec::nodes(&members)?;
                answered(handle.command(Command::SetMembers { members }).await)
            }
            None => Ok(Outcome::Done),
        }
    }

    /// The primary here makes the volume longer.
    async fn resize(&self, id: VolumeId, size: VolumeSize) -> Reply<Outcome> {
        let handle = self.replica_handle(id)?;
        let done = answered(handle.command(Command::Grow { to: size }).await)?;
        let _changing = self.changing.lock().await;
        let spec = match self.volumes().get_mut(&id) {
            Some(volume) => {
                volume.length.raise(size);
                volume.spec.size_bytes = volume.length.now().bytes();
                volume.spec.clone()
            }
            None => return not_found(id),
        };
        self.save(id, &spec)?;
        Ok(done)
    }

    async fn hand_over(&self, id: VolumeId, to: &str, gate_millis_max: u64) -> Reply<Outcome> {
        let Ok(to) = NodeId::new(to) else {
            return usage(format!("`{to}` is not a node name"));
        };
        let handle = self.replica_handle(id)?;
        if to == self.node()? {
            let is_primary = handle
                .status()
                .await
                .is_some_and(|status| status.role == Role::Primary);
            return if is_primary {
                Ok(Outcome::Done)
            } else {
                answered(Err(CommandError::NotPrimary))
            };
        }
        let gate_micros_max = gate_millis_max.saturating_mul(1000);
        answered(handle.command(Command::HandOver { to, gate_micros_max }).await)
    }
}

impl Reception for Host {
    fn stream(&self, id: VolumeId, peer: &NodeId) -> Result<Inbox, String> {
        let volumes = self.volumes();
        let volume = volumes
            .get(&id)
            .ok_or_else(|| format!("volume {id} is not known here"))?;
        if !volume
            .spec
            .members
            .iter()
            .any(|member| member.node == peer.as_str())
        {
            return Err(format!("node {peer} is no member of volume {}", volume.spec.name));
        }
        match &volume.replica {
            Replica::Running(running) => Ok(running.handle().inbox().clone()),
            Replica::Remote => Err(format!("volume {} has no replica here", volume.spec.name)),
            Replica::Detached => Err(format!(
                "the replica of volume {} is detached here",
                volume.spec.name
            )),
            Replica::Broken(reason) => Err(format!(
                "the replica of volume {} is out of service here: {reason}",
                volume.spec.name
            )),
        }
    }

    fn door(&self, id: VolumeId) -> Result<VolumeHandle, String> {
        let volumes = self.volumes();
        let handle = volumes.get(&id).and_then(Volume::handle);
        handle
            .cloned()
            .ok_or_else(|| format!("volume {id} has no replica in service here"))
    }
}

/// Takes the lock of a state directory; a predecessor that is just being ended by the kernel gets a little time for it.
async fn take_possession(path: &Path) -> std::io::Result<File> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match crate::disk::lock_path(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < give_up => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            taken => return taken,
        }
    }
}

/// Ends a loop without holding up whoever else runs here.
async fn stop(running: Running) {
    if tokio::task::spawn_blocking(move || running.stop()).await.is_err() {
        error!("the runtime is ending; a volume was not stopped in order");
    }
}

fn not_found<T>(id: VolumeId) -> Reply<T> {
    refuse(
        ControlErrorKind::NotFound,
        format!("volume {id} is not known on this host"),
    )
}

fn volume_id(text: &str) -> Reply<VolumeId> {
    text.parse()
        .or_else(|_| usage(format!("`{text}` is not a volume id: 32 hex digits")))
}

fn volume_name(text: &str) -> Reply<VolumeName> {
    VolumeName::new(text).or_else(|e| usage(e.to_string()))
}

fn volume_size(bytes: u64) -> Reply<VolumeSize> {
    VolumeSize::new(bytes).or_else(|e| usage(e.to_string()))
}

/// The one place where an engine's answers become those of the control socket.
fn answered(answer: Result<Answer, CommandError>) -> Reply<Outcome> {
    match answer {
        Ok(Answer::Done) => Ok(Outcome::Done),
        Ok(Answer::HandedOver { epoch, gate_micros }) => Ok(Outcome::HandedOver {
            term: epoch.term,
            gate_micros,
        }),
        Ok(Answer::TookOver { epoch, from }) => Ok(Outcome::TookOver {
            term: epoch.term,
            from_lsn: from.lsn.0,
        }),
        Ok(Answer::Snapshot { at }) => Ok(Outcome::Snapshot {
            at_lsn: at.lsn.0,
            at_digest: at.digest.to_string(),
        }),
        Ok(Answer::Checksum { digest, from, to }) => Ok(Outcome::Checksum {
            digest: format!("{digest:032x}"),
            from_lsn: from.0,
            to_lsn: to.0,
        }),
        Err(error) => refuse(kind_of(&error), error.to_string()),
    }
}

/// What kind of a bad answer it is when an engine does not do what it was asked: the one place that says so.
fn kind_of(error: &CommandError) -> ControlErrorKind {
    match error {
        CommandError::NotPrimary
        | CommandError::NotReady { .. }
        | CommandError::OldEpoch { .. }
        | CommandError::Superseded { .. }
        | CommandError::Refused { .. } => ControlErrorKind::Refused,
        CommandError::NotMember { .. } => ControlErrorKind::NotFound,
        // Most often it recovers or copies, which passes; a status tells the rest.
        CommandError::Busy
        | CommandError::Growing { .. }
        | CommandError::NotInService { .. }
        | CommandError::Undecided { .. } => ControlErrorKind::Busy,
        CommandError::TimedOut { .. } => ControlErrorKind::TimedOut,
        CommandError::Unfit { .. } => ControlErrorKind::Usage,
        CommandError::Failed { .. } => ControlErrorKind::Failed,
    }
}

#[cfg(test)]
mod tests;
