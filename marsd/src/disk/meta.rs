//! How does a replica's memory survive a torn write? Two slots, the older of which is overwritten.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mars::Meta;
use mars::meta::META_BYTES_MAX;

use super::log::read_into;

const SLOT_BYTES: u64 = META_BYTES_MAX as u64;

/// Why there is no memory to go on with.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// Neither slot can be read as a replica's memory.
    #[error("{path} is damaged (slot 0: {first}; slot 1: {second}); make this replica anew from another one")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with the first slot.
        first: String,
        /// What is wrong with the second slot.
        second: String,
    },
    /// The file cannot be read.
    #[error("read {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

/// The file with both slots.
pub(crate) struct MetaFile {
    path: PathBuf,
    /// `None` until the first save.
    file: Option<File>,
    next_slot: u64,
}

impl MetaFile {
    /// Opens the file at `path` and finds the newest memory in it; `None` when there is no such file yet.
    pub fn open(path: &Path) -> Result<(MetaFile, Option<Meta>), MetaError> {
        let io = |error| MetaError::Io {
            path: path.display().to_string(),
            error,
        };
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok((
                    MetaFile {
                        path: path.to_owned(),
                        file: None,
                        next_slot: 0,
                    },
                    None,
                ));
            }
            Err(e) => return Err(io(e)),
        };
        let mut slots = Vec::with_capacity(2);
        for slot in 0..2 {
            let mut bytes = Vec::new();
            read_into(&file, slot * SLOT_BYTES, META_BYTES_MAX, &mut bytes).map_err(io)?;
            slots.push(Meta::decode(Bytes::from(bytes)));
        }
        let (second, first) = (
            slots.pop().expect("two were read"),
            slots.pop().expect("two were read"),
        );
        let (meta, next_slot) = match (first, second) {
            (Ok(first), Ok(second)) if first.generation > second.generation => (first, 1),
            (_, Ok(second)) => (second, 0),
            (Ok(first), Err(_)) => (first, 1),
            (Err(first), Err(second)) => {
                return Err(MetaError::Damaged {
                    path: path.display().to_string(),
                    first: first.to_string(),
                    second: second.to_string(),
                });
            }
        };
        Ok((
            MetaFile {
                path: path.to_owned(),
                file: Some(file),
                next_slot,
            },
            Some(meta),
        ))
    }

    /// Replaces the memory durably.
    pub fn save(&mut self, meta: &Meta) -> io::Result<()> {
        let mut bytes = meta.encode();
        let file = match &self.file {
            Some(file) => file,
            None => {
                // Both slots have their room from the beginning: a full disk must not take the replica's memory.
                let mut both = vec![0; 2 * SLOT_BYTES as usize];
                both[..bytes.len()].copy_from_slice(&bytes);
                bytes = Bytes::from(both);
                // Renamed into place with its first contents, so that a file that exists always had a valid slot.
                let file = crate::persist::create_atomically(&self.path, &bytes)?;
                self.next_slot = 1;
                self.file = Some(file);
                return Ok(());
            }
        };
        file.write_all_at(&bytes, self.next_slot * SLOT_BYTES)?;
        file.sync_data()?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mars::{Position, SyncState};
    use model::{Epoch, Lsn, NodeId, Role, VolumeId, VolumeSize};

    use super::*;

    fn meta(generation: u64) -> Meta {
        Meta {
            generation,
            volume: VolumeId(7),
            node: NodeId::new("a").unwrap(),
            size: VolumeSize::new(4096).unwrap(),
            role: Role::Secondary,
            epoch: Epoch::NONE,
            written_back: Position::default(),
            touched: Lsn(0),
            committed: Position::default(),
            committed_epoch: Epoch::NONE,
            trimmed: Lsn(0),
            sync: SyncState::Fresh,
            faked: None,
            paused: mars::Paused::default(),
            straight: false,
            sources: Vec::new(),
            settings: mars::Settings::default(),
            granted: None,
            lineage: Vec::new(),
            verify: None,
            verified: Vec::new(),
            splits: Default::default(),
            snapshots: Vec::new(),
        }
    }

    fn newest(path: &Path) -> Result<Option<u64>, MetaError> {
        MetaFile::open(path).map(|(_, meta)| meta.map(|meta| meta.generation))
    }

    #[test]
    fn the_newest_is_found_and_a_torn_slot_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        let (mut file, none) = MetaFile::open(&path).unwrap();
        assert_eq!(none, None);
        for generation in 1..=5 {
            file.save(&meta(generation)).unwrap();
            assert_eq!(newest(&path).unwrap(), Some(generation));
        }
        // Generation 5 lies in slot 0.
        let raw = File::options().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xaa; 9], 40).unwrap();
        assert_eq!(newest(&path).unwrap(), Some(4));
        // The next save after a fall-back overwrites the torn slot, not the good one.
        let (mut file, _) = MetaFile::open(&path).unwrap();
        file.save(&meta(6)).unwrap();
        raw.write_all_at(&[0xaa; 9], 40).unwrap();
        assert_eq!(newest(&path).unwrap(), Some(4));
    }

    #[test]
    fn two_bad_slots_are_damage_and_not_a_new_replica() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        for contents in [Vec::new(), vec![0; 70_000], vec![0xff; 100]] {
            std::fs::write(&path, contents).unwrap();
            let error = newest(&path).unwrap_err();
            assert!(matches!(error, MetaError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }
}
