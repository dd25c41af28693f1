//! How does history lie in the log? Batches of records, chained by digest.
//!
//! The log of a volume is one stream of batches without gaps; a batch's address is its [`Lsn`]. All members hold the
//! same bytes. A batch is what one group commit wrote:
//!
//! ```text
//! header    96 bytes   see below
//! table     16 bytes per record: kind u8 | flags u8 | 0 u16 | count u32 | start u64
//! data      of each record that has some, in table order
//! padding   zeroes up to a multiple of 512
//!
//! header:   0 magic u32      4 header_crc u32 (crc32c of bytes 8..96)   8 version u16   10 zero u16
//!          12 batch_bytes u32 (all of it)     16 epoch: term u32, start u32     24 lsn u64
//!          32 committed u64 (durable at its writer when it was sealed)   40 record_count u32
//!          44 payload_bytes u32 (table + data, as stored) 48 payload_crc u32 (crc32c, as stored)
//!          52 plain_bytes u32: 0, or table and data are one LZ4 block that decodes to so many bytes
//!          56 written u64 (wall clock of its writer, microseconds since 1970; 0: unknown)   64 previous digest u128       80 volume u128
//! records:  1 write       start, count in sectors; data = count × 512 bytes
//!           2 discard     start, count in sectors; reads as zeroes afterwards
//!           3 zeroes      start, count in sectors; flags bit 0: the space may be given back
//!           4 epoch       first record of an epoch; data = count bytes, the writer's node name
//!           5 barrier     start, count in sectors; everybody digests them as they are at the end of the batch
//!           6 verified    start = unix seconds; data = count bytes: lsn u64, nodes u16, names; found equal since then
//!           7 grow        start = new length in sectors; data = 8 bytes: the old one; what is between reads as zeroes; alone in its batch
//!           8 snapshot    data = count bytes, its name; the version that everybody keeps is the one at its end; alone in its batch
//! ```
//!
//! Little-endian throughout. The digest of a batch is xxh3-128 of all its bytes; since they hold the digest of its
//! predecessor, equal digests mean equal histories. Who writes decides whether to compress; everyone stores what it wrote. Assumption about the media: writing one aligned 512-byte sector
//! does not damage its neighbours; a power cut may tear anything that was not flushed.

use bytes::{BufMut, Bytes, BytesMut};
use model::units::SECTOR_BYTES;
use model::{Epoch, Lsn, NodeId, SectorRange, SnapshotName, VolumeId, VolumeSize};

use crate::codec::{DecodeError, Reader, Writer};
use crate::lineage::{Digest, Position};
use crate::museum::{self, Mutant};
use crate::verify::Verified;

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 96;

/// Every batch is a multiple of this.
pub const BATCH_ALIGN_BYTES: usize = 512;

/// A batch is sealed once its payload has reached this; a write is cut into records of at most this.
pub const BATCH_PAYLOAD_GOAL_BYTES: usize = 1 << 20;

/// No batch is longer: the goal, one more record of at most the goal, table and header.
pub const BATCH_BYTES_MAX: usize = 3 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"PDB1");
const VERSION: u16 = 6;
const TABLE_ENTRY_BYTES: usize = 16;
const FLAG_UNMAP: u8 = 1;

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// One change of the volume, or of who writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// New contents.
    Write {
        /// Where.
        range: SectorRange,
        /// What.
        data: Bytes,
    },
    /// No longer needed; reads as zeroes.
    Discard {
        /// Where.
        range: SectorRange,
    },
    /// Zeroes.
    Zeroes {
        /// Where.
        range: SectorRange,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// An epoch begins.
    Epoch {
        /// Who writes it.
        writer: NodeId,
    },
    /// Everybody digests this piece as it is at the end of the batch.
    Barrier {
        /// Which.
        range: SectorRange,
    },
    /// These replicas were found equal.
    Verified {
        /// When the comparison began.
        began: Verified,
        /// Which.
        nodes: Vec<NodeId>,
    },
    /// The volume is longer from here on; the new part reads as zeroes.
    Grow {
        /// How long it was.
        from: VolumeSize,
        /// How long it is; more.
        to: VolumeSize,
    },
    /// Everybody keeps the version that ends here.
    Snapshot {
        /// What people call it.
        name: SnapshotName,
    },
}

