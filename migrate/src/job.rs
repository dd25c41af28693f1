//! When does long work enter its next phase?
//!
//! A job is nothing but a position in a list of phases. Each phase changes the desired state once and then waits
//! until it is seen; deciding again after a restart gives the same answer.

use model::{NodeId, Role};

use crate::desired::{Life, Placement, Unsafe, VolumeDesired};
use crate::observed::VolumeObserved;

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// All replicas of a new volume become whole.
    Create,
    /// Everything of a volume goes.
    Delete,
    /// A host gets a replica.
    Join {
        /// Where.
        to: Placement,
    },
    /// A host gives its replica up.
    Leave {
        /// Which.
        from: NodeId,
    },
    /// A host becomes primary.
    Primary {
        /// Before.
        from: NodeId,
        /// After.
        to: NodeId,
    },
    /// All replicas that are wanted become whole, and those that are not wanted go.
    Replicas,
    /// A replica moves, with the primary role if it has it.
    Migrate {
        /// Before.
        from: NodeId,
        /// After.
        to: Placement,
    },
}

/// The phases of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Replicas are made and the first primary is born.
    Start,
    /// A replica is added.
    Join,
    /// Replicas become whole.
    Sync,
    /// The primary role moves.
    HandOver,
    /// A replica is removed.
    Leave,
    /// The volume is removed.
    Remove,
    /// What was done is undone.
    Undo,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 7] = [
        Phase::Start,
        Phase::Join,
        Phase::Sync,
        Phase::HandOver,
        Phase::Leave,
        Phase::Remove,
        Phase::Undo,
    ];

    /// As people and the catalog call it.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::Join => "join",
            Phase::Sync => "sync",
            Phase::HandOver => "hand-over",
            Phase::Leave => "leave",
            Phase::Remove => "remove",
            Phase::Undo => "undo",
        }
    }
}

impl Work {
    /// All phases in order. `moves_primary`: the replica that migrates was the primary when the job began.
    pub fn phases(&self, moves_primary: bool) -> &'static [Phase] {
        match self {
            Work::Create => &[Phase::Start, Phase::Sync],
            Work::Replicas => &[Phase::Sync],
            Work::Delete => &[Phase::Remove],
            Work::Join { .. } => &[Phase::Join, Phase::Sync],
            Work::Leave { .. } => &[Phase::Leave],
            Work::Primary { .. } => &[Phase::HandOver],
            Work::Migrate { .. } if moves_primary => {
                &[Phase::Join, Phase::Sync, Phase::HandOver, Phase::Leave]
            }
            Work::Migrate { .. } => &[Phase::Join, Phase::Sync, Phase::Leave],
        }
    }

    /// The replica whose sync is watched.
    pub fn syncing(&self) -> Option<&NodeId> {
        match self {
            Work::Join { to } | Work::Migrate { to, .. } => Some(&to.node),
            Work::Create | Work::Replicas | Work::Delete | Work::Leave { .. } | Work::Primary { .. } => None,
        }
    }
}

/// What is to be done with a job now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing; what it waits for.
    Wait(String),
    /// Change the desired state and enter the phase, both at once.
    Change(Box<VolumeDesired>, Phase),
    /// Enter the phase.
    Enter(Phase),
    /// It came to its end.
    Done,
    /// It was undone.
    Cancelled,
    /// It can no longer be undone; it goes on.
    GoOn,
    /// It cannot come to its end.
    Fail(Unsafe),
}

