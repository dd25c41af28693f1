//! What may replication take of this host? Kept beside the identity, so that a restart changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use api::control::{HostLimits, Outcome};
use model::{NodeId, VolumeId};

use super::{Host, Reply, failed, usage};

/// Below this many bytes per second links would seem dead.
const RATE_MIN: u64 = 1 << 20;

impl Host {
    fn limits_path(&self) -> PathBuf {
        self.config.state_dir.join("limits.json")
    }

    /// Lives by what is kept from an earlier life.
    pub(super) fn resume_limits(&self) -> anyhow::Result<()> {
        use anyhow::Context;
        let path = self.limits_path();
        let limits = load(&path).with_context(|| format!("read {}", path.display()))?;
        self.heed(&limits);
        *self.limits() = limits;
        Ok(())
    }

    pub(super) async fn set_limits(&self, limits: HostLimits) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        let rates = limits.send_bytes_per_second.iter();
        if rates
            .chain(limits.peer_bytes_per_second.values())
            .any(|rate| *rate < RATE_MIN)
        {
            return usage(format!(
                "a rate of a host or peer is at least {RATE_MIN} bytes per second"
            ));
        }
        if limits.parallel_syncs == Some(0) {
            return usage("with no full sync at a time no replica ever becomes whole; pause sync instead");
        }
        if *self.limits() == limits {
            return Ok(Outcome::Done);
        }
        let path = self.limits_path();
        let written = serde_json::to_vec_pretty(&limits)
            .map_err(io::Error::other)
            .and_then(|text| crate::persist::create_atomically(&path, &text));
        written.map_err(|e| failed(&format!("write {}", path.display()), &e))?;
        self.heed(&limits);
        *self.limits() = limits;
        self.divide_room().await;
        Ok(Outcome::Done)
    }

    fn heed(&self, limits: &HostLimits) {
        // A name that is none belongs to nobody; whoever wrote it checked it.
        let preferred = limits.prefer.iter().filter_map(|id| id.parse::<VolumeId>().ok());
        self.turns.set(limits.parallel_syncs, preferred.collect());
        let peer = |(node, rate): (&String, &u64)| Some((NodeId::new(node).ok()?, *rate));
        let peers: BTreeMap<NodeId, u64> = limits.peer_bytes_per_second.iter().filter_map(peer).collect();
        self.links.pace().set(limits.send_bytes_per_second, &peers);
    }
}

fn load(path: &Path) -> io::Result<HostLimits> {
    match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(HostLimits::default()),
        read => Ok(serde_json::from_slice(&read?)?),
    }
}
