//! How do we know that a volume keeps its word, and how fast it is? An NBD client, a verified writer, comparisons.
//!
//! [`nbd`] is a small client of our own, so that what it sends, when, and what it believes afterwards is under our
//! control; [`vhost`] plays a virtual machine; [`verify`] is the model of what a volume must contain; [`writer`] joins it
//! with NBD; [`cluster`] runs whole pools of built binaries for tests and benchmarks; [`compare`] measures them beside
//! others.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cluster;
pub mod compare;
pub mod nbd;
pub mod verify;
pub mod vhost;
pub mod writer;
