//! How does a replica begin anew? As one that joins: its log and memory go, its disk is compared with a source's again.

use api::control::{BirthKind, ControlErrorKind, Outcome};
use model::VolumeId;
use tracing::info;

use super::{Host, Replica, Reply, failed, not_found, refuse, stop};

impl Host {
    /// Throws away what the replica here is, except its disk's contents, which the full sync makes use of. With `keep`, its log
    /// and memory are put aside first: the history that only this replica has.
    ///
    /// Errors: `Refused` for a primary and for a detached replica. A host that is killed in the middle goes on with it.
    pub(super) async fn invalidate(&self, id: VolumeId, keep: bool) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let node = self.node()?;
        let (mut spec, members) = match self.volumes().get(&id) {
            Some(volume) => (volume.spec.clone(), volume.members.clone()),
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
            true => self.put_aside(id)?,
            false => None,
        };
        spec.dropping = true;
        self.save(id, &spec)?;
        self.remove_replica(id)?;
        spec.dropping = false;
        self.save(id, &spec)?;
        let running = self.start_replica(id, &spec, &replica, &members).await;
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

    /// Moves the log of a replica that has stopped to a directory of its own, its memory beside it; `None` when there is none.
    fn put_aside(&self, id: VolumeId) -> Reply<Option<String>> {
        let log = self.log_path(id);
        if !log.exists() {
            return Ok(None);
        }
        let since = std::time::SystemTime::UNIX_EPOCH;
        let now = since.elapsed().unwrap_or_default().as_millis();
        let kept = self.config.log_dir.join("kept");
        let aside = kept.join(format!("{id}-{now}"));
        let done = crate::persist::create_directory(&kept).and_then(|()| {
            match std::fs::copy(self.meta_path(id), log.join("meta")) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => std::fs::rename(&log, &aside),
            }
        });
        done.map_err(|e| failed(&format!("put {} aside", log.display()), &e))?;
        Ok(Some(aside.display().to_string()))
    }
}
