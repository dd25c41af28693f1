//! Which steps lead from what is to what should be?
//!
//! A plan is made anew whenever something is seen or wished; it holds only steps whose conditions are met now, so
//! nothing has to be remembered between two plans. What cannot be done yet is said in words.

use model::{NodeId, Role};

use crate::desired::{Door, DoorAt, DoorKind, Life, Member, Placement, VolumeDesired};
use crate::observed::{HostSeen, VolumeObserved, VolumeSeen};

/// How a replica comes into the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// First primary of a new volume.
    Primary,
    /// Filled by a full sync.
    Secondary,
}

/// What a host can do. Every action may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the disk.
    DiskCreate {
        /// Volume group.
        vg: String,
    },
    /// Let marsd take care of the replica.
    ReplicaCreate {
        /// Volume group.
        vg: String,
        /// How it begins.
        birth: Birth,
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Let marsd know the volume without a replica; one that is there is given up.
    RemoteCreate {
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Tell marsd the members.
    SetMembers {
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Give the primary role away.
    HandOver {
        /// The successor.
        to: NodeId,
    },
    /// Open a door.
    DoorOpen {
        /// Which.
        door: Door,
    },
    /// Close a door.
    DoorClose {
        /// Which.
        door: Door,
    },
    /// Let marsd forget the volume.
    Forget,
    /// Remove the disk.
    DiskRemove {
        /// Volume group.
        vg: String,
    },
}

/// One step for one host. Steps of one host are done in order; the next only when the one before it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The host.
    pub node: NodeId,
    /// Generation of the desired state that asks for it.
    pub generation: u64,
    /// What to do.
    pub action: Action,
}

/// The steps of one volume that can be done now, and what has been found out on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done now.
    pub steps: Vec<Step>,
    /// What cannot be done yet, and why.
    pub waits: Vec<String>,
    /// A primary is seen: the volume holds data from now on.
    pub born: bool,
    /// Hosts that no longer have anything of a replica that should go.
    pub gone: Vec<NodeId>,
}

impl Plan {
    fn add(&mut self, desired: &VolumeDesired, node: &NodeId, action: Action) {
        self.steps.push(Step {
            node: node.clone(),
            generation: desired.generation,
            action,
        });
    }
}

/// The difference between `desired` and `observed` as steps. `addr` tells the peer address of a node.
pub fn plan(
    desired: &VolumeDesired,
    observed: &VolumeObserved,
    addr: impl Fn(&NodeId) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let mut members = Vec::new();
    for place in &desired.members {
        match addr(&place.node) {
            Some(addr) => members.push(Member {
                node: place.node.clone(),
                addr,
            }),
            None => plan.waits.push(format!("node {} has no address", place.node)),
        }
    }
    members.sort();
    plan.born = desired.life == Life::Live || observed.primary().is_some();
    if desired.life != Life::Deleting && members.len() == desired.members.len() {
        for place in &desired.members {
            keep_replica(&mut plan, desired, observed, place, &members);
        }
        hand_over(&mut plan, desired, observed);
    }
    for place in &desired.leaving {
        let Some(host) = observed.hosts.get(&place.node) else {
            plan.waits.push(format!(
                "node {} must be reachable to give up its replica",
                place.node
            ));
            continue;
        };
        give_up_replica(&mut plan, desired, host, place, &members);
    }
    for (node, host) in &observed.hosts {
        doors(&mut plan, desired, node, host, &members);
    }
    for door in &desired.doors {
        if !observed.hosts.contains_key(&door.node) {
            plan.waits
                .push(format!("node {} must be reachable to open its door", door.node));
        }
    }
    plan
}

fn keep_replica(
    plan: &mut Plan,
    desired: &VolumeDesired,
    observed: &VolumeObserved,
    place: &Placement,
    members: &[Member],
) {
    let Some(host) = observed.hosts.get(&place.node) else {
        plan.waits.push(format!("node {} is unreachable", place.node));
        return;
    };
    match &host.volume {
        Some(VolumeSeen {
            replica: Some(_),
            members: told,
            ..
        }) => {
            if !same_members(told, members) {
                plan.add(
                    desired,
                    &place.node,
                    Action::SetMembers {
                        members: members.to_vec(),
                    },
                );
            }
        }
        Some(VolumeSeen { replica: None, .. }) | None => {
            let birth = match desired.life {
                Life::New if place.node == desired.primary => Birth::Primary,
                // Never born twice: an empty replica in the primary's place would erase the others by their sync.
                Life::Live if place.node == desired.primary && observed.primary().is_none() => {
                    plan.waits.push(format!(
                        "node {} has lost the primary's replica and no other primary is seen",
                        place.node
                    ));
                    return;
                }
                Life::New | Life::Live | Life::Deleting => Birth::Secondary,
            };
            plan.add(desired, &place.node, Action::DiskCreate { vg: place.vg.clone() });
            let members = members.to_vec();
            plan.add(
                desired,
                &place.node,
                Action::ReplicaCreate {
                    vg: place.vg.clone(),
                    birth,
                    members,
                },
            );
        }
    }
}

fn hand_over(plan: &mut Plan, desired: &VolumeDesired, observed: &VolumeObserved) {
    let Some(primary) = observed.primary().filter(|node| **node != desired.primary) else {
        return;
    };
    let successor = &desired.primary;
    match observed.replica(successor) {
        None => plan.waits.push(format!(
            "node {successor} must be reachable and have a replica to become primary"
        )),
        Some(replica) if !replica.is_whole() => {
            plan.waits.push(format!(
                "the replica on node {successor} is {}, not yet fit to be primary",
                replica.state
            ));
        }
        // The primary must know its successor as a member before it can give the role to it.
        Some(_) => plan.add(
            desired,
            primary,
            Action::HandOver {
                to: successor.clone(),
            },
        ),
    }
}

