//! How does a directory serve as a volume group? One sparse file per replica, and a marker that says whose it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::ApiError;
use model::Bytes;
use serde::{Deserialize, Serialize};

use super::vg::{Capacity, VolumeGroup};

/// The marker's file name.
const MARKER: &str = ".poold-vg.json";

/// What a file system puts into an empty directory by itself.
const LOST_AND_FOUND: &str = "lost+found";

#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    name: String,
}

/// A directory of sparse files.
#[derive(Clone, Debug)]
pub struct DirVg {
    dir: PathBuf,
    size_bytes: u64,
    promise_bytes: u64,
}

impl DirVg {
    /// The group `name` in a directory that was prepared for it; disks may take `size_bytes` and have `promise_bytes` together.
    /// Errors: `failed` when the directory is not that.
    pub fn open(name: &str, dir: &Path, size_bytes: u64, promise_bytes: u64) -> Result<DirVg, ApiError> {
        match marker(dir)? {
            Some(found) if found == name => Ok(DirVg { dir: dir.to_owned(), size_bytes, promise_bytes }),
            Some(found) => Err(foreign(dir, &format!("belongs to the volume group `{found}`"))),
            None => Err(ApiError::failed(format!(
                "the directory {} is not (or no longer) the volume group `{name}`: its marker {MARKER} is missing",
                dir.display()
            ))
            .hint("is its file system mounted?")),
        }
    }

    /// Makes a directory the group `name`; with `dry_run` only checks that it could be. Answers its size.
    pub fn prepare(name: &str, dir: &Path, size_bytes: Option<u64>, dry_run: bool) -> Result<u64, ApiError> {
        if !dir.is_absolute() {
            return Err(
                ApiError::usage(format!("`{}` is not an absolute path", dir.display()))
                    .hint("give the directory from `/` on"),
            );
        }
        let exists = dir.exists();
        if exists {
            check_own_or_empty(name, dir)?;
        }
        let measured = if exists {
            dir
        } else {
            dir.parent().unwrap_or(Path::new("/"))
        };
        let system = rustix::fs::statvfs(measured).map_err(|error| {
            ApiError::usage(format!(
                "the directory {} cannot be used: {error}",
                measured.display()
            ))
            .hint("make it, or its parent, first")
        })?;
        let (total, free) = (
            system.f_blocks * system.f_frsize,
            system.f_bavail * system.f_frsize,
        );
        let size_bytes = size_bytes.unwrap_or(free);
        if size_bytes > total {
            return Err(ApiError::refused(format!(
                "the file system of {} has {} altogether, less than {}",
                dir.display(),
                Bytes(total),
                Bytes(size_bytes)
            ))
            .hint(format!(
                "give a --size of at most {total} bytes; `--overcommit` lets disks promise more than there is"
            )));
        }
        if dry_run {
            return Ok(size_bytes);
        }
        let make = || -> std::io::Result<()> {
            if !exists {
                fs::create_dir(dir)?;
            }
            let marker = Marker {
                version: 1,
                name: name.to_owned(),
            };
            let mut file = fs::File::create(dir.join(MARKER))?;
            file.write_all(&serde_json::to_vec(&marker)?)?;
            file.sync_all()?;
            fs::File::open(dir)?.sync_all()
        };
        make().map_err(|error| broken(dir, "be made a volume group", &error))?;
        Ok(size_bytes)
    }

    /// Makes the directory of group `name` foreign again. Errors: `refused` while disks lie in it.
    pub fn release(name: &str, dir: &Path, dry_run: bool) -> Result<(), ApiError> {
        if !dir.exists() || marker(dir)?.is_none() {
            return Ok(());
        }
        let disks = DirVg::open(name, dir, 0, 0)?.list()?;
        if !disks.is_empty() {
            return Err(ApiError::refused(format!(
                "{} disks still lie in {}: {}",
                disks.len(),
                dir.display(),
                disks.into_keys().collect::<Vec<_>>().join(", ")
            ))
            .hint("delete or migrate the volumes first"));
        }
        if dry_run {
            return Ok(());
        }
        fs::remove_file(dir.join(MARKER)).map_err(|error| broken(dir, "be released", &error))
    }