/// Decides about a job in `phase`. `desired` is `None` once the volume is gone from the catalog.
pub fn advance(
    work: &Work,
    phase: Phase,
    cancelling: bool,
    desired: Option<&VolumeDesired>,
    observed: &VolumeObserved,
) -> Next {
    let Some(desired) = desired else {
        return if *work == Work::Delete {
            Next::Done
        } else {
            Next::Fail(Unsafe::Deleting)
        };
    };
    if cancelling {
        return undo(work, phase, desired, observed);
    }
    match (work, phase) {
        (Work::Delete, _) => Next::Wait(waiting_for_removal(desired)),
        (_, _) if desired.life == Life::Deleting => Next::Fail(Unsafe::Deleting),
        (Work::Create, Phase::Sync) | (Work::Replicas, _) => {
            match desired.members.iter().find(|place| !whole(observed, &place.node)) {
                Some(place) => Next::Wait(format!("the replica on node {} becomes whole", place.node)),
                None => match desired.leaving.first().filter(|_| *work == Work::Replicas) {
                    Some(place) => Next::Wait(format!("node {} removes its replica", place.node)),
                    None => Next::Done,
                },
            }
        }
        (Work::Create, _) => match observed.primary() {
            Some(_) => Next::Enter(Phase::Sync),
            None => Next::Wait(format!("node {} makes the first replica", desired.primary)),
        },
        (Work::Join { to } | Work::Migrate { to, .. }, Phase::Join) if !desired.has_member(&to.node) => {
            match desired.join(to.clone()) {
                Ok(next) => Next::Change(Box::new(next), Phase::Sync),
                Err(Unsafe::StillLeaving(node)) => Next::Wait(Unsafe::StillLeaving(node).to_string()),
                Err(error) => Next::Fail(error),
            }
        }
        (Work::Join { .. } | Work::Migrate { .. }, Phase::Join) => Next::Enter(Phase::Sync),
        (Work::Join { to } | Work::Migrate { to, .. }, Phase::Sync) if !whole(observed, &to.node) => {
            Next::Wait(format!("the replica on node {} becomes whole", to.node))
        }
        (Work::Join { .. }, _) => Next::Done,
        (Work::Migrate { from, .. }, Phase::Sync) if desired.primary == *from => Next::Enter(Phase::HandOver),
        (Work::Migrate { .. }, Phase::Sync) => Next::Enter(Phase::Leave),
        (
            Work::Migrate {
                to: Placement { node: to, .. },
                ..
            }
            | Work::Primary { to, .. },
            Phase::HandOver,
        ) => {
            if desired.primary != *to {
                return match desired.with_primary(to) {
                    Ok(next) => Next::Change(Box::new(next), Phase::HandOver),
                    Err(error) => Next::Fail(error),
                };
            }
            match (has_moved(observed, to), work) {
                (false, _) => Next::Wait(format!("the primary role goes to node {to}")),
                (true, Work::Primary { .. }) => Next::Done,
                (true, _) => Next::Enter(Phase::Leave),
            }
        }
        (Work::Primary { .. }, _) => Next::Enter(Phase::HandOver),
        (Work::Migrate { from, .. } | Work::Leave { from }, _) => {
            if desired.has_member(from) {
                return match desired.leave(from) {
                    Ok(next) => Next::Change(Box::new(next), Phase::Leave),
                    Err(error) => Next::Fail(error),
                };
            }
            gone(desired, from, Next::Done)
        }
    }
}

fn undo(work: &Work, phase: Phase, desired: &VolumeDesired, observed: &VolumeObserved) -> Next {
    let (from, to, joined) = match work {
        // What was begun stays as it is; nobody waits for it any more.
        Work::Create | Work::Replicas => return Next::Cancelled,
        Work::Delete | Work::Leave { .. } => return Next::GoOn,
        Work::Join { to } => (None, &to.node, true),
        Work::Primary { from, to } => (Some(from), to, false),
        Work::Migrate { from, to } => (Some(from), &to.node, true),
    };
    if phase == Phase::Leave || (phase == Phase::HandOver && observed.primary() == Some(to)) {
        return Next::GoOn;
    }
    if let Some(from) = from.filter(|_| desired.primary == *to) {
        return match desired.with_primary(from) {
            Ok(next) => Next::Change(Box::new(next), Phase::Undo),
            Err(error) => Next::Fail(error),
        };
    }
    if observed.primary() == Some(to) {
        return Next::Wait(format!("the primary role returns from node {to}"));
    }
    if !joined {
        return Next::Cancelled;
    }
    if desired.has_member(to) {
        return match desired.leave(to) {
            Ok(next) => Next::Change(Box::new(next), Phase::Undo),
            Err(error) => Next::Fail(error),
        };
    }
    gone(desired, to, Next::Cancelled)
}

/// Whether the role is at `to` and nobody else that is seen still thinks to have it.
fn has_moved(observed: &VolumeObserved, to: &NodeId) -> bool {
    let is_primary = |node: &NodeId| {
        observed
            .replica(node)
            .is_some_and(|replica| replica.role == Role::Primary)
    };
    observed.hosts.keys().all(|node| is_primary(node) == (node == to)) && is_primary(to)
}

fn whole(observed: &VolumeObserved, node: &NodeId) -> bool {
    observed.replica(node).is_some_and(|replica| replica.is_whole())
}

fn gone(desired: &VolumeDesired, node: &NodeId, end: Next) -> Next {
    if desired.leaving.iter().any(|place| place.node == *node) {
        Next::Wait(format!("node {node} removes its replica"))
    } else {
        end
    }
}

fn waiting_for_removal(desired: &VolumeDesired) -> String {
    let nodes: Vec<&str> = desired.leaving.iter().map(|place| place.node.as_str()).collect();
    format!("disks are removed on: {}", nodes.join(", "))
}

#[cfg(test)]
mod tests;
