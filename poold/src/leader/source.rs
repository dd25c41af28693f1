//! From whom does a replica get its log? From the primary, unless an operator names others that have it.

use std::time::Instant;

use api::ApiError;
use api::pool::{Changed, SetSource};
use migrate::Unsafe;
use model::NodeId;

use super::Leader;
use super::jobs::refusal;
use super::settings::{if_away, keep_wishes, refused};
use crate::catalog::records::LifeRecord;

/// Members that may be named.
const SOURCES_MAX: usize = 7;

impl Leader {
    /// `volume source`. Errors: `not-found`, `usage`, `refused` for a node without a replica.
    pub fn volume_source(&self, name: &str, request: &SetSource) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let snapshot = self.inventory.snapshot();
        self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            if volume.life == LifeRecord::Deleting {
                return Err(refusal(&Unsafe::Deleting, name));
            }
            for node in std::iter::once(&request.node).chain(&request.sources) {
                tx.records.node(node)?;
                if !volume.members.iter().any(|place| place.node == *node) {
                    let id = NodeId::new(node).map_err(|error| ApiError::usage(error.to_string()))?;
                    return Err(refusal(&Unsafe::NotMember(id), name));
                }
            }
            let sources = &request.sources;
            let twice = (1..sources.len()).any(|at| sources[..at].contains(&sources[at]));
            if twice || sources.len() > SOURCES_MAX || sources.contains(&request.node) {
                return Err(refused(
                    &volume,
                    format!("the sources of a replica are up to {SOURCES_MAX} others, each named once"),
                    format!("`poolctl volume show {name}` lists the replicas"),
                ));
            }
            let before = volume.sources.get(&request.node).cloned().unwrap_or_default();
            let mut steps = Vec::new();
            if before != *sources {
                let node = &request.node;
                let whom = match sources.is_empty() {
                    true => "the primary".to_owned(),
                    false => format!("{}, else the primary", sources.join(", else ")),
                };
                let away = if_away(&snapshot, node, Instant::now());
                steps.push(format!(
                    "the replica on node {node} gets its log from {whom}{away}"
                ));
                match sources.is_empty() {
                    true => volume.sources.remove(node),
                    false => volume.sources.insert(node.clone(), sources.clone()),
                };
            }
            keep_wishes(tx, &mut volume, &mut steps)?;
            Ok(Changed {
                object: object.clone(),
                dry_run: request.dry_run,
                generation: volume.generation,
                steps,
                ..Changed::default()
            })
        })
    }
}
