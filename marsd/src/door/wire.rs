//! What do a remote door and the host of the primary say to each other, and how does it lie in a frame?
//!
//! The door dials; its first frame is [`ToPrimary::Enter`], the answer [`ToDoor::Welcome`] or [`ToDoor::Elsewhere`]; then
//! requests and answers, in any order, and a sign of life from either side when there is nothing else to say.
//! Layout: kind u8, then the fields in the order of the variant; little-endian; data last.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mars::{BlockExtent, DiskError, GuestError, GuestRequest, Reply};
use model::units::SECTOR_BYTES;
use model::{Epoch, NodeId, SectorCount, SectorOffset, SectorRange};

/// Version of this language; the serving side refuses any other by name.
pub const WIRE_VERSION: u16 = 2;

/// Most data in one request or answer: larger ones are cut before they come here.
pub const DATA_BYTES_MAX: u64 = 2 << 20;

/// Most extents in one answer; the rest of the range is left out, and asked for again.
const EXTENTS_MAX: usize = 64 * 1024;

/// Longest text of an error; the rest is left out.
const TEXT_BYTES_MAX: usize = 1024;

/// From a door to the primary's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPrimary {
    /// Let me in.
    Enter {
        /// [`WIRE_VERSION`] of the sender.
        version: u16,
        /// You were granted the role in this epoch: rather wait a moment for it than send me away.
        at_least: Option<Epoch>,
        /// The highest epoch I have heard of: if yours is older, you are primary no more.
        epoch_seen: Epoch,
    },
    /// Do this.
    Request {
        /// Comes back with the answer.
        seq: u64,
        /// What.
        request: GuestRequest,
    },
    /// I am still here.
    Alive,
}

/// From the primary's host to a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToDoor {
    /// I am primary in this epoch; ask.
    Welcome {
        /// Which.
        epoch: Epoch,
    },
    /// I am not primary; the connection ends.
    Elsewhere {
        /// Who is, as far as I know.
        hint: Option<NodeId>,
        /// The highest epoch I have heard of: who is primary in an older one is one no more.
        known: Epoch,
    },
    /// Done, or not.
    Answer {
        /// Of the request.
        seq: u64,
        /// The answer.
        result: Result<Reply, GuestError>,
    },
    /// I am still here.
    Alive,
}

/// A frame that is not what this page says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a remote door's message is malformed: {what}")]
pub struct WireError {
    /// Which field, and what is wrong with it.
    pub what: String,
}

fn malformed(what: impl Into<String>) -> WireError {
    WireError { what: what.into() }
}

/// A message as parts of one frame: head, then data that is not copied.
pub type Parts = [Bytes; 2];

impl ToPrimary {
    /// Lays the message out.
    pub fn encode(self) -> Parts {
        let mut out = BytesMut::with_capacity(32);
        let mut data = Bytes::new();
        match self {
            ToPrimary::Enter {
                version,
                at_least,
                epoch_seen,
            } => {
                out.put_u8(1);
                out.put_u16_le(version);
                put_option(&mut out, at_least, put_epoch);
                put_epoch(&mut out, epoch_seen);
            }
            ToPrimary::Request { seq, request } => {
                out.put_u8(2);
                out.put_u64_le(seq);
                data = put_request(&mut out, request);
            }
            ToPrimary::Alive => out.put_u8(3),
        }
        [out.freeze(), data]
    }

    /// Reads a message from a frame. Whether what it asks for is on the volume, the engine says: only it knows how long that is.
    pub fn decode(frame: Bytes) -> Result<ToPrimary, WireError> {
        let mut fields = Fields(frame);
        let message = match fields.u8("kind")? {
            1 => ToPrimary::Enter {
                version: fields.u16("version")?,
                at_least: fields.option("at_least", Fields::epoch)?,
                epoch_seen: fields.epoch("epoch_seen")?,
            },
            2 => ToPrimary::Request {
                seq: fields.u64("seq")?,
                request: fields.request()?,
            },
            3 => ToPrimary::Alive,
            other => return Err(malformed(format!("kind {other} is unknown"))),
        };
        fields.finish()?;
        Ok(message)
    }
}