impl Record {
    /// The piece, if this is a barrier.
    pub fn barrier(&self) -> Option<SectorRange> {
        match self {
            Record::Barrier { range } => Some(*range),
            _ => None,
        }
    }

    /// What it changes of the contents, and to what: zeroes where there are no bytes.
    pub fn change(&self) -> Option<(SectorRange, Option<&Bytes>)> {
        match self {
            Record::Write { range, data } => Some((*range, Some(data))),
            Record::Discard { range } | Record::Zeroes { range, .. } => Some((*range, None)),
            Record::Grow { from, to } => Some((from.tail_up_to(*to), None)),
            Record::Epoch { .. }
            | Record::Barrier { .. }
            | Record::Verified { .. }
            | Record::Snapshot { .. } => None,
        }
    }

    /// Bytes of contents that it carries.
    pub fn data_bytes(&self) -> u64 {
        let data = self.change().and_then(|(_, data)| data);
        data.map_or(0, |data| data.len() as u64)
    }

    /// From which length to which the volume grows, if this says so.
    pub fn growth(&self) -> Option<(VolumeSize, VolumeSize)> {
        match self {
            Record::Grow { from, to } => Some((*from, *to)),
            _ => None,
        }
    }

    /// What the version that ends here is called, if it is to be kept.
    pub fn snapshot(&self) -> Option<&SnapshotName> {
        match self {
            Record::Snapshot { name } => Some(name),
            _ => None,
        }
    }

    /// Whether the end of its batch must be its own end.
    fn stands_alone(&self) -> bool {
        matches!(self, Record::Grow { .. } | Record::Snapshot { .. })
    }

    /// The sectors it changes; `None` for one that changes none.
    pub fn range(&self) -> Option<SectorRange> {
        self.change().map(|(range, _)| range)
    }
}

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whole length, padding included.
    pub batch_bytes: u32,
    /// Who wrote it.
    pub epoch: Epoch,
    /// Where it lies.
    pub lsn: Lsn,
    /// What was durable at its writer when it was sealed.
    pub committed: Lsn,
    /// Entries in its table.
    pub record_count: u32,
    /// Table and data, as stored.
    pub payload_bytes: u32,
    /// crc32c of table and data, as stored.
    pub payload_crc: u32,
    /// What the payload decodes to; 0 when it is stored as it is.
    pub plain_bytes: u32,
    /// When it was sealed by its writer's wall clock, in microseconds since 1970; 0 when that is not known. For people: clocks
    /// differ and go back, so nothing is decided by it.
    pub written_unix_micros: u64,
    /// Digest of everything before it.
    pub previous: Digest,
    /// Whose log this is.
    pub volume: VolumeId,
}

/// Why bytes are not the batch that belongs here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("{have} bytes of a batch that has {need}")]
    Incomplete {
        /// What is there.
        have: usize,
        /// What the batch needs at least.
        need: usize,
    },
    /// Not a batch, or not the one that continues this history.
    #[error("{reason}")]
    Bad {
        /// What is wrong.
        reason: String,
    },
}

