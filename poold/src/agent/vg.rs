//! What must a volume group be able to do? The same for directories and for LVM.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::ApiError;
use api::pool::VgKind;
use api::pool::agent::VgRef;

use super::dirvg::DirVg;
use super::lvm::LvmVg;

/// How full a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes that the disks really take.
    pub used_bytes: u64,
    /// Bytes that they can still take.
    pub left_bytes: u64,
}

/// A place for disks, each named by its volume's id. Calls may block; all may be repeated.
pub trait VolumeGroup {
    /// Makes the disk of that length, or a little longer where space is given out in larger units; answers its path. It reads as zeroes.
    fn create(&self, volume: &str, size_bytes: u64) -> Result<PathBuf, ApiError>;

    /// Removes the disk.
    fn remove(&self, volume: &str) -> Result<(), ApiError>;

    /// Grows the disk to that length at least.
    fn resize(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError>;

    /// All volumes with a disk here, by id, and how long it is.
    fn list(&self) -> Result<BTreeMap<String, u64>, ApiError>;

    /// How full it is.
    fn capacity(&self) -> Result<Capacity, ApiError>;

    /// Where the disk of a volume lies or would lie.
    fn path(&self, volume: &str) -> PathBuf;
}

/// The group that a step speaks of. Errors: what is wrong with it.
pub fn open(vg: &VgRef) -> Result<Box<dyn VolumeGroup + Send>, ApiError> {
    match vg.kind {
        VgKind::Directory => Ok(Box::new(DirVg::open(
            &vg.name,
            Path::new(&vg.path),
            vg.size_bytes,
            vg.promise_bytes,
        )?)),
        VgKind::Lvm => Ok(Box::new(LvmVg::open(
            &vg.name,
            &vg.layout,
            vg.size_bytes,
            vg.promise_bytes,
        )?)),
    }
}
