//! Which pages of the guest have we written? Marked for whoever copies its memory to another host.

use std::fs::File;
use std::io;

use super::mapping::Mapping;

/// A bit is a page of this length, whatever the guest's are.
const PAGE_BYTES: u64 = 4096;

/// The front end's map of written pages: a bit per page, the guest's first page lowest.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    offset: usize,
    bytes: u64,
}

impl DirtyLog {
    /// Maps it.
    pub fn new(file: &File, offset: u64, bytes: u64) -> io::Result<DirtyLog> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "the dirty log runs over");
        let end = offset.checked_add(bytes).ok_or_else(bad)?;
        Ok(DirtyLog {
            mapping: Mapping::new(file, end)?,
            offset: usize::try_from(offset).map_err(|_| bad())?,
            bytes,
        })
    }

    /// Marks what was written; memory behind the map is none that anybody migrates.
    pub fn mark(&self, guest: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = guest / PAGE_BYTES;
        let last = guest.saturating_add(len - 1) / PAGE_BYTES;
        let end = self.bytes.saturating_mul(8);
        for page in (first..=last).take_while(|page| *page < end) {
            let byte = usize::try_from(page / 8).expect("inside the mapping");
            self.mapping.set_bits(self.offset + byte, 1 << (page % 8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_that_was_touched_is_marked() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let check = |guest, len, want: [u8; 3]| {
            let log = DirtyLog::new(&file, 8, 3).unwrap();
            log.mapping.write(8, &[0; 3]);
            log.mark(guest, len);
            let mut seen = [0; 3];
            log.mapping.read(8, &mut seen);
            assert_eq!(seen, want, "{len} bytes at {guest:#x}");
        };
        check(0, 1, [1, 0, 0]);
        check(0x1fff, 2, [6, 0, 0]);
        check(0x7000, 0x2000, [0x80, 1, 0]);
        check(0x5000, 0, [0, 0, 0]);
        check(0x1_7000, 0x10_0000, [0, 0, 0x80]);
        check(u64::MAX, 1, [0, 0, 0]);
        check(0x1_0000, u64::MAX, [0, 0, 0xff]);
        assert!(DirtyLog::new(&file, 4096, 1).is_err());
    }
}
