//! How do many hosts become one pool? The pool daemon: desired state, planner's loop, agent, HTTP API.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod home;
pub mod host;
pub mod http;
pub mod inventory;
pub mod leader;
pub mod local;
pub mod notify;
pub mod tls;
pub mod token;

#[cfg(test)]
mod fake_marsd;
#[cfg(test)]
mod tests;