fn bad(reason: impl Into<String>) -> BatchError {
    BatchError::Bad {
        reason: reason.into(),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

impl Header {
    fn encode(&self) -> BytesMut {
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_u32_le(MAGIC);
        header.put_u32_le(0);
        header.put_u16_le(VERSION);
        header.put_u16_le(0);
        header.put_u32_le(self.batch_bytes);
        header.put_u32_le(self.epoch.term);
        header.put_u32_le(self.epoch.start);
        header.put_u64_le(self.lsn.0);
        header.put_u64_le(self.committed.0);
        header.put_u32_le(self.record_count);
        header.put_u32_le(self.payload_bytes);
        header.put_u32_le(self.payload_crc);
        header.put_u32_le(self.plain_bytes);
        header.put_u64_le(self.written_unix_micros);
        header.put_u128_le(self.previous.0);
        header.put_u128_le(self.volume.0);
        let crc = crc32c(&header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Reads and checks a header; says nothing about the payload or the place in history.
    pub fn decode(bytes: &[u8]) -> Result<Header, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Incomplete {
                have: bytes.len(),
                need: HEADER_BYTES,
            });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(bad(format!("magic is {:#010x}", u32_at(bytes, 0))));
        }
        if u32_at(bytes, 4) != crc32c(&bytes[8..HEADER_BYTES]) {
            return Err(bad("crc32c of the header differs"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(bad(format!(
                "log format version {version}; this program knows {VERSION}"
            )));
        }
        let header = Header {
            batch_bytes: u32_at(bytes, 12),
            epoch: Epoch {
                term: u32_at(bytes, 16),
                start: u32_at(bytes, 20),
            },
            lsn: Lsn(u64_at(bytes, 24)),
            committed: Lsn(u64_at(bytes, 32)),
            record_count: u32_at(bytes, 40),
            payload_bytes: u32_at(bytes, 44),
            payload_crc: u32_at(bytes, 48),
            plain_bytes: u32_at(bytes, 52),
            written_unix_micros: u64_at(bytes, 56),
            previous: Digest(u128_at(bytes, 64)),
            volume: VolumeId(u128_at(bytes, 80)),
        };
        let (total, payload) = (header.batch_bytes as usize, header.payload_bytes as usize);
        let plain = match header.plain_bytes as usize {
            0 => payload,
            plain => plain,
        };
        let table = (header.record_count as usize).checked_mul(TABLE_ENTRY_BYTES);
        if total > BATCH_BYTES_MAX
            || !total.is_multiple_of(BATCH_ALIGN_BYTES)
            || payload > total
            || plain < payload
            || plain > BATCH_BYTES_MAX
            || (HEADER_BYTES + payload).next_multiple_of(BATCH_ALIGN_BYTES) != total
            || table.is_none_or(|table| table > plain)
        {
            return Err(bad(format!(
                "lengths do not fit: batch {total}, payload {payload} of {plain}"
            )));
        }
        Ok(header)
    }
}

/// Decodes an LZ4 block that must become exactly so many bytes, which were checked against [`BATCH_BYTES_MAX`].
fn decompress(block: &[u8], plain_bytes: usize) -> Result<Bytes, BatchError> {
    let mut plain = vec![0; plain_bytes];
    match lz4_flex::block::decompress_into(block, &mut plain) {
        Ok(length) if length == plain_bytes => Ok(plain.into()),
        Ok(length) => Err(bad(format!(
            "payload decodes to {length} bytes, not {plain_bytes}"
        ))),
        Err(error) => Err(bad(format!("payload does not decode: {error}"))),
    }
}

/// `plain` as an LZ4 block, if the batch gets shorter by it.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let batch_bytes = |payload: usize| (HEADER_BYTES + payload).next_multiple_of(BATCH_ALIGN_BYTES);
    if batch_bytes(plain.len()) == BATCH_ALIGN_BYTES {
        return None;
    }
    let block = lz4_flex::block::compress(plain);
    (batch_bytes(block.len()) < batch_bytes(plain.len())).then_some(block)
}

/// A whole batch, checked against its own sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its fixed part.
    pub header: Header,
    /// Its records.
    pub records: Vec<Record>,
    /// Where it ends, and the digest up to there.
    pub end: Position,
}

impl Batch {
    /// Reads the batch at the front of `bytes`; checks sums and shapes but not its place in history.
    pub fn decode(bytes: &Bytes) -> Result<Batch, BatchError> {
        let header = Header::decode(bytes)?;
        let total = header.batch_bytes as usize;
        if bytes.len() < total {
            return Err(BatchError::Incomplete {
                have: bytes.len(),
                need: total,
            });
        }
        let payload = bytes.slice(HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize);
        if crc32c(&payload) != header.payload_crc && !museum::is(Mutant::PayloadUnchecked) {
            return Err(bad("crc32c of the payload differs"));
        }
        if bytes[HEADER_BYTES + payload.len()..total]
            .iter()
            .any(|byte| *byte != 0)
        {
            return Err(bad("padding is not zero"));
        }
        let payload = match header.plain_bytes as usize {
            0 => payload,
            plain => decompress(&payload, plain)?,
        };
        let table_bytes = header.record_count as usize * TABLE_ENTRY_BYTES;
        let mut data_at = table_bytes;
        let mut records = Vec::with_capacity(header.record_count as usize);
        for entry in payload[..table_bytes].chunks_exact(TABLE_ENTRY_BYTES) {
            let (kind, flags, count, start) = (entry[0], entry[1], u32_at(entry, 4), u64_at(entry, 8));
            let range = || SectorRange::new(start, u64::from(count)).ok_or_else(|| bad("range overflows"));
            let mut take = |length: u64| {
                let length = usize::try_from(length).map_err(|_| bad("data beyond the payload"))?;
                let end = data_at.checked_add(length).filter(|end| *end <= payload.len());
                let end = end.ok_or_else(|| bad("data beyond the payload"))?;
                let data = payload.slice(data_at..end);
                data_at = end;
                Ok(data)
            };
            records.push(match kind {
                1 => Record::Write {
                    range: range()?,
                    data: take(u64::from(count) * SECTOR_BYTES)?,
                },
                2 => Record::Discard { range: range()? },
                3 => Record::Zeroes {
                    range: range()?,
                    unmap: flags & FLAG_UNMAP != 0,
                },
                4 => {
                    let name = take(u64::from(count))?;
                    let name = std::str::from_utf8(&name).map_err(|_| bad("writer's name is not UTF-8"))?;
                    Record::Epoch {
                        writer: NodeId::new(name).map_err(|e| bad(e.to_string()))?,
                    }
                }
                5 => Record::Barrier { range: range()? },
                6 => {
                    let mut fields = Reader::new(take(u64::from(count))?);
                    let mut read = || -> Result<Record, DecodeError> {
                        let began = Verified {
                            from: fields.lsn("verified from")?,
                            unix_seconds: start,
                        };
                        let count = fields.u16("nodes")?;
                        let nodes = (0..count)
                            .map(|_| fields.node("node"))
                            .collect::<Result<_, _>>()?;
                        Ok(Record::Verified { began, nodes })
                    };
                    let record = read().map_err(|e| bad(e.to_string()))?;
                    fields.finish("verified").map_err(|e| bad(e.to_string()))?;
                    record
                }
                7 => {
                    let mut fields = Reader::new(take(u64::from(count))?);
                    let from = fields.size("length before").map_err(|e| bad(e.to_string()))?;
                    fields.finish("growth").map_err(|e| bad(e.to_string()))?;
                    let to = start.checked_mul(SECTOR_BYTES).map(VolumeSize::new);
                    let to = to.ok_or_else(|| bad("length overflows"))?;
                    let to = to.map_err(|e| bad(e.to_string()))?;
                    if from >= to {
                        return Err(bad(format!("a volume of {from} cannot grow to {to}")));
                    }
                    Record::Grow { from, to }
                }
                8 => {
                    let name = take(u64::from(count))?;
                    let name = std::str::from_utf8(&name).map_err(|_| bad("a name is not UTF-8"))?;
                    let name = SnapshotName::new(name).map_err(|e| bad(e.to_string()))?;
                    Record::Snapshot { name }
                }
                other => return Err(bad(format!("record kind {other} is unknown"))),
            });
        }
        if records.len() > 1 && records.iter().any(Record::stands_alone) {
            return Err(bad("a growth or snapshot is not alone in its batch"));
        }
        if data_at != payload.len() {
            return Err(bad("payload has data that no record owns"));
        }
        let digest = Digest(xxhash_rust::xxh3::xxh3_128(&bytes[..total]));
        let end = Position {
            lsn: header.lsn.advance(total as u64),
            digest,
        };
        Ok(Batch { header, records, end })
    }

    /// As [`Batch::decode`], and the batch must continue the history of `volume` that ends at `at`.
    pub fn decode_next(
        bytes: &Bytes,
        volume: VolumeId,
        at: Position,
        epoch_min: Epoch,
    ) -> Result<Batch, BatchError> {
        // The place is checked before the payload, so that foreign bytes cost one header.
        let header = Header::decode(bytes)?;
        if header.volume != volume {
            return Err(bad(format!("belongs to volume {}", header.volume)));
        }
        if header.lsn != at.lsn || header.previous != at.digest {
            return Err(bad(format!("does not continue the history at {}", at.lsn)));
        }
        if header.epoch < epoch_min {
            return Err(bad(format!("epoch {} after {epoch_min}", header.epoch)));
        }
        Batch::decode(bytes)
    }
}

/// Collects records until they are sealed into a batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    table: BytesMut,
    data: Vec<Bytes>,
    data_bytes: usize,
    record_count: u32,
}

