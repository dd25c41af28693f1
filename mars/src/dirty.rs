//! Which extents of a volume may a peer lack? One bit each, small enough to be written as a whole.
//!
//! A map may say too much, never too little: what it names is compared by digest before anything travels.
//!
//! ```text
//! track (one file per peer): the envelope of `envelope.rs` around: term u32 | peer name |
//!       base position | covered position | map
//! map:  sectors u64 | extent_sectors u64 | bits, one per extent, lowest bit of the first byte first
//! ```

use bytes::Bytes;
use model::{NodeId, SectorCount, SectorOffset, SectorRange};

use crate::codec::{DecodeError, Reader, Writer, malformed};
use crate::envelope;
use crate::lineage::Position;
use crate::message::SYNC_EXTENT_SECTORS;

/// Bits of a map at most: 128 KiB, whatever the volume's size.
pub const BITS_MAX: u64 = 1 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"PDD1");

/// A set of extents: each as long as one of a full sync, or a power of two times that where the volume is large.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyMap {
    sectors: u64,
    extent_sectors: u64,
    bits: Vec<u8>,
}

impl std::fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirtyMap")
            .field("sectors", &self.sectors)
            .field("extent_sectors", &self.extent_sectors)
            .field("dirty_sectors", &self.dirty().0)
            .finish()
    }
}

fn extent_sectors(sectors: u64) -> u64 {
    let mut extent = SYNC_EXTENT_SECTORS;
    while sectors.div_ceil(extent) > BITS_MAX {
        extent *= 2;
    }
    extent
}

impl DirtyMap {
    /// The empty set for a volume of so many sectors.
    pub fn clean(volume: SectorCount) -> DirtyMap {
        let extent_sectors = extent_sectors(volume.0);
        let extents = volume.0.div_ceil(extent_sectors);
        DirtyMap {
            sectors: volume.0,
            extent_sectors,
            bits: vec![0; extents.div_ceil(8) as usize],
        }
    }

    /// The volume's length.
    pub fn sectors(&self) -> SectorCount {
        SectorCount(self.sectors)
    }

    fn extents(&self, range: SectorRange) -> std::ops::Range<u64> {
        let end = range.end().0.min(self.sectors);
        let start = range.start.0.min(end);
        start / self.extent_sectors..end.div_ceil(self.extent_sectors)
    }

    fn bit(&self, extent: u64) -> bool {
        self.bits[(extent / 8) as usize] & (1 << (extent % 8)) != 0
    }

    /// Adds every extent that `range` reaches.
    pub fn mark(&mut self, range: SectorRange) {
        if range.is_empty() {
            return;
        }
        for extent in self.extents(range) {
            self.bits[(extent / 8) as usize] |= 1 << (extent % 8);
        }
    }

    /// Whether it names all of `range`.
    pub fn covers(&self, range: SectorRange) -> bool {
        range.is_empty() || self.extents(range).all(|extent| self.bit(extent))
    }

    /// What to mark along with `range` where each mark costs a save: a stretch of 64 extents, or an eighth of a small volume.
    pub fn region(&self, range: SectorRange) -> SectorRange {
        let step = (self.sectors.div_ceil(self.extent_sectors) / 8).clamp(1, 64) * self.extent_sectors;
        let start = range.start.0 / step * step;
        let end = (range.end().0.div_ceil(step) * step).min(self.sectors);
        SectorRange::new(start, end.saturating_sub(start)).unwrap_or(range)
    }

    /// Adds everything that another map of the same volume names.
    pub fn join(&mut self, other: &DirtyMap) {
        assert_eq!(self.sectors, other.sectors, "maps of one volume");
        for (bits, more) in self.bits.iter_mut().zip(&other.bits) {
            *bits |= more;
        }
    }

    /// The first run of named sectors at or behind `from`, cut at `count_max` sectors (at least one extent).
    pub fn next_dirty(&self, from: SectorOffset, count_max: SectorCount) -> Option<SectorRange> {
        let extents = self.sectors.div_ceil(self.extent_sectors);
        if from.0 >= self.sectors {
            return None;
        }
        let mut extent = from.0 / self.extent_sectors;
        while extent < extents && !self.bit(extent) {
            // Most of a map is clean: whole bytes are passed over at once.
            extent = match self.bits[(extent / 8) as usize] {
                0 => (extent / 8 + 1) * 8,
                _ => extent + 1,
            };
        }
        if extent >= extents {
            return None;
        }
        let start = (extent * self.extent_sectors).max(from.0);
        let stop = start + count_max.0;
        let mut end = (extent + 1) * self.extent_sectors;
        while end < stop && end < self.sectors && self.bit(end / self.extent_sectors) {
            end += self.extent_sectors;
        }
        SectorRange::new(start, end.min(stop).min(self.sectors) - start)
    }

    /// How much of the volume is named.
    pub fn dirty(&self) -> SectorCount {
        let extents: u64 = self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
        SectorCount((extents * self.extent_sectors).min(self.sectors))
    }

    /// The same set for a volume of another length; what is not part of both is not named.
    pub fn resized(&self, volume: SectorCount) -> DirtyMap {
        let mut resized = DirtyMap::clean(volume);
        let all = SectorCount(self.sectors);
        let mut at = SectorOffset(0);
        while let Some(run) = self.next_dirty(at, all) {
            resized.mark(run);
            at = run.end();
        }
        resized
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.sectors).u64(self.extent_sectors).bytes(&self.bits);
    }

    /// Reads a map that ends the message or file it is in.
    pub(crate) fn read(r: &mut Reader) -> Result<DirtyMap, DecodeError> {
        let (sectors, given) = (r.u64("map's sectors")?, r.u64("map's extent")?);
        if sectors > model::units::VOLUME_BYTES_MAX / model::units::SECTOR_BYTES
            || given != extent_sectors(sectors)
        {
            return Err(malformed(format!("a map of {sectors} sectors by {given}")));
        }
        let length = sectors.div_ceil(given).div_ceil(8) as usize;
        let bits = r.bytes(length, "map")?.to_vec();
        let spare = (length as u64 * 8 - sectors.div_ceil(given)) as u32;
        if bits.last().is_some_and(|last| last.leading_zeros() < spare) {
            return Err(malformed("a map names extents beyond the volume"));
        }
        Ok(DirtyMap {
            sectors,
            extent_sectors: given,
            bits,
        })
    }
}

