//! How does the control plane speak to marsd? One JSON object per line over a local Unix socket.
//!
//! The client sends `{"version":1,"id":N,"method":…,…}` and gets `{"id":N,"ok":…}` or `{"id":N,"error":{…}}`; answers
//! may come in any order. Every method is idempotent: asking for what already is succeeds and changes nothing.

mod snapshot;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use snapshot::{RestoreEndWord, RestoreStatus, SnapshotStatus, SnapshotWord};

/// Version of this protocol; a daemon refuses any other by name.
pub const CONTROL_VERSION: u32 = 1;

/// One call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlRequest {
    /// [`CONTROL_VERSION`].
    pub version: u32,
    /// Comes back with the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlResponse {
    /// Of the request.
    pub id: u64,
    /// The good answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<Outcome>,
    /// The bad answer; nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ControlError>,
}

/// Everything that can be asked of marsd. Volumes are named by their id (32 hex digits).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Call {
    /// This host's name and credentials for links to peers; kept by marsd until replaced.
    Identity {
        /// Node name; the certificate carries it as its DNS name.
        node: String,
        /// PEM of the pool's CA.
        ca_pem: String,
        /// PEM of this node's certificate.
        cert_pem: String,
        /// PEM of its key.
        key_pem: String,
    },
    /// Certificates of nodes that were removed from the pool: no link to or from them; those that exist are cut. Kept by marsd
    /// until replaced.
    Revoked {
        /// Serial numbers of certificates, in hex; all of them, not only new ones.
        serials: Vec<String>,
    },
    /// What replication may take of this host; all of it, not only what is new. Kept by marsd until replaced.
    HostLimits {
        /// All of them.
        limits: HostLimits,
    },
    /// Take care of a replica from now on. An existing one of the same id must agree in its disk, and must not be longer.
    VolumeCreate {
        /// Volume id.
        volume: String,
        /// What people call it; sockets and exports carry this name.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// The disk: an existing file or block device of at least that length.
        disk: String,
        /// How it comes into the world if there is no state for it yet.
        birth: BirthKind,
        /// Every host with a replica, this one included.
        members: Vec<Member>,
        /// Budget of its log here; the default when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log_bytes_max: Option<u64>,
    },
    /// Know a volume without having a replica, so that doors can be opened here (remote doors); or learn that it is longer.
    VolumeRemote {
        /// Volume id.
        volume: String,
        /// What people call it.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Make the volume longer while guests use it; asked of the primary, answered once guests may use the new part. Disks that are
    /// files grow by themselves; block devices must have been extended on every host before. Connected guests see the
    /// new length when they connect again.
    VolumeResize {
        /// Volume id.
        volume: String,
        /// The new length; not less than the present one.
        size_bytes: u64,
    },
    /// The members are these now; a host with a remote door only is told too.
    VolumeMembers {
        /// Volume id.
        volume: String,
        /// Every host with a replica.
        members: Vec<Member>,
    },
    /// Give the primary role to another member; asked of the present primary, answered when granted.
    VolumeHandOver {
        /// Volume id.
        volume: String,
        /// The successor.
        to: String,
        /// How long guests may wait at the gate before it is given up.
        gate_millis_max: u64,
    },
    /// Make the replica here primary although nobody grants it the role; answered once guests are served. What other
    /// members have and this one has not is lost to the guests.
    VolumeTakeOver {
        /// Volume id.
        volume: String,
        /// A takeover's term, given out once: the next multiple of 65,536 above every term that anybody has seen.
        term: u32,
    },
    /// The replica here is to be primary no more, without a successor: nobody serves guests until a replica takes over.
    VolumeSecondary {
        /// Volume id.
        volume: String,
    },
    /// Digest the whole contents of the replica here, over disk and log.
    VolumeChecksum {
        /// Volume id.
        volume: String,
    },
    /// Compare all replicas while guests write; asked of the primary, answered once that is durably begun. The status says how
    /// it goes. While a comparison is under way, it only takes the new settings.
    VolumeVerify {
        /// Volume id.
        volume: String,
        /// Copy from the primary what differs.
        #[serde(default)]
        repair: bool,
        /// Bytes to compare in a second at most; as fast as it goes when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes_per_second_max: Option<u64>,
    },
    /// End the comparison, if one is under way; asked of the primary.
    VolumeVerifyCancel {
        /// Volume id.
        volume: String,
    },
    /// Keep this version on every replica; asked of the primary, answered once that is durably decided. The status of each host
    /// tells what becomes of it there. A name that is known already is not taken again.
    VolumeSnapshot {
        /// Volume id.
        volume: String,
        /// What it is called.
        name: String,
    },
    /// Give up what the replica here keeps of a version.
    VolumeSnapshotDrop {
        /// Volume id.
        volume: String,
        /// What it is called.
        name: String,
        /// Its position.
        at_lsn: u64,
        /// 32 hex digits: of which history.
        at_digest: String,
    },
    /// Bring the contents of a snapshot back, as writes of a guest, so that all replicas follow; asked of the primary, which must keep it,
    /// answered once begun. The status tells how it goes. It ends with this marsd or its role: asked again, it compares from the beginning.
    VolumeRestore {
        /// Volume id.
        volume: String,
        /// What it is called.
        name: String,
        /// Its position.
        at_lsn: u64,
        /// 32 hex digits: of which history.
        at_digest: String,
        /// Chosen by whoever asks: a run that goes on or has finished here is not begun again.
        run: u64,
    },
    /// End a restore, if one is under way: contents are a mixture of before and after then.
    VolumeRestoreCancel {
        /// Volume id.
        volume: String,
    },
    /// Budget of the log of the replica here from now on; kept. Less than 32 KiB is none: then changes go straight to the disk, and what
    /// the other replicas lack is remembered.
    VolumeLogBudget {
        /// Volume id.
        volume: String,
        /// In bytes; the default when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log_bytes_max: Option<u64>,
    },
    /// Compress what is written to the log from now on, or not; asked of the primary, which tells the others.
    VolumeCompression {
        /// Volume id.
        volume: String,
        /// Whether.
        compressed: bool,
    },
    /// These decisions hold for the volume from now on; asked of the primary, which tells the others.
    VolumeSettings {
        /// Volume id.
        volume: String,
        /// All of them.
        settings: VolumeSettings,
    },
    /// The volume takes no more of the network than this from now on; asked of the primary, which tells the others.
    VolumeLimits {
        /// Volume id.
        volume: String,
        /// All of them.
        limits: VolumeLimits,
    },
    /// Get the log of the replica here from these members rather than from the primary, best first; none: from the primary.
    VolumeSources {
        /// Volume id.
        volume: String,
        /// Node names.
        sources: Vec<String>,
    },
    /// Let the log here go over to another file, so that what is there can be given back as a whole.
    VolumeLogRotate {
        /// Volume id.
        volume: String,
    },
    /// Give back what nobody needs of the log here, however little it is.
    VolumeLogTrim {
        /// Volume id.
        volume: String,
    },
    /// Remove histories that were put aside here when a replica began anew.
    KeptDrop {
        /// Volume id.
        volume: String,
        /// Only this one; all of the volume's when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        history: Option<String>,
    },
    /// Stop something at the replica here, or let it go on; kept over restarts.
    VolumeSwitch {
        /// Volume id.
        volume: String,
        /// What.
        switch: SwitchWord,
        /// Whether it goes on.
        on: bool,
    },
    /// Throw the contents of the replica here away and take them anew from a source by a full sync.
    VolumeInvalidate {
        /// Volume id.
        volume: String,
        /// Whether the log that is thrown away is put aside, for whoever wants to see what only it holds.
        keep: bool,
    },
    /// Declare the replica here whole although its full sync is not finished; only for whoever knows that its disk is right.
    VolumeFakeSync {
        /// Volume id.
        volume: String,
    },
    /// Forget a volume: close its doors, drop its log and state; the disk is left alone.
    VolumeForget {
        /// Volume id.
        volume: String,
    },
    /// Let a guest in.
    DoorOpen {
        /// Volume id.
        volume: String,
        /// Which door.
        door: DoorSpec,
    },
    /// Let no guest in any more; connected ones are cut off.
    DoorClose {
        /// Volume id.
        volume: String,
        /// Which door.
        door: DoorSpec,
    },
    /// How does everything stand (or one volume)?
    Status {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<String>,
    },
}

