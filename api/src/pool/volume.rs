//! What can be asked of a volume, and how does it stand?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::{SwitchWord, VolumeLimits, VolumeSettings};

/// `volume create`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CreateVolume {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    pub name: String,
    /// A multiple of 4096.
    pub size_bytes: u64,
    /// How many replicas, 1 to 8; when absent as many as `on` names, else 1.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// `async` (the default), `near-sync`, `sync`.
    #[serde(default)]
    pub mode: Option<String>,
    /// A lag that is longer is alarming.
    #[serde(default)]
    pub lag_millis_max: Option<u64>,
    /// A lag that is larger is alarming.
    #[serde(default)]
    pub lag_bytes_max: Option<u64>,
    /// These hosts exactly, the first being primary; the planner chooses when empty.
    #[serde(default)]
    pub on: Vec<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume delete`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeleteVolume {
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume primary`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MakePrimary {
    /// Which node.
    pub node: String,
    /// Without asking the present primary: what the node does not have is lost to guests.
    #[serde(default)]
    pub force: bool,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume set`: what is absent stays as it is. Returns a job when the number of replicas changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetVolume {
    /// `async`, `near-sync`, `sync`.
    #[serde(default)]
    pub mode: Option<String>,
    /// How many replicas a flush waits for in the modes that wait; 1 when such a mode is chosen without it.
    #[serde(default)]
    pub flush_replicas: Option<u8>,
    /// How long a flush waits for them in near-sync mode; 200 when that mode is chosen without it.
    #[serde(default)]
    pub flush_wait_millis: Option<u32>,
    /// A lag that is longer is alarming; 0: none is.
    #[serde(default)]
    pub lag_millis_max: Option<u64>,
    /// A lag that is larger is alarming; 0: none is.
    #[serde(default)]
    pub lag_bytes_max: Option<u64>,
    /// Whether guests are slowed down then.
    #[serde(default)]
    pub throttle: Option<bool>,
    /// How many replicas, 1 to 8; the planner chooses where.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Whether the log is compressed: `lz4` or `none`.
    #[serde(default)]
    pub compression: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `limit set` of a host: what is absent stays as it is, 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetNodeLimits {
    /// Full syncs of replicas there that go on at one time.
    #[serde(default)]
    pub parallel_syncs: Option<u32>,
    /// Names of volumes whose full sync goes first, in order; an empty list: none does.
    #[serde(default)]
    pub prefer: Option<Vec<String>>,
    /// Bytes that replication sends from there.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Only what it sends to this host.
    #[serde(default)]
    pub peer: Option<String>,
    /// Log kept there for all volumes together, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_budget_bytes: Option<u64>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume resize`. Returns a job, unless the volume has that length already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeVolume {
    /// Its new length, not below the present one.
    pub size_bytes: u64,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `limit set`: what is absent stays as it is, 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLimits {
    /// Log sent to replicas.
    #[serde(default)]
    pub ship_bytes_per_second: Option<u64>,
    /// Contents sent in full syncs and repairs.
    #[serde(default)]
    pub sync_bytes_per_second: Option<u64>,
    /// Log kept on each host, at most; 0 is the usual budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_budget_bytes: Option<u64>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume source`: from whom a replica is to get its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSource {
    /// Whose replica.
    pub node: String,
    /// Members, best first; none: the primary.
    pub sources: Vec<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume pause|resume|up|down`, and `attach|detach --replica`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchVolume {
    /// What stops or goes on; `all` stands for every one.
    pub switch: SwitchWord,
    /// Whether it goes on.
    pub on: bool,
    /// Only on this node; on every one with a replica when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume join`, `volume leave`: what becomes of the volume on a node. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OnNode {
    /// Which node.
    pub node: String,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// Kinds of doors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorKind {
    /// NBD on a Unix socket, or on TCP when an address is given.
    #[default]
    Nbd,
    /// vhost-user-blk on a Unix socket, for virtual machines.
    VhostUserBlk,
}

/// `volume attach`: opens a door and waits until it is open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attach {
    /// Which kind.
    #[serde(default)]
    pub door: DoorKind,
    /// On which node; the primary's when absent. Without a replica there it is a remote door.
    #[serde(default)]
    pub node: Option<String>,
    /// TCP address such as `127.0.0.1:10809` (port 0: any free one) instead of a Unix socket. Plain text: loopback only.
    #[serde(default)]
    pub tcp: Option<String>,
    /// Unix socket path instead of marsd's own choice.
    #[serde(default)]
    pub path: Option<String>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// The door that is open now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The volume.
    pub volume: String,
    /// The host with the door.
    pub node: String,
    /// Kind of the door.
    pub kind: DoorKind,
    /// Unix path or TCP address; empty for a dry run.
    pub path: String,
    /// For NBD clients; empty for other doors and for a dry run.
    pub uri: String,
    /// Whether that host has no replica.
    pub remote: bool,
    /// Whether it was only tried.
    pub dry_run: bool,
}

/// `volume detach`: closes doors and waits until they are closed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Detach {
    /// Only those on this node; all when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume verify`. Returns a job whose `verify` holds the result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verify {
    /// Copy from the primary what differs.
    #[serde(default)]
    pub repair: bool,
    /// Bytes to compare in a second at most; as fast as it goes when absent.
    #[serde(default)]
    pub bytes_per_second_max: Option<u64>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// A volume as `volume show` prints it; desired and observed state merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its identity for life, 32 hex digits.
    pub id: String,
    /// Its length, as wished; while it grows, that of a replica may still be less.
    pub size_bytes: u64,
    /// `async`, `near-sync`, `sync`.
    pub mode: String,
    /// The mode with its figures, and when a lag is alarming; as wished, the primary may not have heard of it yet.
    pub settings: VolumeSettings,
    /// How much of the network it may take; as wished.
    pub limits: VolumeLimits,
    /// Log kept on each host, at most; as wished. The usual budget when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_budget_bytes: Option<u64>,
    /// Whether its log is compressed: `lz4` or `none`; as wished.
    pub compression: String,
    /// Since when too few replicas keep up with the mode: near-sync is degraded, sync lets guests wait; `null` when enough do.
    pub short_seconds: Option<f64>,
    /// Since when the replicas are further behind than allowed; `null` when they are not.
    pub late_seconds: Option<f64>,
    /// The room for its log, at its primary.
    #[serde(flatten)]
    pub room: LogRoom,
    /// The worst of its replicas' states; `creating` and `deleting` at the ends of its life.
    pub state: String,
    /// Where the primary is, as observed; desired where nothing is observed yet.
    pub primary: Option<String>,
    /// The primary's term, as observed.
    pub epoch: u32,
    /// Generation of its desired state.
    pub generation: u64,
    /// Its replicas, the primary first.
    pub replicas: Vec<ReplicaRow>,
    /// Its doors.
    pub doors: Vec<DoorRow>,
    /// When the comparison began that last found all replicas equal (RFC 3339).
    pub last_verified: Option<String>,
    /// Replicas that the last comparison left different, with the length of what differs.
    pub differing_bytes: BTreeMap<String, u64>,
    /// Histories of former split brains that hosts keep: `volume split-brain show` lists them.
    pub kept_histories: u64,
    /// What they take.
    pub kept_bytes: u64,
    /// The job at work on it.
    pub job: Option<String>,
}

/// The room for a volume's log at its primary; a part of [`Volume`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRoom {
    /// How much trouble it gives: `normal`, `throttled`, `dropping`, `unlogged`, `stalled`; empty when nobody knows.
    pub pressure: String,
    /// Since when changes go straight to the disk for lack of room; `null` when they do not.
    pub unlogged_seconds: Option<f64>,
    /// Log kept there.
    pub log_bytes: u64,
    /// Its budget there.
    pub log_bytes_max: u64,
    /// For whom its oldest part is kept, in words; `null` when there is none.
    pub log_held_by: Option<String>,
}

