//! How does the whole pool stand?

use serde::{Deserialize, Serialize};

use super::{Job, Node, Volume};

/// The pool in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    /// Every host is online, and every replica is where it should be, whole and not parted from its primary.
    Healthy,
    /// Something is not; `problems` says what.
    Degraded,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The pool's name.
    pub pool: String,
    /// In one word; `poolctl status` ends with 7 when degraded.
    pub state: PoolState,
    /// The node whose marsd alone says all this, because the catalog cannot be reached; `null` when the catalog does.
    pub seen_from: Option<String>,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// By name.
    pub nodes: Vec<Node>,
    /// By name.
    pub volumes: Vec<Volume>,
    /// Those at work.
    pub jobs: Vec<Job>,
}
