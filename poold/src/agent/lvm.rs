//! How does a volume group of LVM serve the pool? One logical volume per replica, known by its tags, made by lvm2's own tools.
//!
//! | tag | on | means |
//! |---|---|---|
//! | `poold` | the group | it belongs to the pool |
//! | `poold` | a logical volume | it is a replica's disk; its name is `poold_` and the volume's id |
//! | `poold.raw` | the same | it may still hold what was on these extents before |
//!
//! Volumes without the tag are other people's, whatever their names: they are counted, never touched. A daemon that dies half-way leaves a
//! tagged volume, which the next attempt finds and finishes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use api::pool::LvmLayout;
use api::{ApiError, ErrorKind};
use model::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use serde::Deserialize;

use super::vg::{Capacity, VolumeGroup};

mod tools;

/// What belongs to the pool.
const TAG: &str = "poold";

/// What has not been cleared since it was made.
const RAW_TAG: &str = "poold.raw";

/// What the names of replicas' disks begin with.
const PREFIX: &str = "poold_";

/// So much is cleared with one call.
const CLEAR_BYTES: u64 = 256 << 20;

const GROUP_COLUMNS: &str = "vg_name,vg_attr,vg_size,vg_free,vg_tags";
const VOLUME_COLUMNS: &str = "lv_name,lv_attr,lv_size,lv_tags,data_percent";

/// A group, in LVM's words.
#[derive(Clone, Debug, Deserialize)]
struct GroupRow {
    vg_name: String,
    vg_attr: String,
    vg_size: String,
    vg_free: String,
    vg_tags: String,
}

/// A logical volume, in LVM's words.
#[derive(Clone, Debug, Deserialize)]
struct VolumeRow {
    lv_name: String,
    lv_attr: String,
    lv_size: String,
    lv_tags: String,
    /// Of a thin volume or pool; else empty.
    data_percent: String,
}

impl GroupRow {
    fn is_ours(&self) -> bool {
        has_tag(&self.vg_tags, TAG)
    }

    /// Why nothing can be made in it.
    fn unfit(&self) -> Option<&'static str> {
        // vgs(8): permissions, resizeable, exported, partial.
        match self.vg_attr.as_bytes() {
            [b'r', ..] => Some("is read-only"),
            [_, _, b'x', ..] => Some("is exported; `vgimport` brings it back"),
            [_, _, _, b'p', ..] => Some("lacks some of its disks"),
            _ => None,
        }
    }
}

impl VolumeRow {
    fn is_ours(&self) -> bool {
        has_tag(&self.lv_tags, TAG)
    }

    /// The volume whose replica it holds.
    fn volume(&self) -> Option<&str> {
        self.lv_name.strip_prefix(PREFIX).filter(|_| self.is_ours())
    }

    fn is_raw(&self) -> bool {
        has_tag(&self.lv_tags, RAW_TAG)
    }

    /// lvs(8): the fifth letter is the state.
    fn is_active(&self) -> bool {
        self.lv_attr.as_bytes().get(4) == Some(&b'a')
    }

    fn is_thin_pool(&self) -> bool {
        self.lv_attr.starts_with('t')
    }

    /// lvs(8): the eighth letter of a thin pool says whether new blocks are cleared.
    fn is_zeroing(&self) -> bool {
        self.lv_attr.as_bytes().get(7) == Some(&b'z')
    }

    /// What it really takes.
    fn used_bytes(&self) -> Result<u64, ApiError> {
        let size_bytes = number("lv_size", &self.lv_size)?;
        if self.data_percent.is_empty() {
            return Ok(size_bytes);
        }
        let percent: f64 = self
            .data_percent
            .parse()
            .map_err(|_| unreadable("data_percent", &self.data_percent))?;
        Ok((size_bytes as f64 * (percent / 100.0).clamp(0.0, 1.0)) as u64)
    }
}

fn has_tag(tags: &str, tag: &str) -> bool {
    tags.split(',').any(|found| found == tag)
}

fn number(column: &str, text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| unreadable(column, text))
}

fn unreadable(column: &str, text: &str) -> ApiError {
    ApiError::failed(format!("LVM reports `{text}` as {column}, which is no number"))
}

/// A volume group of LVM, as it was when it was opened: its tools look at every disk of the host each time that they are asked.
#[derive(Clone, Debug)]
pub struct LvmVg {
    name: String,
    layout: LvmLayout,
    size_bytes: u64,
    promise_bytes: u64,
    row: GroupRow,
    volumes: Vec<VolumeRow>,
}

