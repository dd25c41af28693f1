//! What is left of replicas that began anew? Their former logs, put aside until somebody drops them.
//!
//! `LOG_DIR/kept/VOLUME-MILLISECONDS` holds the segments, the replica's memory as `meta`, and as `split.json` what was known of
//! the split brain that it comes from.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use api::control::{ControlErrorKind, KeptStatus, Outcome, SplitBrainStatus};
use model::VolumeId;
use tracing::{info, warn};

use super::{Host, Reply, failed, refuse};

impl Host {
    fn kept_dir(&self) -> PathBuf {
        self.config.log_dir.join("kept")
    }

    /// Moves the log of a replica that has stopped to a directory of its own; `None` when there is none.
    pub(super) fn put_aside(&self, id: VolumeId, split: Option<&SplitBrainStatus>) -> Reply<Option<String>> {
        let log = self.log_path(id);
        if !log.exists() {
            return Ok(None);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = self.kept_dir();
        let aside = kept.join(format!("{id}-{}", now.as_millis()));
        let beside = || {
            crate::persist::create_directory(&kept)?;
            if let Some(split) = split {
                std::fs::write(log.join("split.json"), serde_json::to_vec_pretty(split)?)?;
            }
            match std::fs::copy(self.meta_path(id), log.join("meta")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => std::fs::rename(&log, &aside),
            }
        };
        beside().map_err(|e| failed(&format!("put {} aside", log.display()), &e))?;
        Ok(Some(aside.display().to_string()))
    }

    /// Everything that was put aside, the oldest first.
    pub(super) async fn kept(&self) -> Vec<KeptStatus> {
        let dir = self.kept_dir();
        let listed = blocking({
            let dir = dir.clone();
            move || list(&dir)
        });
        listed.await.unwrap_or_else(|error| {
            warn!(%error, dir = %dir.display(), "cannot list what was put aside");
            Vec::new()
        })
    }

    /// Removes what was put aside of a volume: one history, or all. Errors: `NotFound` for one that is not there.
    pub(super) async fn drop_kept(&self, id: VolumeId, history: Option<String>) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let mut wanted = self.kept().await;
        wanted.retain(|kept| kept.volume == id.to_string());
        if let Some(history) = &history {
            wanted.retain(|kept| kept.history == *history);
            if wanted.is_empty() {
                let text = format!("no history {history} of this volume was put aside on this host");
                return refuse(ControlErrorKind::NotFound, text);
            }
        }
        let bytes = wanted.iter().map(|kept| kept.bytes).sum();
        for kept in &wanted {
            let path = kept.path.clone();
            let removed = blocking(move || std::fs::remove_dir_all(path)).await;
            removed.map_err(|e| failed(&format!("remove {}", kept.path), &e))?;
            info!(volume = %id, path = kept.path, bytes = kept.bytes, "dropped a history that was put aside");
        }
        Ok(Outcome::Dropped {
            histories: wanted.len() as u64,
            bytes,
        })
    }
}

/// Runs what waits for a disk beside the tasks of doors and links.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn list(dir: &Path) -> io::Result<Vec<KeptStatus>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((volume, history)) = name.and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        let (Ok(volume), Ok(millis)) = (volume.parse::<VolumeId>(), history.parse::<u64>()) else {
            continue;
        };
        let split = std::fs::read(path.join("split.json")).ok();
        found.push(KeptStatus {
            volume: volume.to_string(),
            history: history.to_owned(),
            bytes: taken(&path)?,
            unix_seconds: millis / 1000,
            split: split.and_then(|split| serde_json::from_slice(&split).ok()),
            path: path.display().to_string(),
        });
    }
    found.sort_by_key(|kept| kept.unix_seconds);
    Ok(found)
}

/// What the files of a directory take of their file system.
fn taken(dir: &Path) -> io::Result<u64> {
    std::fs::read_dir(dir)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.blocks() * 512))
}
