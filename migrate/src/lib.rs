//! Where should things live, and by which steps do they get there?
//!
//! Pure: desired and observed state in, steps out. No network, no database, no clock; how a step is performed is not
//! known here. [`place`] chooses hosts, [`desired`] says which changes of intent are allowed, [`mod@plan`] turns a
//! difference between intent and observation into steps, and [`job`] decides when long work enters its next phase.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod desired;
pub mod job;
pub mod observed;
pub mod place;
pub mod plan;

pub use desired::{Door, DoorAt, DoorKind, Life, Member, Placement, Unsafe, VolumeDesired};
pub use observed::{HostSeen, Replica, VolumeObserved, VolumeSeen};
pub use plan::{Action, Birth, Plan, Step, plan};
