//! What happened?

use serde::{Deserialize, Serialize};

/// Something that happened in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one from event to event.
    pub number: u64,
    /// When (RFC 3339).
    pub time: String,
    /// On which object: `volume web-1`, `node a`, `job 7`.
    pub object: String,
    /// What, in one sentence.
    pub message: String,
}

/// `events`: at most 1,000 per answer, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// Those behind `after`.
    pub events: Vec<Event>,
    /// Number of the newest event; give it as `after` to wait for more.
    pub newest: u64,
}