impl BatchBuilder {
    /// Adds a record; its data must have the range's length and at most [`BATCH_PAYLOAD_GOAL_BYTES`].
    pub fn push(&mut self, record: &Record) {
        let (kind, flags, count, start, data) = match record {
            Record::Write { range, data } => {
                assert_eq!(
                    range.len_bytes(),
                    data.len() as u64,
                    "a write has the length of its range"
                );
                (1, 0, range.count.0, range.start.0, data.clone())
            }
            Record::Discard { range } => (2, 0, range.count.0, range.start.0, Bytes::new()),
            Record::Zeroes { range, unmap } => (
                3,
                if *unmap { FLAG_UNMAP } else { 0 },
                range.count.0,
                range.start.0,
                Bytes::new(),
            ),
            Record::Epoch { writer } => {
                let name = Bytes::copy_from_slice(writer.as_str().as_bytes());
                (4, 0, name.len() as u64, 0, name)
            }
            Record::Barrier { range } => (5, 0, range.count.0, range.start.0, Bytes::new()),
            Record::Verified { began, nodes } => {
                let mut fields = Writer::default();
                fields
                    .lsn(began.from)
                    .u16(u16::try_from(nodes.len()).expect("members are few"));
                nodes.iter().for_each(|node| {
                    fields.node(node);
                });
                let fields = fields.into_bytes().freeze();
                (6, 0, fields.len() as u64, began.unix_seconds, fields)
            }
            Record::Grow { from, to } => {
                let mut fields = Writer::default();
                fields.size(*from);
                let fields = fields.into_bytes().freeze();
                (7, 0, fields.len() as u64, to.sectors().0, fields)
            }
            Record::Snapshot { name } => {
                let name = Bytes::copy_from_slice(name.as_str().as_bytes());
                (8, 0, name.len() as u64, 0, name)
            }
        };
        self.table.put_u8(kind);
        self.table.put_u8(flags);
        self.table.put_u16_le(0);
        self.table
            .put_u32_le(u32::try_from(count).expect("callers cut ranges to u32 sectors"));
        self.table.put_u64_le(start);
        self.data_bytes += data.len();
        self.record_count += 1;
        if !data.is_empty() {
            self.data.push(data);
        }
    }

