//! What should be, and which changes of it are allowed?

use model::{NodeId, VolumeId, VolumeName, VolumeSize};

/// A replica's place: the host and the volume group there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// The host.
    pub node: NodeId,
    /// Its volume group.
    pub vg: String,
}

/// A host with a replica and the address of its marsd, as marsd wants to know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The host.
    pub node: NodeId,
    /// `host:port`.
    pub addr: String,
}

/// Where guests come in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoorAt {
    /// A Unix socket at marsd's own choice.
    UnixDefault,
    /// A Unix socket there.
    Unix(String),
    /// A TCP address.
    Tcp(String),
}

/// What guests speak there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoorKind {
    /// NBD.
    #[default]
    Nbd,
    /// vhost-user-blk, on Unix sockets only.
    VhostUserBlk,
}

/// A door on a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// The host.
    pub node: NodeId,
    /// What guests speak there.
    pub kind: DoorKind,
    /// Where.
    pub at: DoorAt,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// No primary has been seen yet; only now may one be born out of nothing.
    New,
    /// It holds data; a replica that is missing is made by a sync, never born as primary again.
    Live,
    /// Everything of it is to go.
    Deleting,
}

/// Why a change of intent is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// The host has no replica.
    #[error("node {0} has no replica of the volume")]
    NotMember(NodeId),
    /// The host has one already.
    #[error("node {0} has a replica of the volume already")]
    AlreadyMember(NodeId),
    /// The host's former replica is still being removed.
    #[error("the former replica on node {0} is still being removed")]
    StillLeaving(NodeId),
    /// The primary cannot leave.
    #[error("node {0} is the volume's primary")]
    LeavePrimary(NodeId),
    /// The last replica cannot leave.
    #[error("node {0} has the only replica of the volume")]
    LeaveLast(NodeId),
    /// Not while it comes or goes.
    #[error("the volume is being deleted")]
    Deleting,
    /// More replicas than a volume can have.
    #[error("the volume has {0} replicas already, the most there can be")]
    TooMany(usize),
}

/// The desired state of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDesired {
    /// Its identity.
    pub id: VolumeId,
    /// What people call it.
    pub name: VolumeName,
    /// Its length.
    pub size: VolumeSize,
    /// Grows with every change.
    pub generation: u64,
    /// Where it is in its life.
    pub life: Life,
    /// The host of the primary: one of the members.
    pub primary: NodeId,
    /// The replicas that should be.
    pub members: Vec<Placement>,
    /// Replicas that should no more be and are not known to be gone; they still take space.
    pub leaving: Vec<Placement>,
    /// The doors that should be open.
    pub doors: Vec<Door>,
}

/// Most replicas of a volume.
pub const REPLICAS_MAX: usize = 8;

impl VolumeDesired {
    /// Whether `node` should have a replica.
    pub fn has_member(&self, node: &NodeId) -> bool {
        self.members.iter().any(|member| member.node == *node)
    }

    fn is_leaving(&self, node: &NodeId) -> bool {
        self.leaving.iter().any(|place| place.node == *node)
    }

    fn alive(&self) -> Result<(), Unsafe> {
        match self.life {
            Life::New | Life::Live => Ok(()),
            Life::Deleting => Err(Unsafe::Deleting),
        }
    }

    /// The same volume with one more replica.
    pub fn join(&self, place: Placement) -> Result<VolumeDesired, Unsafe> {
        self.alive()?;
        if self.has_member(&place.node) {
            return Err(Unsafe::AlreadyMember(place.node));
        }
        if self.is_leaving(&place.node) {
            return Err(Unsafe::StillLeaving(place.node));
        }
        if self.members.len() >= REPLICAS_MAX {
            return Err(Unsafe::TooMany(self.members.len()));
        }
        let mut next = self.next();
        next.members.push(place);
        Ok(next)
    }

    /// The same volume without the replica on `node`.
    pub fn leave(&self, node: &NodeId) -> Result<VolumeDesired, Unsafe> {
        self.alive()?;
        if !self.has_member(node) {
            return Err(Unsafe::NotMember(node.clone()));
        }
        if self.members.len() == 1 {
            return Err(Unsafe::LeaveLast(node.clone()));
        }
        if self.primary == *node {
            return Err(Unsafe::LeavePrimary(node.clone()));
        }
        let mut next = self.next();
        let (stay, go) = next.members.into_iter().partition(|member| member.node != *node);
        next.members = stay;
        next.leaving.extend::<Vec<Placement>>(go);
        Ok(next)
    }

    /// The same volume with its primary on `node`.
    pub fn with_primary(&self, node: &NodeId) -> Result<VolumeDesired, Unsafe> {
        self.alive()?;
        if !self.has_member(node) {
            return Err(Unsafe::NotMember(node.clone()));
        }
        let mut next = self.next();
        next.primary = node.clone();
        Ok(next)
    }

    /// The same volume with other doors.
    pub fn with_doors(&self, doors: Vec<Door>) -> Result<VolumeDesired, Unsafe> {
        self.alive()?;
        let mut next = self.next();
        next.doors = doors;
        Ok(next)
    }

    /// The same volume on its way out.
    pub fn deleting(&self) -> VolumeDesired {
        let mut next = self.next();
        next.life = Life::Deleting;
        next.leaving.append(&mut next.members);
        next.doors.clear();
        next
    }

    fn next(&self) -> VolumeDesired {
        let mut next = self.clone();
        next.generation += 1;
        next
    }
}