impl ToDoor {
    /// Lays the message out.
    pub fn encode(self) -> Parts {
        let mut out = BytesMut::with_capacity(32);
        let mut data = Bytes::new();
        match self {
            ToDoor::Welcome { epoch } => {
                out.put_u8(1);
                put_epoch(&mut out, epoch);
            }
            ToDoor::Elsewhere { hint, known } => {
                out.put_u8(2);
                put_option(&mut out, hint, put_node);
                put_epoch(&mut out, known);
            }
            ToDoor::Answer { seq, result } => {
                out.put_u8(3);
                out.put_u64_le(seq);
                match result {
                    Ok(reply) => data = put_reply(&mut out, reply),
                    Err(error) => put_error(&mut out, error),
                }
            }
            ToDoor::Alive => out.put_u8(4),
        }
        [out.freeze(), data]
    }

    /// Reads a message from a frame.
    pub fn decode(frame: Bytes) -> Result<ToDoor, WireError> {
        let mut fields = Fields(frame);
        let message = match fields.u8("kind")? {
            1 => ToDoor::Welcome {
                epoch: fields.epoch("epoch")?,
            },
            2 => ToDoor::Elsewhere {
                hint: fields.option("hint", Fields::node)?,
                known: fields.epoch("known")?,
            },
            3 => ToDoor::Answer {
                seq: fields.u64("seq")?,
                result: fields.result()?,
            },
            4 => ToDoor::Alive,
            other => return Err(malformed(format!("kind {other} is unknown"))),
        };
        fields.finish()?;
        Ok(message)
    }
}