    /// Whether a disk of a volume may be so long beside the others.
    fn check_room(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
        let entries = self.entries()?;
        let others = entries.iter().filter(|(other, _)| other != volume);
        let reserved: u64 = others.map(|(_, metadata)| metadata.len()).sum();
        if reserved.saturating_add(size_bytes) <= self.promise_bytes {
            return Ok(());
        }
        Err(ApiError::refused(format!(
            "{} has {} of {} reserved; a disk of {} does not fit",
            self.dir.display(),
            Bytes(reserved),
            Bytes(self.promise_bytes),
            Bytes(size_bytes)
        )))
    }

    fn disk(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}.img"))
    }

    /// Where marsd keeps the snapshots of a disk.
    fn snapshots(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}.img.snapshots"))
    }

    /// What the snapshots of all disks take; blocks that they share with a disk count twice.
    fn snapshot_bytes(&self) -> std::io::Result<u64> {
        let mut bytes = 0;
        for (volume, _) in self.entries().map_err(std::io::Error::other)? {
            let files = match fs::read_dir(self.snapshots(&volume)) {
                Ok(files) => files,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for file in files {
                match file?.metadata() {
                    Ok(metadata) => bytes += metadata.blocks() * 512,
                    // One that is given up just now takes nothing.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(bytes)
    }

    fn entries(&self) -> Result<Vec<(String, fs::Metadata)>, ApiError> {
        let read = || -> std::io::Result<Vec<(String, fs::Metadata)>> {
            let mut entries = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(volume) = name.strip_suffix(".img") {
                    entries.push((volume.to_owned(), entry.metadata()?));
                }
            }
            Ok(entries)
        };
        read().map_err(|error| broken(&self.dir, "be read", &error))
    }
}

impl VolumeGroup for DirVg {
    fn create(&self, volume: &str, size_bytes: u64) -> Result<PathBuf, ApiError> {
        let path = self.disk(volume);
        if let Ok(metadata) = fs::metadata(&path) {
            if metadata.len() == size_bytes {
                return Ok(path);
            }
            // Shorter: made, but not yet grown when the daemon died, or for a volume that has grown since.
            if metadata.len() > size_bytes {
                return Err(ApiError::failed(format!(
                    "the disk {} exists already with {} bytes instead of {size_bytes}",
                    path.display(),
                    metadata.len()
                )));
            }
        }
        self.check_room(volume, size_bytes)?;
        let make = || -> std::io::Result<()> {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.set_len(size_bytes)?;
            file.sync_all()?;
            fs::File::open(&self.dir)?.sync_all()
        };
        make().map_err(|error| broken(&path, "be made", &error))?;
        Ok(path)
    }

    fn remove(&self, volume: &str) -> Result<(), ApiError> {
        let path = self.disk(volume);
        let snapshots = self.snapshots(volume);
        match fs::remove_dir_all(&snapshots) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(broken(&snapshots, "be removed", &error));
            }
            _ => {}
        }
        match fs::remove_file(&path) {
            Ok(()) => fs::File::open(&self.dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| broken(&self.dir, "be synced", &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(broken(&path, "be removed", &error)),
        }
    }

    fn resize(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
        let path = self.disk(volume);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() < size_bytes) {
            self.check_room(volume, size_bytes)?;
        }
        let grow = || -> std::io::Result<()> {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            if file.metadata()?.len() < size_bytes {
                file.set_len(size_bytes)?;
            }
            file.sync_all()
        };
        grow().map_err(|error| broken(&path, "be grown", &error))
    }

    fn list(&self) -> Result<BTreeMap<String, u64>, ApiError> {
        let entries = self.entries()?.into_iter();
        Ok(entries
            .map(|(volume, metadata)| (volume, metadata.len()))
            .collect())
    }

    fn capacity(&self) -> Result<Capacity, ApiError> {
        let disks: u64 = self
            .entries()?
            .iter()
            .map(|(_, metadata)| metadata.blocks() * 512)
            .sum();
        let snapshots = self.snapshot_bytes();
        let snapshots = snapshots.map_err(|error| broken(&self.dir, "be read", &error))?;
        let used_bytes = disks + snapshots;
        let system = rustix::fs::statvfs(&self.dir)
            .map_err(|errno| broken(&self.dir, "be measured", &errno.into()))?;
        let free_bytes = system.f_bavail * system.f_frsize;
        Ok(Capacity {
            used_bytes,
            left_bytes: free_bytes.min(self.size_bytes.saturating_sub(used_bytes)),
        })
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.disk(volume)
    }
}

fn marker(dir: &Path) -> Result<Option<String>, ApiError> {
    match fs::read(dir.join(MARKER)) {
        Ok(bytes) => match serde_json::from_slice::<Marker>(&bytes) {
            Ok(marker) if marker.version == 1 => Ok(Some(marker.name)),
            Ok(marker) => Err(foreign(
                dir,
                &format!("has a marker of version {}", marker.version),
            )),
            Err(error) => Err(foreign(dir, &format!("has a damaged marker {MARKER}: {error}"))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(dir, "be read", &error)),
    }
}

fn check_own_or_empty(name: &str, dir: &Path) -> Result<(), ApiError> {
    if !dir.is_dir() {
        return Err(ApiError::usage(format!("{} is not a directory", dir.display())));
    }
    match marker(dir)? {
        Some(found) if found == name => return Ok(()),
        Some(found) => return Err(foreign(dir, &format!("belongs to the volume group `{found}`"))),
        None => {}
    }
    let mut entries = fs::read_dir(dir).map_err(|error| broken(dir, "be read", &error))?;
    let content = entries.find_map(|entry| {
        let name = entry.ok()?.file_name();
        (name != LOST_AND_FOUND).then(|| name.to_string_lossy().into_owned())
    });
    match content {
        Some(content) => Err(foreign(dir, &format!("is not empty (it holds `{content}`)"))),
        None => Ok(()),
    }
}

fn foreign(dir: &Path, why: &str) -> ApiError {
    ApiError::refused(format!("the directory {} {why}", dir.display()))
        .hint("give an empty or a new directory")
}

fn broken(path: &Path, what: &str, error: &std::io::Error) -> ApiError {
    ApiError::failed(format!("{} cannot {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use api::ErrorKind;

    use super::*;

    #[test]
    fn disks_come_and_go_within_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("vg");
        assert_eq!(DirVg::prepare("fast", &dir, Some(10_000), true).unwrap(), 10_000);
        assert!(!dir.exists());
        assert_eq!(DirVg::prepare("fast", &dir, Some(10_000), false).unwrap(), 10_000);
        let vg = DirVg::open("fast", &dir, 5_000, 10_000).unwrap();
        let path = vg.create("a1", 8192).unwrap();
        assert_eq!(vg.create("a1", 8192).unwrap(), path, "asked twice");
        assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
        assert_eq!(vg.create("a1", 4096).unwrap_err().kind, ErrorKind::Failed);
        assert_eq!(vg.create("a2", 4096).unwrap_err().kind, ErrorKind::Refused);
        vg.resize("a1", 9000).unwrap();
        assert_eq!(vg.create("a1", 9500).unwrap(), path, "the volume has grown since");
        vg.resize("a1", 9000).unwrap();
        assert_eq!(vg.resize("a1", 10_001).unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(vg.resize("a2", 10).unwrap_err().kind, ErrorKind::Failed);
        let capacity = vg.capacity().unwrap();
        assert_eq!((capacity.used_bytes, capacity.left_bytes), (0, 5_000));
        assert_eq!(vg.list().unwrap(), BTreeMap::from([("a1".to_owned(), 9500)]));
        assert_eq!(
            DirVg::release("fast", &dir, false).unwrap_err().kind,
            ErrorKind::Refused
        );
        vg.remove("a1").unwrap();
        vg.remove("a1").unwrap();
        DirVg::release("fast", &dir, false).unwrap();
        assert!(DirVg::open("fast", &dir, 1, 1).is_err());
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let kind = |path: &Path| DirVg::prepare("fast", path, None, false).unwrap_err().kind;
        fs::write(home.path().join("precious"), "data").unwrap();
        assert_eq!(kind(home.path()), ErrorKind::Refused);
        assert_eq!(kind(Path::new("relative")), ErrorKind::Usage);
        assert_eq!(kind(&home.path().join("no/parent")), ErrorKind::Usage);
        assert_eq!(kind(&home.path().join("precious")), ErrorKind::Usage);
        let own = home.path().join("own");
        DirVg::prepare("slow", &own, None, false).unwrap();
        assert_eq!(kind(&own), ErrorKind::Refused);
        fs::write(own.join(MARKER), "{").unwrap();
        assert_eq!(kind(&own), ErrorKind::Refused);
        let huge = DirVg::prepare("huge", &home.path().join("huge"), Some(u64::MAX), false);
        assert_eq!(huge.unwrap_err().kind, ErrorKind::Refused);
        assert!(!home.path().join("huge").exists());
    }
}
