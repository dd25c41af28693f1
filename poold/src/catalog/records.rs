//! What does the catalog remember, and in which form? JSON records with a version each.

use std::collections::{BTreeMap, BTreeSet};

use api::ApiError;
use api::control::{HostLimits, SwitchWord, VolumeLimits, VolumeSettings};
use api::pool::agent::Order;
use api::pool::{DoorKind, JobKind, JobState, LvmLayout, VerifyReport, VgKind};
use migrate::desired::{Door, DoorAt, Life, Placement, VolumeDesired};
use model::{NodeId, VolumeId, VolumeName, VolumeSize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of all records below; a newer one is refused by name.
pub const RECORD_VERSION: u32 = 3;

/// Something the catalog remembers.
pub trait Record: Clone + Serialize + DeserializeOwned {
    /// What all keys of this kind begin with.
    const PREFIX: &'static str;

    /// The rest of this record's key.
    fn key(&self) -> String;
}

/// The pool itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its name.
    pub name: String,
    /// The node that holds the catalog.
    pub leader: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Number of the newest job.
    pub newest_job: u64,
    /// Number of the newest event.
    pub newest_event: u64,
}

impl Record for PoolRecord {
    const PREFIX: &'static str = "pool/";

    fn key(&self) -> String {
        "self".to_owned()
    }
}

/// A host of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: String,
    /// Where its daemon is.
    pub address: String,
    /// Where its marsd listens for peers.
    pub peer_address: String,
    /// Serial number of its certificate, in hex.
    pub serial: String,
    /// When it joined (RFC 3339).
    pub joined: String,
    /// What replication may take of it.
    pub limits: HostLimits,
    /// Whether nothing new is placed on it.
    pub drained: bool,
}

impl Record for NodeRecord {
    const PREFIX: &'static str = "node/";

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// A certificate of a node that was removed; the node may be back in the pool with another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokedRecord {
    /// The certificate's serial number, in hex.
    pub serial: String,
    /// Whose it was.
    pub node: String,
    /// Since when it counts no more (RFC 3339).
    pub since: String,
}

impl Record for RevokedRecord {
    const PREFIX: &'static str = "revoked/";

    fn key(&self) -> String {
        self.serial.clone()
    }
}

/// A volume group of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VgRecord {
    /// The host.
    pub node: String,
    /// Its name there.
    pub name: String,
    /// What it is made of.
    pub kind: VgKind,
    /// The directory; of an LVM group, where its devices are.
    pub path: String,
    /// How an LVM group is used.
    #[serde(default)]
    pub layout: LvmLayout,
    /// How much the pool may use.
    pub size_bytes: u64,
    /// How much its disks may have together, in percent of that.
    pub overcommit_percent: u32,
}

impl Record for VgRecord {
    const PREFIX: &'static str = "vg/";

    fn key(&self) -> String {
        format!("{}/{}", self.node, self.name)
    }
}

/// A replica's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// The host.
    pub node: String,
    /// Its volume group.
    pub vg: String,
}

/// The planner's word for a kind of doors.
pub fn kind_desired(kind: DoorKind) -> migrate::DoorKind {
    match kind {
        DoorKind::Nbd => migrate::DoorKind::Nbd,
        DoorKind::VhostUserBlk => migrate::DoorKind::VhostUserBlk,
    }
}

/// The API's word for it.
pub fn kind_shown(kind: migrate::DoorKind) -> DoorKind {
    match kind {
        migrate::DoorKind::Nbd => DoorKind::Nbd,
        migrate::DoorKind::VhostUserBlk => DoorKind::VhostUserBlk,
    }
}

/// A door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoorRecord {
    /// The host.
    pub node: String,
    /// What guests speak there.
    #[serde(default)]
    pub kind: DoorKind,
    /// A Unix socket there instead of marsd's choice.
    pub path: Option<String>,
    /// A TCP address instead of a Unix socket.
    pub tcp: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LifeRecord {
    /// No primary has been seen yet.
    New,
    /// It holds data.
    Live,
    /// It is being removed.
    Deleting,
}

