//! What can be asked, and how does it look on the wire?

use bytes::Bytes;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 1 << 1;

/// Length of a request's header in bytes.
const HEADER_BYTES: usize = 28;

/// One request; offsets and lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read; answered with data.
    Read {
        /// From where.
        offset: u64,
        /// How much.
        length: u32,
    },
    /// Write.
    Write {
        /// To where.
        offset: u64,
        /// What; at most 32 MiB.
        data: Bytes,
        /// Answer only once durable.
        fua: bool,
    },
    /// Make durable what was answered before.
    Flush,
    /// Give the range back.
    Trim {
        /// From where.
        offset: u64,
        /// How much.
        length: u32,
    },
    /// Clear the range.
    WriteZeroes {
        /// From where.
        offset: u64,
        /// How much.
        length: u32,
        /// Whether it must stay allocated.
        no_hole: bool,
        /// Answer only once durable.
        fua: bool,
    },
    /// Which parts hold data? Needs structured replies.
    BlockStatus {
        /// From where.
        offset: u64,
        /// How much.
        length: u32,
    },
}

impl Request {
    /// Header for the wire; the data of a write follows it.
    pub(super) fn header(&self, cookie: u64) -> [u8; HEADER_BYTES] {
        let (flags, kind, offset, length): (u16, u16, u64, u32) = match self {
            Request::Read { offset, length } => (0, 0, *offset, *length),
            Request::Write { offset, data, fua } => {
                (if *fua { FLAG_FUA } else { 0 }, 1, *offset, data.len() as u32)
            }
            Request::Flush => (0, 3, 0, 0),
            Request::Trim { offset, length } => (0, 4, *offset, *length),
            Request::WriteZeroes {
                offset,
                length,
                no_hole,
                fua,
            } => {
                let no_hole = if *no_hole { FLAG_NO_HOLE } else { 0 };
                (no_hole | if *fua { FLAG_FUA } else { 0 }, 6, *offset, *length)
            }
            Request::BlockStatus { offset, length } => (0, 7, *offset, *length),
        };
        header(flags, kind, cookie, offset, length)
    }

    /// What follows the header.
    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Request::Write { data, .. } => data,
            _ => &[],
        }
    }
}

/// Header of the request that says goodbye; it is not answered.
pub(super) fn goodbye() -> [u8; HEADER_BYTES] {
    header(0, 2, 0, 0, 0)
}

fn header(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..].copy_from_slice(&length.to_be_bytes());
    header
}
