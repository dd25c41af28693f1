//! How is a volume copied while it is written? Piece by piece; what is about to be overwritten goes first.
//!
//! A copy is cut into extents of 64 KiB. One is *saved* once its bytes are durable in the copy, and a bit in a map beside it, durable too, says
//! so; only then may the disk change there. So after a crash the map names what must be taken from the copy, and the rest is still on the
//! disk as it was. Bits only ever come into the map, each after its bytes: a map that was torn while it was written names too little, never
//! too much.
//!
//! An extent that is a hole of the disk is saved without a byte.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use model::{SectorRange, VolumeSize};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Copied as a whole, or not.
pub(crate) const EXTENT_BYTES: u64 = 64 * 1024;

/// Made durable at one time, about.
const BATCH_BYTES: u64 = 16 << 20;

/// Not written where it is zeroes; what file systems reserve at least.
const PAGE_BYTES: usize = 4096;

/// Read at one time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Which extents of a copy are saved.
///
/// Shape: one bit per extent, the lowest bit of a byte first; what is behind the end is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    bits: Vec<u8>,
    extents: u64,
}

impl Saved {
    /// None of a volume of this size.
    pub fn none(size: VolumeSize) -> Saved {
        let extents = size.bytes().div_ceil(EXTENT_BYTES);
        let mut bits = vec![0; Saved::map_bytes(size) as usize];
        if let (Some(last), used @ 1..) = (bits.last_mut(), extents % 8) {
            *last = 0xff << used;
        }
        Saved { bits, extents }
    }

    /// How long the map of a volume of this size is.
    fn map_bytes(size: VolumeSize) -> u64 {
        size.bytes().div_ceil(EXTENT_BYTES).div_ceil(8)
    }

    fn has(&self, extent: u64) -> bool {
        self.bits[(extent / 8) as usize] & (1 << (extent % 8)) != 0
    }

    /// The first extent at or behind `from` that is not saved.
    fn next_missing(&self, from: u64) -> Option<u64> {
        let mut at = from;
        while at < self.extents {
            if at.is_multiple_of(8) && self.bits[(at / 8) as usize] == 0xff {
                at += 8;
            } else if self.has(at) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// The extents of `range` that the copy has; what is behind the copy is none.
    fn extents(&self, range: SectorRange) -> Range<u64> {
        let end = range.end().bytes().div_ceil(EXTENT_BYTES).min(self.extents);
        (range.start.bytes() / EXTENT_BYTES).min(end)..end
    }

    /// Whether the disk may change in `range`.
    pub fn covers(&self, range: SectorRange) -> bool {
        let extents = self.extents(range);
        self.next_missing(extents.start)
            .is_none_or(|missing| missing >= extents.end)
    }

    /// These extents are saved.
    pub fn add(&mut self, extents: &Range<u64>) {
        for extent in extents.clone() {
            self.bits[(extent / 8) as usize] |= 1 << (extent % 8);
        }
    }
}

/// A copy that is being made.
#[derive(Debug)]
pub(crate) struct Copying {
    copy: File,
    map: File,
    saved: Saved,
    size: VolumeSize,
    /// Everything before it is saved.
    cursor: u64,
}

impl Copying {
    /// Of a volume of `size`, into empty files; nothing is saved.
    pub fn begin(copy: File, map: File, size: VolumeSize) -> io::Result<Copying> {
        copy.set_len(size.bytes())?;
        copy.sync_all()?;
        // A map that has its length is a map: whoever finds it shorter knows that nothing was ever saved.
        let saved = Saved::none(size);
        map.write_all_at(&saved.bits, 0)?;
        map.sync_all()?;
        Ok(Copying {
            copy,
            map,
            saved,
            size,
            cursor: 0,
        })
    }

    /// Goes on with files that an earlier attempt has left; `None` when it had not come so far as to save anything.
    pub fn resume(copy: File, map: File, size: VolumeSize) -> io::Result<Option<Copying>> {
        let mut saved = Saved::none(size);
        let has = |file: &File, length| file.metadata().map(|metadata| metadata.len() == length);
        if !has(&copy, size.bytes())? || !has(&map, saved.bits.len() as u64)? {
            return Ok(None);
        }
        map.read_exact_at(&mut saved.bits, 0)?;
        Ok(Some(Copying {
            copy,
            map,
            saved,
            size,
            cursor: 0,
        }))
    }

    /// What is saved so far.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Whether everything is.
    pub fn is_done(&mut self) -> bool {
        self.cursor = self.saved.next_missing(self.cursor).unwrap_or(self.saved.extents);
        self.cursor == self.saved.extents
    }

    /// Saves a part of what is missing in the ranges that are `wanted`, or of the rest when nothing is missing there; what is durable
    /// now. Nobody changes the disk where it is not saved.
    pub fn save(&mut self, disk: &File, wanted: &[SectorRange]) -> io::Result<Vec<Range<u64>>> {
        let mut room = BATCH_BYTES;
        let mut done = Vec::new();
        for range in wanted {
            let extents = self.saved.extents(*range);
            self.copy_missing(disk, extents, &mut room, &mut done)?;
        }
        if done.is_empty() {
            let rest = self.cursor..self.saved.extents;
            self.copy_missing(disk, rest, &mut room, &mut done)?;
        }
        self.copy.sync_data()?;
        for extents in &done {
            let bytes = extents.start / 8..extents.end.div_ceil(8);
            let part = &self.saved.bits[bytes.start as usize..bytes.end as usize];
            self.map.write_all_at(part, bytes.start)?;
        }
        self.map.sync_data()?;
        Ok(done)
    }

    /// Copies what is missing of these extents, up to so many bytes.
    fn copy_missing(
        &mut self,
        disk: &File,
        extents: Range<u64>,
        room: &mut u64,
        done: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let mut at = extents.start;
        while *room > 0
            && let Some(start) = self
                .saved
                .next_missing(at)
                .filter(|missing| *missing < extents.end)
        {
            // What is a hole up to there is saved as it is.
            let data = data_from(disk, start * EXTENT_BYTES)?;
            let first = data.map_or(extents.end, |data| {
                (data / EXTENT_BYTES).clamp(start, extents.end)
            });
            let mut end = first;
            while end < extents.end
                && *room > 0
                && !self.saved.has(end)
                && end - first < CHUNK_BYTES / EXTENT_BYTES
            {
                end += 1;
                *room = room.saturating_sub(EXTENT_BYTES);
            }
            self.copy_bytes(
                disk,
                first * EXTENT_BYTES..(end * EXTENT_BYTES).min(self.size.bytes()),
            )?;
            self.saved.add(&(start..end));
            done.push(start..end);
            at = end;
        }
        Ok(())
    }

    fn copy_bytes(&self, disk: &File, bytes: Range<u64>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut buffer = vec![0; (bytes.end - bytes.start) as usize];
        disk.read_exact_at(&mut buffer, bytes.start)?;
        // Zeroes need no room.
        let is_zero = |page: &&[u8]| page.iter().all(|byte| *byte == 0);
        let pages: Vec<&[u8]> = buffer.chunks(PAGE_BYTES).collect();
        let mut at = 0;
        for run in pages.chunk_by(|page, next| is_zero(page) == is_zero(next)) {
            let end = at + run.iter().map(|page| page.len()).sum::<usize>();
            if !is_zero(&run[0]) {
                self.copy
                    .write_all_at(&buffer[at..end], bytes.start + at as u64)?;
            }
            at = end;
        }
        Ok(())
    }
}

/// The first byte at or behind `at` that may be data; `None` when there is none.
pub(crate) fn data_from(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that cannot tell has data everywhere.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