impl LvmVg {
    /// The group `name` that was prepared for the pool; disks may take `size_bytes` and have `promise_bytes` together.
    /// Errors: `failed` when it is missing or not the pool's.
    pub fn open(
        name: &str,
        layout: &LvmLayout,
        size_bytes: u64,
        promise_bytes: u64,
    ) -> Result<LvmVg, ApiError> {
        let row = group(name)?;
        if !row.is_ours() {
            return Err(ApiError::failed(format!(
                "the LVM group `{name}` does not belong to the pool (any longer): its tag `{TAG}` is missing"
            ))
            .hint(format!(
                "if it is the same group: `vgchange --addtag {TAG} {name}`"
            )));
        }
        Ok(LvmVg {
            name: name.to_owned(),
            layout: layout.clone(),
            size_bytes,
            promise_bytes,
            row,
            volumes: volumes(name)?,
        })
    }

    /// Makes the LVM group `name` the pool's; with `dry_run` only checks that it could be. Answers its size.
    pub fn prepare(
        name: &str,
        layout: &LvmLayout,
        size_bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<u64, ApiError> {
        let row = group(name)?;
        if let Some(why) = row.unfit() {
            return Err(ApiError::refused(format!("the LVM group `{name}` {why}")));
        }
        let volumes = volumes(name)?;
        let ours: u64 = sizes(&volumes)?.values().sum();
        let (total, free) = match &layout.thin_pool {
            None => (
                number("vg_size", &row.vg_size)?,
                number("vg_free", &row.vg_free)?.saturating_add(ours),
            ),
            Some(pool) => {
                let pool = thin_pool(name, pool, &volumes)?;
                let size_bytes = number("lv_size", &pool.lv_size)?;
                (size_bytes, size_bytes)
            }
        };
        let size_bytes = size_bytes.unwrap_or(free);
        if size_bytes > free {
            return Err(ApiError::refused(format!(
                "the LVM group `{name}` has {} of {} free, less than {}",
                Bytes(free),
                Bytes(total),
                Bytes(size_bytes)
            ))
            .hint(format!("give a --size of at most {free} bytes")));
        }
        if !dry_run && !row.is_ours() {
            tools::change("vgchange", &["--addtag", TAG, name])?;
        }
        Ok(size_bytes)
    }

    /// Makes it foreign again. Errors: `refused` while disks lie in it.
    pub fn release(name: &str, dry_run: bool) -> Result<(), ApiError> {
        let row = match group(name) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            row => row?,
        };
        let disks = sizes(&volumes(name)?)?;
        if !disks.is_empty() {
            return Err(ApiError::refused(format!(
                "{} disks still lie in the LVM group `{name}`: {}",
                disks.len(),
                disks.into_keys().collect::<Vec<_>>().join(", ")
            ))
            .hint("delete or migrate the volumes first"));
        }
        if dry_run || !row.is_ours() {
            return Ok(());
        }
        tools::change("vgchange", &["--deltag", TAG, name])
    }

    fn lv(&self, volume: &str) -> String {
        format!("{}/{PREFIX}{volume}", self.name)
    }

    /// The logical volume of a replica. Errors: `failed` when somebody else has one of that name.
    fn find<'a>(&self, volume: &str, volumes: &'a [VolumeRow]) -> Result<Option<&'a VolumeRow>, ApiError> {
        let name = format!("{PREFIX}{volume}");
        match volumes.iter().find(|row| row.lv_name == name) {
            Some(row) if !row.is_ours() => Err(ApiError::failed(format!(
                "the logical volume {} exists already and is not the pool's: its tag `{TAG}` is missing",
                self.lv(volume)
            ))
            .hint(format!("rename it: `lvrename {} NEW-NAME`", self.lv(volume)))),
            found => Ok(found),
        }
    }

    /// Whether a disk of a volume may be so long beside the others.
    fn check_room(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
        let others = self.list()?.into_iter().filter(|(other, _)| other != volume);
        let reserved: u64 = others.map(|(_, size)| size).sum();
        if reserved.saturating_add(size_bytes) <= self.promise_bytes {
            return Ok(());
        }
        Err(ApiError::refused(format!(
            "the LVM group `{}` has {} of {} reserved; a disk of {} does not fit",
            self.name,
            Bytes(reserved),
            Bytes(self.promise_bytes),
            Bytes(size_bytes)
        )))
    }

    fn make(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
        let (name, size) = (format!("{PREFIX}{volume}"), format!("{size_bytes}b"));
        let stripes = self.layout.stripes.map(|stripes| stripes.to_string());
        let mut arguments = vec!["--yes", "--name", &name, "--addtag", TAG];
        match &self.layout.thin_pool {
            // A pool clears what it gives out.
            Some(pool) => arguments.extend(["--thinpool", pool, "--virtualsize", &size]),
            None => {
                arguments.extend([
                    "--addtag",
                    RAW_TAG,
                    "--wipesignatures",
                    "y",
                    "--zero",
                    "y",
                    "--size",
                    &size,
                ]);
            }
        }
        if let Some(stripes) = &stripes {
            arguments.extend(["--stripes", stripes]);
        }
        arguments.push(&self.name);
        tools::change("lvcreate", &arguments)
    }

    fn grow(&self, volume: &str, row: &VolumeRow, size_bytes: u64) -> Result<(), ApiError> {
        if number("lv_size", &row.lv_size)? >= size_bytes {
            return Ok(());
        }
        self.check_room(volume, size_bytes)?;
        let size = format!("{size_bytes}b");
        tools::change("lvextend", &["--size", &size, &self.lv(volume)])
    }

    /// Nothing of what was on these extents before may be read through a new volume.
    fn clear(&self, volume: &str, row: &VolumeRow) -> Result<(), ApiError> {
        let path = self.path(volume);
        let size_bytes = number("lv_size", &row.lv_size)?;
        let clear = || -> std::io::Result<()> {
            let file = File::options().write(true).open(&path)?;
            for at in (0..size_bytes).step_by(CLEAR_BYTES as usize) {
                let count = CLEAR_BYTES.min(size_bytes - at);
                fallocate(&file, FallocateFlags::ZERO_RANGE, at, count)?;
            }
            file.sync_all()
        };
        clear()
            .map_err(|error| ApiError::failed(format!("{} cannot be cleared: {error}", path.display())))?;
        tools::change("lvchange", &["--deltag", RAW_TAG, &self.lv(volume)])
    }
}

