//! How do the contents of a snapshot come back? As writes of a guest, of what differs, so that all replicas follow.
//!
//! The primary reads its own snapshot beside its own contents and writes what differs. Nothing of it is remembered: after a restart, or
//! elsewhere after the role has moved, whoever wanted it asks again, and what is equal already costs a comparison only.
//! Until it has finished the contents are a mixture of before and after; whether guests may see that is decided by whoever asks.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use api::control::{ControlErrorKind, Outcome, RestoreEndWord, RestoreStatus};
use bytes::Bytes;
use mars::{GuestError, GuestRequest, Reply as GuestReply, SnapshotState};
use model::{SectorRange, VolumeId, VolumeSize};
use tracing::{info, warn};

use super::snapshot::Which;
use super::{Host, Reply, failed, not_found, refuse};
use crate::disk::Snapshots;
use crate::run::VolumeHandle;

/// Compared at one time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What differs is written in pieces of whole units of this.
const UNIT_BYTES: usize = 4096;

/// The restores of a host; the last of each volume is remembered while marsd runs. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Restores(Arc<Mutex<BTreeMap<VolumeId, Arc<Restore>>>>);

impl Restores {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Arc<Restore>>> {
        // No code panics while it holds the map; if one did, what is in it would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the restore of a volume stands, if there was one.
    pub fn status(&self, id: VolumeId) -> Option<RestoreStatus> {
        self.lock().get(&id).map(|restore| restore.status())
    }

    fn running(&self, id: VolumeId) -> Option<Arc<Restore>> {
        let restores = self.lock();
        restores.get(&id).filter(|restore| !restore.has_ended()).cloned()
    }

    /// The replica is no more, or not here any more: what was being restored ends.
    pub fn forget(&self, id: VolumeId) {
        if let Some(restore) = self.lock().remove(&id) {
            restore.cancelled.store(true, Ordering::Relaxed);
        }
    }
}

/// Why a restore does not go on here.
enum Halt {
    /// Somebody else is primary now.
    RoleMoved,
    /// In words.
    Failed(String),
}

impl From<GuestError> for Halt {
    fn from(error: GuestError) -> Halt {
        match error {
            GuestError::NotPrimary { .. } => Halt::RoleMoved,
            GuestError::OutOfBounds | GuestError::Disk(_) => Halt::Failed(error.to_string()),
        }
    }
}

struct Restore {
    run: u64,
    which: Which,
    size: VolumeSize,
    began: Instant,
    compared_bytes: AtomicU64,
    restored_bytes: AtomicU64,
    cancelled: AtomicBool,
    ended: OnceLock<(RestoreEndWord, Option<String>)>,
}

impl Restore {
    fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    fn status(&self) -> RestoreStatus {
        let (size, compared) = (self.size.bytes(), self.compared_bytes.load(Ordering::Relaxed));
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        let rate = compared as f64 / seconds;
        let ended = self.ended.get();
        let going = ended.is_none() && rate >= 1.0;
        RestoreStatus {
            run: self.run,
            name: self.which.name.to_string(),
            at_lsn: self.which.at.lsn.0,
            percent: 100.0 * compared as f64 / size as f64,
            restored_bytes: self.restored_bytes.load(Ordering::Relaxed),
            bytes_per_second: if ended.is_none() { rate as u64 } else { 0 },
            seconds_left: going.then(|| size.saturating_sub(compared) as f64 / rate),
            ended: ended.map(|(end, _)| *end),
            reason: ended.and_then(|(_, reason)| reason.clone()),
        }
    }

    /// Writes what differs.
    async fn go(&self, guest: &VolumeHandle, file: Arc<File>) -> Result<RestoreEndWord, Halt> {
        let odd = || Halt::Failed("its length is no number of sectors".to_owned());
        let size = self.size.bytes();
        let mut at = 0;
        while at < size {
            if self.cancelled.load(Ordering::Relaxed) {
                return Ok(RestoreEndWord::Cancelled);
            }
            let length = CHUNK_BYTES.min(size - at);
            let range = SectorRange::from_bytes(at, length).ok_or_else(odd)?;
            let reading = file.clone();
            let wanted = tokio::task::spawn_blocking(move || read(&reading, at, length as usize));
            let present = guest.call(GuestRequest::Read { range });
            let (wanted, present) = tokio::join!(wanted, present);
            let wanted = wanted.map_err(|e| Halt::Failed(e.to_string()))?;
            let wanted = wanted.map_err(|e| Halt::Failed(format!("read its file at {at}: {e}")))?;
            let GuestReply::Data(present) = present? else {
                return Err(Halt::Failed("the volume answers a read without data".to_owned()));
            };
            for (from, to) in differing(&wanted, &present) {
                let place = SectorRange::from_bytes(at + from as u64, (to - from) as u64);
                let range = place.ok_or_else(odd)?;
                let data = wanted.slice(from..to);
                let request = match data.iter().all(|byte| *byte == 0) {
                    true => GuestRequest::WriteZeroes {
                        range,
                        fua: false,
                        unmap: true,
                    },
                    false => GuestRequest::Write {
                        range,
                        data,
                        fua: false,
                    },
                };
                guest.call(request).await?;
                self.restored_bytes
                    .fetch_add((to - from) as u64, Ordering::Relaxed);
            }
            at += length;
            self.compared_bytes.store(at, Ordering::Relaxed);
        }
        guest.call(GuestRequest::Flush).await?;
        Ok(RestoreEndWord::Finished)
    }
}

/// So many bytes of a file; what is behind its end was no part of the volume then, and is zeroes.
fn read(file: &File, at: u64, length: usize) -> std::io::Result<Bytes> {
    let mut out = vec![0; length];
    let there = file.metadata()?.len().saturating_sub(at).min(length as u64) as usize;
    file.read_exact_at(&mut out[..there], at)?;
    Ok(Bytes::from(out))
}

/// Where two contents of the same length differ, in whole units: beginning and end of each stretch.
fn differing(one: &[u8], other: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    let units = one.chunks(UNIT_BYTES).zip(other.chunks(UNIT_BYTES));
    for (unit, (a, b)) in units.enumerate() {
        if a == b {
            continue;
        }
        let (from, to) = (unit * UNIT_BYTES, unit * UNIT_BYTES + a.len());
        match found.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => found.push((from, to)),
        }
    }
    found
}

