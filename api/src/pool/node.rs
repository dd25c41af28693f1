//! How does a host come into the pool, and how is it seen there?

use serde::{Deserialize, Serialize};

use crate::control::HostLimits;

/// `pool init`: makes the pool on the host whose daemon is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolInit {
    /// The pool's name.
    pub name: String,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `GET /v1/pool`: which pool is this daemon in? Answered without a pool too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The daemon's node name.
    pub node: String,
    /// The pool's name; `null` before `pool init` or `node join`.
    pub pool: Option<String>,
    /// Whether the catalog lies here.
    pub catalog: bool,
    /// Where other hosts reach this daemon.
    pub address: String,
    /// Version of the daemon.
    pub program_version: String,
}

/// `node token`: lets one more host join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssueToken {
    /// How long it may be used, in seconds; an hour when absent. It may be used once.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// A token, shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// To be given to `node join`; empty for a dry run.
    pub token: String,
    /// The URL to be given with it.
    pub url: String,
    /// When it ends (RFC 3339).
    pub expires: String,
}

/// `node join URL --token T`: asked of the joining host's own daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinPool {
    /// `https://host:port` of the pool; the token's own address when empty.
    #[serde(default)]
    pub url: String,
    /// From `node token`.
    pub token: String,
    /// Only try: reach the pool and check that it is the token's.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a joining daemon sends to the pool; the only request without a client certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: String,
    /// Name of the joining node.
    pub node: String,
    /// Where its daemon will be reached.
    pub address: String,
    /// Where its marsd will be reached by peers.
    pub peer_address: String,
    /// Certificate signing request (PEM); the private key never leaves the host.
    pub csr_pem: String,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// What the pool gives to a joining daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The pool's name.
    pub pool: String,
    /// The node that holds the catalog.
    pub leader: String,
    /// Where its daemon is.
    pub leader_address: String,
    /// Certificate of the pool's CA (PEM).
    pub ca_pem: String,
    /// Certificate of the joining node (PEM); empty for a dry run.
    pub cert_pem: String,
}

/// How a host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Its daemon and its marsd report.
    Online,
    /// Its daemon reports that marsd does not answer.
    MarsdDown,
    /// Nothing has been heard for too long.
    Unreachable,
}

/// A host of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub state: NodeState,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// Where its daemon is.
    pub address: String,
    /// Where its marsd listens for peers.
    pub peer_address: String,
    /// Whether it holds the catalog.
    pub catalog: bool,
    /// Age of what is known of it; `null` when it has never reported to this catalog's daemon.
    pub age_seconds: Option<f64>,
    /// Size of all its volume groups.
    pub size_bytes: u64,
    /// What replicas have reserved.
    pub reserved_bytes: u64,
    /// What a new replica can have.
    pub free_bytes: u64,
    /// Replicas that belong here.
    pub replicas: u64,
    /// Volumes whose primary is here.
    pub primaries: u64,
    /// Version of its poold.
    pub poold_version: Option<String>,
    /// Version of its marsd.
    pub marsd_version: Option<String>,
    /// When it joined (RFC 3339).
    pub joined: String,
    /// What replication may take of it, with names of volumes; as wished.
    pub limits: HostLimits,
    /// Whether it is drained: nothing new is placed on it.
    pub drained: bool,
}

/// `node drain`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DrainNode {
    /// Whether replicas leave it too.
    #[serde(default)]
    pub evacuate: bool,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `node reboot-check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RebootCheck {
    /// The host.
    pub node: String,
    /// Whether it may go away for a while now: no guest would notice, and nothing would be lost.
    pub may_reboot: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What will be so while it is away, and harms nobody.
    pub notes: Vec<String>,
    /// When this was found (RFC 3339).
    pub checked: String,
}

/// `node list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<Node>,
}

/// `node remove`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RemoveNode {
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}
