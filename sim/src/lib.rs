//! Does a whole cluster keep its promises, whatever happens? Simulated hosts around the engine that ships.
//!
//! One thread, one seed, virtual time. The engines are real; disks, links, clocks and the guest are not. Begin at
//! [`World`], one volume; [`Cluster`] joins several; `history.rs` and `guest.rs` say what is true, `world/check.rs` compares.

mod agenda;
mod cluster;
mod describe;
mod disk;
mod guest;
mod history;
mod link;
mod media;
#[cfg(feature = "museum")]
mod museum;
mod profile;
mod report;
mod rng;
mod run;
mod shrink;
mod stamp;
mod trace;
mod world;

pub use cluster::Cluster;
#[cfg(feature = "museum")]
pub use museum::{Exhibit, visit};
pub use profile::Profile;
pub use report::{Report, run_seeds};
pub use run::{Failure, Outcome, run_seed};
pub use shrink::{Shape, Shrunk, run_shaped, shrink};
pub use world::{Figures, Matrix, Violation, World};