/// A host with a replica, and where its marsd listens for peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Node name.
    pub node: String,
    /// `host:port` of its peer listener.
    pub addr: String,
}

/// How a replica comes into the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BirthKind {
    /// First primary of a new volume (epoch 1).
    Primary,
    /// Joining secondary: full sync.
    Secondary,
}

/// What an operator can stop at one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchWord {
    /// Comparing disks in a full sync.
    Sync,
    /// Taking log from a source.
    Fetch,
    /// Bringing the log to the disk.
    Replay,
    /// Everything: off closes log and disk, which are left alone.
    Attach,
    /// All four: `up` and `down`.
    All,
}

/// What an operator has decided for a whole volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSettings {
    /// When a guest's flush is answered.
    pub mode: ModeSpec,
    /// A replica whose oldest missing write is older is alarming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_millis_max: Option<u64>,
    /// A replica that lacks more log is alarming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes_max: Option<u64>,
    /// Whether guests are slowed down then.
    #[serde(default)]
    pub throttle: bool,
}

/// How much of the network a volume may take, all its replicas together; without a figure, as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLimits {
    /// Log sent to replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship_bytes_per_second: Option<u64>,
    /// Contents sent in full syncs and repairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_bytes_per_second: Option<u64>,
}

/// What replication may take of a host, all volumes together; without a figure, as much as there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLimits {
    /// Full syncs of replicas here that go on at one time; the others wait for their turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_syncs: Option<u32>,
    /// Ids of volumes whose full sync goes first, in order.
    #[serde(default)]
    pub prefer: Vec<String>,
    /// Bytes that leave it for all peers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_bytes_per_second: Option<u64>,
    /// Bytes that leave it for one peer, by node name.
    #[serde(default)]
    pub peer_bytes_per_second: BTreeMap<String, u64>,
    /// Budget of all logs together, divided by what each volume uses; what marsd's configuration says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes_max: Option<u64>,
}

