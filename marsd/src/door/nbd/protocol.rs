//! How do NBD messages lie on the wire? Pure functions over bytes that a stranger sent; big-endian.
//!
//! Source: the NBD project's `doc/proto.md` (fixed newstyle negotiation, structured replies, `base:allocation`).

use bytes::{BufMut, BytesMut};

/// First words of the server: `NBDMAGIC`.
pub const SERVER_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of the server, and first of each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Begins each answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins each chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: options are answered one by one.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: no padding after the export's flags.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Bytes of an option's header.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of a request's header.
pub const REQUEST_HEADER_BYTES: usize = 28;
/// Longest option data taken from a client; the longest honest one is a name and a handful of queries.
pub const OPTION_DATA_BYTES_MAX: u32 = 64 * 1024;
/// Longest string of the protocol.
pub const STRING_BYTES_MAX: usize = 4096;
/// Largest payload of a read or write.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Most extents in one block status reply; a client asks again for the rest.
pub const EXTENTS_MAX: usize = 64 * 1024;
/// The only metadata context.
pub const ALLOCATION_CONTEXT: &str = "base:allocation";
/// The id under which it is selected.
pub const ALLOCATION_CONTEXT_ID: u32 = 1;

/// Option numbers.
pub mod option {
    /// Choose an export and begin, without a way to refuse politely.
    pub const EXPORT_NAME: u32 = 1;
    /// End.
    pub const ABORT: u32 = 2;
    /// Which exports are there?
    pub const LIST: u32 = 3;
    /// Encrypt.
    pub const STARTTLS: u32 = 5;
    /// What is this export like?
    pub const INFO: u32 = 6;
    /// Choose an export and begin.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata contexts are there?
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of answers to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One fact about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// Known, not allowed here.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// Malformed.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// Too much asked at once.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Facts about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod transmission {
    /// Always.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// No writing.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF works (only with structured replies).
    pub const SEND_DF: u16 = 1 << 7;
    /// All connections see the same.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// FAST_ZERO is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Command flags.
pub mod command_flag {
    /// Durable before the answer.
    pub const FUA: u16 = 1 << 0;
    /// Keep the space allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One content chunk only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than write zeroes one by one.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of structured reply chunks.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Contents at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// Flag of the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1 << 0;
}

/// Extent flags of `base:allocation`: takes no space, reads as zeroes.
pub const STATE_HOLE_ZERO: u32 = 0b11;

/// Error numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// The volume failed.
    Io = 5,
    /// Malformed, unaligned or out of bounds.
    Inval = 22,
    /// A write beyond the end.
    NoSpc = 28,
    /// Too long.
    Overflow = 75,
}

/// What a client sent is not NBD as we know it; its connection is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A magic number is wrong.
    #[error("the client's {what} begins with the wrong number {found:#x}")]
    Magic {
        /// Of which message.
        what: &'static str,
        /// What was there instead.
        found: u64,
    },
    /// Handshake flags that were not offered.
    #[error("the client sets unknown handshake flags {flags:#x}")]
    ClientFlags {
        /// What it sent.
        flags: u32,
    },
    /// An option longer than any honest one.
    #[error("the client announces option data of {length} bytes; {OPTION_DATA_BYTES_MAX} are the most")]
    OptionLength {
        /// What it announced.
        length: u32,
    },
}

/// Takes fields off the front of bytes that may be too few.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A length, then that many bytes of UTF-8.
    fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        if length > STRING_BYTES_MAX {
            return None;
        }
        std::str::from_utf8(self.take(length)?).ok()
    }
}

/// What the client wants of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFlags {
    /// Options are answered one by one.
    pub fixed_newstyle: bool,
    /// No padding after EXPORT_NAME.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Reads the client's handshake flags.
    pub fn decode(bytes: [u8; 4]) -> Result<ClientFlags, ProtocolError> {
        let flags = u32::from_be_bytes(bytes);
        let (fixed, no_zeroes) = (u32::from(FLAG_FIXED_NEWSTYLE), u32::from(FLAG_NO_ZEROES));
        if flags & !(fixed | no_zeroes) != 0 {
            return Err(ProtocolError::ClientFlags { flags });
        }
        Ok(ClientFlags {
            fixed_newstyle: flags & fixed != 0,
            no_zeroes: flags & no_zeroes != 0,
        })
    }
}

/// Announces an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Shape: magic u64 | option u32 | length u32.
    pub fn decode(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<OptionHeader, ProtocolError> {
        let mut fields = Fields(bytes);
        let (magic, option, length) = (|| Some((fields.u64()?, fields.u32()?, fields.u32()?)))()
            .expect("the header has exactly these fields");
        if magic != OPTION_MAGIC {
            return Err(ProtocolError::Magic {
                what: "option",
                found: magic,
            });
        }
        if length > OPTION_DATA_BYTES_MAX {
            return Err(ProtocolError::OptionLength { length });
        }
        Ok(OptionHeader { option, length })
    }
}