    /// Whether there is nothing to seal.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Payload so far.
    pub fn payload_bytes(&self) -> usize {
        self.table.len() + self.data_bytes
    }

    /// Makes the batch that continues `at`, and says where it ends; the builder is empty afterwards. With `compressed` the
    /// payload is stored as an LZ4 block, if that makes the batch shorter.
    pub fn seal(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        at: Position,
        committed: Lsn,
        written_unix_micros: u64,
        compressed: bool,
    ) -> (Bytes, Position) {
        let builder = std::mem::take(self);
        let plain_bytes = builder.payload_bytes();
        assert!(
            (HEADER_BYTES + plain_bytes).next_multiple_of(BATCH_ALIGN_BYTES) <= BATCH_BYTES_MAX,
            "records are sealed before a batch grows too long"
        );
        let mut out =
            BytesMut::with_capacity((HEADER_BYTES + plain_bytes).next_multiple_of(BATCH_ALIGN_BYTES));
        out.resize(HEADER_BYTES, 0);
        out.put_slice(&builder.table);
        for data in &builder.data {
            out.put_slice(data);
        }
        let block = compressed.then(|| compress(&out[HEADER_BYTES..])).flatten();
        if let Some(block) = &block {
            out.truncate(HEADER_BYTES);
            out.put_slice(block);
        }
        let payload_bytes = out.len() - HEADER_BYTES;
        let payload_crc = crc32c(&out[HEADER_BYTES..]);
        let total = out.len().next_multiple_of(BATCH_ALIGN_BYTES);
        out.resize(total, 0);
        let header = Header {
            batch_bytes: total as u32,
            epoch,
            lsn: at.lsn,
            committed,
            record_count: builder.record_count,
            payload_bytes: payload_bytes as u32,
            payload_crc,
            plain_bytes: block.map_or(0, |_| plain_bytes as u32),
            written_unix_micros,
            previous: at.digest,
            volume,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        let digest = Digest(xxhash_rust::xxh3::xxh3_128(&out));
        (
            out.freeze(),
            Position {
                lsn: at.lsn.advance(total as u64),
                digest,
            },
        )
    }
}

#[cfg(test)]
mod tests;
