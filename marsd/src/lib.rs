//! What does a host do for its volumes? The data plane as a library: disks, links, doors and the control socket.
//!
//! Everything that decides is in `mars`; here is everything that touches the world.

pub mod config;
pub mod control;
pub mod disk;
pub mod door;
pub mod host;
pub mod length;
pub mod link;
pub mod notify;
mod persist;
pub mod run;
mod thread;
mod turns;

/// An error and everything that caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
