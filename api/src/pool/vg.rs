//! Where do replicas' disks lie? Volume groups of the hosts.

use serde::{Deserialize, Serialize};

/// What a volume group is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VgKind {
    /// A directory of sparse files.
    Directory,
    /// A volume group of LVM: a logical volume per replica.
    Lvm,
}

/// How disks are laid out in an LVM group; nothing of it concerns directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LvmLayout {
    /// Thin volumes in this pool of the group; thick ones when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin_pool: Option<String>,
    /// Over so many physical volumes each; one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u32>,
}

/// `vg add`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddVg {
    /// Its name, which of an LVM group is LVM's; several hosts may each have one of the same name.
    pub name: String,
    /// On which node; the one whose daemon is asked when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// The directory (absolute); made if its parent exists. Must be empty or already this group's. An LVM group when absent.
    #[serde(default)]
    pub dir: Option<String>,
    /// How an LVM group is used.
    #[serde(default)]
    pub layout: LvmLayout,
    /// How much of it the pool may use; what its file system, or the LVM group, has free when absent.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// How much its disks may have together, in percent of its size; 100 when absent. What was not written takes no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overcommit_percent: Option<u32>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// `vg remove`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RemoveVg {
    /// On which node; the one whose daemon is asked when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Only try.
    #[serde(default)]
    pub dry_run: bool,
}

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vg {
    /// The host.
    pub node: String,
    /// Its name there.
    pub name: String,
    /// What it is made of.
    pub kind: VgKind,
    /// The directory; of an LVM group, where its devices are.
    pub path: String,
    /// How much the pool may use.
    pub size_bytes: u64,
    /// How much its disks may have together, in percent of that.
    pub overcommit_percent: u32,
    /// What replicas have reserved, those on their way included.
    pub reserved_bytes: u64,
    /// What a new replica can have.
    pub free_bytes: u64,
    /// Bytes that its disks really take (sparse); `null` until reported.
    pub used_bytes: Option<u64>,
    /// Bytes that they can still take: the rest of its size, or what its file system has; `null` until reported.
    pub left_bytes: Option<u64>,
    /// Replicas in it.
    pub replicas: u64,
    /// What is wrong with it, as its host reports.
    pub problem: Option<String>,
}

/// `vg list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgList {
    /// By node and name.
    pub vgs: Vec<Vg>,
}
