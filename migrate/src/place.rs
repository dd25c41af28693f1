//! On which hosts shall replicas lie? On those with the most room, never two on one host.

use std::fmt;

use model::{Bytes, NodeId, VolumeSize};

use crate::desired::Placement;

/// A volume group with room that is not reserved; replicas on their way count as reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VgRoom {
    /// Its name.
    pub name: String,
    /// What a new replica can have.
    pub free_bytes: u64,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// A host that might take a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoom {
    /// Its name.
    pub node: NodeId,
    /// Why it cannot take anything now (unreachable …).
    pub problem: Option<String>,
    /// Whether it has, or is giving up, a replica of this volume.
    pub has_replica: bool,
    /// Its volume groups.
    pub vgs: Vec<VgRoom>,
}

/// What is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Size of the volume.
    pub size: VolumeSize,
    /// How many replicas.
    pub replicas: usize,
    /// These hosts exactly and in this order; all when empty.
    pub on: Vec<NodeId>,
}

/// Why a host was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not in the pool.
    Unknown,
    /// It cannot take anything now.
    Unusable(String),
    /// Never two replicas on one host.
    HasReplica,
    /// No volume group.
    NoVg,
    /// Its roomiest group has only this much.
    NoRoom {
        /// Bytes.
        free_bytes: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unknown => f.write_str("not in the pool"),
            Reason::Unusable(why) => f.write_str(why),
            Reason::HasReplica => f.write_str("has a replica already"),
            Reason::NoVg => f.write_str("has no volume group"),
            Reason::NoRoom { free_bytes } => {
                write!(f, "has {} free ({free_bytes} bytes)", Bytes(*free_bytes))
            }
        }
    }
}

/// Nothing was placed; every host that could have been asked, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How many replicas were wanted.
    pub wanted: usize,
    /// How many hosts could have taken one.
    pub possible: usize,
    /// The others.
    pub reasons: Vec<(NodeId, Reason)>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} replicas can be placed",
            self.possible.min(self.wanted),
            self.wanted
        )?;
        for (index, (node, reason)) in self.reasons.iter().enumerate() {
            write!(f, "{} node {node} {reason}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// Chooses a host and a volume group for every replica; the first is the primary's.
///
/// The roomiest host first, then by name, so that the same input gives the same answer.
pub fn choose(request: &Request, hosts: &[HostRoom]) -> Result<Vec<Placement>, Refusal> {
    let mut reasons = Vec::new();
    let mut candidates = Vec::new();
    if request.on.is_empty() {
        for host in hosts {
            match roomiest(host, request.size) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => reasons.push((host.node.clone(), reason)),
            }
        }
        candidates.sort_by(|(free_a, a), (free_b, b)| free_b.cmp(free_a).then_with(|| a.node.cmp(&b.node)));
    } else {
        for node in &request.on {
            let known = hosts.iter().find(|host| host.node == *node);
            match known.map_or(Err(Reason::Unknown), |host| roomiest(host, request.size)) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => reasons.push((node.clone(), reason)),
            }
        }
    }
    if candidates.len() < request.replicas {
        return Err(Refusal {
            wanted: request.replicas,
            possible: candidates.len(),
            reasons,
        });
    }
    candidates.truncate(request.replicas);
    Ok(candidates.into_iter().map(|(_, place)| place).collect())
}

fn roomiest(host: &HostRoom, size: VolumeSize) -> Result<(u64, Placement), Reason> {
    if let Some(problem) = &host.problem {
        return Err(Reason::Unusable(problem.clone()));
    }
    if host.has_replica {
        return Err(Reason::HasReplica);
    }
    let usable = host.vgs.iter().filter(|vg| vg.problem.is_none());
    let best = usable.max_by(|a, b| a.free_bytes.cmp(&b.free_bytes).then_with(|| b.name.cmp(&a.name)));
    let Some(vg) = best else {
        let problem = host.vgs.iter().find_map(|vg| vg.problem.clone());
        return Err(problem.map_or(Reason::NoVg, Reason::Unusable));
    };
    if vg.free_bytes < size.bytes() {
        return Err(Reason::NoRoom {
            free_bytes: vg.free_bytes,
        });
    }
    Ok((
        vg.free_bytes,
        Placement {
            node: host.node.clone(),
            vg: vg.name.clone(),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, free: &[u64]) -> HostRoom {
        let vg = |(index, free_bytes): (usize, &u64)| VgRoom {
            name: format!("vg{index}"),
            free_bytes: *free_bytes,
            problem: None,
        };
        HostRoom {
            node: NodeId::new(name).unwrap(),
            problem: None,
            has_replica: false,
            vgs: free.iter().enumerate().map(vg).collect(),
        }
    }

    fn check(replicas: usize, on: &[&str], hosts: &[HostRoom], want: Result<&str, &str>) {
        let on = on.iter().map(|node| NodeId::new(node).unwrap()).collect();
        let request = Request {
            size: VolumeSize::new(8192).unwrap(),
            replicas,
            on,
        };
        let got = choose(&request, hosts)
            .map(|places| {
                let places: Vec<String> = places.iter().map(|p| format!("{}/{}", p.node, p.vg)).collect();
                places.join(" ")
            })
            .map_err(|refusal| refusal.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn the_roomiest_hosts_are_chosen_and_a_refusal_names_every_host() {
        let hosts = [host("a", &[9000, 20000]), host("b", &[30000]), host("c", &[100])];
        check(1, &[], &hosts, Ok("b/vg0"));
        check(2, &[], &hosts, Ok("b/vg0 a/vg1"));
        check(2, &["a", "b"], &hosts, Ok("a/vg1 b/vg0"));
        check(
            3,
            &[],
            &hosts,
            Err("2 of 3 replicas can be placed: node c has 100 B free (100 bytes)"),
        );
        check(
            1,
            &["c"],
            &hosts,
            Err("0 of 1 replicas can be placed: node c has 100 B free (100 bytes)"),
        );
        check(
            1,
            &["x"],
            &hosts,
            Err("0 of 1 replicas can be placed: node x not in the pool"),
        );
    }

    #[test]
    fn hosts_that_cannot_take_a_replica_say_why() {
        let mut down = host("a", &[1 << 20]);
        down.problem = Some("is unreachable".to_owned());
        let mut taken = host("b", &[1 << 20]);
        taken.has_replica = true;
        let mut broken = host("d", &[1 << 20]);
        broken.vgs[0].problem = Some("cannot read its directory".to_owned());
        let hosts = [down, taken, host("c", &[]), broken];
        check(
            1,
            &[],
            &hosts,
            Err(
                "0 of 1 replicas can be placed: node a is unreachable; node b has a replica already; \
                 node c has no volume group; node d cannot read its directory",
            ),
        );
    }

    #[test]
    fn equal_room_is_decided_by_name() {
        let hosts = [host("b", &[9000, 9000]), host("a", &[9000])];
        check(2, &[], &hosts, Ok("a/vg0 b/vg0"));
    }
}
