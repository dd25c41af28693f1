//! What do the daemons and their users say to each other? Types, versions, clients.
//!
//! [`control`] is spoken between poold and marsd on one host ([`control_client`] speaks it); [`pool`] is the pool's
//! HTTP API between everyone else ([`client`] speaks it), and [`error`] what both sides say when something is wrong.
//! [`repeats`] keeps daemons from saying the same thing all the time.

pub mod client;
pub mod control;
pub mod control_client;
pub mod error;
pub mod pool;
pub mod repeats;

pub use client::Client;
pub use error::{ApiError, ErrorKind};
pub use repeats::Repeats;