/// What is remembered durably of a peer whose log was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTrack {
    /// The primary's term: in another one somebody else may have written.
    pub term: u32,
    /// Who.
    pub peer: NodeId,
    /// The peer has durably what our log had up to here.
    pub base: Position,
    /// Every change between `base` and here is in the map.
    pub covered: Position,
    /// What changed.
    pub map: DirtyMap,
}

impl SavedTrack {
    /// The form on disk; the layout stands at the head of this page.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u32(self.term).node(&self.peer);
        w.position(self.base).position(self.covered);
        self.map.write(&mut w);
        envelope::wrap(MAGIC, w)
    }

    /// Reads what [`SavedTrack::encode`] made.
    pub fn decode(bytes: Bytes) -> Result<SavedTrack, DecodeError> {
        let mut r = envelope::open(MAGIC, bytes, "a track")?;
        let track = SavedTrack {
            term: r.u32("term")?,
            peer: r.node("peer")?,
            base: r.position("base")?,
            covered: r.position("covered")?,
            map: DirtyMap::read(&mut r)?,
        };
        r.finish("track")?;
        Ok(track)
    }
}

#[cfg(test)]
mod tests {
    use model::Lsn;

    use super::*;
    use crate::lineage::Digest;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(start, count).expect("small")
    }

    fn runs(map: &DirtyMap, count_max: u64) -> Vec<(u64, u64)> {
        let mut at = SectorOffset(0);
        std::iter::from_fn(|| {
            let run = map.next_dirty(at, SectorCount(count_max))?;
            at = run.end();
            Some((run.start.0, run.count.0))
        })
        .collect()
    }

    #[test]
    fn a_map_names_what_was_marked_in_whole_extents() {
        let mut map = DirtyMap::clean(SectorCount(1000));
        assert_eq!(runs(&map, 4096), vec![]);
        map.mark(range(0, 1));
        map.mark(range(300, 0));
        map.mark(range(511, 2));
        map.mark(range(999, 1));
        assert_eq!(runs(&map, 4096), vec![(0, 128), (384, 256), (896, 104)]);
        assert_eq!(
            runs(&map, 128),
            vec![(0, 128), (384, 128), (512, 128), (896, 104)]
        );
        assert_eq!(
            map.next_dirty(SectorOffset(400), SectorCount(50)),
            Some(range(400, 50))
        );
        assert_eq!(map.dirty(), SectorCount(4 * 128));
    }

    #[test]
    fn a_map_is_small_however_large_the_volume() {
        let check = |bytes: u64, extent: u64| {
            let mut map = DirtyMap::clean(SectorCount(bytes / 512));
            assert_eq!(map.extent_sectors, extent, "{bytes}");
            assert!(map.bits.len() <= 128 << 10, "{bytes}");
            map.mark(range(bytes / 512 - 1, 1));
            assert_eq!(map.dirty().0, extent);
        };
        check(1 << 30, 128);
        check(64 << 30, 128);
        check((64 << 30) + 4096, 256);
        check(1 << 60, 1 << 31);
    }

    #[test]
    fn a_region_is_marked_in_advance() {
        let mut map = DirtyMap::clean(SectorCount(64 * 1024));
        let region = map.region(range(9000, 10));
        assert_eq!((region.start.0, region.count.0), (8192, 8192));
        assert!(!map.covers(range(9000, 10)));
        map.mark(region);
        assert!(map.covers(region) && map.covers(range(9000, 0)) && !map.covers(range(16380, 8)));
        let small = DirtyMap::clean(SectorCount(1000));
        assert_eq!(small.region(range(900, 100)), range(896, 104));
    }

    #[test]
    fn a_resized_map_names_what_is_part_of_both() {
        let mut map = DirtyMap::clean(SectorCount(200));
        map.mark(range(0, 1));
        map.mark(range(199, 1));
        let check = |to: u64, want: &[(u64, u64)]| {
            assert_eq!(runs(&map.resized(SectorCount(to)), 4096), want, "{to}");
        };
        check(1000, &[(0, 256)]);
        check(200, &[(0, 200)]);
        check(100, &[(0, 100)]);
        // Extents twice as long.
        check((64 << 30) / 512 + 8, &[(0, 256)]);
    }

    #[test]
    fn a_track_is_read_as_it_was_written_and_damage_is_noticed() {
        let mut map = DirtyMap::clean(SectorCount(5000));
        map.mark(range(200, 1000));
        let position = |lsn| Position {
            lsn: Lsn(lsn),
            digest: Digest(u128::from(lsn) << 70),
        };
        let track = SavedTrack {
            term: 3,
            peer: NodeId::new("h2").expect("valid"),
            base: position(512),
            covered: position(9 * 512),
            map,
        };
        let bytes = track.encode();
        assert_eq!(SavedTrack::decode(bytes.clone()), Ok(track));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(SavedTrack::decode(Bytes::from(bad)).is_err(), "byte {at}");
            assert!(SavedTrack::decode(bytes.slice(..at)).is_err(), "cut at {at}");
        }
    }
}
