//! Which words and numbers does everyone share?
//!
//! Units, ids and states of volumes, replicas and nodes. No I/O, no async, no serde: wire and disk forms live
//! with the protocol or format that owns them.

pub mod ids;
pub mod state;
pub mod units;

pub use ids::{InvalidName, NodeId, SnapshotName, VolumeId, VolumeName};
pub use state::{Mode, ReplicaState, Role};
pub use units::{
    Bytes, Epoch, Lsn, SectorCount, SectorOffset, SectorRange, SizeError, Tick, VolumeSize, parse_size,
};
