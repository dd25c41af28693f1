//! What is to be done with a request of a guest? Every flag, bound and size in one exhaustive place.

use bytes::Bytes;
use mars::{GuestError, GuestRequest};
use model::units::SECTOR_BYTES;
use model::{SectorRange, VolumeSize};

use super::protocol::{Errno, PAYLOAD_BYTES_MAX, RequestHeader, command_flag as flag};

/// Longest range described by one block status reply; a client asks again for the rest.
const STATUS_BYTES_MAX: u64 = 1 << 30;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

/// What was agreed on with one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The export's length.
    pub size: VolumeSize,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Whether structured replies were negotiated.
    pub structured: bool,
    /// Whether `base:allocation` was selected.
    pub allocation: bool,
}

/// How the good answer to a request looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No data.
    Plain,
    /// Contents, from this offset.
    Data {
        /// First byte.
        offset: u64,
    },
    /// Extents of at most this length together.
    Extents {
        /// Only the first one is wanted.
        one: bool,
    },
}

/// What to do with a request; a payload, if the command has one, follows on the wire in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the volume.
    Ask {
        /// What; a write still lacks its data.
        request: GuestRequest,
        /// How to answer.
        shape: Shape,
    },
    /// Nothing to do: answer at once.
    Nothing,
    /// Answer at once with an error.
    Refuse(Errno),
    /// The client says goodbye.
    Disconnect,
}

impl RequestHeader {
    /// Bytes of payload that follow the header.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == WRITE { self.length } else { 0 }
    }

    /// Whether a good answer has a payload, so that errors must be structured too.
    pub fn is_read(&self) -> bool {
        self.command == READ
    }

    /// Memory that the request and its answer may need.
    pub fn held_bytes(&self) -> u32 {
        match self.command {
            READ | WRITE => self.length.min(PAYLOAD_BYTES_MAX),
            _ => 0,
        }
    }

    /// What to do.
    pub fn judge(&self, terms: &Terms) -> Verdict {
        match self.verdict(terms) {
            Ok(verdict) => verdict,
            Err(errno) => Verdict::Refuse(errno),
        }
    }

    fn verdict(&self, terms: &Terms) -> Result<Verdict, Errno> {
        if self.command == DISC {
            return Ok(Verdict::Disconnect);
        }
        let fua = self.flags & flag::FUA != 0;
        self.check_flags(terms)?;
        let ask = |request| {
            Ok(Verdict::Ask {
                request,
                shape: Shape::Plain,
            })
        };
        match self.command {
            READ => {
                if self.length > PAYLOAD_BYTES_MAX {
                    return Err(if terms.structured {
                        Errno::Overflow
                    } else {
                        Errno::Inval
                    });
                }
                let Some(range) = self.range(terms, Errno::Inval)? else {
                    return Ok(Verdict::Nothing);
                };
                let shape = Shape::Data { offset: self.offset };
                Ok(Verdict::Ask {
                    request: GuestRequest::Read { range },
                    shape,
                })
            }
            WRITE => {
                self.check_writable(terms)?;
                if self.length > PAYLOAD_BYTES_MAX {
                    return Err(Errno::Inval);
                }
                let Some(range) = self.range(terms, Errno::NoSpc)? else {
                    return Ok(Verdict::Nothing);
                };
                ask(GuestRequest::Write {
                    range,
                    data: Bytes::new(),
                    fua,
                })
            }
            FLUSH if self.offset == 0 && self.length == 0 => ask(GuestRequest::Flush),
            FLUSH => Err(Errno::Inval),
            TRIM => {
                self.check_writable(terms)?;
                let Some(range) = self.range(terms, Errno::Inval)? else {
                    return Ok(Verdict::Nothing);
                };
                ask(GuestRequest::Discard { range, fua })
            }
            CACHE => self.range(terms, Errno::Inval).map(|_| Verdict::Nothing),
            WRITE_ZEROES => {
                self.check_writable(terms)?;
                // Clearing is one record in the log, however long: always faster than writing, so FAST_ZERO never fails.
                let unmap = self.flags & flag::NO_HOLE == 0;
                let Some(range) = self.range(terms, Errno::NoSpc)? else {
                    return Ok(Verdict::Nothing);
                };
                ask(GuestRequest::WriteZeroes { range, fua, unmap })
            }
            BLOCK_STATUS => {
                if !terms.allocation {
                    return Err(Errno::Inval);
                }
                let range = self.range(terms, Errno::Inval)?.ok_or(Errno::Inval)?;
                let count = range.count.0.min(STATUS_BYTES_MAX / SECTOR_BYTES);
                let range = SectorRange::new(range.start.0, count).ok_or(Errno::Inval)?;
                let shape = Shape::Extents {
                    one: self.flags & flag::REQ_ONE != 0,
                };
                Ok(Verdict::Ask {
                    request: GuestRequest::BlockStatus { range },
                    shape,
                })
            }
            _ => Err(Errno::Inval),
        }
    }

    fn check_flags(&self, terms: &Terms) -> Result<(), Errno> {
        let known = match self.command {
            READ if terms.structured => flag::DF,
            WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        if self.flags & !(known | flag::FUA) == 0 {
            Ok(())
        } else {
            Err(Errno::Inval)
        }
    }

    fn check_writable(&self, terms: &Terms) -> Result<(), Errno> {
        if terms.read_only { Err(Errno::Perm) } else { Ok(()) }
    }

    /// The sectors concerned; `None` when there are none.
    fn range(&self, terms: &Terms, beyond: Errno) -> Result<Option<SectorRange>, Errno> {
        let length = u64::from(self.length);
        if self
            .offset
            .checked_add(length)
            .is_none_or(|end| end > terms.size.bytes())
        {
            return Err(beyond);
        }
        let range = SectorRange::from_bytes(self.offset, length).ok_or(Errno::Inval)?;
        Ok((!range.is_empty()).then_some(range))
    }
}