impl Host {
    /// Begins to bring the contents of a snapshot back; the same again while that is under way changes nothing.
    ///
    /// Errors: `Refused` where this replica is not primary, does not keep it, or is restoring another.
    pub(super) async fn restore(&self, id: VolumeId, which: Which, run: u64) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let handle = self.replica_handle(id)?;
        if let Some(running) = self.restores.running(id) {
            if running.run == run {
                return Ok(Outcome::Done);
            }
            let text = format!(
                "snapshot {} is being restored; wait, or cancel that",
                running.which.name
            );
            return refuse(ControlErrorKind::Busy, text);
        }
        let finished = |restore: &Restore| matches!(restore.ended.get(), Some((RestoreEndWord::Finished, _)));
        let last = self.restores.lock().get(&id).cloned();
        if last.is_some_and(|last| last.run == run && finished(&last)) {
            return Ok(Outcome::Done);
        }
        let (disk, size) = match self.volumes().get(&id) {
            Some(volume) => (
                volume.spec.replica.as_ref().map(|replica| replica.disk.clone()),
                volume.length.now(),
            ),
            None => return not_found(id),
        };
        let status = handle.status().await;
        let serves = status.as_ref().is_some_and(|status| status.serving);
        let known = status.iter().flat_map(|status| &status.snapshots);
        let kept = known
            .into_iter()
            .any(|s| s.name == which.name && s.at == which.at && s.state == SnapshotState::Kept);
        let Some(disk) = disk.filter(|_| serves && kept) else {
            let text = match serves {
                true => format!("the replica here does not keep snapshot {}", which.name),
                false => "the replica here does not serve guests".to_owned(),
            };
            return refuse(ControlErrorKind::Refused, text);
        };
        let path = Snapshots::beside(Path::new(&disk)).path(&which.name, which.at);
        let file = File::open(&path).map_err(|e| failed(&format!("open {}", path.display()), &e))?;
        let restore = Arc::new(Restore {
            run,
            which,
            size,
            began: Instant::now(),
            compared_bytes: AtomicU64::new(0),
            restored_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            ended: OnceLock::new(),
        });
        let restores = self.restores.clone();
        restores.lock().insert(id, restore.clone());
        info!(volume = %id, snapshot = %restore.which.name, "a restore begins");
        tokio::spawn(async move {
            let (end, reason) = match restore.go(&handle, Arc::new(file)).await {
                Ok(end) => (end, None),
                Err(Halt::Failed(reason)) => (RestoreEndWord::Failed, Some(reason)),
                Err(Halt::RoleMoved) => {
                    info!(volume = %id, "a restore ends here: the role has moved");
                    // Whoever wants it asks the new primary.
                    restores.forget(id);
                    return;
                }
            };
            let restored = restore.restored_bytes.load(Ordering::Relaxed);
            match &reason {
                None => info!(volume = %id, ?end, restored, "a restore has ended"),
                Some(reason) => warn!(volume = %id, reason, restored, "a restore cannot go on here"),
            }
            // Set here only.
            drop(restore.ended.set((end, reason)));
        });
        Ok(Outcome::Done)
    }

    pub(super) fn cancel_restore(&self, id: VolumeId) -> Reply<Outcome> {
        if let Some(running) = self.restores.running(id) {
            running.cancelled.store(true, Ordering::Relaxed);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_written_in_stretches_of_units() {
        let old = vec![0; 5 * UNIT_BYTES];
        let mut new = old.clone();
        assert_eq!(differing(&new, &old), []);
        new[UNIT_BYTES] = 1;
        new[3 * UNIT_BYTES - 1] = 1;
        new[5 * UNIT_BYTES - 1] = 1;
        let want = [(UNIT_BYTES, 3 * UNIT_BYTES), (4 * UNIT_BYTES, 5 * UNIT_BYTES)];
        assert_eq!(differing(&new, &old), want);
    }
}
