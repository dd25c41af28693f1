//! What may replication take of a host? Wishes, kept here and told to the host's marsd until it lives by them.

use api::ApiError;
use api::control::HostLimits;
use api::pool::{Changed, SetNodeLimits};
use model::Bytes;

use super::Leader;
use crate::catalog::Records;
use crate::catalog::records::NodeRecord;

/// Below this many bytes per second links would seem dead.
const RATE_MIN: u64 = 1 << 20;

impl Leader {
    /// `limit set` of a host.
    pub fn node_limits(&self, name: &str, request: &SetNodeLimits) -> Result<Changed, ApiError> {
        let object = format!("node {name}");
        if request
            .bytes_per_second
            .is_some_and(|rate| rate > 0 && rate < RATE_MIN)
        {
            let message = format!("less than {} each second would break links", Bytes(RATE_MIN));
            return Err(ApiError::usage(message)
                .hint("give more, limit single volumes, or pause them: `poolctl volume pause`")
                .object(object));
        }
        self.change(request.dry_run, |tx| {
            let mut node = tx.records.node(name)?.clone();
            let mut limits = node.limits.clone();
            if let Some(syncs) = request.parallel_syncs {
                limits.parallel_syncs = Some(syncs).filter(|syncs| *syncs > 0);
            }
            if let Some(prefer) = &request.prefer {
                let id = |name: &String| tx.records.volume(name).map(|volume| volume.id.clone());
                limits.prefer = prefer.iter().map(id).collect::<Result<_, _>>()?;
            }
            match (&request.peer, request.bytes_per_second) {
                (Some(peer), Some(rate)) => {
                    tx.records.node(peer)?;
                    if peer == name {
                        let message = format!("node {name} sends nothing to itself");
                        return Err(ApiError::usage(message)
                            .hint("name another --peer")
                            .object(object.clone()));
                    }
                    match rate {
                        0 => limits.peer_bytes_per_second.remove(peer),
                        rate => limits.peer_bytes_per_second.insert(peer.clone(), rate),
                    };
                }
                (None, Some(rate)) => limits.send_bytes_per_second = Some(rate).filter(|rate| *rate > 0),
                (_, None) => {}
            }
            if let Some(bytes) = request.log_budget_bytes {
                limits.log_bytes_max = Some(bytes).filter(|bytes| *bytes > 0);
            }
            let mut steps = vec!["nothing: it is so already".to_owned()];
            if limits != node.limits {
                steps = describe(&limits, &tx.records);
                node.limits = limits;
                tx.event(&object, steps.join("; "))?;
                tx.put(node)?;
            }
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                steps,
                ..Changed::default()
            })
        })
    }
}

fn describe(limits: &HostLimits, records: &Records) -> Vec<String> {
    let rate = |rate: Option<u64>| {
        rate.map_or("as fast as it goes".to_owned(), |rate| {
            format!("{}/s at most", Bytes(rate))
        })
    };
    let syncs = match limits.parallel_syncs {
        None => "all full syncs there go on at one time".to_owned(),
        Some(max) => format!("{max} full syncs there go on at one time, the others wait for their turn"),
    };
    let mut steps = vec![
        syncs,
        format!(
            "replication sends from there {}",
            rate(limits.send_bytes_per_second)
        ),
    ];
    if let Some(bytes) = limits.log_bytes_max {
        let bytes = Bytes(bytes);
        steps.push(format!(
            "all logs there take {bytes} together at most; whoever uses most gives up first"
        ));
    }
    let names = named(limits, records).prefer;
    if !names.is_empty() {
        steps.push(format!("full syncs of {} go first", names.join(", ")));
    }
    let peers = limits.peer_bytes_per_second.iter();
    steps.extend(peers.map(|(peer, max)| format!("to node {peer} {}", rate(Some(*max)))));
    steps
}

/// As people see it: with names of volumes, without those that are no more.
pub fn named(limits: &HostLimits, records: &Records) -> HostLimits {
    let name = |id: &String| records.volumes.get(id).map(|volume| volume.name.clone());
    HostLimits {
        prefer: limits.prefer.iter().filter_map(name).collect(),
        ..limits.clone()
    }
}

/// What the node's marsd is told: volumes and peers that are no more are left out.
pub fn told(node: &NodeRecord, records: &Records) -> HostLimits {
    let mut limits = node.limits.clone();
    limits.prefer.retain(|id| records.volumes.get(id).is_some());
    limits
        .peer_bytes_per_second
        .retain(|peer, _| records.nodes.get(peer).is_some());
    limits
}