impl VolumeGroup for LvmVg {
    fn create(&self, volume: &str, size_bytes: u64) -> Result<PathBuf, ApiError> {
        if self.find(volume, &self.volumes)?.is_none() {
            self.check_room(volume, size_bytes)?;
            self.make(volume, size_bytes)?;
        }
        let now = volumes(&self.name)?;
        let Some(row) = self.find(volume, &now)? else {
            return Err(ApiError::failed(format!(
                "LVM has made {} and does not know it",
                self.lv(volume)
            )));
        };
        if !row.is_active() {
            tools::change("lvchange", &["--activate", "y", &self.lv(volume)])?;
        }
        if row.is_raw() {
            self.clear(volume, row)?;
        }
        // Made, but not yet grown when the daemon died, or for a volume that has grown since.
        self.grow(volume, row, size_bytes)?;
        Ok(self.path(volume))
    }

    fn remove(&self, volume: &str) -> Result<(), ApiError> {
        match self.find(volume, &self.volumes)? {
            None => Ok(()),
            Some(_) => tools::change("lvremove", &["--yes", &self.lv(volume)]),
        }
    }

    fn resize(&self, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
        let row = self.find(volume, &self.volumes)?.ok_or_else(|| {
            ApiError::failed(format!(
                "there is no logical volume {} to be grown",
                self.lv(volume)
            ))
        })?;
        self.grow(volume, row, size_bytes)
    }

    fn list(&self) -> Result<BTreeMap<String, u64>, ApiError> {
        sizes(&self.volumes)
    }

    fn capacity(&self) -> Result<Capacity, ApiError> {
        let ours = self.volumes.iter().filter(|row| row.volume().is_some());
        let used = ours
            .map(VolumeRow::used_bytes)
            .collect::<Result<Vec<u64>, ApiError>>()?;
        let used_bytes: u64 = used.iter().sum();
        let free_bytes = match &self.layout.thin_pool {
            None => number("vg_free", &self.row.vg_free)?,
            Some(pool) => {
                let pool = thin_pool(&self.name, pool, &self.volumes)?;
                number("lv_size", &pool.lv_size)?.saturating_sub(pool.used_bytes()?)
            }
        };
        Ok(Capacity {
            used_bytes,
            left_bytes: free_bytes.min(self.size_bytes.saturating_sub(used_bytes)),
        })
    }

    fn path(&self, volume: &str) -> PathBuf {
        PathBuf::from("/dev").join(self.lv(volume))
    }
}

