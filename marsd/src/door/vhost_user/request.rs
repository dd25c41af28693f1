//! What is to be done with a request of a guest? Every type, bound and size of virtio-blk in one exhaustive place.
//!
//! Source: virtio 1.2, section 5.2.6.

use bytes::Bytes;
use mars::{GuestError, GuestRequest};
use model::units::SECTOR_BYTES;
use model::{SectorRange, VolumeSize};

use super::space::REQUEST_BYTES_MAX;

/// What a guest writes first: type u32, reserved u32, sector u64.
pub const HEADER_BYTES: usize = 16;

/// What a discard or write-zeroes carries: sector u64, count u32, flags u32.
pub const SEGMENT_BYTES: usize = 16;

/// What GET_ID answers.
pub const ID_BYTES: usize = 20;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const UNMAP: u32 = 1;

/// The last byte of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or never possible.
    IoError = 1,
    /// Not known here.
    Unsupported = 2,
}

/// What was agreed on with one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The volume's length, at least.
    pub size: VolumeSize,
    /// Whether writing is refused.
    pub read_only: bool,
    /// The guest never flushes, so every write must be durable before it is answered.
    pub write_through: bool,
}

/// A request without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What the guest wrote first.
    pub header: [u8; HEADER_BYTES],
    /// What a discard or write-zeroes carries; other requests have data or nothing there.
    pub segment: [u8; SEGMENT_BYTES],
    /// Bytes that the guest wrote behind the header.
    pub from_guest: u64,
    /// Bytes of room for data, without the status.
    pub for_guest: u64,
}

/// What to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the volume; a write still lacks its data.
    Ask(GuestRequest),
    /// Answer with the volume's name.
    Name,
    /// Answer at once.
    Answer(Status),
}

impl Asked {
    /// What to do.
    pub fn judge(&self, terms: &Terms) -> Verdict {
        self.verdict(terms).unwrap_or_else(Verdict::Answer)
    }

    fn verdict(&self, terms: &Terms) -> Result<Verdict, Status> {
        let [t0, t1, t2, t3, .., s0, s1, s2, s3, s4, s5, s6, s7] = self.header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let fua = terms.write_through;
        let request = match u32::from_le_bytes([t0, t1, t2, t3]) {
            IN => {
                let range = self.data_range(terms, sector, self.for_guest)?;
                GuestRequest::Read { range }
            }
            OUT => {
                check_writable(terms)?;
                let range = self.data_range(terms, sector, self.from_guest)?;
                let data = Bytes::new();
                GuestRequest::Write { range, data, fua }
            }
            FLUSH => GuestRequest::Flush,
            GET_ID if self.for_guest >= ID_BYTES as u64 => return Ok(Verdict::Name),
            GET_ID => return Err(Status::IoError),
            DISCARD => {
                check_writable(terms)?;
                let (range, flags) = self.segment_range(terms)?;
                if flags != 0 {
                    return Err(Status::Unsupported);
                }
                GuestRequest::Discard { range, fua }
            }
            WRITE_ZEROES => {
                check_writable(terms)?;
                let (range, flags) = self.segment_range(terms)?;
                if flags & !UNMAP != 0 {
                    return Err(Status::Unsupported);
                }
                let unmap = flags & UNMAP != 0;
                GuestRequest::WriteZeroes { range, fua, unmap }
            }
            _ => return Err(Status::Unsupported),
        };
        // Nothing to do is soon done, but a flush has no range and much to do.
        match request.range() {
            Some(range) if range.is_empty() => Err(Status::Ok),
            _ => Ok(Verdict::Ask(request)),
        }
    }

    fn data_range(&self, terms: &Terms, sector: u64, bytes: u64) -> Result<SectorRange, Status> {
        if bytes > REQUEST_BYTES_MAX || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Status::IoError);
        }
        on_volume(terms, sector, bytes / SECTOR_BYTES)
    }

    /// One segment, as announced: it may be as long as the guest likes.
    fn segment_range(&self, terms: &Terms) -> Result<(SectorRange, u32), Status> {
        if self.from_guest != SEGMENT_BYTES as u64 {
            return Err(Status::IoError);
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = self.segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([n0, n1, n2, n3]);
        let range = on_volume(terms, sector, u64::from(count))?;
        Ok((range, u32::from_le_bytes([f0, f1, f2, f3])))
    }
}

fn check_writable(terms: &Terms) -> Result<(), Status> {
    if terms.read_only {
        Err(Status::IoError)
    } else {
        Ok(())
    }
}

fn on_volume(terms: &Terms, sector: u64, count: u64) -> Result<SectorRange, Status> {
    let end = sector.checked_add(count).ok_or(Status::IoError)?;
    if end > terms.size.bytes() / SECTOR_BYTES {
        return Err(Status::IoError);
    }
    SectorRange::new(sector, count).ok_or(Status::IoError)
}

