//! What does the server answer? Simple replies, and structured ones put together from their chunks.

use std::io::Read;

use super::Error;
use super::request::Request;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const FLAG_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15 | 1;
const CHUNK_ERROR_OFFSET: u16 = 1 << 15 | 2;

/// No chunk of ours is longer: the largest read plus its offset.
const CHUNK_BYTES_MAX: u32 = 64 << 20;

/// The good answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// What was read.
    Data(Vec<u8>),
    /// `(length in bytes, flags)` in order from the offset asked for; flag 1: a hole, flag 2: reads as zeroes.
    Extents(Vec<(u32, u32)>),
}

/// What has arrived so far for one request.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    data: Option<Vec<u8>>,
    data_bytes: u64,
    extents: Vec<(u32, u32)>,
    error: Option<u32>,
}

impl Assembly {
    /// The end of a request whose last piece has arrived.
    pub(super) fn finish(self, request: &Request) -> Result<Answer, Error> {
        if let Some(error) = self.error {
            return Err(Error::Server(error));
        }
        match request {
            Request::Read { length, .. } if self.data_bytes != u64::from(*length) => Err(Error::Protocol(
                format!("a read of {length} bytes got {} bytes", self.data_bytes),
            )),
            Request::Read { .. } => Ok(Answer::Data(self.data.unwrap_or_default())),
            Request::BlockStatus { .. } if self.extents.is_empty() => {
                Err(Error::Protocol("a block status without extents".into()))
            }
            Request::BlockStatus { .. } => Ok(Answer::Extents(self.extents)),
            _ => Ok(Answer::Done),
        }
    }

    fn data_mut(&mut self, request: &Request, offset: u64, bytes: usize) -> Result<&mut [u8], Error> {
        let Request::Read {
            offset: start,
            length,
        } = request
        else {
            return Err(Error::Protocol("data for a request that is no read".into()));
        };
        let from = offset.checked_sub(*start).map(|from| from as usize);
        let range = from.and_then(|from| Some(from..from.checked_add(bytes)?));
        let whole = self.data.get_or_insert_with(|| vec![0; *length as usize]);
        self.data_bytes += bytes as u64;
        range
            .and_then(|range| whole.get_mut(range))
            .ok_or_else(|| Error::Protocol(format!("{bytes} bytes of data at {offset} were not asked for")))
    }
}

/// Reads one reply or chunk: the cookie, and whether it was the last of its request. `open` finds the request and
/// what has arrived of it; an unknown cookie breaks the protocol, as nobody can tell how long its data is.
pub(super) fn read_piece<R: Read>(
    from: &mut R,
    mut open: impl FnMut(u64) -> Option<(Request, Assembly)>,
    mut store: impl FnMut(u64, Request, Assembly, bool),
) -> Result<(), Error> {
    let magic = u32(from)?;
    let unknown = |cookie| Error::Protocol(format!("a reply to unknown cookie {cookie}"));
    if magic == SIMPLE_MAGIC {
        let error = u32(from)?;
        let cookie = u64(from)?;
        let (request, mut assembly) = open(cookie).ok_or_else(|| unknown(cookie))?;
        if error != 0 {
            assembly.error = Some(error);
        } else if let Request::Read { offset, length } = request {
            from.read_exact(assembly.data_mut(&request, offset, length as usize)?)?;
        }
        store(cookie, request, assembly, true);
        return Ok(());
    }
    if magic != STRUCTURED_MAGIC {
        return Err(Error::Protocol(format!("a reply begins with {magic:#x}")));
    }
    let flags = u16(from)?;
    let kind = u16(from)?;
    let cookie = u64(from)?;
    let length = u32(from)?;
    if length > CHUNK_BYTES_MAX {
        return Err(Error::Protocol(format!("a chunk of {length} bytes")));
    }
    let (request, mut assembly) = open(cookie).ok_or_else(|| unknown(cookie))?;
    let short = || Error::Protocol(format!("a chunk of kind {kind} with {length} bytes"));
    match kind {
        CHUNK_NONE if length == 0 => {}
        CHUNK_DATA if length > 8 => {
            let offset = u64(from)?;
            from.read_exact(assembly.data_mut(&request, offset, length as usize - 8)?)?;
        }
        CHUNK_HOLE if length == 12 => {
            let offset = u64(from)?;
            let bytes = u32(from)?;
            assembly.data_mut(&request, offset, bytes as usize)?.fill(0);
        }
        CHUNK_BLOCK_STATUS if length >= 12 && (length - 4) % 8 == 0 => {
            let _context = u32(from)?;
            for _ in 0..(length - 4) / 8 {
                assembly.extents.push((u32(from)?, u32(from)?));
            }
        }
        CHUNK_ERROR | CHUNK_ERROR_OFFSET if length >= 6 => {
            assembly.error.get_or_insert(u32(from)?);
            let mut words = vec![0; length as usize - 4];
            from.read_exact(&mut words)?;
        }
        _ => return Err(short()),
    }
    store(cookie, request, assembly, flags & FLAG_DONE != 0);
    Ok(())
}

pub(super) fn u16<R: Read>(from: &mut R) -> Result<u16, Error> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

pub(super) fn u32<R: Read>(from: &mut R) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn u64<R: Read>(from: &mut R) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
