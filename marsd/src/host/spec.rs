//! What is a volume supposed to be on this host? One small file each, replaced atomically.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use api::control::{BirthKind, DoorSpec, Member};
use model::{NodeId, VolumeName, VolumeSize};
use serde::{Deserialize, Serialize};

use super::{Reply, usage};

/// The only form of the file there is so far.
const SCHEMA: u32 = 1;

/// A volume as it was asked for: `STATE/volumes/ID/spec.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Version of the file's form.
    pub schema: u32,
    /// What people call it.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
    /// Every host with a replica.
    pub members: Vec<Member>,
    /// The replica here, if there is to be one.
    pub replica: Option<ReplicaSpec>,
    /// Doors that are to be open.
    pub doors: Vec<DoorEntry>,
    /// A replica was here and is to vanish: what is left of it is removed before anything else happens.
    pub dropping: bool,
    /// The volume is to vanish.
    pub forgotten: bool,
}

/// A replica as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplicaSpec {
    /// Path of its disk.
    pub disk: String,
    /// How it comes into the world.
    pub birth: BirthKind,
    /// Log kept for slow peers.
    pub log_bytes_max: Option<u64>,
    /// An operator has taken it out of service; log and disk stay closed.
    pub detached: bool,
}

/// A door that is to be open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DoorEntry {
    /// As it was asked for, with the default path filled in.
    pub door: DoorSpec,
    /// Where it was opened: a port that was chosen freely is kept, so that clients find it again.
    pub address: String,
}

impl Spec {
    /// Checks what came from outside.
    pub fn new(
        name: &VolumeName,
        size: VolumeSize,
        members: Vec<Member>,
        replica: Option<ReplicaSpec>,
    ) -> Reply<Spec> {
        check_members(&members)?;
        if let Some(replica) = &replica
            && !Path::new(&replica.disk).is_absolute()
        {
            return usage(format!("disk `{}` must be an absolute path", replica.disk));
        }
        Ok(Spec {
            schema: SCHEMA,
            name: name.to_string(),
            size_bytes: size.bytes(),
            members,
            replica,
            doors: Vec::new(),
            dropping: false,
            forgotten: false,
        })
    }

    /// Reads the file at `path`.
    pub fn load(path: &Path) -> io::Result<Spec> {
        let spec: Spec = serde_json::from_slice(&std::fs::read(path)?)?;
        if spec.schema != SCHEMA {
            let text = format!(
                "schema {} is not known to this version of marsd ({SCHEMA})",
                spec.schema
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(spec)
    }

    /// Replaces the file at `path`.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        crate::persist::create_atomically(path, &serde_json::to_vec_pretty(self)?).map(drop)
    }
}

/// Whether the list can be one: at least one node, each once, each with a place to find it.
pub(crate) fn check_members(members: &[Member]) -> Reply<()> {
    let mut seen = BTreeSet::new();
    for node in nodes(members)? {
        if !seen.insert(node.clone()) {
            return usage(format!("node {node} is named twice among the members"));
        }
    }
    if seen.is_empty() {
        return usage("a volume has at least one member");
    }
    for Member { node, addr } in members {
        let port = addr
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if port
            .and_then(|port| port.parse::<u16>().ok())
            .is_none_or(|port| port == 0)
        {
            return usage(format!("`{addr}` of node {node} is not of the form host:port"));
        }
    }
    Ok(())
}

/// The members' names.
pub(crate) fn nodes(members: &[Member]) -> Reply<Vec<NodeId>> {
    members
        .iter()
        .map(|member| NodeId::new(&member.node).or_else(|e| usage(e.to_string())))
        .collect()
}