/// Data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest {
    /// Which export; empty for the default one.
    pub name: String,
    /// Which facts are wanted.
    pub infos: Vec<u16>,
}

impl InfoRequest {
    /// Shape: name length u32 | name | count u16 | info u16 × count. `None` when malformed.
    pub fn decode(data: &[u8]) -> Option<InfoRequest> {
        let mut fields = Fields(data);
        let name = fields.string()?.to_owned();
        let count = fields.u16()?;
        let infos = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
        fields.0.is_empty().then_some(InfoRequest { name, infos })
    }
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRequest {
    /// Which export; empty for the default one.
    pub name: String,
    /// Which contexts; none for all (list) or none (set).
    pub queries: Vec<String>,
}

impl MetaRequest {
    /// Shape: name length u32 | name | count u32 | (length u32 | query) × count. `None` when malformed.
    pub fn decode(data: &[u8]) -> Option<MetaRequest> {
        let mut fields = Fields(data);
        let name = fields.string()?.to_owned();
        let count = fields.u32()?;
        let queries = (0..count)
            .map(|_| fields.string().map(str::to_owned))
            .collect::<Option<Vec<String>>>()?;
        fields.0.is_empty().then_some(MetaRequest { name, queries })
    }

    /// Whether `base:allocation` is asked for.
    pub fn selects_allocation(&self) -> bool {
        self.queries.iter().any(|q| q == ALLOCATION_CONTEXT)
    }

    /// Whether `base:allocation` belongs into a list for these queries.
    pub fn lists_allocation(&self) -> bool {
        self.queries.is_empty()
            || self
                .queries
                .iter()
                .any(|q| q == ALLOCATION_CONTEXT || q == "base:")
    }
}

/// One request of the transmission phase, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// Command number.
    pub command: u16,
    /// Comes back with the answer.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Shape: magic u32 | flags u16 | command u16 | cookie u64 | offset u64 | length u32.
    pub fn decode(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<RequestHeader, ProtocolError> {
        let mut fields = Fields(bytes);
        let (magic, header) = (|| {
            let magic = fields.u32()?;
            let header = RequestHeader {
                flags: fields.u16()?,
                command: fields.u16()?,
                cookie: fields.u64()?,
                offset: fields.u64()?,
                length: fields.u32()?,
            };
            Some((magic, header))
        })()
        .expect("the header has exactly these fields");
        if magic != REQUEST_MAGIC {
            return Err(ProtocolError::Magic {
                what: "request",
                found: u64::from(magic),
            });
        }
        Ok(header)
    }
}

/// The server's first words.
pub fn put_greeting(out: &mut BytesMut) {
    out.put_u64(SERVER_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
}

/// One answer to an option.
pub fn put_option_reply(out: &mut BytesMut, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(u32::try_from(data.len()).expect("answers to options are short"));
    out.put_slice(data);
}

/// Header of a simple reply.
pub fn put_simple_reply(out: &mut BytesMut, cookie: u64, error: u32) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

/// Header of the only chunk of a structured reply.
pub fn put_chunk(out: &mut BytesMut, cookie: u64, kind: u16, payload_bytes: usize) {
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(chunk::FLAG_DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(u32::try_from(payload_bytes).expect("payloads are bounded by PAYLOAD_BYTES_MAX"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
        out.extend(text.as_bytes());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = InfoRequest::decode(&data);
            let _ = MetaRequest::decode(&data);
            if let Some(header) = data.first_chunk() {
                let _ = OptionHeader::decode(header);
            }
            if let Some(header) = data.first_chunk() {
                let _ = RequestHeader::decode(header);
            }
            if let Some(flags) = data.first_chunk() {
                let _ = ClientFlags::decode(*flags);
            }
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z:]{0,20}", queries in proptest::collection::vec("[a-z:]{0,20}", 0..5),
                                   infos in proptest::collection::vec(any::<u16>(), 0..5), extra in 0..2usize) {
            let mut data = Vec::new();
            string(&mut data, &name);
            data.extend(u16::try_from(infos.len()).expect("few").to_be_bytes());
            infos.iter().for_each(|i| data.extend(i.to_be_bytes()));
            data.extend(vec![0; extra]);
            let want = (extra == 0).then(|| InfoRequest { name: name.clone(), infos });
            prop_assert_eq!(InfoRequest::decode(&data), want);

            let mut data = Vec::new();
            string(&mut data, &name);
            data.extend(u32::try_from(queries.len()).expect("few").to_be_bytes());
            queries.iter().for_each(|q| string(&mut data, q));
            prop_assert_eq!(MetaRequest::decode(&data), Some(MetaRequest { name, queries }));
        }
    }

    #[test]
    fn announced_lengths_are_not_believed() {
        let mut data = Vec::new();
        string(&mut data, "x");
        data.extend(u32::MAX.to_be_bytes());
        assert_eq!(MetaRequest::decode(&data), None);
        data.clear();
        data.extend(u32::MAX.to_be_bytes());
        assert_eq!(InfoRequest::decode(&data), None);
    }
}