/// What a guest is told about an error below.
pub fn status(error: &GuestError) -> Status {
    match error {
        // The session behind the door keeps NotPrimary to itself; a door without one cannot do better.
        GuestError::OutOfBounds | GuestError::NotPrimary { .. } | GuestError::Disk(_) => Status::IoError,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64 << 20;
    const SECTORS: u64 = SIZE / SECTOR_BYTES;

    fn terms() -> Terms {
        Terms {
            size: VolumeSize::new(SIZE).expect("aligned"),
            read_only: false,
            write_through: false,
        }
    }

    fn asked(kind: u32, sector: u64, from_guest: u64, for_guest: u64) -> Asked {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        Asked {
            header,
            segment: [0; SEGMENT_BYTES],
            from_guest,
            for_guest,
        }
    }

    fn segment(kind: u32, sector: u64, count: u32, flags: u32) -> Asked {
        let mut asked = asked(kind, 0, SEGMENT_BYTES as u64, 0);
        asked.segment[..8].copy_from_slice(&sector.to_le_bytes());
        asked.segment[8..12].copy_from_slice(&count.to_le_bytes());
        asked.segment[12..].copy_from_slice(&flags.to_le_bytes());
        asked
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |asked: Asked, want| {
            assert_eq!(asked.judge(&terms()), Verdict::Answer(want), "{asked:?}");
        };
        for (kind, from, to) in [(IN, 0, 1), (OUT, 1, 0)] {
            check(asked(kind, 0, 511 * from, 511 * to), Status::IoError);
            check(asked(kind, SECTORS, 512 * from, 512 * to), Status::IoError);
            check(asked(kind, SECTORS - 1, 1024 * from, 1024 * to), Status::IoError);
            check(asked(kind, u64::MAX, 512 * from, 512 * to), Status::IoError);
            let long = REQUEST_BYTES_MAX + 512;
            check(asked(kind, 0, long * from, long * to), Status::IoError);
            check(asked(kind, 0, 0, 0), Status::Ok);
        }
        for kind in [DISCARD, WRITE_ZEROES] {
            check(asked(kind, 0, 0, 0), Status::IoError);
            check(asked(kind, 0, 32, 0), Status::IoError);
            check(segment(kind, SECTORS, 1, 0), Status::IoError);
            check(segment(kind, u64::MAX, u32::MAX, 0), Status::IoError);
            check(segment(kind, 0, 1, 2), Status::Unsupported);
            check(segment(kind, 0, 0, 0), Status::Ok);
        }
        check(segment(DISCARD, 0, 1, UNMAP), Status::Unsupported);
        check(asked(GET_ID, 0, 0, 19), Status::IoError);
        for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x8000_0000, u32::MAX] {
            check(asked(kind, 0, 512, 512), Status::Unsupported);
        }
        let read_only = Terms {
            read_only: true,
            ..terms()
        };
        for asked in [
            asked(OUT, 0, 512, 0),
            segment(DISCARD, 0, 1, 0),
            segment(WRITE_ZEROES, 0, 1, 0),
        ] {
            assert_eq!(asked.judge(&read_only), Verdict::Answer(Status::IoError));
        }
    }

    #[test]
    fn what_can_be_is_asked_for() {
        let range = SectorRange::new(8, 2).expect("small");
        let data = Bytes::new();
        for fua in [false, true] {
            let terms = Terms {
                write_through: fua,
                ..terms()
            };
            let check = |asked: Asked, want| assert_eq!(asked.judge(&terms), Verdict::Ask(want));
            check(asked(IN, 8, 0, 1024), GuestRequest::Read { range });
            let write = GuestRequest::Write {
                range,
                data: data.clone(),
                fua,
            };
            check(asked(OUT, 8, 1024, 0), write);
            check(asked(FLUSH, 99, 0, 0), GuestRequest::Flush);
            check(segment(DISCARD, 8, 2, 0), GuestRequest::Discard { range, fua });
            for (flags, unmap) in [(0, false), (UNMAP, true)] {
                let zeroes = GuestRequest::WriteZeroes { range, fua, unmap };
                check(segment(WRITE_ZEROES, 8, 2, flags), zeroes);
            }
        }
        assert_eq!(asked(GET_ID, 0, 0, 20).judge(&terms()), Verdict::Name);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_on_the_volume(
            kind in 0..15u32, sector: u64, count: u32, flags in 0..3u32, small: bool, from: u64, to: u64,
        ) {
            let shrink = |number: u64| if small { number % (2 * SECTORS) } else { number };
            let mut asked = segment(kind, shrink(sector), count, flags);
            asked.header[8..].copy_from_slice(&shrink(sector).to_le_bytes());
            if !matches!(kind, DISCARD | WRITE_ZEROES) {
                (asked.from_guest, asked.for_guest) = (shrink(from), shrink(to) / 512 * 512);
            }
            if let Verdict::Ask(request) = asked.judge(&terms())
                && let Some(range) = request.range()
            {
                prop_assert!(!range.is_empty());
                prop_assert!(range.end() <= terms().size.range().end());
                if matches!(request, GuestRequest::Read { .. } | GuestRequest::Write { .. }) {
                    prop_assert!(range.len_bytes() <= REQUEST_BYTES_MAX);
                }
            }
        }
    }
}
