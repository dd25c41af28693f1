//! How does a replica begin anew? As one that joins: its log and memory go, its disk is compared with a source's again.

use api::control::{BirthKind, ControlErrorKind, Outcome, SplitBrainStatus};
use model::VolumeId;
use tracing::info;

use super::{Host, Replica, Reply, not_found, refuse, stop};

impl Host {
    /// Throws away what the replica here is, except its disk's contents, which the full sync makes use of. With `keep`, its log
    /// and memory are put aside first: the history that only this replica has.
    ///
    /// Errors: `Refused` for a primary and for a detached replica. A host that is killed in the middle goes on with it.
    pub(super) async fn invalidate(&self, id: VolumeId, keep: bool) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let node = self.node()?;
        let (mut spec, members, length) = match self.volumes().get(&id) {
            Some(volume) => (volume.spec.clone(), volume.members.clone(), volume.length.clone()),
            None => return not_found(id),
        };
        let Some(replica) = spec.replica.as_mut() else {
            let text = format!("volume {} has no replica on this host", spec.name);
            return refuse(ControlErrorKind::NotFound, text);
        };
        if replica.detached {
            let text = format!(
                "the replica of volume {} is detached here; attach it first",
                spec.name
            );
            return refuse(ControlErrorKind::Refused, text);
        }
        if spec.members.iter().all(|member| member.node == node.as_str()) {
            let text = format!(
                "the only replica of volume {} is here: nobody could fill it again",
                spec.name
            );
            return refuse(ControlErrorKind::Refused, text);
        }
        self.refuse_primary(id, &node).await?;
        let split = self.split_of(id).await;
        replica.birth = BirthKind::Secondary;
        let replica = replica.clone();
        let before = match self.volumes().get_mut(&id) {
            Some(volume) => {
                volume.doors.set_local(None);
                std::mem::replace(&mut volume.replica, Replica::Broken("it begins anew".to_owned()))
            }
            None => return not_found(id),
        };
        if let Replica::Running(running) = before {
            stop(running).await;
        }
        // Before the promise to drop: a host that is killed in between has no log to drop, and is asked again.
        let kept = match keep {
            true => self.put_aside(id, split.as_ref())?,
            false => None,
        };
        spec.dropping = true;
        self.save(id, &spec)?;
        self.remove_replica(id)?;
        spec.dropping = false;
        self.save(id, &spec)?;
        let running = self.start_replica(id, &spec, &replica, &members, &length).await;
        let mut volumes = self.volumes();
        let Some(volume) = volumes.get_mut(&id) else {
            return not_found(id);
        };
        volume.spec = spec;
        let (state, outcome) = match running {
            Ok(running) => {
                let outcome = kept.map_or(Outcome::Done, |path| Outcome::Kept { path });
                (Replica::Running(running), Ok(outcome))
            }
            Err(error) => (Replica::Broken(error.message.clone()), Err(error)),
        };
        volume.replica = state;
        volume.doors.set_local(volume.port());
        info!(volume = %id, name = volume.spec.name, "the replica begins anew");
        outcome
    }

    /// What a replica that is about to begin anew knows of a split brain.
    async fn split_of(&self, id: VolumeId) -> Option<SplitBrainStatus> {
        let handle = self.volumes().get(&id)?.handle().cloned()?;
        let status = handle.status().await?;
        status.split_brain.iter().next().map(super::status::parted)
    }
}
