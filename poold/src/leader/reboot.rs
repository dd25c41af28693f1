//! May a host go away for a while now, without a guest that notices and without a risk that was not there before?

use std::time::Instant;

use api::ApiError;
use api::control::ModeSpec;
use api::pool::RebootCheck;
use model::{NodeId, ReplicaState};

use super::Leader;
use super::drain::is_drain_of;
use super::view::View;
use crate::catalog::records::{LifeRecord, VolumeRecord};
use crate::clock;

impl Leader {
    /// `node reboot-check`.
    pub fn node_reboot_check(&self, name: &str) -> Result<RebootCheck, ApiError> {
        self.view(|view| {
            view.records.node(name)?;
            let mut reasons = Vec::new();
            let mut notes = Vec::new();
            if let Err(blind) = view.snapshot.marsd(name, view.now) {
                reasons.push(format!("nothing is known of it now: it {blind}"));
            }
            for volume in view.records.volumes.iter() {
                let about = |what: String| format!("volume {}: {what}", volume.name);
                reasons.extend(against(view, volume, name).into_iter().map(about));
            }
            let draining = view.records.jobs.iter().filter(|job| is_drain_of(job, name));
            reasons.extend(draining.map(|job| format!("job {} drains it", job.number)));
            if name == view.leader {
                notes.push(
                    "it holds the catalog: guests notice nothing, but nothing can be changed".to_owned(),
                );
            }
            Ok(RebootCheck {
                node: name.to_owned(),
                may_reboot: reasons.is_empty(),
                reasons,
                notes,
                checked: clock::now(),
            })
        })
    }
}

/// What speaks against it for the sake of one volume.
fn against(view: &View<'_>, volume: &VolumeRecord, name: &str) -> Vec<String> {
    let (snapshot, now) = (view.snapshot, view.now);
    let mut reasons = Vec::new();
    let known = snapshot.last_known(name, &volume.id);
    let clients: u64 = known.map_or(0, |known| known.doors.iter().map(|door| door.clients).sum());
    if clients > 0 {
        reasons.push(format!("{clients} guests use it through this host"));
    }
    if volume.life == LifeRecord::Deleting || !volume.members.iter().any(|place| place.node == name) {
        return reasons;
    }
    let jobs = view.records.jobs.iter();
    let at_work =
        jobs.filter(|job| job.volume == volume.id && !job.state.ended() && !job.kind.stands_beside());
    reasons.extend(at_work.map(|job| format!("job {} ({}) is at work", job.number, job.kind.word())));
    let good = others_in_sync(view, volume, name, now);
    match snapshot.primary(&volume.id, now) {
        Some((primary, _)) if primary == name && volume.members.len() == 1 => {
            reasons
                .push("its only replica is here: `poolctl node drain NODE --evacuate` moves it".to_owned());
        }
        Some((primary, _)) if primary == name => {
            reasons.push("its primary is here: `poolctl node drain NODE` hands it over".to_owned());
        }
        Some((_, replica)) => {
            let waits = match replica.settings.mode {
                ModeSpec::Async => None,
                ModeSpec::NearSync { replicas, .. } => {
                    Some((replicas, "flushes would go on without it, degraded"))
                }
                ModeSpec::Sync { replicas } => Some((replicas, "guests' flushes would wait for it")),
            };
            // The primary is among the good ones, but no flush waits for itself.
            if let Some((wanted, what)) = waits
                && good.saturating_sub(1) < usize::from(wanted)
            {
                reasons.push(what.to_owned());
            }
        }
        None if good == 0 => {
            reasons.push("nobody is primary, and no other replica is known to be good".to_owned())
        }
        None => {}
    }
    if good == 0 && volume.members.len() > 1 {
        reasons.push("no other replica is in sync".to_owned());
    }
    reasons
}

fn others_in_sync(view: &View<'_>, volume: &VolumeRecord, name: &str, now: Instant) -> usize {
    let observed = view.snapshot.observed(&volume.id, now);
    let good = |node: &str| {
        let replica = NodeId::new(node)
            .ok()
            .and_then(|node| observed.replica(&node).cloned());
        replica.is_some_and(|replica| matches!(replica.state, ReplicaState::Uptodate | ReplicaState::Behind))
    };
    let others = volume.members.iter().filter(|place| place.node != name);
    others.filter(|place| good(&place.node)).count()
}
