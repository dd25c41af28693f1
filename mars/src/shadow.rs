//! What has been acknowledged but is not yet on the disk? Reads look here first.
//!
//! Two generations: `active` takes new records; `frozen` is being written back. Freezing happens at a batch boundary,
//! and nothing is added to a frozen generation, so each of its pieces is the newest version before that boundary: write-back
//! never meets a version that is overwritten by one that is not yet durable.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use model::units::SECTOR_BYTES;
use model::{SectorCount, SectorOffset, SectorRange};

use crate::event::{BlockExtent, VolumeData};
use crate::museum::{self, Mutant};

/// Memory a piece takes besides its data.
const PIECE_OVERHEAD_BYTES: u64 = 128;

/// Newest contents of non-overlapping ranges.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Piece {
    count: u64,
    data: VolumeData,
}

impl Piece {
    fn cost(&self) -> u64 {
        PIECE_OVERHEAD_BYTES
            + match &self.data {
                VolumeData::Zeroes => 0,
                VolumeData::Data(data) => data.len() as u64,
            }
    }

    /// The part of a piece that begins `skip` sectors into it.
    fn part(&self, skip: u64, count: u64) -> Piece {
        let data = match &self.data {
            VolumeData::Zeroes => VolumeData::Zeroes,
            VolumeData::Data(data) => {
                let from = (skip * SECTOR_BYTES) as usize;
                VolumeData::Data(data.slice(from..from + (count * SECTOR_BYTES) as usize))
            }
        };
        Piece { count, data }
    }
}

impl Generation {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn put(&mut self, start: u64, piece: Piece) {
        self.bytes += piece.cost();
        let replaced = self.pieces.insert(start, piece);
        assert!(replaced.is_none(), "the place was cleared before");
    }

    /// Takes out every piece that overlaps, giving back the ends that stick out.
    fn clear(&mut self, range: SectorRange) {
        let (start, end) = (range.start.0, range.end().0);
        let before = self
            .pieces
            .range(..start)
            .next_back()
            .map(|(at, piece)| (*at, piece.count));
        let first = before
            .filter(|(at, count)| at + count > start)
            .map_or(start, |(at, _)| at);
        let overlapping: Vec<u64> = self.pieces.range(first..end).map(|(at, _)| *at).collect();
        for at in overlapping {
            let piece = self.pieces.remove(&at).expect("just listed");
            self.bytes -= piece.cost();
            if at < start {
                self.put(at, piece.part(0, start - at));
            }
            let piece_end = at + piece.count;
            if piece_end > end {
                self.put(end, piece.part(end - at, piece_end - end));
            }
        }
    }

    /// Newer contents of a range.
    pub fn insert(&mut self, range: SectorRange, data: VolumeData) {
        if range.is_empty() {
            return;
        }
        self.clear(range);
        self.put(
            range.start.0,
            Piece {
                count: range.count.0,
                data,
            },
        );
    }

    /// The parts of `range` held here, in ascending order.
    pub fn overlay(&self, range: SectorRange) -> Vec<(SectorRange, VolumeData)> {
        let (start, end) = (range.start.0, range.end().0);
        let before = self
            .pieces
            .range(..start)
            .next_back()
            .map(|(at, piece)| (*at, piece.count));
        let first = before
            .filter(|(at, count)| at + count > start)
            .map_or(start, |(at, _)| at);
        self.pieces
            .range(first..end)
            .map(|(at, piece)| {
                let from = (*at).max(start);
                let count = (at + piece.count).min(end) - from;
                let part = SectorRange::new(from, count).expect("within a checked range");
                (part, piece.part(from - at, count).data)
            })
            .collect()
    }

    /// Everything, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (SectorRange, &VolumeData)> {
        self.pieces.iter().map(|(at, piece)| {
            (
                SectorRange::new(*at, piece.count).expect("was inserted as a range"),
                &piece.data,
            )
        })
    }
}

/// Both generations.
#[derive(Debug, Default)]
pub struct Shadow {
    /// Takes new records.
    pub active: Generation,
    /// Being written back.
    pub frozen: Generation,
}

impl Shadow {
    /// Memory taken.
    pub fn bytes(&self) -> u64 {
        self.active.bytes() + self.frozen.bytes()
    }

