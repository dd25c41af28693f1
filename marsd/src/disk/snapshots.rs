//! Where does a replica keep former versions of its volume? In files beside the disk, that share its blocks where they can.
//!
//! `DISK.snapshots/NAME.LSN-DIGEST`, as long as the volume was. A file system that can (XFS, Btrfs, bcachefs…) makes one by reference, at
//! once; elsewhere what is not a hole is copied ([`Copying`]), while the disk goes on changing. A copy is begun only if
//! there is room for all of it, so that it does not take the last of the volume's own.
//!
//! A snapshot is made under another name, made durable, and renamed: what has its name is whole. Until then `.unfinished.NAME.LSN-DIGEST` holds what
//! is copied, and `.saved.NAME.LSN-DIGEST` says what that is; whoever starts again goes on with both.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use mars::Position;
use model::{SnapshotName, VolumeSize};
use rustix::fs::{ioctl_ficlone, statvfs};
use rustix::io::Errno;

use super::copying::Copying;
use crate::persist::sync_directory;

/// Before the name of one that is being made.
const UNFINISHED: &str = ".unfinished.";

/// Before the name of the map of one that is being copied.
const SAVED: &str = ".saved.";

/// Left free on the file system, of a hundred parts.
const RESERVE_PERCENT: u64 = 2;