/// When a guest's flush is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModeSpec {
    /// Once durable at the primary.
    #[default]
    Async,
    /// Once durable at so many replicas too, but no later than this; then without them, loudly, until they keep up again.
    NearSync {
        /// How many.
        replicas: u8,
        /// How long a flush waits for them.
        wait_millis_max: u32,
    },
    /// Once durable at so many replicas too, however long that takes.
    Sync {
        /// How many.
        replicas: u8,
    },
}

/// One door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DoorSpec {
    /// NBD on a Unix socket; the path defaults to `RUN_DIR/NAME.nbd.sock`.
    Nbd {
        /// Where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
    /// NBD on a TCP address such as `127.0.0.1:10809` (port 0: any free one). Plain text: loopback only.
    NbdTcp {
        /// Where.
        addr: String,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
    /// vhost-user-blk for virtual machines, on a Unix socket; the path defaults to `RUN_DIR/NAME.vhost.sock`.
    VhostUserBlk {
        /// Where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
}

impl DoorSpec {
    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        match self {
            DoorSpec::Nbd { read_only, .. }
            | DoorSpec::NbdTcp { read_only, .. }
            | DoorSpec::VhostUserBlk { read_only, .. } => *read_only,
        }
    }
}

/// The good answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, or already so.
    Done,
    /// A door is open there.
    Door {
        /// Unix path or TCP address.
        path: String,
        /// For NBD clients; empty for other doors.
        uri: String,
    },
    /// The role was granted.
    HandedOver {
        /// Term of the new primary.
        term: u32,
        /// How long the gate was closed on this side, in microseconds.
        gate_micros: u64,
    },
    /// The replica is primary now.
    TookOver {
        /// In which term.
        term: u32,
        /// Its history goes on from here; what others have behind it is no part of it.
        from_lsn: u64,
    },
    /// What the log takes now.
    Log {
        /// How many files.
        files: u64,
        /// What they take of their file system.
        bytes: u64,
        /// What was given back of it.
        given_back_bytes: u64,
        /// For whom the oldest part is kept.
        held_by: String,
    },
    /// Histories that were put aside are gone.
    Dropped {
        /// How many.
        histories: u64,
        /// What they took.
        bytes: u64,
    },
    /// The replica begins anew; its former log was put aside.
    Kept {
        /// The directory; nobody removes it but people.
        path: String,
    },
    /// Whoever comes to this version keeps it.
    Snapshot {
        /// Its position.
        at_lsn: u64,
        /// 32 hex digits: of which history.
        at_digest: String,
    },
    /// Digest of the contents.
    Checksum {
        /// 32 hex digits.
        digest: String,
        /// Log position when it began.
        from_lsn: u64,
        /// Log position when it ended; equal when nothing was written meanwhile.
        to_lsn: u64,
    },
    /// Everything.
    Status(HostStatus),
}

/// The bad answer.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For code.
    pub kind: ControlErrorKind,
    /// For people.
    pub message: String,
}

/// Kinds of bad answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlErrorKind {
    /// The call itself is wrong (version, names, sizes).
    Usage,
    /// No such volume or door here.
    NotFound,
    /// Would endanger data or guests.
    Refused,
    /// Not now; ask again.
    Busy,
    /// Took too long; nothing changed.
    TimedOut,
    /// The system below failed.
    Failed,
}

