//! Where does a guest's address lead? Regions of shared memory, and checked ways into them.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mapping::Mapping;

/// One stretch of a guest's memory.
#[derive(Clone, Debug)]
pub struct Region {
    /// Where the guest sees it.
    guest: u64,
    /// Where the front end sees it: rings are told in its addresses.
    user: u64,
    len: u64,
    /// Where it begins in the mapping.
    at: usize,
    mapping: Arc<Mapping>,
}

impl Region {
    /// Maps `len` bytes at `offset` of `file`.
    ///
    /// Errors: addresses that run over, a file that has not so much, or the system refuses.
    pub fn new(guest: u64, user: u64, len: u64, offset: u64, file: &File) -> io::Result<Region> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "a memory region runs over");
        let end = offset.checked_add(len).ok_or_else(bad)?;
        guest.checked_add(len).ok_or_else(bad)?;
        user.checked_add(len).ok_or_else(bad)?;
        let mapping = Arc::new(Mapping::new(file, end)?);
        let at = usize::try_from(offset).map_err(|_| bad())?;
        Ok(Region {
            guest,
            user,
            len,
            at,
            mapping,
        })
    }

    /// Whether it is the one that is meant.
    pub fn is(&self, guest: u64, user: u64, len: u64) -> bool {
        (self.guest, self.user, self.len) == (guest, user, len)
    }
}

/// A piece of a guest's memory that is all in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    region: usize,
    at: usize,
    /// Where the guest sees it.
    pub guest: u64,
    /// Bytes.
    pub len: usize,
}

impl Piece {
    /// What is left of it without its first `skip` bytes; `None` when nothing is.
    pub fn from(&self, skip: usize) -> Option<Piece> {
        (skip < self.len).then(|| Piece {
            region: self.region,
            at: self.at + skip,
            guest: self.guest + skip as u64,
            len: self.len - skip,
        })
    }
}

/// All of a guest's memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// Of these regions.
    pub fn new(regions: Vec<Region>) -> Memory {
        Memory { regions }
    }

    /// Its regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether the front end took some of it away.
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.is_lost())
    }

    /// The pieces of `len` bytes from the guest's address on; false (and what was added is to be forgotten) when some
    /// of them are no memory. Regions that touch may be crossed.
    pub fn pieces(&self, guest: u64, len: u64, into: &mut Vec<Piece>) -> bool {
        let Some(end) = guest.checked_add(len) else {
            return false;
        };
        let mut from = guest;
        while from < end {
            let found = self
                .regions
                .iter()
                .position(|region| from >= region.guest && from - region.guest < region.len);
            let Some(index) = found else { return false };
            let region = &self.regions[index];
            let inside = from - region.guest;
            let len = (region.len - inside).min(end - from);
            // Both are below the mapping's length, which is a usize.
            let (Ok(inside), Ok(bytes)) = (usize::try_from(inside), usize::try_from(len)) else {
                return false;
            };
            into.push(Piece {
                region: index,
                at: region.at + inside,
                guest: from,
                len: bytes,
            });
            from += len;
        }
        true
    }

    /// Copies out of a piece, from its beginning; of both what is shorter.
    pub fn read(&self, piece: &Piece, into: &mut [u8]) {
        let len = piece.len.min(into.len());
        self.regions[piece.region]
            .mapping
            .read(piece.at, &mut into[..len]);
    }

    /// Copies into a piece, from its beginning; of both what is shorter.
    pub fn write(&self, piece: &Piece, from: &[u8]) {
        let len = piece.len.min(from.len());
        self.regions[piece.region].mapping.write(piece.at, &from[..len]);
    }

    /// Fills `into` from the guest's address on; false when some of it is no memory.
    pub fn read_at(&self, guest: u64, into: &mut [u8]) -> bool {
        let mut pieces = Vec::with_capacity(1);
        if !self.pieces(guest, into.len() as u64, &mut pieces) {
            return false;
        }
        let mut rest = into;
        for piece in &pieces {
            let (now, later) = rest.split_at_mut(piece.len);
            self.read(piece, now);
            rest = later;
        }
        true
    }

    /// `len` bytes at the front end's address, if they are in one region and as aligned as asked for.
    pub fn span(&self, user: u64, len: u64, align: usize) -> Option<Span> {
        let region = self
            .regions
            .iter()
            .find(|region| user >= region.user && user - region.user < region.len)?;
        let inside = user - region.user;
        if region.len - inside < len {
            return None;
        }
        let at = region.at.checked_add(usize::try_from(inside).ok()?)?;
        // A mapping begins on a page.
        at.is_multiple_of(align).then(|| Span {
            mapping: region.mapping.clone(),
            at,
        })
    }
}