fn group(name: &str) -> Result<GroupRow, ApiError> {
    let rows: Vec<GroupRow> = tools::report("vgs", "vg", GROUP_COLUMNS, &[])?;
    let names: Vec<String> = rows.iter().map(|row| row.vg_name.clone()).collect();
    rows.into_iter().find(|row| row.vg_name == name).ok_or_else(|| {
        let there_are = match names.is_empty() {
            true => "it has none at all".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        ApiError::not_found(format!("LVM on this host has no group `{name}`; {there_are}"))
            .hint("`vgcreate` makes one; `--dir` takes a directory instead")
    })
}

fn volumes(group: &str) -> Result<Vec<VolumeRow>, ApiError> {
    tools::report("lvs", "lv", VOLUME_COLUMNS, &[group])
}

/// How long the disks of replicas are, by volume.
fn sizes(volumes: &[VolumeRow]) -> Result<BTreeMap<String, u64>, ApiError> {
    let ours = volumes
        .iter()
        .filter_map(|row| Some((row.volume()?, &row.lv_size)));
    ours.map(|(volume, size)| Ok((volume.to_owned(), number("lv_size", size)?)))
        .collect()
}

fn thin_pool<'a>(group: &str, pool: &str, volumes: &'a [VolumeRow]) -> Result<&'a VolumeRow, ApiError> {
    let found = volumes
        .iter()
        .find(|row| row.lv_name == pool && row.is_thin_pool());
    let found = found.ok_or_else(|| {
        ApiError::not_found(format!("the LVM group `{group}` has no thin pool `{pool}`")).hint(format!(
            "`lvcreate --type thin-pool --name {pool} --size SIZE {group}` makes one"
        ))
    })?;
    if !found.is_zeroing() {
        return Err(ApiError::refused(format!(
            "the thin pool {group}/{pool} does not clear what it gives out, so that volumes could read what others have deleted"
        ))
        .hint(format!("`lvchange --zero y {group}/{pool}`")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, attr: &str, size: u64, tags: &str, percent: &str) -> VolumeRow {
        VolumeRow {
            lv_name: name.to_owned(),
            lv_attr: attr.to_owned(),
            lv_size: size.to_string(),
            lv_tags: tags.to_owned(),
            data_percent: percent.to_owned(),
        }
    }

    fn opened(thin_pool: Option<&str>) -> LvmVg {
        LvmVg {
            name: "vg0".to_owned(),
            layout: LvmLayout {
                thin_pool: thin_pool.map(str::to_owned),
                stripes: None,
            },
            size_bytes: 1000,
            promise_bytes: 2000,
            row: GroupRow {
                vg_name: "vg0".to_owned(),
                vg_attr: "wz--n-".to_owned(),
                vg_size: "3000".to_owned(),
                vg_free: "700".to_owned(),
                vg_tags: "site-a,poold".to_owned(),
            },
            // As LVM 2.03.16 reports them.
            volumes: vec![
                volume("other", "-wi-a-----", 200, "", ""),
                volume("poold_a1", "-wi-ao----", 100, "poold", ""),
                volume("poold_a2", "Vwi-a-tz--", 400, "gold,poold", "25.00"),
                volume("poold_theirs", "-wi-a-----", 300, "poolder", ""),
                volume("tp", "twi-aotz--", 600, "", "50.00"),
                volume("careless", "twi-aot---", 600, "", "0.00"),
            ],
        }
    }

    #[test]
    fn only_what_is_tagged_is_ours() {
        let vg = opened(None);
        assert!(vg.row.is_ours());
        let ours = [("a1".to_owned(), 100), ("a2".to_owned(), 400)];
        assert_eq!(vg.list().unwrap(), BTreeMap::from(ours));
        assert!(vg.find("a1", &vg.volumes).unwrap().is_some());
        assert!(vg.find("a3", &vg.volumes).unwrap().is_none());
        let foreign = vg.find("theirs", &vg.volumes).unwrap_err();
        assert!(foreign.message.contains("poold_theirs"), "{foreign}");
        assert_eq!(vg.path("a1"), PathBuf::from("/dev/vg0/poold_a1"));
    }

    #[test]
    fn room_is_what_is_free_within_what_was_granted() {
        let capacity = opened(None).capacity().unwrap();
        assert_eq!((capacity.used_bytes, capacity.left_bytes), (200, 700));
        let capacity = opened(Some("tp")).capacity().unwrap();
        assert_eq!((capacity.used_bytes, capacity.left_bytes), (200, 300));
        let kind = |pool: &str| opened(Some(pool)).capacity().unwrap_err().kind;
        assert_eq!(
            kind("careless"),
            ErrorKind::Refused,
            "it would show what others have deleted"
        );
        assert_eq!(kind("other"), ErrorKind::NotFound);
        let vg = opened(None);
        assert!(vg.check_room("a3", 1500).is_ok());
        assert!(
            vg.check_room("a2", 1900).is_ok(),
            "its own length does not count twice"
        );
        assert_eq!(vg.check_room("a3", 1501).unwrap_err().kind, ErrorKind::Refused);
    }

    #[test]
    fn a_group_that_cannot_be_changed_is_unfit() {
        let of = |attr: &str| GroupRow {
            vg_attr: attr.to_owned(),
            ..opened(None).row
        };
        assert_eq!(of("wz--n-").unfit(), None);
        for attr in ["rz--n-", "wzx-n-", "wz-pn-"] {
            assert!(of(attr).unfit().is_some(), "{attr}");
        }
    }
}
