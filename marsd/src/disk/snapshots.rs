//! Where does a replica keep former versions of its volume? In files beside the disk, that share its blocks where they can.
//!
//! `DISK.snapshots/NAME.LSN-DIGEST`, as long as the volume was. A file system that can (XFS, Btrfs, bcachefs…) makes one by reference, at
//! once; elsewhere what is not a hole is copied, while write-back waits and guests fill log and memory. A copy is made only if
//! there is room for all of it, so that it does not take the last of the volume's own.
//!
//! A snapshot is made under another name, made durable, and renamed: what has its name is whole.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use mars::Position;
use model::{SnapshotName, VolumeSize};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek, statvfs};
use rustix::io::Errno;

use crate::persist::sync_directory;

/// One that is being made.
const UNFINISHED: &str = ".unfinished";

/// Copied at one time.
const CHUNK_BYTES: usize = 1 << 20;

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
        let digest = at.digest.to_string();
        let short = digest.get(..16).unwrap_or(&digest);
        self.dir.join(format!("{name}.{}-{short}", at.lsn.0))
    }

    /// Keeps what `disk` holds now, which nobody changes meanwhile. Durable when it returns; nothing is left after an error, and a long copy
    /// ends with one soon after `stops` says so.
    pub fn take(
        &self,
        disk: &File,
        name: &SnapshotName,
        at: Position,
        size: VolumeSize,
        stops: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        if !disk.metadata()?.is_file() {
            let text = "the disk is a block device, which has no place for snapshots";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let unfinished = self.dir.join(UNFINISHED);
        let made = self.make(&unfinished, disk, size, stops).and_then(|()| {
            std::fs::rename(&unfinished, self.path(name, at))?;
            sync_directory(&self.dir)?;
            self.dir.parent().map_or(Ok(()), sync_directory)
        });
        if made.is_err() {
            // What could not be made is of no use; if it cannot be removed either, the next one replaces it.
            drop(std::fs::remove_file(&unfinished));
        }
        made
    }

    fn make(&self, path: &Path, disk: &File, size: VolumeSize, stops: &dyn Fn() -> bool) -> io::Result<()> {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        match ioctl_ficlone(&file, disk) {
            Ok(()) => {}
            Err(
                Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY | Errno::NOSYS | Errno::PERM,
            ) => {
                self.check_room(disk)?;
                copy(disk, &file, size.bytes(), stops)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        file.set_len(size.bytes())?;
        file.sync_all()
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

    /// Gives one up, durably; one that is not there is no error.
    pub fn remove(&self, name: &SnapshotName, at: Position) -> io::Result<()> {
        match std::fs::remove_file(self.path(name, at)) {
            Ok(()) => sync_directory(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
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

/// Copies what is no hole, as long as nobody stops it.
fn copy(from: &File, to: &File, length: u64, stops: &dyn Fn() -> bool) -> io::Result<()> {
    to.set_len(length)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < length {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            // A file system that cannot tell has data everywhere.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno.into()),
        };
        let hole = match seek(from, SeekFrom::Hole(data)) {
            Ok(hole) => hole,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => length,
            Err(errno) => return Err(errno.into()),
        };
        at = data;
        let end = hole.min(length);
        while at < end {
            if stops() {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "the replica is being stopped",
                ));
            }
            let count = (end - at).min(CHUNK_BYTES as u64) as usize;
            let part = &mut buffer[..count];
            from.read_exact_at(part, at)?;
            // Zeroes need no room.
            if part.iter().any(|byte| *byte != 0) {
                to.write_all_at(part, at)?;
            }
            at += count as u64;
        }
        at = at.max(hole);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        std::fs::create_dir(home.path().join("disk.snapshots")).unwrap();
        std::fs::write(home.path().join("disk.snapshots").join(UNFINISHED), [1; 9000]).unwrap();
        let go_on = || false;
        snapshots
            .take(&disk, &name("a"), at(512, 1), size, &go_on)
            .unwrap();
        disk.write_all_at(&[8; 4096], 40 * MIB).unwrap();
        snapshots
            .take(&disk, &name("b"), at(1024, 2), size, &go_on)
            .unwrap();
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
        snapshots.clear().unwrap();
        assert!(!home.path().join("disk.snapshots").exists());
    }
}