/// A replica as `volume show` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// The host.
    pub node: String,
    /// `primary` or `secondary`, as observed.
    pub role: String,
    /// `uptodate | behind | syncing | inconsistent | paused | unreachable | split-brain | defective-log | detached`.
    pub state: String,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// The volume's length as far as its log is applied; 0 when never reported.
    #[serde(default)]
    pub size_bytes: u64,
    /// Percent of its full sync; 100 when whole.
    pub sync_percent: f64,
    /// Log of the primary that it does not have durably.
    pub lag_bytes: u64,
    /// Age of the oldest write that it does not have durably.
    pub lag_seconds: f64,
    /// What it may lack of the contents, where a map says so instead of the log; `null` where the log does.
    #[serde(default)]
    pub dirty_bytes: Option<u64>,
    /// End of its log.
    pub appended: u64,
    /// Durable in its log.
    pub committed: u64,
    /// On its disk.
    pub written_back: u64,
    /// As the primary knows it; its own `committed` for the primary itself.
    pub peer_committed: u64,
    /// Its volume group.
    pub vg: String,
    /// What an operator has stopped there: `sync`, `fetch`, `replay`, `attach`; as wished.
    pub paused: Vec<SwitchWord>,
    /// Through whom its log comes, the primary first; empty at the primary and while nobody sends it.
    #[serde(default)]
    pub path: Vec<String>,
    /// From whom it is to get its log rather than from the primary, best first; as wished.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Whether only an operator's word says that it is whole.
    pub faked: bool,
    /// When the comparison began that last found it equal to the others (RFC 3339), as it remembers itself.
    pub verified: Option<String>,
    /// Age of these figures; `null` when never reported.
    pub age_seconds: Option<f64>,
}

