//! How is one volume replicated? The engine, as a pure state machine.
//!
//! No socket, file, clock, thread or randomness: events in, effects out, so the code that ships is the code the
//! simulator runs. Begin at [`Engine`], then [`Watermarks`], then `record.rs` for the bytes.

pub mod codec;
pub mod dirty;
pub mod engine;
mod envelope;
pub mod event;
mod fence;
mod follow;
mod grow;
mod guest;
mod limit;
pub mod lineage;
mod log;
pub mod message;
pub mod meta;
pub mod museum;
mod partial;
mod policy;
pub mod pressure;
mod promise;
pub mod record;
mod relay;
mod repair;
mod replay;
mod resync;
mod role;
pub mod session;
pub mod settings;
pub mod shadow;
mod ship;
pub mod snapshot;
mod space;
pub mod split;
pub mod status;
mod straight;
mod survey;
mod switch;
mod takeover;
mod track;
pub mod verify;
pub mod watermark;
mod writeback;

pub use engine::{Birth, Config, Engine};
pub use event::{
    Answer, BlockExtent, Command, CommandError, CommandId, DiskError, Effect, Event, GuestError,
    GuestRequest, IoId, LinkId, Notice, Reply, RequestTag, VolumeData,
};
pub use lineage::{Digest, History, Position, Stretch, jump};
pub use message::Message;
pub use meta::{Meta, SyncState};
pub use pressure::{LOG_BYTES_MIN, Level};
pub use session::{Admission, Gate, Input, Output, Session, SessionStatus};
pub use settings::{Limits, MaxLag, Settings};
pub use snapshot::{Absence, SNAPSHOTS_MAX, Snapshot, SnapshotState};
pub use split::{Side, SplitBrain};
pub use status::{PeerStatus, Standing, Status};
pub use switch::{Paused, Switch};
pub use verify::{Difference, Verified, VerifyEnd, VerifyNode, VerifyRun};
pub use watermark::Watermarks;
