//! What do the daemons and their users say to each other? Types, versions, clients.
//!
//! [`control`] is spoken between poold and marsd on one host ([`control_client`] speaks it); [`pool`] is the pool's
//! HTTP API between everyone else ([`client`] speaks it), and [`error`] what both sides say when something is wrong.

pub mod client;
pub mod control;
pub mod control_client;
pub mod error;
pub mod pool;

pub use client::Client;
pub use error::{ApiError, ErrorKind};