/// A place in shared memory that stays mapped as long as somebody holds it.
#[derive(Clone, Debug)]
pub struct Span {
    mapping: Arc<Mapping>,
    at: usize,
}

impl Span {
    /// From `at` of a mapping on.
    pub fn new(mapping: Arc<Mapping>, at: usize) -> Span {
        Span { mapping, at }
    }

    /// Whether the front end took it away.
    pub fn is_lost(&self) -> bool {
        self.mapping.is_lost()
    }

    /// A little-endian number.
    pub fn load_u16(&self, at: usize, order: Ordering) -> u16 {
        self.mapping.load_u16(self.at + at, order)
    }

    /// The same, set.
    pub fn store_u16(&self, at: usize, value: u16, order: Ordering) {
        self.mapping.store_u16(self.at + at, value, order);
    }

    /// Copies out.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        self.mapping.read(self.at + at, into);
    }

    /// Copies in.
    pub fn write(&self, at: usize, from: &[u8]) {
        self.mapping.write(self.at + at, from);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// `len` bytes that the guest sees at `guest` and the front end at `user`.
    pub fn region(guest: u64, user: u64, len: u64) -> Region {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len + 4096).unwrap();
        Region::new(guest, user, len, 4096, &file).unwrap()
    }

    #[test]
    fn only_memory_is_found() {
        let memory = Memory::new(vec![
            region(0, 0x7000_0000, 0x1_0000),
            region(0x1_0000, 0x8000_0000, 0x1_0000),
        ]);
        let check = |guest: u64, len: u64, want: Option<&[usize]>| {
            let mut pieces = Vec::new();
            let found = memory.pieces(guest, len, &mut pieces);
            let lens: Vec<usize> = pieces.iter().map(|piece| piece.len).collect();
            assert_eq!(found.then_some(&lens[..]), want, "{len} at {guest:#x}");
        };
        check(0, 16, Some(&[16]));
        check(0xffff, 2, Some(&[1, 1]));
        check(0x1_fff0, 0x10, Some(&[0x10]));
        check(0x1_fff0, 0x11, None);
        check(0x2_0000, 1, None);
        check(0x5_0000, 0, Some(&[]));
        check(u64::MAX, 1, None);
        check(1, u64::MAX, None);
        let mut bytes = [1; 4];
        assert!(memory.read_at(0xfffe, &mut bytes) && bytes == [0; 4]);
        assert!(!memory.read_at(0x1_fffe, &mut bytes));
        assert!(memory.span(0x7000_0000, 0x1_0000, 16).is_some());
        assert!(memory.span(0x7000_0008, 16, 16).is_none(), "not aligned");
        assert!(memory.span(0x7000_0010, 0x1_0000, 16).is_none(), "over the end");
        assert!(memory.span(0x9000_0000, 1, 1).is_none());
    }

    #[test]
    fn regions_that_run_over_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        for (guest, user, len, offset) in [
            (u64::MAX, 0, 4096, 0),
            (0, u64::MAX, 4096, 0),
            (0, 0, 4096, u64::MAX),
            (0, 0, 4096, 1),
            (0, 0, 0, 0),
        ] {
            assert!(Region::new(guest, user, len, offset, &file).is_err());
        }
    }
}