/// How a marsd stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Node name, once it has an identity.
    pub node: Option<String>,
    /// Where it listens for peers, once it has an identity.
    pub peer_addr: Option<String>,
    /// Program version.
    pub program_version: String,
    /// Serial numbers of revoked certificates, in order.
    pub revoked: Vec<String>,
    /// Budget of all its logs together, if there is one.
    #[serde(default)]
    pub log_bytes_max: Option<u64>,
    /// Every volume it knows.
    pub volumes: Vec<VolumeStatus>,
    /// What replication may take of it.
    #[serde(default)]
    pub limits: HostLimits,
    /// Histories that were put aside, also those of volumes that it knows no more.
    #[serde(default)]
    pub kept: Vec<KeptStatus>,
}

/// A history that was put aside when its replica began anew: what only this host had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptStatus {
    /// Volume id.
    pub volume: String,
    /// Its name among those of the volume: the time in milliseconds since 1970.
    pub history: String,
    /// The directory.
    pub path: String,
    /// What it takes.
    pub bytes: u64,
    /// When it was put aside, in seconds since 1970.
    pub unix_seconds: u64,
    /// The split brain that it comes from, as it was known then.
    pub split: Option<SplitBrainStatus>,
}

/// One volume on one host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Volume id.
    pub volume: String,
    /// What people call it.
    pub name: String,
    /// Its length, as guests that connect here now see it.
    pub size_bytes: u64,
    /// Every host with a replica, as known here.
    pub members: Vec<Member>,
    /// Doors open here.
    pub doors: Vec<DoorStatus>,
    /// The replica here, if there is one.
    pub replica: Option<ReplicaStatus>,
}

/// One open door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoorStatus {
    /// Which.
    pub door: DoorSpec,
    /// Unix path or TCP address.
    pub path: String,
    /// For NBD clients; empty for other doors.
    pub uri: String,
    /// Guests connected now.
    pub clients: u64,
    /// Longest time any request has waited while the primary moved, in microseconds.
    pub pause_micros_max: u64,
}

/// One replica; words and figures as in `mars::Status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// `primary` or `secondary`.
    pub role: String,
    /// `uptodate`, `behind`, `syncing`, …
    pub state: String,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// The volume's length, as far as the log here is applied.
    #[serde(default)]
    pub size_bytes: u64,
    /// Primary term.
    pub epoch: u32,
    /// The primary's start within its term.
    pub epoch_start: u32,
    /// Where the primary is thought to be.
    pub primary: Option<String>,
    /// The disk's path.
    pub disk: String,
    /// Positions in the log.
    pub trimmed_lsn: u64,
    /// ARCHITECTURE.md says what each watermark means.
    pub written_back_lsn: u64,
    /// Write-back has reached no further.
    pub touched_lsn: u64,
    /// Durable.
    pub committed_lsn: u64,
    /// In the log.
    pub appended_lsn: u64,
    /// Digest of the log's end.
    pub chain_digest: String,
    /// Percent of a running full sync; 100 when whole.
    pub sync_percent: f64,
    /// Bytes that differed in the running or last full sync.
    pub sync_copied_bytes: u64,
    /// Log kept here.
    #[serde(default)]
    pub log_bytes: u64,
    /// Its budget now: the volume's, or its share of the host's.
    #[serde(default)]
    pub log_bytes_max: u64,
    /// The budget that was set for this volume's log here; the usual one when absent.
    #[serde(default)]
    pub log_budget_bytes: Option<u64>,
    /// As primary: for whom its oldest part is kept, in words.
    #[serde(default)]
    pub log_held_by: Option<String>,
    /// How much trouble the room for the log gives: `normal`, `throttled`, `dropping`, `unlogged`, `stalled`.
    #[serde(default)]
    pub pressure: String,
    /// Since when.
    #[serde(default)]
    pub pressure_seconds: f64,
    /// As primary: since when changes go straight to the disk for lack of room for a log.
    #[serde(default)]
    pub unlogged_seconds: Option<f64>,
    /// Acknowledged writes in memory.
    pub shadow_bytes: u64,
    /// Requests waiting.
    pub waiting_requests: u64,
    /// Longest wait at the gate so far.
    pub gate_micros_max: u64,
    /// Through whom its log comes, the primary first.
    #[serde(default)]
    pub path: Vec<String>,
    /// From whom an operator would have it get its log rather than from the primary, best first.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What an operator has stopped here: `sync`, `fetch`, `replay`, `attach`.
    pub paused: Vec<SwitchWord>,
    /// Whether only an operator's word, not a full sync, says that it is whole.
    pub faked: bool,
    /// What an operator has decided for the volume.
    pub settings: VolumeSettings,
    /// How much of the network the volume may take.
    #[serde(default)]
    pub limits: VolumeLimits,
    /// Whether the log is compressed.
    #[serde(default)]
    pub compressed: bool,
    /// When this replica was last found equal to the others.
    #[serde(default)]
    pub verified: Option<VerifiedStatus>,
    /// As primary: the comparison under way, or the last one.
    #[serde(default)]
    pub verify: Option<VerifyStatus>,
    /// What a full sync here settles lately.
    #[serde(default)]
    pub sync_bytes_per_second: u64,
    /// When it will have settled everything at that rate.
    #[serde(default)]
    pub sync_seconds_left: Option<f64>,
    /// As primary: since when too few replicas keep up with the mode: near-sync is degraded, sync lets guests wait.
    pub short_seconds: Option<f64>,
    /// As primary: since when the replicas are further behind than allowed.
    pub late_seconds: Option<f64>,
    /// As primary: what guests may write now because of that.
    pub pace_bytes_per_second: Option<u64>,
    /// Versions that were to be kept here, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotStatus>,
    /// As primary: the restore under way, or the last one since marsd has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// As primary: the others.
    pub peers: Vec<PeerStatus>,
    /// Members whose history has parted from the one here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split_brain: Vec<SplitBrainStatus>,
}