fn give_up_replica(
    plan: &mut Plan,
    desired: &VolumeDesired,
    host: &HostSeen,
    place: &Placement,
    members: &[Member],
) {
    let replica = host.volume.as_ref().and_then(|seen| seen.replica.as_ref());
    let is_primary = replica.is_some_and(|replica| replica.role == Role::Primary);
    if is_primary && desired.life != Life::Deleting {
        plan.waits
            .push(format!("node {} is still primary and cannot leave", place.node));
        return;
    }
    let told = host.volume.as_ref().map_or(&[][..], |seen| &seen.members);
    if is_primary && told.iter().any(|member| member.node != place.node) {
        // A primary leaves no member behind; of a volume that is deleted, the others go too.
        let alone = told.iter().filter(|member| member.node == place.node);
        let members = alone.cloned().collect();
        plan.add(desired, &place.node, Action::SetMembers { members });
    }
    let has_door = desired.doors.iter().any(|door| door.node == place.node);
    if replica.is_some() {
        // A guest at a door of this host stays connected: the door goes on as a remote one.
        let action = if has_door {
            Action::RemoteCreate {
                members: members.to_vec(),
            }
        } else {
            close_all(plan, desired, &place.node, host);
            Action::Forget
        };
        plan.add(desired, &place.node, action);
    }
    // A host that has not yet taken up this generation may still be making the disk for an older one.
    if host.disks.contains(&place.vg) || host.generation < desired.generation {
        plan.add(desired, &place.node, Action::DiskRemove { vg: place.vg.clone() });
    } else if replica.is_none() && (has_door || host.volume.is_none()) {
        plan.gone.push(place.node.clone());
    }
}

fn doors(plan: &mut Plan, desired: &VolumeDesired, node: &NodeId, host: &HostSeen, members: &[Member]) {
    let wanted: Vec<&Door> = desired.doors.iter().filter(|door| door.node == *node).collect();
    let seen: &[Door] = host.volume.as_ref().map_or(&[], |seen| &seen.doors);
    let has_place = desired
        .members
        .iter()
        .chain(&desired.leaving)
        .any(|place| place.node == *node);
    let has_replica = host.volume.as_ref().is_some_and(|seen| seen.replica.is_some());
    if !has_place && has_replica {
        plan.waits.push(format!(
            "node {node} has a replica that nobody asked for; it is left alone"
        ));
        return;
    }
    let remote = !desired.has_member(node);
    if wanted.is_empty() && remote && has_replica {
        // Its doors go with the replica.
        return;
    }
    if wanted.is_empty() && remote && !has_replica && host.volume.is_some() {
        close_all(plan, desired, node, host);
        plan.add(desired, node, Action::Forget);
        return;
    }
    for door in seen {
        if !wanted.iter().any(|want| same_door(want, door, desired)) {
            plan.add(desired, node, Action::DoorClose { door: door.clone() });
        }
    }
    let missing: Vec<&&Door> = wanted
        .iter()
        .filter(|want| !seen.iter().any(|door| same_door(want, door, desired)))
        .collect();
    if wanted.is_empty() {
        return;
    }
    if !plan.born {
        plan.waits
            .push("doors open once the volume has a primary".to_owned());
        return;
    }
    if remote && !has_replica {
        match &host.volume {
            None => plan.add(
                desired,
                node,
                Action::RemoteCreate {
                    members: members.to_vec(),
                },
            ),
            Some(seen) if !same_members(&seen.members, members) => {
                plan.add(
                    desired,
                    node,
                    Action::SetMembers {
                        members: members.to_vec(),
                    },
                );
            }
            Some(_) => {}
        }
    }
    for door in missing {
        plan.add(
            desired,
            node,
            Action::DoorOpen {
                door: (*door).clone(),
            },
        );
    }
}

/// Closes every door of a host whose volume is to be forgotten: marsd forgets none with a guest inside.
fn close_all(plan: &mut Plan, desired: &VolumeDesired, node: &NodeId, host: &HostSeen) {
    for door in host.volume.iter().flat_map(|seen| &seen.doors) {
        plan.add(desired, node, Action::DoorClose { door: door.clone() });
    }
}

fn same_members(told: &[Member], members: &[Member]) -> bool {
    let mut told = told.to_vec();
    told.sort();
    told == members
}

/// Whether an open door is the wanted one; where marsd chose the path, only that path ends in the volume's name.
pub fn same_door(wanted: &Door, seen: &Door, desired: &VolumeDesired) -> bool {
    let at = match (&wanted.at, &seen.at) {
        (DoorAt::UnixDefault, DoorAt::Unix(path)) => {
            let suffix = match wanted.kind {
                DoorKind::Nbd => "nbd.sock",
                DoorKind::VhostUserBlk => "vhost.sock",
            };
            path.ends_with(&format!("/{}.{suffix}", desired.name))
        }
        (wanted, seen) => wanted == seen,
    };
    let same = (&wanted.node, wanted.kind, wanted.read_only) == (&seen.node, seen.kind, seen.read_only);
    at && same
}

#[cfg(test)]
pub(crate) mod tests;