/// A door as `volume show` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorRow {
    /// Kind of the door.
    pub kind: DoorKind,
    /// The host with the door.
    pub node: String,
    /// Unix path or TCP address; empty until it is open.
    pub path: String,
    /// For NBD clients; empty for other doors and until it is open.
    pub uri: String,
    /// Whether it is open.
    pub open: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether its host has no replica.
    pub remote: bool,
    /// Guests connected now.
    pub clients: u64,
    /// Longest time any request has waited while the primary moved, in microseconds.
    pub pause_micros_max: u64,
}

/// `volume list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeList {
    /// By name.
    pub volumes: Vec<Volume>,
}

/// `volume log show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLog {
    /// The volume.
    pub name: String,
    /// One per replica, the primary first.
    pub replicas: Vec<LogRow>,
}

/// The log of one replica; positions in bytes since the log began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// The host.
    pub node: String,
    /// `primary` or `secondary`.
    pub role: String,
    /// `term.start` of the primary as known there.
    pub epoch: String,
    /// Where the log kept begins.
    pub trimmed: u64,
    /// On the disk.
    pub written_back: u64,
    /// Nothing after it has reached the disk.
    pub touched: u64,
    /// Durable in the log.
    pub committed: u64,
    /// End of the log.
    pub appended: u64,
    /// Bytes of log kept.
    pub kept_bytes: u64,
    /// Budget for them there.
    #[serde(default)]
    pub budget_bytes: u64,
    /// How much trouble the room for it gives: `normal`, `throttled`, `dropping`, `unlogged`, `stalled`.
    #[serde(default)]
    pub pressure: String,
    /// At the primary: for whom its oldest part is kept, in words.
    #[serde(default)]
    pub held_by: Option<String>,
    /// Digest of the log's end.
    pub chain_digest: String,
}

/// `volume log rotate|trim`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OnNodes {
    /// Only there; on every host with a replica when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `volume split-brain drop`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DropKept {
    /// Only this history; all of the volume's when absent.
    #[serde(default)]
    pub history: Option<String>,
    /// Only those on this host.
    #[serde(default)]
    pub node: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// A history that was put aside when its replica began anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptHistory {
    /// The host that keeps it.
    pub node: String,
    /// Its name, as `split-brain drop` takes it.
    pub history: String,
    /// The directory there.
    pub path: String,
    /// What it takes.
    pub bytes: u64,
    /// When it was put aside (RFC 3339).
    pub kept: String,
    /// The host whose history it had parted from; `null` when nobody knows.
    pub parted_from: Option<String>,
    /// The last position that both had.
    pub at: Option<u64>,
    /// What it has behind that.
    pub here: Option<SplitSide>,
}

/// `volume split-brain show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitBrain {
    /// The volume.
    pub name: String,
    /// Whether histories have parted, as far as is known.
    pub parted: bool,
    /// Where the primary of the newest term is: the side that lives on unless somebody says otherwise.
    pub primary: Option<String>,
    /// Each pair of replicas that see it, from the one's point of view.
    pub pairs: Vec<SplitPair>,
    /// Histories of former losers that hosts keep until somebody drops them.
    pub kept: Vec<KeptHistory>,
}

/// Two replicas whose histories have parted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitPair {
    /// Who sees it.
    pub node: String,
    /// With whom.
    pub other: String,
    /// The last position that both have.
    pub at: u64,
    /// Digest of the history up to there.
    pub at_digest: String,
    /// What `node` has behind it.
    pub here: SplitSide,
    /// What `other` has, once it was told.
    pub there: Option<SplitSide>,
}

/// What one side has behind the parting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitSide {
    /// Log in bytes.
    pub bytes: u64,
    /// Changes of the volume in it.
    pub records: u64,
    /// When the first was written (RFC 3339), by its writer's clock; `null` when nobody knows.
    pub first: Option<String>,
    /// The same for the last.
    pub last: Option<String>,
    /// Whether all of that log was still there; else there was more.
    pub complete: bool,
}

/// `volume split-brain resolve`. Returns a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResolveSplitBrain {
    /// The side that lives on; the primary of the newest term when absent.
    #[serde(default)]
    pub winner: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}