/// The snapshots of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    /// Of the replica with this disk.
    pub fn beside(disk: &Path) -> Snapshots {
        let mut dir = disk.as_os_str().to_owned();
        dir.push(".snapshots");
        Snapshots { dir: dir.into() }
    }

    /// The file of one.
    pub fn path(&self, name: &SnapshotName, at: Position) -> PathBuf {
        self.file("", name, at)
    }

    fn file(&self, before: &str, name: &SnapshotName, at: Position) -> PathBuf {
        let digest = at.digest.to_string();
        let short = digest.get(..16).unwrap_or(&digest);
        self.dir.join(format!("{before}{name}.{}-{short}", at.lsn.0))
    }

    /// Keeps what `disk` holds now, or held when that was first asked for: it must not change before this returns, and then only where the
    /// copy is saved. `None` when it is kept, durably.
    pub fn begin(
        &self,
        disk: &File,
        name: &SnapshotName,
        at: Position,
        size: VolumeSize,
    ) -> io::Result<Option<Copying>> {
        if !disk.metadata()?.is_file() {
            let text = "the disk is a block device, which has no place for snapshots";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if self.path(name, at).exists() {
            return self.sync().map(|()| None);
        }
        let unfinished = self.file(UNFINISHED, name, at);
        let map = self.file(SAVED, name, at);
        let mut again = File::options();
        again.read(true).write(true);
        if let (Ok(copy), Ok(map)) = (again.open(&unfinished), again.open(&map))
            && let Some(copying) = Copying::resume(copy, map, size)?
        {
            return Ok(Some(copying));
        }
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.remove_attempts()?;
        let mut anew = File::options();
        anew.read(true).write(true).create_new(true);
        let copy = anew.open(&unfinished)?;
        match ioctl_ficlone(&copy, disk) {
            Ok(()) => {
                copy.set_len(size.bytes())?;
                copy.sync_all()?;
                return self.finish(name, at).map(|()| None);
            }
            Err(
                Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY | Errno::NOSYS | Errno::PERM,
            ) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.check_room(disk)?;
        // What the power could still take from the disk must not be in one half of the copy only.
        disk.sync_data()?;
        let copying = Copying::begin(copy, anew.open(&map)?, size)?;
        self.sync()?;
        Ok(Some(copying))
    }

    /// Everything is saved: from here on it has its name.
    pub fn finish(&self, name: &SnapshotName, at: Position) -> io::Result<()> {
        std::fs::rename(self.file(UNFINISHED, name, at), self.path(name, at))?;
        self.sync()?;
        // The map says nothing any more; if it cannot be removed, the next attempt does.
        remove(&self.file(SAVED, name, at)).or(Ok(()))
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.dir)?;
        self.dir.parent().map_or(Ok(()), sync_directory)
    }

    /// Removes whatever is not whole; only one is made at a time.
    fn remove_attempts(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Whether there is room for everything on the disk that is no hole.
    fn check_room(&self, disk: &File) -> io::Result<()> {
        let need = disk.metadata()?.blocks() * 512;
        let system = statvfs(&self.dir)?;
        let reserve = system.f_blocks / 100 * RESERVE_PERCENT;
        let free = system.f_bavail.saturating_sub(reserve) * system.f_frsize;
        if need > free {
            let text = format!("a copy takes {need} bytes, and its file system has {free} to spare");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok(())
    }

    /// Gives one up, and what is left of an attempt, durably; one that is not there is no error.
    pub fn remove(&self, name: &SnapshotName, at: Position) -> io::Result<()> {
        for before in ["", SAVED, UNFINISHED] {
            remove(&self.file(before, name, at))?;
        }
        match sync_directory(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Gives up everything that a replica before this one has left.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// Removes a file, unless it is gone.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use mars::Digest;
    use model::Lsn;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn name(text: &str) -> SnapshotName {
        SnapshotName::new(text).unwrap()
    }

    fn at(lsn: u64, digest: u128) -> Position {
        let digest = Digest(digest);
        Position {
            lsn: Lsn(lsn),
            digest,
        }
    }

    fn take(snapshots: &Snapshots, disk: &File, name: &SnapshotName, at: Position, size: VolumeSize) {
        if let Some(mut copying) = snapshots.begin(disk, name, at, size).unwrap() {
            while !copying.is_done() {
                copying.save(disk, &[]).unwrap();
            }
            snapshots.finish(name, at).unwrap();
        }
    }

    #[test]
    fn a_snapshot_stays_what_it_was_and_takes_no_room_for_holes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("disk");
        let disk = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        disk.set_len(64 * MIB).unwrap();
        disk.write_all_at(&[7; 8192], 40 * MIB).unwrap();
        let snapshots = Snapshots::beside(&path);
        let size = VolumeSize::new(48 * MIB).unwrap();
        // What an earlier attempt has left is replaced.
        let dir = home.path().join("disk.snapshots");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(".unfinished.z.7-00"), [1; 9000]).unwrap();
        take(&snapshots, &disk, &name("a"), at(512, 1), size);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        disk.write_all_at(&[8; 4096], 40 * MIB).unwrap();
        take(&snapshots, &disk, &name("b"), at(1024, 2), size);
        let read = |name: &str, place| {
            let file = File::open(snapshots.path(&super::tests::name(name), place)).unwrap();
            let mut found = vec![0; 8192];
            file.read_exact_at(&mut found, 40 * MIB).unwrap();
            let metadata = file.metadata().unwrap();
            (found, metadata.len(), metadata.blocks() * 512 < MIB)
        };
        assert_eq!(read("a", at(512, 1)), (vec![7; 8192], 48 * MIB, true));
        assert_eq!(
            read("b", at(1024, 2)),
            ([[8; 4096], [7; 4096]].concat(), 48 * MIB, true)
        );
        assert_ne!(
            snapshots.path(&name("a"), at(512, 1)),
            snapshots.path(&name("a"), at(512, 1 << 100))
        );
        for _ in 0..2 {
            snapshots.remove(&name("a"), at(512, 1)).unwrap();
        }
        assert!(!snapshots.path(&name("a"), at(512, 1)).exists());
        snapshots.clear().unwrap();
        snapshots.remove(&name("a"), at(512, 1)).unwrap();
        snapshots.clear().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn what_is_left_of_an_attempt_goes_with_the_snapshot() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("disk");
        let disk = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        disk.set_len(4 * MIB).unwrap();
        disk.write_all_at(&[7; 8192], MIB).unwrap();
        let snapshots = Snapshots::beside(&path);
        let size = VolumeSize::new(4 * MIB).unwrap();
        let Some(_copying) = snapshots.begin(&disk, &name("a"), at(512, 1), size).unwrap() else {
            // By reference: nothing is left.
            return;
        };
        let files = || {
            std::fs::read_dir(home.path().join("disk.snapshots"))
                .unwrap()
                .count()
        };
        assert_eq!(files(), 2);
        snapshots.remove(&name("a"), at(512, 1)).unwrap();
        assert_eq!(files(), 0);
    }
}
