//! Does a comparison find every bit that turned on a disk, and nothing else? Rot, and the checks of who looks for it.

use bytes::Bytes;
use mars::record::{Batch, Record};
use mars::{Command, CommandId, SyncState, VerifyEnd, VerifyRun};
use model::{NodeId, Role, SectorRange, Tick};

use super::{Violation, World, node_index};
use crate::disk::Disk;
use crate::media::SECTOR;

/// A sector of a volume's disk with a bit that is not as it was written.
#[derive(Clone, Debug)]
pub(super) struct Rot {
    sector: u64,
    good: Vec<u8>,
    bad: Vec<u8>,
    since: Tick,
    /// Since when the sector holds something else.
    gone: Option<Tick>,
}

/// A comparison under way, or the last one.
#[derive(Debug)]
pub(super) struct Verifying {
    since: Tick,
    reported: Vec<(usize, SectorRange)>,
}

fn holds(disk: &Disk, sector: u64, bytes: &[u8]) -> bool {
    disk.volume.read(sector * SECTOR as u64, SECTOR) == bytes
}

impl World {
    /// Asks a node to compare all replicas.
    pub fn verify(&mut self, node: usize, repair: bool, bytes_per_second_max: u64) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: verify");
        let unix_seconds = 1_800_000_000 + self.now.0 / 1_000_000;
        let command = Command::Verify {
            repair,
            bytes_per_second_max,
            unix_seconds,
        };
        Some(self.command(node, command))
    }

    /// Asks a node to stop comparing.
    pub fn cancel_verify(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        Some(self.command(node, Command::VerifyCancel))
    }

    /// Turns a bit on the disk of a secondary that is whole, where nothing is on its way to the disk; false when there is no
    /// such place. A primary's guest would read it, and nobody could tell.
    pub fn rot(&mut self, node: usize) -> bool {
        let whole = |meta: &mars::Meta| meta.role == Role::Secondary && meta.sync == SyncState::Whole;
        let busy = self.status(node).is_some_and(|status| {
            let marks = status.watermarks;
            status.role != Role::Secondary
                || status.shadow_bytes > 0
                || marks.written_back() < marks.touched()
                || status.synced.0 < status.size.sectors().0
        });
        if busy || !self.meta(node).is_some_and(whole) || !self.nothing_is_handed_over() {
            return false;
        }
        let sectors = self.meta(node).map_or(1, |meta| meta.size.sectors().0);
        let sector = self.rng.below(sectors);
        let (byte, bit) = (self.rng.below(SECTOR as u64), self.rng.below(8) as u8);
        let place = &mut self.nodes[node];
        if place.rots.iter().any(|rot| rot.sector == sector) {
            return false;
        }
        let Some((good, bad)) = place.disk.rot(sector, byte, bit) else {
            return false;
        };
        let since = self.now;
        place.rots.push(Rot {
            sector,
            good,
            bad,
            since,
            gone: None,
        });
        self.say(|| format!("ROT h{node} sector {sector}"));
        self.count("faults: bit flipped on a disk");
        true
    }

    /// Whether a bit is wrong on a node's disk.
    pub fn is_rotten(&self, node: usize) -> bool {
        self.nodes[node].rots.iter().any(|rot| rot.gone.is_none())
    }

    /// Whether no node that matters has damage that nobody has mended yet.
    pub(super) fn all_are_sound(&self) -> bool {
        let mut nodes = 0..self.nodes.len();
        nodes.all(|node| !self.nodes[node].disk.log.is_damaged() && !self.is_rotten(node))
    }

    /// Sees which rot was overwritten, or has come back with a power cut.
    pub(super) fn watch_rots(&mut self, node: usize) {
        let (now, place) = (self.now, &mut self.nodes[node]);
        for rot in &mut place.rots {
            match (holds(&place.disk, rot.sector, &rot.bad), rot.gone) {
                (true, Some(_)) => rot.gone = None,
                (false, None) => rot.gone = Some(now),
                _ => {}
            }
        }
    }

    /// A disk's contents without rot: what the other promises are about.
    pub(super) fn mend(&self, node: usize, disk: &mut Disk) {
        for rot in &self.nodes[node].rots {
            if holds(disk, rot.sector, &rot.bad) {
                disk.volume.write(rot.sector * SECTOR as u64, &rot.good);
            }
        }
    }

    /// Whether the log is going to overwrite a sector anyway.
    fn is_overwritten_soon(&self, node: usize, sector: u64) -> bool {
        let place = &self.nodes[node];
        let from = match (self.stood(node), self.meta(node)) {
            (Some(stood), _) => stood.watermarks.written_back(),
            (None, Some(meta)) => meta.written_back.lsn,
            (None, None) => return false,
        };
        let mut rest = Bytes::copy_from_slice(place.disk.log.read(from.0, usize::MAX / 2));
        while let Ok(batch) = Batch::decode(&rest) {
            rest = rest.slice(batch.header.batch_bytes as usize..);
            let mut changes = batch.records.iter().filter_map(Record::change);
            if changes.any(|(range, _)| range.start.0 <= sector && sector < range.end().0) {
                return true;
            }
        }
        false
    }

    pub(super) fn verify_started(&mut self) {
        self.verifying = Some(Verifying {
            since: self.now,
            reported: Vec::new(),
        });
    }

    /// A difference that is told must be there.
    pub(super) fn difference_told(
        &mut self,
        told_by: usize,
        node: &NodeId,
        range: SectorRange,
    ) -> Result<(), Violation> {
        self.count("engine: differences found");
        let Some(index) = node_index(node).filter(|index| *index < self.nodes.len()) else {
            return Err(self.violation(Some(told_by), format!("tells of a difference on {node}")));
        };
        let Some(verifying) = &mut self.verifying else {
            return Err(self.violation(Some(told_by), "tells of a difference without a comparison"));
        };
        let since = verifying.since;
        verifying.reported.push((index, range));
        let there = self.nodes[index].rots.iter().any(|rot| {
            range.start.0 <= rot.sector
                && rot.sector < range.end().0
                && rot.gone.is_none_or(|gone| gone >= since)
        });
        if there || self.is_faked(index) {
            return Ok(());
        }
        let what = format!("tells of a difference in {range} of {node}, where there is none");
        Err(self.violation(Some(told_by), what))
    }

    /// A comparison that has ended must have found every bit that had turned before it began.
    pub(super) fn verify_ended(&mut self, told_by: usize, run: &VerifyRun) -> Result<(), Violation> {
        let repaired: u64 = run.nodes.iter().map(|node| node.repaired_bytes).sum();
        *self.counts.entry("engine: bytes repaired").or_default() += repaired;
        match run.ended {
            Some(VerifyEnd::Finished) => self.count("checks: comparisons finished"),
            _ => {
                self.count("engine: comparisons ended early");
                return Ok(());
            }
        }
        let Some(verifying) = &self.verifying else {
            return Err(self.violation(Some(told_by), "ends a comparison that was never begun"));
        };
        let equal = run.equal_nodes();
        for node in run.nodes.iter().filter(|node| !node.left_out) {
            let Some(index) = node_index(&node.node) else {
                continue;
            };
            let rots = self.nodes[index].rots.iter();
            for rot in rots.filter(|rot| rot.gone.is_none() && rot.since < verifying.since) {
                if self.is_overwritten_soon(index, rot.sector) {
                    continue;
                }
                let is_told = |(told, range): &(usize, SectorRange)| {
                    *told == index && range.start.0 <= rot.sector && rot.sector < range.end().0
                };
                if equal.contains(&node.node) || !verifying.reported.iter().any(is_told) {
                    let what = format!(
                        "has not found that sector {} of {} is wrong",
                        rot.sector, node.node
                    );
                    return Err(self.violation(Some(told_by), what));
                }
            }
        }
        Ok(())
    }
}