/// A volume as it should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// 32 hex digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
    /// How it is replicated.
    pub settings: VolumeSettings,
    /// How much of the network it may take.
    pub limits: VolumeLimits,
    /// Log kept on each host, at most; the usual budget when absent.
    pub log_budget_bytes: Option<u64>,
    /// Whether its log is compressed.
    pub compressed: bool,
    /// What an operator has stopped at its replicas, by host.
    pub paused: BTreeMap<String, BTreeSet<SwitchWord>>,
    /// From whom replicas are to get their log rather than from the primary, best first, by host.
    pub sources: BTreeMap<String, Vec<String>>,
    /// Grows with every change of what should be.
    pub generation: u64,
    /// Where it is in its life.
    pub life: LifeRecord,
    /// The host of the primary.
    pub primary: String,
    /// The primary was told to step down: nobody is to be primary until somebody is asked for.
    pub stepped_down: bool,
    /// Newest term that was given out for a takeover; given out once.
    pub takeover_term: u32,
    /// Replicas that should be.
    pub members: Vec<PlaceRecord>,
    /// Replicas that should go.
    pub leaving: Vec<PlaceRecord>,
    /// Doors that should be open.
    pub doors: Vec<DoorRecord>,
    /// When the comparison began that last found all replicas equal (RFC 3339).
    pub last_verified: Option<String>,
    /// Length of what the last comparison left different, by host.
    pub differing_bytes: BTreeMap<String, u64>,
    /// Versions that are to be kept, by name.
    #[serde(default)]
    pub snapshots: BTreeMap<String, SnapshotRecord>,
}

/// A version of a volume that is to be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// When it was asked for (RFC 3339).
    pub created: String,
    /// Where in history it is, once its primary has said so.
    pub at: Option<SnapshotAt>,
}

/// Where in history a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAt {
    /// Position in the log.
    pub lsn: u64,
    /// 32 hex digits: of which history.
    pub digest: String,
    /// The volume's length there.
    pub size_bytes: u64,
}

impl Record for VolumeRecord {
    const PREFIX: &'static str = "volume/";

    fn key(&self) -> String {
        self.id.clone()
    }
}

impl VolumeRecord {
    /// The record of a new volume.
    pub fn new(desired: &VolumeDesired, settings: VolumeSettings) -> VolumeRecord {
        let mut record = VolumeRecord {
            id: desired.id.to_string(),
            name: desired.name.to_string(),
            size_bytes: desired.size.bytes(),
            settings,
            limits: VolumeLimits::default(),
            log_budget_bytes: None,
            compressed: false,
            paused: BTreeMap::new(),
            sources: BTreeMap::new(),
            generation: 0,
            life: LifeRecord::New,
            primary: String::new(),
            stepped_down: false,
            takeover_term: 0,
            members: Vec::new(),
            leaving: Vec::new(),
            doors: Vec::new(),
            last_verified: None,
            differing_bytes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        record.set(desired);
        record
    }

    /// As the planner sees it. Errors: what in the record makes no sense.
    pub fn desired(&self) -> Result<VolumeDesired, String> {
        let node = |name: &str| NodeId::new(name).map_err(|error| error.to_string());
        let places = |places: &[PlaceRecord]| -> Result<Vec<Placement>, String> {
            places
                .iter()
                .map(|place| {
                    Ok(Placement {
                        node: node(&place.node)?,
                        vg: place.vg.clone(),
                    })
                })
                .collect()
        };
        let doors = self.doors.iter().map(|door| {
            let at = match (&door.path, &door.tcp) {
                (None, None) => DoorAt::UnixDefault,
                (Some(path), None) => DoorAt::Unix(path.clone()),
                (_, Some(addr)) => DoorAt::Tcp(addr.clone()),
            };
            Ok(Door {
                node: node(&door.node)?,
                kind: kind_desired(door.kind),
                at,
                read_only: door.read_only,
            })
        });
        Ok(VolumeDesired {
            id: self.id.parse::<VolumeId>().map_err(|error| error.to_string())?,
            name: VolumeName::new(&self.name).map_err(|error| error.to_string())?,
            size: VolumeSize::new(self.size_bytes).map_err(|error| error.to_string())?,
            generation: self.generation,
            life: match self.life {
                LifeRecord::New => Life::New,
                LifeRecord::Live => Life::Live,
                LifeRecord::Deleting => Life::Deleting,
            },
            primary: node(&self.primary)?,
            members: places(&self.members)?,
            leaving: places(&self.leaving)?,
            doors: doors.collect::<Result<Vec<Door>, String>>()?,
        })
    }

    /// Takes over what the planner or a request wants.
    pub fn set(&mut self, desired: &VolumeDesired) {
        let places = |places: &[Placement]| {
            let record = |place: &Placement| PlaceRecord {
                node: place.node.to_string(),
                vg: place.vg.clone(),
            };
            places.iter().map(record).collect()
        };
        let door = |door: &Door| {
            let (path, tcp) = match &door.at {
                DoorAt::UnixDefault => (None, None),
                DoorAt::Unix(path) => (Some(path.clone()), None),
                DoorAt::Tcp(addr) => (None, Some(addr.clone())),
            };
            DoorRecord {
                node: door.node.to_string(),
                kind: kind_shown(door.kind),
                path,
                tcp,
                read_only: door.read_only,
            }
        };
        self.generation = desired.generation;
        self.life = match desired.life {
            Life::New => LifeRecord::New,
            Life::Live => LifeRecord::Live,
            Life::Deleting => LifeRecord::Deleting,
        };
        self.primary = desired.primary.to_string();
        self.members = places(&desired.members);
        self.leaving = places(&desired.leaving);
        self.doors = desired.doors.iter().map(door).collect();
        // A host that gets a new replica begins with a new one's switches.
        let members = &self.members;
        let is_member = |node: &String| members.iter().any(|place| place.node == *node);
        self.paused.retain(|node, _| is_member(node));
        self.sources
            .values_mut()
            .for_each(|sources| sources.retain(&is_member));
        self.sources
            .retain(|node, sources| is_member(node) && !sources.is_empty());
        self.differing_bytes.retain(|node, _| is_member(node));
    }
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub number: u64,
    /// What it does.
    pub kind: JobKind,
    /// The volume's id; empty for work on a host, which is `from` then.
    pub volume: String,
    /// The volume's name when it was asked for.
    pub volume_name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// One of the planner's phases, or `order`, or `compare`.
    pub phase: String,
    /// The host that gives up its replica or role.
    pub from: Option<String>,
    /// The host that gets a replica or the role, with the volume group for a replica.
    pub to: Option<PlaceRecord>,
    /// Whether the replica that moves was primary when it began.
    pub moves_primary: bool,
    /// Longest closed gate so far, in microseconds.
    pub gate_micros_max: Option<u64>,
    /// What it has done once, on the host that gets the role or gives it up.
    pub order: Option<Order>,
    /// Hosts that get the same order afterwards, one after the other.
    pub losers: Vec<String>,
    /// Whether a drain takes replicas away too.
    pub evacuate: bool,
    /// Jobs that a drain has begun.
    pub children: BTreeSet<u64>,
    /// Volumes that a drain cannot take away, and why.
    pub stuck: BTreeMap<String, String>,
    /// What came of the order, in words.
    pub note: Option<String>,
    /// The snapshot that it takes or restores.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// What a comparison has found so far.
    pub verify: Option<VerifyReport>,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// When it was asked for (RFC 3339).
    pub created: String,
    /// When it ended (RFC 3339).
    pub ended: Option<String>,
}

impl Record for JobRecord {
    const PREFIX: &'static str = "job/";