fn put_option<T>(out: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_epoch(out: &mut BytesMut, epoch: Epoch) {
    out.put_u32_le(epoch.term);
    out.put_u32_le(epoch.start);
}

fn put_node(out: &mut BytesMut, node: NodeId) {
    out.put_u8(u8::try_from(node.as_str().len()).expect("a name has at most 63 bytes"));
    out.put_slice(node.as_str().as_bytes());
}

fn put_text(out: &mut BytesMut, text: &str) {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    out.put_u16_le(u16::try_from(end).expect("cut to TEXT_BYTES_MAX"));
    out.put_slice(&text.as_bytes()[..end]);
}

fn put_range(out: &mut BytesMut, range: SectorRange) {
    out.put_u64_le(range.start.0);
    out.put_u64_le(range.count.0);
}

fn put_request(out: &mut BytesMut, request: GuestRequest) -> Bytes {
    match request {
        GuestRequest::Read { range } => {
            out.put_u8(1);
            put_range(out, range);
        }
        GuestRequest::Write { range, data, fua } => {
            out.put_u8(2);
            put_range(out, range);
            out.put_u8(u8::from(fua));
            return data;
        }
        GuestRequest::Flush => out.put_u8(3),
        GuestRequest::Discard { range, fua } => {
            out.put_u8(4);
            put_range(out, range);
            out.put_u8(u8::from(fua));
        }
        GuestRequest::WriteZeroes { range, fua, unmap } => {
            out.put_u8(5);
            put_range(out, range);
            out.put_u8(u8::from(fua));
            out.put_u8(u8::from(unmap));
        }
        GuestRequest::BlockStatus { range } => {
            out.put_u8(6);
            put_range(out, range);
        }
    }
    Bytes::new()
}

fn put_reply(out: &mut BytesMut, reply: Reply) -> Bytes {
    match reply {
        Reply::Done => out.put_u8(1),
        Reply::Data(data) => {
            out.put_u8(2);
            return data;
        }
        Reply::Extents(extents) => {
            out.put_u8(3);
            let count = extents.len().min(EXTENTS_MAX);
            out.put_u32_le(u32::try_from(count).expect("at most EXTENTS_MAX"));
            for extent in &extents[..count] {
                put_range(out, extent.range);
                out.put_u8(u8::from(extent.data));
            }
        }
    }
    Bytes::new()
}

fn put_error(out: &mut BytesMut, error: GuestError) {
    match error {
        GuestError::NotPrimary { hint, granted } => {
            out.put_u8(4);
            put_option(out, hint, put_node);
            put_option(out, granted, put_epoch);
        }
        GuestError::OutOfBounds => out.put_u8(5),
        GuestError::Disk(DiskError { operation, reason }) => {
            out.put_u8(6);
            put_text(out, &operation);
            put_text(out, &reason);
        }
    }
}

/// Takes fields off the front of a frame.
struct Fields(Bytes);

impl Fields {
    fn u8(&mut self, what: &str) -> Result<u8, WireError> {
        self.0
            .try_get_u8()
            .map_err(|_| malformed(format!("{what} is missing")))
    }

    fn u16(&mut self, what: &str) -> Result<u16, WireError> {
        self.0
            .try_get_u16_le()
            .map_err(|_| malformed(format!("{what} is missing")))
    }

    fn u32(&mut self, what: &str) -> Result<u32, WireError> {
        self.0
            .try_get_u32_le()
            .map_err(|_| malformed(format!("{what} is missing")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, WireError> {
        self.0
            .try_get_u64_le()
            .map_err(|_| malformed(format!("{what} is missing")))
    }

    fn bool(&mut self, what: &str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(malformed(format!("{what} is {other}, neither 0 nor 1"))),
        }
    }

    fn bytes(&mut self, count: usize, what: &str) -> Result<Bytes, WireError> {
        if self.0.len() < count {
            return Err(malformed(format!(
                "{what} ends after {} of {count} bytes",
                self.0.len()
            )));
        }
        Ok(self.0.split_to(count))
    }

    fn option<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&mut Fields, &str) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        if self.bool(what)? {
            read(self, what).map(Some)
        } else {
            Ok(None)
        }
    }

    fn epoch(&mut self, what: &str) -> Result<Epoch, WireError> {
        Ok(Epoch {
            term: self.u32(what)?,
            start: self.u32(what)?,
        })
    }

    fn utf8(&mut self, count: usize, what: &str) -> Result<String, WireError> {
        let bytes = self.bytes(count, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed(format!("{what} is not UTF-8")))
    }

    fn node(&mut self, what: &str) -> Result<NodeId, WireError> {
        let length = self.u8(what)?;
        let name = self.utf8(usize::from(length), what)?;
        NodeId::new(&name).map_err(|e| malformed(format!("{what}: {e}")))
    }

    fn text(&mut self, what: &str) -> Result<String, WireError> {
        let length = self.u16(what)?;
        self.utf8(usize::from(length), what)
    }

    fn range(&mut self) -> Result<SectorRange, WireError> {
        let (start, count) = (self.u64("start")?, self.u64("count")?);
        SectorRange::new(start, count).ok_or_else(|| malformed("the range overflows"))
    }

    fn request(&mut self) -> Result<GuestRequest, WireError> {
        Ok(match self.u8("request")? {
            1 => {
                let range = self.range()?;
                if range.len_bytes() > DATA_BYTES_MAX {
                    return Err(malformed(format!(
                        "a read of {} bytes is too long",
                        range.len_bytes()
                    )));
                }
                GuestRequest::Read { range }
            }
            2 => {
                let range = self.range()?;
                let fua = self.bool("fua")?;
                let data = std::mem::take(&mut self.0);
                if data.len() as u64 != range.len_bytes() || range.len_bytes() > DATA_BYTES_MAX {
                    return Err(malformed(format!("{} bytes for {range}", data.len())));
                }
                GuestRequest::Write { range, data, fua }
            }
            3 => GuestRequest::Flush,
            4 => GuestRequest::Discard {
                range: self.range()?,
                fua: self.bool("fua")?,
            },
            5 => GuestRequest::WriteZeroes {
                range: self.range()?,
                fua: self.bool("fua")?,
                unmap: self.bool("unmap")?,
            },
            6 => GuestRequest::BlockStatus { range: self.range()? },
            other => return Err(malformed(format!("request {other} is unknown"))),
        })
    }

    fn result(&mut self) -> Result<Result<Reply, GuestError>, WireError> {
        Ok(match self.u8("result")? {
            1 => Ok(Reply::Done),
            2 => Ok(Reply::Data(std::mem::take(&mut self.0))),
            3 => {
                let count = self.u32("extents")? as usize;
                if count > EXTENTS_MAX {
                    return Err(malformed(format!("{count} extents are too many")));
                }
                let extents = (0..count).map(|_| {
                    Ok(BlockExtent {
                        range: self.range()?,
                        data: self.bool("data")?,
                    })
                });
                Ok(Reply::Extents(extents.collect::<Result<_, WireError>>()?))
            }
            4 => Err(GuestError::NotPrimary {
                hint: self.option("hint", Fields::node)?,
                granted: self.option("granted", Fields::epoch)?,
            }),
            5 => Err(GuestError::OutOfBounds),
            6 => Err(GuestError::Disk(DiskError {
                operation: self.text("operation")?,
                reason: self.text("reason")?,
            })),
            other => return Err(malformed(format!("result {other} is unknown"))),
        })
    }

    fn finish(self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed(format!("{} bytes too many", self.0.len())))
        }
    }
}

