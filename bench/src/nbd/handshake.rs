//! How does a connection begin? Fixed newstyle: structured replies, block status, then `NBD_OPT_GO`.

use std::io::{Read, Write};

use super::Error;
use super::reply::{u16, u32, u64};

const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;
const OPTION_SET_META_CONTEXT: u32 = 10;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const ALLOCATION: &str = "base:allocation";

/// No answer of a server to an option is longer.
const OPTION_BYTES_MAX: u32 = 64 << 10;

/// What the server said about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Smallest, preferred and largest request in bytes, if the server said so.
    pub block_bytes: Option<(u32, u32, u32)>,
    /// Whether replies are structured.
    pub structured: bool,
    /// Whether block status was granted.
    pub block_status: bool,
    flags: u16,
}

impl Export {
    /// Writes are refused.
    pub fn read_only(&self) -> bool {
        self.flags & 1 << 1 != 0
    }

    /// Flushes are understood.
    pub fn can_flush(&self) -> bool {
        self.flags & 1 << 2 != 0
    }

    /// Writes can ask to be durable.
    pub fn can_fua(&self) -> bool {
        self.flags & 1 << 3 != 0
    }

    /// Ranges can be given back.
    pub fn can_trim(&self) -> bool {
        self.flags & 1 << 5 != 0
    }

    /// Ranges can be cleared.
    pub fn can_write_zeroes(&self) -> bool {
        self.flags & 1 << 6 != 0
    }

    /// Several connections see one another's writes and flushes.
    pub fn can_multi_conn(&self) -> bool {
        self.flags & 1 << 8 != 0
    }
}

/// Negotiates until the export is open. `structured` asks for structured replies and block status; a server that
/// knows neither is fine.
pub(super) fn negotiate<S: Read + Write>(
    stream: &mut S,
    name: &str,
    structured: bool,
) -> Result<Export, Error> {
    if u64(stream)? != GREETING || u64(stream)? != OPTION_MAGIC {
        return Err(Error::Protocol("the greeting is not NBD's newstyle".into()));
    }
    let server = u16(stream)?;
    if server & FIXED_NEWSTYLE == 0 {
        return Err(Error::Protocol("the server does not speak fixed newstyle".into()));
    }
    let client = u32::from(server & (FIXED_NEWSTYLE | NO_ZEROES));
    stream.write_all(&client.to_be_bytes())?;

    let structured = structured && accepted(stream, OPTION_STRUCTURED_REPLY, &[])?;
    let block_status = structured && {
        let mut data = named(name);
        data.extend_from_slice(&1u32.to_be_bytes());
        data.extend_from_slice(&named(ALLOCATION));
        accepted(stream, OPTION_SET_META_CONTEXT, &data)?
    };

    let mut data = named(name);
    data.extend_from_slice(&1u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    send(stream, OPTION_GO, &data)?;
    let mut export = None;
    let mut block_bytes = None;
    loop {
        let (kind, data) = receive(stream, OPTION_GO)?;
        match kind {
            REPLY_ACK => break,
            REPLY_INFO => {
                let mut from = &data[..];
                match u16(&mut from)? {
                    INFO_EXPORT => export = Some((u64(&mut from)?, u16(&mut from)?)),
                    INFO_BLOCK_SIZE => {
                        block_bytes = Some((u32(&mut from)?, u32(&mut from)?, u32(&mut from)?))
                    }
                    _ => {}
                }
            }
            kind if kind & REPLY_ERROR != 0 => return Err(refused(kind, &data)),
            kind => return Err(Error::Protocol(format!("reply {kind} to GO"))),
        }
    }
    let (size_bytes, flags) = export.ok_or_else(|| Error::Protocol("GO told no size".into()))?;
    Ok(Export {
        size_bytes,
        block_bytes,
        structured,
        block_status,
        flags,
    })
}

/// Asks for an option: whether the server took it.
fn accepted<S: Read + Write>(stream: &mut S, option: u32, data: &[u8]) -> Result<bool, Error> {
    send(stream, option, data)?;
    let mut told = option == OPTION_STRUCTURED_REPLY;
    loop {
        let (kind, _data) = receive(stream, option)?;
        match kind {
            REPLY_ACK => return Ok(told),
            kind if kind & REPLY_ERROR != 0 => return Ok(false),
            // A granted context: only now has the acknowledgement a meaning.
            _ => told = true,
        }
    }
}

fn refused(kind: u32, data: &[u8]) -> Error {
    let words = String::from_utf8_lossy(data);
    let what = match kind & !REPLY_ERROR {
        1 => "not supported",
        2 => "forbidden",
        3 => "invalid",
        5 => "TLS required",
        6 => "unknown export",
        7 => "shutting down",
        8 => "block size required",
        _ => "other error",
    };
    Error::Refused(if words.is_empty() {
        what.into()
    } else {
        format!("{what}: {words}")
    })
}

fn named(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data
}

fn send<S: Write>(stream: &mut S, option: u32, data: &[u8]) -> Result<(), Error> {
    let mut frame = OPTION_MAGIC.to_be_bytes().to_vec();
    frame.extend_from_slice(&option.to_be_bytes());
    frame.extend_from_slice(&(data.len() as u32).to_be_bytes());
    frame.extend_from_slice(data);
    Ok(stream.write_all(&frame)?)
}

fn receive<S: Read>(stream: &mut S, asked: u32) -> Result<(u32, Vec<u8>), Error> {
    let (magic, option, kind, length) = (u64(stream)?, u32(stream)?, u32(stream)?, u32(stream)?);
    if magic != OPTION_REPLY_MAGIC || option != asked || length > OPTION_BYTES_MAX {
        return Err(Error::Protocol(format!(
            "reply {magic:#x} to option {option} with {length} bytes"
        )));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}