    fn key(&self) -> String {
        format!("{:016}", self.number)
    }
}

/// A token that lets one host join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of its secret, in hex; the secret itself is kept nowhere.
    pub hash: String,
    /// Unix time of its end, in seconds.
    pub expires_seconds: u64,
    /// The node that used it.
    pub used_by: Option<String>,
}

impl Record for TokenRecord {
    const PREFIX: &'static str = "token/";

    fn key(&self) -> String {
        self.hash.clone()
    }
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number.
    pub number: u64,
    /// When (RFC 3339).
    pub time: String,
    /// On which object.
    pub object: String,
    /// What.
    pub message: String,
}

impl Record for EventRecord {
    const PREFIX: &'static str = "event/";

    fn key(&self) -> String {
        format!("{:016}", self.number)
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    record: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The bytes of a record.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&Envelope {
        version: RECORD_VERSION,
        record,
    })
    .map_err(|error| error.to_string())
}

/// The record in `bytes`. Errors: what is wrong with them.
pub fn decode<R: Record>(key: &str, bytes: &[u8]) -> Result<R, String> {
    let version: VersionOnly =
        serde_json::from_slice(bytes).map_err(|error| format!("record `{key}` is not readable: {error}"))?;
    if version.version != RECORD_VERSION {
        let version = version.version;
        return Err(format!(
            "record `{key}` has version {version}; this poold reads {RECORD_VERSION}"
        ));
    }
    let envelope: Envelope<R> =
        serde_json::from_slice(bytes).map_err(|error| format!("record `{key}` makes no sense: {error}"))?;
    let found = format!("{}{}", R::PREFIX, envelope.record.key());
    if found != key {
        return Err(format!("record `{key}` says that it is `{found}`"));
    }
    Ok(envelope.record)
}
