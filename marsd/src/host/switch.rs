//! How does an operator stop a part of a replica, or the whole of it, and let it go on?
//!
//! Sync, fetch and replay are the engine's and lie in its meta. Attach is the host's and lies in the spec: a detached
//! replica has no engine; its log and disk are closed and left alone, and its doors look for the primary elsewhere.

use api::control::{ControlErrorKind, Outcome, SwitchWord};
use mars::{Command, GuestRequest, Paused, Switch};
use model::{Role, VolumeId};
use tracing::{info, warn};

use super::spec::ReplicaSpec;
use super::{FAREWELL_FLUSH, Host, Replica, Reply, answered, not_found, refuse, stop};
use crate::door::port::PrimaryPort;

/// The engine's switches as people read them.
pub(super) fn shown(paused: Paused) -> Vec<SwitchWord> {
    let word = |switch| match switch {
        Switch::Sync => SwitchWord::Sync,
        Switch::Fetch => SwitchWord::Fetch,
        Switch::Replay => SwitchWord::Replay,
    };
    Switch::ALL
        .into_iter()
        .filter(|switch| paused.has(*switch))
        .map(word)
        .collect()
}

impl Host {
    pub(super) async fn switch(&self, id: VolumeId, word: SwitchWord, on: bool) -> Reply<Outcome> {
        match word {
            SwitchWord::Sync => self.switch_engine(id, Switch::Sync, on).await,
            SwitchWord::Fetch => self.switch_engine(id, Switch::Fetch, on).await,
            SwitchWord::Replay => self.switch_engine(id, Switch::Replay, on).await,
            SwitchWord::Attach if on => self.attach(id).await,
            SwitchWord::Attach => self.detach(id).await,
            SwitchWord::All => {
                if on {
                    self.attach(id).await?;
                } else if self.is_detached(id)? {
                    return Ok(Outcome::Done);
                } else {
                    // Before anything is paused: a primary that may not leave stays as it is.
                    self.refuse_detach(id).await?;
                }
                for switch in Switch::ALL {
                    self.switch_engine(id, switch, on).await?;
                }
                if on {
                    Ok(Outcome::Done)
                } else {
                    self.detach(id).await
                }
            }
        }
    }

    async fn switch_engine(&self, id: VolumeId, switch: Switch, on: bool) -> Reply<Outcome> {
        let handle = self.replica_handle(id)?;
        let paused = !on;
        answered(handle.command(Command::Switch { switch, paused }).await)
    }

    fn is_detached(&self, id: VolumeId) -> Reply<bool> {
        match self.volumes().get(&id) {
            Some(volume) => Ok(volume
                .spec
                .replica
                .as_ref()
                .is_some_and(|replica| replica.detached)),
            None => not_found(id),
        }
    }

    /// A primary does not leave guests or replicas behind.
    async fn refuse_detach(&self, id: VolumeId) -> Reply<()> {
        self.refuse_primary(id, &self.node()?).await?;
        let (handle, clients, name) = match self.volumes().get(&id) {
            Some(volume) => (
                volume.handle().cloned(),
                volume.doors.clients(),
                volume.spec.name.clone(),
            ),
            None => return not_found(id),
        };
        let Some(handle) = handle.filter(|_| clients > 0) else {
            return Ok(());
        };
        match handle.status().await {
            Some(status) if status.role == Role::Primary => refuse(
                ControlErrorKind::Refused,
                format!(
                    "a guest is connected to volume {name}, whose only replica is here; disconnect it first"
                ),
            ),
            _ => Ok(()),
        }
    }

    async fn detach(&self, id: VolumeId) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        if self.is_detached(id)? {
            return Ok(Outcome::Done);
        }
        self.replica_spec(id)?;
        self.refuse_detach(id).await?;
        self.set_detached(id, true)?;
        let replica = match self.volumes().get_mut(&id) {
            Some(volume) => {
                volume.doors.set_local(None);
                std::mem::replace(&mut volume.replica, Replica::Detached)
            }
            None => return not_found(id),
        };
        if let Replica::Running(running) = replica {
            if running.handle().standing().borrow().serving {
                let flush = running.handle().call(GuestRequest::Flush);
                if tokio::time::timeout(FAREWELL_FLUSH, flush).await.is_err() {
                    warn!(volume = %id, "a flush before the detach takes too long; going without");
                }
            }
            stop(running).await;
        }
        info!(volume = %id, "detached");
        Ok(Outcome::Done)
    }

    async fn attach(&self, id: VolumeId) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let replica = self.replica_spec(id)?;
        if !replica.detached {
            return Ok(Outcome::Done);
        }
        let (spec, members, length) = match self.volumes().get(&id) {
            Some(volume) => (volume.spec.clone(), volume.members.clone(), volume.length.clone()),
            None => return not_found(id),
        };
        let running = self.start_replica(id, &spec, &replica, &members, &length).await?;
        self.set_detached(id, false)?;
        if let Some(volume) = self.volumes().get_mut(&id) {
            volume.replica = Replica::Running(running);
            volume.doors.set_local(volume.port());
        }
        info!(volume = %id, "attached");
        Ok(Outcome::Done)
    }

    fn replica_spec(&self, id: VolumeId) -> Reply<ReplicaSpec> {
        let volumes = self.volumes();
        let Some(volume) = volumes.get(&id) else {
            return not_found(id);
        };
        match &volume.spec.replica {
            Some(replica) => Ok(replica.clone()),
            None => refuse(
                ControlErrorKind::NotFound,
                format!("volume {} has no replica on this host", volume.spec.name),
            ),
        }
    }

    fn set_detached(&self, id: VolumeId, detached: bool) -> Reply<()> {
        let mut volumes = self.volumes();
        let Some(volume) = volumes.get_mut(&id) else {
            return not_found(id);
        };
        let mut spec = volume.spec.clone();
        if let Some(replica) = &mut spec.replica {
            replica.detached = detached;
        }
        self.save(id, &spec)?;
        volume.spec = spec;
        Ok(())
    }
}
