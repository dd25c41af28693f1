//! How does everything on this host stand? The engines' figures in words of the control protocol.

use api::control::{HostStatus, PeerStatus, ReplicaStatus, SideStatus, SplitBrainStatus, VolumeStatus};
use mars::Status;
use model::{NodeId, Role, VolumeId};

use super::{Host, Replica, Reply, not_found};
use crate::run::VolumeHandle;

impl Host {
    pub(super) async fn status(&self, only: Option<VolumeId>) -> Reply<HostStatus> {
        let mut waiting = Vec::new();
        {
            let volumes = self.volumes();
            if let Some(id) = only.filter(|id| !volumes.contains_key(id)) {
                return not_found(id);
            }
            for (id, volume) in volumes
                .iter()
                .filter(|(id, _)| only.is_none_or(|only| only == **id))
            {
                let status = VolumeStatus {
                    volume: id.to_string(),
                    name: volume.spec.name.clone(),
                    size_bytes: volume.length.now().bytes(),
                    members: volume.spec.members.clone(),
                    doors: volume.doors.status(),
                    replica: None,
                };
                let spec = volume.spec.replica.as_ref();
                let disk = spec.map(|replica| replica.disk.clone());
                let budget = spec.and_then(|replica| replica.log_bytes_max);
                let replica = match &volume.replica {
                    Replica::Remote => None,
                    Replica::Running(running) => Some(Ok(running.handle().clone())),
                    Replica::Broken(reason) => Some(Err(reason.clone())),
                    Replica::Detached => {
                        let reason = "an operator has detached it; `poolctl volume up` lets it go on";
                        Some(Err(reason.to_owned()))
                    }
                };
                waiting.push((status, disk.unwrap_or_default(), budget, replica));
            }
        }
        let mut volumes = Vec::with_capacity(waiting.len());
        for (mut status, disk, budget, replica) in waiting {
            status.replica = match replica {
                None => None,
                Some(Ok(handle)) => running(&handle, disk).await.map(|mut replica| {
                    replica.restore = self.restores.status(handle.volume());
                    replica
                }),
                Some(Err(reason)) => Some(broken(reason, disk)),
            };
            if let Some(replica) = &mut status.replica {
                replica.log_budget_bytes = budget;
            }
            volumes.push(status);
        }
        let (kept, limits) = (self.kept().await, self.limits().clone());
        Ok(HostStatus {
            node: self.links.identity().map(|identity| identity.node.to_string()),
            peer_addr: self.listening_on(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            log_bytes_max: self.log_budget(),
            revoked: self.links.revoked().serials.iter().cloned().collect(),
            volumes,
            limits,
            kept,
        })
    }
}

/// `None` when it was stopped at this moment.
async fn running(handle: &VolumeHandle, disk: String) -> Option<ReplicaStatus> {
    let status = handle.status().await?;
    Some(shown(&status, disk))
}

fn shown(status: &Status, disk: String) -> ReplicaStatus {
    let size_bytes = status.size.bytes();
    // After a restart in the middle of a sync the log may not have come to a growth that was synced already.
    let percent =
        |synced: model::SectorOffset| (100.0 * synced.bytes() as f64 / size_bytes as f64).min(100.0);
    let seconds = |micros: Option<u64>| micros.map(|micros| micros as f64 / 1e6);
    let snapshots = status.snapshots.iter();
    let snapshots = snapshots
        .map(|snapshot| super::snapshot::shown(snapshot, std::path::Path::new(&disk)))
        .collect();
    ReplicaStatus {
        role: status.role.to_string(),
        state: status.state.to_string(),
        reason: status.reason.clone(),
        size_bytes,
        epoch: status.epoch.term,
        epoch_start: status.epoch.start,
        primary: status.primary.as_ref().map(ToString::to_string),
        disk,
        trimmed_lsn: status.watermarks.trimmed().0,
        written_back_lsn: status.watermarks.written_back().0,
        touched_lsn: status.watermarks.touched().0,
        committed_lsn: status.watermarks.committed().0,
        appended_lsn: status.watermarks.appended().0,
        chain_digest: status.tip.digest.to_string(),
        sync_percent: percent(status.synced),
        sync_copied_bytes: status.sync_copied_bytes,
        log_bytes: status.log_bytes,
        log_bytes_max: status.log_bytes_max,
        log_budget_bytes: None,
        log_held_by: super::budget::held_by(status),
        pressure: status.pressure.to_string(),
        pressure_seconds: status.pressure_micros as f64 / 1e6,
        unlogged_seconds: seconds(status.unlogged_micros),
        shadow_bytes: status.shadow_bytes,
        waiting_requests: status.waiting_requests,
        gate_micros_max: status.gate_micros_max,
        path: status.path.iter().map(ToString::to_string).collect(),
        sources: status.sources.iter().map(ToString::to_string).collect(),
        paused: super::switch::shown(status.paused),
        faked: status.faked,
        settings: super::settings::shown(&status.settings),
        limits: super::settings::limits_shown(&status.settings.limits),
        compressed: status.settings.compressed,
        verified: status.verified.map(super::verify::when),
        verify: status
            .verify
            .as_ref()
            .map(|run| super::verify::shown(run, size_bytes)),
        sync_bytes_per_second: status.sync_bytes_per_second,
        sync_seconds_left: seconds(status.sync_micros_left),
        short_seconds: seconds(status.short_micros),
        late_seconds: seconds(status.late_micros),
        pace_bytes_per_second: status.pace_bytes_per_second,
        peers: status
            .peers
            .iter()
            .map(|peer| PeerStatus {
                node: peer.node.to_string(),
                state: peer.state.to_string(),
                sent_lsn: peer.sent.0,
                committed_lsn: peer.peer_committed.0,
                replayed_lsn: peer.peer_replayed.0,
                lag_bytes: peer.lag_bytes,
                lag_seconds: peer.lag_micros as f64 / 1e6,
                via: peer.via.as_ref().map(ToString::to_string),
                ship_bytes_per_second: peer.ship_bytes_per_second,
                sync_percent: percent(peer.synced),
                dirty_bytes: peer.dirty.map(model::SectorCount::bytes),
            })
            .collect(),
        snapshots,
        restore: None,
        split_brain: status.split_brain.iter().map(parted).collect(),
    }
}

pub(super) fn parted((node, split): (&NodeId, &mars::SplitBrain)) -> SplitBrainStatus {
    let side = |side: &mars::Side| SideStatus {
        end_lsn: side.end.0,
        bytes: side.bytes,
        records: side.records,
        first_unix_micros: side.first_unix_micros,
        last_unix_micros: side.last_unix_micros,
        complete: side.complete,
    };
    SplitBrainStatus {
        node: node.to_string(),
        at_lsn: split.at.lsn.0,
        at_digest: split.at.digest.to_string(),
        here: side(&split.ours),
        there: split.theirs.as_ref().map(side),
    }
}

/// A replica that should run and cannot: nothing is known of it but that.
fn broken(reason: String, disk: String) -> ReplicaStatus {
    ReplicaStatus {
        role: Role::Secondary.to_string(),
        state: model::ReplicaState::Detached.to_string(),
        reason: Some(reason),
        disk,
        chain_digest: mars::Digest::default().to_string(),
        ..ReplicaStatus::default()
    }
}
