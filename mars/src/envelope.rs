//! How does a small file say that it is whole? Magic, checksum and length around the fields it keeps.
//!
//! ```text
//! magic u32 | crc32c u32 of the body | length u32 of the body | body
//! ```

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer, malformed};
use crate::record::crc32c;

/// The fields written so far, as a file.
pub(crate) fn wrap(magic: u32, fields: Writer) -> Bytes {
    let body = fields.into_bytes();
    let mut out = Writer::default();
    out.u32(magic)
        .u32(crc32c(&body))
        .u32(body.len() as u32)
        .bytes(&body);
    out.into_bytes().freeze()
}

/// The fields of a file whose checksum is right; bytes behind them are ignored. `what` is said when the magic is another.
pub(crate) fn open(magic: u32, file: Bytes, what: &str) -> Result<Reader, DecodeError> {
    let mut head = Reader::new(file);
    if head.u32("magic")? != magic {
        return Err(malformed(format!("magic: not {what}")));
    }
    let crc = head.u32("crc")?;
    let length = head.u32("length")? as usize;
    let body = head.bytes(length, "body")?;
    if crc32c(&body) != crc {
        return Err(malformed("crc32c of the body differs"));
    }
    Ok(Reader::new(body))
}