/// Cuts a range into pieces that a message can carry.
pub fn pieces(range: SectorRange) -> impl Iterator<Item = SectorRange> {
    let step = DATA_BYTES_MAX / SECTOR_BYTES;
    let starts = (range.start.0..range.end().0).step_by(usize::try_from(step).expect("small"));
    starts.map(move |start| SectorRange {
        start: SectorOffset(start),
        count: SectorCount(step.min(range.end().0 - start)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = SectorRange> {
        (0..2048u64, 0..=64u64)
            .prop_map(|(start, count)| SectorRange::new(start, count.min(2048 - start)).expect("small"))
    }

    fn epoch() -> impl Strategy<Value = Epoch> {
        any::<(u32, u32)>().prop_map(|(term, start)| Epoch { term, start })
    }

    fn node() -> impl Strategy<Value = NodeId> {
        "[a-z][a-z0-9-]{0,62}".prop_filter_map("reserved", |n| NodeId::new(&n).ok())
    }

    fn request() -> impl Strategy<Value = GuestRequest> {
        prop_oneof![
            range().prop_map(|range| GuestRequest::Read { range }),
            (range(), any::<u8>(), any::<bool>()).prop_map(|(range, byte, fua)| {
                let data = vec![byte; usize::try_from(range.len_bytes()).expect("small")].into();
                GuestRequest::Write { range, data, fua }
            }),
            Just(GuestRequest::Flush),
            (range(), any::<bool>()).prop_map(|(range, fua)| GuestRequest::Discard { range, fua }),
            (range(), any::<bool>(), any::<bool>())
                .prop_map(|(range, fua, unmap)| GuestRequest::WriteZeroes { range, fua, unmap }),
            range().prop_map(|range| GuestRequest::BlockStatus { range }),
        ]
    }

    fn result() -> impl Strategy<Value = Result<Reply, GuestError>> {
        let extent = (range(), any::<bool>()).prop_map(|(range, data)| BlockExtent { range, data });
        prop_oneof![
            Just(Ok(Reply::Done)),
            proptest::collection::vec(any::<u8>(), 0..100).prop_map(|d| Ok(Reply::Data(d.into()))),
            proptest::collection::vec(extent, 0..9).prop_map(|e| Ok(Reply::Extents(e))),
            (proptest::option::of(node()), proptest::option::of(epoch()))
                .prop_map(|(hint, granted)| Err(GuestError::NotPrimary { hint, granted })),
            Just(Err(GuestError::OutOfBounds)),
            (".{0,20}", ".{0,20}")
                .prop_map(|(operation, reason)| Err(GuestError::Disk(DiskError { operation, reason }))),
        ]
    }

    fn frame(parts: Parts) -> Bytes {
        parts.concat().into()
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(seq: u64, request in request(), result in result(), hint in proptest::option::of(node()),
                                 e in epoch(), at_least in proptest::option::of(epoch())) {
            for message in [
                ToPrimary::Request { seq, request },
                ToPrimary::Enter { version: WIRE_VERSION, at_least, epoch_seen: e },
                ToPrimary::Alive,
            ] {
                prop_assert_eq!(ToPrimary::decode(frame(message.clone().encode())), Ok(message));
            }
            for message in [
                ToDoor::Answer { seq, result },
                ToDoor::Welcome { epoch: e },
                ToDoor::Elsewhere { hint, known: e },
                ToDoor::Alive,
            ] {
                prop_assert_eq!(ToDoor::decode(frame(message.clone().encode())), Ok(message));
            }
        }

        #[test]
        fn no_frame_makes_a_decoder_panic(kind in 0..6u8, mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ToPrimary::decode(bytes.clone().into());
            bytes.insert(0, kind);
            let _ = ToPrimary::decode(bytes.clone().into());
            let _ = ToDoor::decode(bytes.into());
        }

        #[test]
        fn damaged_messages_are_refused_or_different(seq: u64, request in request(), at: prop::sample::Index, bit in 0..8u8) {
            let message = ToPrimary::Request { seq, request };
            let mut bytes = frame(message.clone().encode()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(ToPrimary::decode(bytes.into()), Ok(message));
        }

        #[test]
        fn pieces_cover_the_range(start in 0..100u64, count in 0..20_000u64) {
            let whole = SectorRange::new(start, count).expect("small");
            let mut next = start;
            for piece in pieces(whole) {
                prop_assert_eq!(piece.start.0, next);
                prop_assert!(!piece.is_empty() && piece.len_bytes() <= DATA_BYTES_MAX);
                next = piece.end().0;
            }
            prop_assert_eq!(next, start + count);
        }
    }
}
