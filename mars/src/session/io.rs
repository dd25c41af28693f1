//! What can happen to a session, and what can it ask for? Two closed enums, and its figures.

use model::{Epoch, NodeId};

use crate::event::{GuestError, GuestRequest, Reply, RequestTag};
#[cfg(doc)]
use crate::session::Session;

/// Everything that can happen to a session.
#[derive(Clone, Debug)]
pub enum Input {
    /// A guest asks; will be answered by [`Output::Complete`], or forgotten when it leaves.
    Guest {
        /// Names the request.
        tag: RequestTag,
        /// What is asked; its range is on the volume.
        request: GuestRequest,
    },
    /// Whether any guest is there now; a session begins with guests.
    Guests {
        /// Whether there is one.
        present: bool,
    },
    /// The nodes with a replica are these now.
    Members {
        /// All of them.
        members: Vec<NodeId>,
    },
    /// A node that is not primary has heard of this epoch: what is older is none either.
    Heard {
        /// Which.
        epoch: Epoch,
    },
    /// The node of [`Output::Connect`] is primary in this epoch and awaits requests.
    Connected {
        /// Of the connection.
        generation: u64,
        /// Of the primary.
        epoch: Epoch,
    },
    /// The node of [`Output::Connect`] could not be reached, is not primary, or the connection has ended.
    Disconnected {
        /// Of the connection.
        generation: u64,
        /// Where that node thinks the primary is.
        hint: Option<NodeId>,
    },
    /// Answer to [`Output::Send`].
    Answer {
        /// Of the connection.
        generation: u64,
        /// Of the request.
        seq: u64,
        /// The answer.
        result: Result<Reply, GuestError>,
    },
    /// The time of [`Session::poll_timeout`] has come.
    Timer,
}

/// Everything that a session can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Find out whether `node` is primary; answered by [`Input::Connected`] or [`Input::Disconnected`]. There is one
    /// connection at a time.
    Connect {
        /// Names the connection; grows.
        generation: u64,
        /// Which node; it may be this one.
        node: NodeId,
        /// The role was granted to it in this epoch: rather wait a moment for that than say no.
        at_least: Option<Epoch>,
        /// The highest epoch seen so far, for the node to be told: one that is primary in an older term is one no more.
        epoch_seen: Epoch,
    },
    /// End the connection, or the attempt; [`Input::Disconnected`] need not follow.
    Disconnect {
        /// Which.
        generation: u64,
    },
    /// Ask the primary; answered by [`Input::Answer`].
    Send {
        /// On this connection.
        generation: u64,
        /// Names the request.
        seq: u64,
        /// What is asked.
        request: GuestRequest,
    },
    /// No answer will come to this request: its guest left, and then the primary was lost.
    Forget {
        /// Names the request.
        tag: RequestTag,
    },
    /// Answer a guest.
    Complete {
        /// Names the request.
        tag: RequestTag,
        /// The answer; never [`GuestError::NotPrimary`].
        result: Result<Reply, GuestError>,
    },
}

/// Figures about a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionStatus {
    /// The node that serves now, and its epoch.
    pub primary: Option<(NodeId, Epoch)>,
    /// Requests not yet answered.
    pub waiting_requests: u64,
    /// Memory held by copies of unflushed writes.
    pub copies_bytes: u64,
    /// Longest time from a request to its answer, in microseconds.
    pub wait_micros_max: u64,
    /// The same, among requests that met a primary that moved or was out of reach.
    pub pause_micros_max: u64,
}