/// When a comparison began that found a replica equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedStatus {
    /// End of the log at that moment.
    pub from_lsn: u64,
    /// Wall clock of the primary at that moment, in seconds since 1970.
    pub unix_seconds: u64,
}

/// A comparison of all replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// When it began.
    pub began: VerifiedStatus,
    /// How much of the volume is compared.
    pub percent: f64,
    /// Whether differences are repaired.
    pub repair: bool,
    /// Why it is over; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<VerifyEndWord>,
    /// The primary and everyone it is compared with.
    pub nodes: Vec<VerifyNodeStatus>,
    /// The first differences.
    pub differences: Vec<DifferenceStatus>,
}

/// Why a comparison is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyEndWord {
    /// Everything was compared.
    Finished,
    /// An operator ended it.
    Cancelled,
    /// The primary role moved.
    RoleMoved,
}

/// What a comparison has found out about one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyNodeStatus {
    /// Node name.
    pub node: String,
    /// It was away for too long, or had no version: its figures say nothing.
    pub left_out: bool,
    /// Length of the extents that were different.
    pub different_bytes: u64,
    /// Of these, length of those that are equal now.
    pub repaired_bytes: u64,
}

/// Extents that were different on one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceStatus {
    /// Node name.
    pub node: String,
    /// Where.
    pub offset_bytes: u64,
    /// How much.
    pub length_bytes: u64,
    /// Whether it is equal now.
    pub repaired: bool,
}

/// Two histories that have parted: an operator must say which one is to live on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitBrainStatus {
    /// The member that has the other one.
    pub node: String,
    /// The last position that both have.
    pub at_lsn: u64,
    /// Digest of the history up to there.
    pub at_digest: String,
    /// What is here behind it.
    pub here: SideStatus,
    /// What is there, once it was told.
    pub there: Option<SideStatus>,
}

/// What one side of a split brain has behind the parting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideStatus {
    /// Where it ended when this was counted.
    pub end_lsn: u64,
    /// Log behind the parting.
    pub bytes: u64,
    /// Changes of the volume in it.
    pub records: u64,
    /// When the first was written by its writer's clock, in microseconds since 1970; 0 when nobody knows.
    pub first_unix_micros: u64,
    /// The same for the last.
    pub last_unix_micros: u64,
    /// Whether all of that log was still there; else there were more records, and the first was written earlier.
    pub complete: bool,
}

/// A peer as its primary sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Node name.
    pub node: String,
    /// In one word.
    pub state: String,
    /// Handed to its link.
    pub sent_lsn: u64,
    /// Durable in its log.
    pub committed_lsn: u64,
    /// On its disk.
    pub replayed_lsn: u64,
    /// Log it does not have durably.
    pub lag_bytes: u64,
    /// Age of the oldest write it does not have durably.
    pub lag_seconds: f64,
    /// Who sends it the primary's log, when the primary does not.
    #[serde(default)]
    pub via: Option<String>,
    /// Log that it takes in lately.
    #[serde(default)]
    pub ship_bytes_per_second: u64,
    /// Percent of its full sync.
    pub sync_percent: f64,
    /// What it may lack of the contents, where that is remembered by a map instead of the log.
    #[serde(default)]
    pub dirty_bytes: Option<u64>,
}