/// What a guest is told about an error below.
pub fn errno(error: &GuestError, header: &RequestHeader) -> Errno {
    match error {
        GuestError::OutOfBounds if matches!(header.command, WRITE | WRITE_ZEROES) => Errno::NoSpc,
        GuestError::OutOfBounds => Errno::Inval,
        // The session behind the door keeps this to itself; a door without one cannot do better.
        GuestError::NotPrimary { .. } => Errno::Io,
        GuestError::Disk(_) => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64 << 20;

    fn terms() -> Terms {
        Terms {
            size: VolumeSize::new(SIZE).expect("aligned"),
            read_only: false,
            structured: true,
            allocation: true,
        }
    }

    fn header(command: u16, offset: u64, length: u32) -> RequestHeader {
        RequestHeader {
            flags: 0,
            command,
            cookie: 1,
            offset,
            length,
        }
    }

    #[test]
    fn refusals_are_those_of_the_protocol() {
        let check = |command, flags, offset, length, terms: Terms, want| {
            let header = RequestHeader {
                flags,
                ..header(command, offset, length)
            };
            assert_eq!(header.judge(&terms), Verdict::Refuse(want), "{header:?}");
        };
        let read_only = Terms {
            read_only: true,
            ..terms()
        };
        let simple = Terms {
            structured: false,
            allocation: false,
            ..terms()
        };
        for command in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
            check(command, 0, 1, 512, terms(), Errno::Inval);
            check(command, 0, 512, 1, terms(), Errno::Inval);
            check(command, 1 << 9, 0, 512, terms(), Errno::Inval);
        }
        for command in [READ, TRIM, CACHE, BLOCK_STATUS] {
            check(command, 0, SIZE, 512, terms(), Errno::Inval);
            check(command, 0, u64::MAX - 511, 512, terms(), Errno::Inval);
        }
        for command in [WRITE, WRITE_ZEROES] {
            check(command, 0, SIZE, 512, terms(), Errno::NoSpc);
            check(command, 0, u64::MAX - 511, 512, terms(), Errno::NoSpc);
        }
        for command in [WRITE, TRIM, WRITE_ZEROES] {
            check(command, 0, 0, 512, read_only, Errno::Perm);
        }
        check(READ, 0, 0, PAYLOAD_BYTES_MAX + 512, terms(), Errno::Overflow);
        check(READ, 0, 0, PAYLOAD_BYTES_MAX + 512, simple, Errno::Inval);
        check(WRITE, 0, 0, PAYLOAD_BYTES_MAX + 512, terms(), Errno::Inval);
        check(READ, flag::DF, 0, 512, simple, Errno::Inval);
        check(BLOCK_STATUS, 0, 0, 512, simple, Errno::Inval);
        check(BLOCK_STATUS, 0, 0, 0, terms(), Errno::Inval);
        check(FLUSH, 0, 512, 0, terms(), Errno::Inval);
        check(99, 0, 0, 0, terms(), Errno::Inval);
    }

    #[test]
    fn requests_without_a_sector_do_nothing() {
        for command in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES] {
            assert_eq!(header(command, 512, 0).judge(&terms()), Verdict::Nothing);
        }
    }

    #[test]
    fn flags_reach_the_request() {
        let range = SectorRange::new(1, 2).expect("small");
        let check = |command, flags, want: GuestRequest| {
            let header = RequestHeader {
                flags,
                ..header(command, 512, 1024)
            };
            assert_eq!(
                header.judge(&terms()),
                Verdict::Ask {
                    request: want,
                    shape: Shape::Plain
                }
            );
        };
        check(
            WRITE,
            flag::FUA,
            GuestRequest::Write {
                range,
                data: Bytes::new(),
                fua: true,
            },
        );
        check(TRIM, flag::FUA, GuestRequest::Discard { range, fua: true });
        check(
            WRITE_ZEROES,
            0,
            GuestRequest::WriteZeroes {
                range,
                fua: false,
                unmap: true,
            },
        );
        check(
            WRITE_ZEROES,
            flag::NO_HOLE,
            GuestRequest::WriteZeroes {
                range,
                fua: false,
                unmap: false,
            },
        );
        check(
            WRITE_ZEROES,
            flag::FAST_ZERO,
            GuestRequest::WriteZeroes {
                range,
                fua: false,
                unmap: true,
            },
        );
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_on_the_volume(flags: u16, command in 0..10u16, offset: u64, length: u32, small: bool) {
            let offset = if small { offset % (2 * SIZE) / 512 * 512 } else { offset };
            let length = if small { length % (64 << 20) / 512 * 512 } else { length };
            let header = RequestHeader { flags, ..header(command, offset, length) };
            if let Verdict::Ask { request, .. } = header.judge(&terms())
                && let Some(range) = request.range()
            {
                prop_assert!(!range.is_empty());
                prop_assert!(range.end() <= terms().size.range().end());
            }
        }
    }
}