    /// What a read of `range` must lay over the disk's contents, now.
    pub fn overlay(&self, range: SectorRange) -> Overlay {
        let mut merged = Generation::default();
        let frozen = if museum::is(Mutant::StaleRead) {
            &Generation::default()
        } else {
            &self.frozen
        };
        for (part, data) in frozen
            .overlay(range)
            .into_iter()
            .chain(self.active.overlay(range))
        {
            merged.insert(part, data);
        }
        Overlay { range, merged }
    }

    /// The active generation becomes the frozen one.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_empty(), "one generation is written back at a time");
        self.frozen = std::mem::take(&mut self.active);
    }

    /// The frozen generation is on the disk.
    pub fn drop_frozen(&mut self) {
        self.frozen = Generation::default();
    }
}

/// The shadow's part of a read, taken when the read began: what completes later than that was not yet answered then.
#[derive(Clone, Debug)]
pub struct Overlay {
    range: SectorRange,
    merged: Generation,
}

impl Overlay {
    /// What was asked for.
    pub fn range(&self) -> SectorRange {
        self.range
    }

    /// The smallest range that covers everything the disk must supply; `None` when it need not be asked.
    pub fn missing(&self) -> Option<SectorRange> {
        let mut at = self.range.start.0;
        let mut hull: Option<(u64, u64)> = None;
        let mut gap = |from: u64, to: u64| {
            if from < to {
                hull = Some((hull.map_or(from, |h| h.0), to));
            }
        };
        for (part, _) in self.merged.iter() {
            gap(at, part.start.0);
            at = part.end().0;
        }
        gap(at, self.range.end().0);
        hull.map(|(from, to)| SectorRange::new(from, to - from).expect("within a checked range"))
    }

    /// The contents of the range: the shadow's over the disk's (`disk` covers [`Overlay::missing`]).
    pub fn compose(self, disk: VolumeData) -> VolumeData {
        let missing = self.missing();
        if self.merged.is_empty() {
            return disk;
        }
        let all_zeroes = self.merged.iter().all(|(_, data)| *data == VolumeData::Zeroes)
            && (missing.is_none() || disk == VolumeData::Zeroes);
        if all_zeroes {
            return VolumeData::Zeroes;
        }
        if let (None, Some((_, VolumeData::Data(data)))) = (missing, self.merged.iter().next())
            && data.len() as u64 == self.range.len_bytes()
        {
            return VolumeData::Data(data.clone());
        }
        let mut out = BytesMut::zeroed(self.range.len_bytes() as usize);
        let base = self.range.start.bytes();
        let mut lay = |range: SectorRange, data: &VolumeData| {
            let from = (range.start.bytes() - base) as usize;
            let place = &mut out[from..from + range.len_bytes() as usize];
            match data {
                VolumeData::Zeroes => place.fill(0),
                VolumeData::Data(data) => place.copy_from_slice(data),
            }
        };
        if let Some(missing) = missing {
            lay(missing, &disk);
        }
        for (part, data) in self.merged.iter() {
            lay(part, data);
        }
        VolumeData::Data(out.freeze())
    }

    /// Data and holes of the range: the shadow's over the disk's (`disk` covers [`Overlay::missing`]).
    pub fn compose_status(self, disk: &[BlockExtent]) -> Vec<BlockExtent> {
        let mut extents: Vec<BlockExtent> = Vec::new();
        let mut push = |range: SectorRange, data: bool| match extents.last_mut() {
            Some(last) if last.data == data => last.range.count.0 += range.count.0,
            _ => extents.push(BlockExtent { range, data }),
        };
        let mut at = self.range.start;
        let from_disk = |from: SectorOffset, to: SectorOffset, push: &mut dyn FnMut(SectorRange, bool)| {
            let gap = SectorRange {
                start: from,
                count: SectorCount(to.0 - from.0),
            };
            disk.iter().for_each(|extent| {
                if let Some(part) = extent.range.intersection(gap) {
                    push(part, extent.data);
                }
            });
        };
        for (part, data) in self.merged.iter() {
            from_disk(at, part.start, &mut push);
            push(
                part,
                *data != VolumeData::Zeroes && !museum::is(Mutant::HoleOverData),
            );
            at = part.end();
        }
        from_disk(at, self.range.end(), &mut push);
        extents
    }
}

/// Contents as bytes.
pub fn to_bytes(data: VolumeData, range: SectorRange) -> Bytes {
    match data {
        VolumeData::Data(data) => data,
        VolumeData::Zeroes => BytesMut::zeroed(range.len_bytes() as usize).freeze(),
    }
}

#[cfg(test)]
mod tests;
