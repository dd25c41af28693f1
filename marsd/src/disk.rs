//! Where do a replica's log, contents and memory lie? Behind one small trait: files, or memory for tests.

mod copying;
pub mod file;
mod lock;
mod log;
mod log_writer;
pub mod memory;
mod meta;
mod snapshots;
mod tracks;
mod volume;
mod workers;

use bytes::Bytes;
use mars::{IoId, Meta, Position};
use model::{Lsn, NodeId, SectorRange, SnapshotName, VolumeSize};

pub use file::FileDisk;
pub(crate) use lock::lock_path;
pub(crate) use log::LogFiles;
pub(crate) use log_writer::FilesAnswer;
pub use memory::MemoryDisk;
pub(crate) use snapshots::Snapshots;

/// Carries out the disk effects of one engine; the methods are those effects, in words of `mars::Effect`.
///
/// Every call returns at once; answers arrive as events in the inbox given at construction, failures as
/// `DiskFailed`, except an append for which there is no room: that is `LogFull`. Calls on the log take effect in the order made, so do saves of the meta and of tracks, and so do calls on the volume
/// whose ranges overlap. Dropping a disk carries out what was asked and waits for it.
pub trait Disk: Send {
    /// Write to the log at its end.
    fn append_log(&mut self, at: Lsn, bytes: Bytes);
    /// Make all appends durable.
    fn flush_log(&mut self, up_to: Lsn);
    /// Read from the log.
    fn read_log(&mut self, id: IoId, at: Lsn, bytes_max: usize);
    /// Cut the log at `at`, or (without `keep`) begin it anew there.
    fn reset_log(&mut self, id: IoId, at: Lsn, keep: bool);
    /// Tell whether the log's file system has room for so much more.
    fn ask_room(&mut self, id: IoId, bytes: u64);
    /// Give log space back.
    fn trim_log(&mut self, up_to: Lsn);
    /// Tell what the log takes once everything asked before is done; with `rotate`, begin another segment first, so that what
    /// is there can be given back. An operator's wish, of no interest to the engine.
    fn log_files(&mut self, rotate: bool, answer: FilesAnswer);
    /// Read contents.
    fn read_volume(&mut self, id: IoId, range: SectorRange);
    /// Tell data from holes.
    fn volume_status(&mut self, id: IoId, range: SectorRange);
    /// Write contents; no pieces at all: zeroes.
    fn write_volume(&mut self, id: IoId, range: SectorRange, data: Vec<Bytes>);
    /// Make contents durable.
    fn flush_volume(&mut self, id: IoId);
    /// Make the disk longer, what is new in zeroes.
    fn grow_volume(&mut self, id: IoId, from: VolumeSize, to: VolumeSize);
    /// Keep the present contents, or those of the first time this was asked for, under this name; later changes may wait for it, and after
    /// a refusal do until it is dropped.
    fn take_snapshot(&mut self, id: IoId, name: SnapshotName, at: Position, size: VolumeSize);
    /// Give up what is kept under this name.
    fn drop_snapshot(&mut self, id: IoId, name: SnapshotName, at: Position);
    /// Replace the replica's memory.
    fn save_meta(&mut self, generation: u64, meta: Box<Meta>);
    /// Replace or remove what is remembered of a peer.
    fn save_track(&mut self, id: IoId, peer: NodeId, track: Option<Bytes>);
    /// Tell what is remembered of peers.
    fn load_tracks(&mut self, id: IoId);
}
