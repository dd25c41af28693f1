//! Does every replica keep the version that a snapshot names, byte by byte, and nothing else?

use mars::{Command, CommandId, Position, SnapshotState};
use model::SnapshotName;

use super::{Violation, World};
use crate::media::SECTOR;
use crate::stamp;

/// What an operator was told that a node keeps, or says why it does not.
#[derive(Clone, Debug)]
pub(super) struct Told {
    node: usize,
    name: SnapshotName,
    at: Position,
    /// Counts how often replicas were thrown away.
    life: u64,
}

impl World {
    /// Asks a node to keep this version on every replica.
    pub fn snapshot(&mut self, node: usize, name: &str) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: snapshot");
        let name = SnapshotName::new(name).expect("callers know names");
        Some(self.command(node, Command::Snapshot { name }))
    }

    /// Asks a node to give up what it keeps of the versions with this name.
    pub fn drop_snapshots(&mut self, node: usize, name: &str) {
        let known = self.nodes[node]
            .engine
            .as_ref()
            .map(|engine| engine.status(self.now).snapshots);
        let known = known.unwrap_or_default().into_iter();
        for snapshot in known.filter(|snapshot| snapshot.name.as_str() == name) {
            self.count("operators: snapshot dropped");
            let (name, at) = (snapshot.name, snapshot.at);
            let dropped = |told: &Told| told.node == node && (&told.name, told.at) == (&name, at);
            self.snapshots_told.retain(|told| !dropped(told));
            self.command(node, Command::DropSnapshot { name, at });
        }
    }

    /// Somebody takes a snapshot, or drops one.
    pub(super) fn try_snapshot(&mut self, node: usize) {
        let name = format!("s{}", self.rng.below(8));
        if self.rng.chance(25) {
            return self.drop_snapshots(node, &name);
        }
        if self.rng.chance(15) {
            self.fill_disk(node, true);
            let micros = self.rng.spread(10_000, 4_000_000);
            self.schedule(micros, super::Happening::Recover { node });
        }
        let wild = self.rng.chance(10).then_some(node);
        if let Some(primary) = wild.or(self.primary()) {
            self.snapshot(primary, &name);
        }
    }

    /// What a node keeps of a snapshot, for those who compare.
    pub fn snapshot_contents(&self, node: usize, name: &str) -> Option<&[u8]> {
        let taken = &self.nodes[node].disk.snapshots;
        let found = taken.iter().rev().find(|taken| taken.name.as_str() == name)?;
        Some(&found.contents)
    }

    /// An operator was told that a version is kept.
    pub(super) fn snapshot_told(&mut self, node: usize, name: &SnapshotName, at: Position) {
        self.count("operators: snapshot done");
        let (name, life) = (name.clone(), self.nodes[node].life);
        let told = Told { node, name, at, life };
        self.snapshots_told.push(told);
    }

    /// What its disk takes now is no version, and nobody can know that.
    pub(super) fn note_doubts(&mut self, node: usize) {
        let is_doubtful = self.is_rotten(node) || self.is_faked(node);
        self.nodes[node].disk.is_doubtful = is_doubtful;
    }

    /// Of a snapshot without a log, only the guest can tell which version it is, and only as long as it changes nothing.
    pub(super) fn check_straight_snapshot(&mut self, node: usize) -> Result<(), Violation> {
        let alone = self.members.len() == 1 && self.status(node).is_some_and(|s| s.straight);
        if !alone || self.history.forced || self.nodes[node].disk_failed {
            return Ok(());
        }
        let copying = self.nodes[node].disk.copying();
        let Some(taken) = copying.filter(|taken| !taken.is_doubtful) else {
            return Ok(());
        };
        let name = taken.name.clone();
        let sectors = taken.contents.chunks(SECTOR).take(self.guest.sectors());
        let wrong = sectors.enumerate().find_map(|(at, bytes)| {
            let stamp = stamp::of(bytes);
            (!stamp.is_some_and(|stamp| self.guest.may_hold(at, stamp))).then_some((at, stamp))
        });
        match wrong {
            Some((at, stamp)) => {
                let what = format!(
                    "keeps {stamp:#x?} in sector {at} of snapshot {name}, against what its guest was told"
                );
                Err(self.violation(Some(node), what))
            }
            None => Ok(()),
        }
    }

    /// Whatever a node durably says it keeps is there, and is the version that its position names.
    pub(super) fn check_snapshots(&mut self, node: usize) -> Result<(), Violation> {
        let snapshots = self
            .meta(node)
            .map_or_else(Vec::new, |meta| meta.snapshots.clone());
        for kept in snapshots.iter().filter(|s| s.state == SnapshotState::Kept) {
            let (name, at) = (&kept.name, kept.at);
            let taken = &self.nodes[node].disk.snapshots;
            let Some(taken) = taken.iter().find(|taken| (&taken.name, taken.at) == (name, at)) else {
                let what = format!("says that it keeps snapshot {name} of {}, and does not", at.lsn);
                return Err(self.violation(Some(node), what));
            };
            if taken.is_doubtful || self.history.is_jump(at) {
                continue;
            }
            let sectors = self.history.size_at(at);
            let stamp_at = self.history.version_at(at);
            let wrong = (0..sectors).find(|sector| {
                let place = sector * SECTOR..(sector + 1) * SECTOR;
                let have = taken.contents.get(place).and_then(stamp::of);
                have != Some(stamp_at(*sector))
            });
            if wrong.is_some() || taken.contents.len() != sectors * SECTOR || !self.history.holds(at) {
                let (length, want) = (taken.contents.len() / SECTOR, sectors);
                let what = format!(
                    "keeps in snapshot {name} what is no version at {}: sector {wrong:?}, {length} sectors of {want}",
                    at.lsn
                );
                return Err(self.violation(Some(node), what));
            }
            *self.counts.entry("checks: snapshots compared").or_default() += 1;
        }
        Ok(())
    }

    /// No snapshot vanishes after an operator was told of it; and none is left half done.
    pub(super) fn check_snapshots_at_rest(&mut self) -> Result<(), Violation> {
        for node in self.members.clone() {
            self.check_snapshots(node)?;
        }
        let lost = self.snapshots_told.iter().find(|told| {
            let place = &self.nodes[told.node];
            let meta = self.meta(told.node).filter(|_| place.life == told.life);
            let known = |meta: &mars::Meta| {
                let is = |s: &mars::Snapshot| (&s.name, s.at) == (&told.name, told.at);
                meta.snapshots.iter().any(is)
            };
            self.members.contains(&told.node) && meta.is_some_and(|meta| !known(meta))
        });
        match lost.cloned().filter(|_| !self.history.forced) {
            Some(told) => {
                let what = format!("has forgotten snapshot {} of {}", told.name, told.at.lsn);
                Err(self.violation(Some(told.node), what))
            }
            None => Ok(()),
        }
    }
}
