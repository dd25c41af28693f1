//! How do numbers and names lie in bytes? Little-endian, checked, never trusting a length.

use bytes::{BufMut, Bytes, BytesMut};
use model::units::SECTOR_BYTES;
use model::{Epoch, Lsn, NodeId, SectorRange, SnapshotName, VolumeSize};

use crate::lineage::{Digest, Position, Stretch};
use crate::message::SYNC_EXTENTS_MAX;
use crate::switch::Paused;

/// Bytes that are not what the format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DecodeError {
    /// Which field, and what is wrong with it.
    pub what: String,
}

pub(crate) fn malformed(what: impl Into<String>) -> DecodeError {
    DecodeError { what: what.into() }
}

/// Takes fields off the front of a buffer that came from disk or wire.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub fn bytes(&mut self, count: usize, what: &str) -> Result<Bytes, DecodeError> {
        if self.rest.len() < count {
            return Err(malformed(format!(
                "{what}: {} bytes left, {count} needed",
                self.rest.len()
            )));
        }
        Ok(self.rest.split_to(count))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DecodeError> {
        let taken = self.bytes(N, what)?;
        let mut out = [0; N];
        out.copy_from_slice(&taken);
        Ok(out)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u16(&mut self, what: &str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub fn u128(&mut self, what: &str) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array(what)?))
    }

    pub fn bool(&mut self, what: &str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(malformed(format!("{what}: {other} is neither 0 nor 1"))),
        }
    }

    pub fn lsn(&mut self, what: &str) -> Result<Lsn, DecodeError> {
        Ok(Lsn(self.u64(what)?))
    }

    pub fn epoch(&mut self, what: &str) -> Result<Epoch, DecodeError> {
        Ok(Epoch {
            term: self.u32(what)?,
            start: self.u32(what)?,
        })
    }

    pub fn position(&mut self, what: &str) -> Result<Position, DecodeError> {
        Ok(Position {
            lsn: self.lsn(what)?,
            digest: Digest(self.u128(what)?),
        })
    }

    pub fn node(&mut self, what: &str) -> Result<NodeId, DecodeError> {
        let length = self.u8(what)?;
        let name = self.bytes(usize::from(length), what)?;
        let name = std::str::from_utf8(&name).map_err(|_| malformed(format!("{what}: not UTF-8")))?;
        NodeId::new(name).map_err(|e| malformed(format!("{what}: {e}")))
    }

    pub fn snapshot_name(&mut self, what: &str) -> Result<SnapshotName, DecodeError> {
        let length = self.u8(what)?;
        let name = self.bytes(usize::from(length), what)?;
        let name = std::str::from_utf8(&name).map_err(|_| malformed(format!("{what}: not UTF-8")))?;
        SnapshotName::new(name).map_err(|e| malformed(format!("{what}: {e}")))
    }

    pub fn nodes(&mut self, what: &str, most: usize) -> Result<Vec<NodeId>, DecodeError> {
        let count = usize::from(self.u8(what)?);
        if count > most {
            return Err(malformed(format!("{what}: {count} nodes, {most} at most")));
        }
        (0..count).map(|_| self.node(what)).collect()
    }

    /// A volume's length, in sectors.
    pub fn size(&mut self, what: &str) -> Result<VolumeSize, DecodeError> {
        let bytes = self.u64(what)?.checked_mul(SECTOR_BYTES);
        let size = bytes.map(VolumeSize::new);
        let size = size.ok_or_else(|| malformed(format!("{what} overflows")))?;
        size.map_err(|e| malformed(format!("{what}: {e}")))
    }

    pub fn range(&mut self, what: &str) -> Result<SectorRange, DecodeError> {
        let (start, count) = (self.u64(what)?, self.u64(what)?);
        SectorRange::new(start, count).ok_or_else(|| malformed(format!("{what} overflow")))
    }

    pub fn paused(&mut self, what: &str) -> Result<Paused, DecodeError> {
        let bits = self.u8(what)?;
        Paused::from_bits(bits).ok_or_else(|| malformed(format!("{what}: unknown bits in {bits:#04x}")))
    }

    pub fn option<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(what)? {
            Ok(Some(read(self)?))
        } else {
            Ok(None)
        }
    }

    /// A count, and so many of what `read` reads.
    pub fn list<T>(
        &mut self,
        what: &str,
        mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u16(what)?;
        (0..count).map(|_| read(self)).collect()
    }

    pub fn lineage(&mut self, what: &str) -> Result<Vec<Stretch>, DecodeError> {
        self.list(what, |r| {
            Ok(Stretch {
                epoch: r.epoch(what)?,
                writer: r.node(what)?,
                from: r.position(what)?,
            })
        })
    }

    /// Digests of extents, no more than a message may have.
    pub fn digests(&mut self, what: &str) -> Result<Vec<u128>, DecodeError> {
        let count = usize::from(self.u16(what)?);
        if count > SYNC_EXTENTS_MAX {
            return Err(malformed(format!(
                "{what}: {count} extents, {SYNC_EXTENTS_MAX} at most"
            )));
        }
        (0..count).map(|_| self.u128(what)).collect()
    }

    /// Whatever is left.
    pub fn rest(self) -> Bytes {
        self.rest
    }

    pub fn finish(self, what: &str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(malformed(format!("{what}: {} bytes too many", self.rest.len())))
        }
    }
}

/// Puts fields behind one another.
#[derive(Default)]
pub(crate) struct Writer {
    out: BytesMut,
}

impl Writer {
    pub fn u8(&mut self, v: u8) -> &mut Writer {
        self.out.put_u8(v);
        self
    }

    pub fn u16(&mut self, v: u16) -> &mut Writer {
        self.out.put_u16_le(v);
        self
    }

    pub fn u32(&mut self, v: u32) -> &mut Writer {
        self.out.put_u32_le(v);
        self
    }

    pub fn u64(&mut self, v: u64) -> &mut Writer {
        self.out.put_u64_le(v);
        self
    }

    pub fn u128(&mut self, v: u128) -> &mut Writer {
        self.out.put_u128_le(v);
        self
    }

    pub fn bool(&mut self, v: bool) -> &mut Writer {
        self.u8(u8::from(v))
    }

    pub fn lsn(&mut self, v: Lsn) -> &mut Writer {
        self.u64(v.0)
    }

    pub fn size(&mut self, v: VolumeSize) -> &mut Writer {
        self.u64(v.sectors().0)
    }

    pub fn range(&mut self, v: SectorRange) -> &mut Writer {
        self.u64(v.start.0).u64(v.count.0)
    }

    pub fn epoch(&mut self, v: Epoch) -> &mut Writer {
        self.u32(v.term).u32(v.start)
    }

    pub fn position(&mut self, v: Position) -> &mut Writer {
        self.lsn(v.lsn).u128(v.digest.0)
    }

    pub fn node(&mut self, v: &NodeId) -> &mut Writer {
        let name = v.as_str().as_bytes();
        self.u8(u8::try_from(name.len()).expect("a name has at most 63 bytes"));
        self.bytes(name)
    }

    pub fn snapshot_name(&mut self, v: &SnapshotName) -> &mut Writer {
        let name = v.as_str().as_bytes();
        self.u8(u8::try_from(name.len()).expect("a name has at most 63 bytes"));
        self.bytes(name)
    }

    pub fn nodes(&mut self, nodes: &[NodeId]) -> &mut Writer {
        self.u8(u8::try_from(nodes.len()).expect("lists of nodes are short"));
        for node in nodes {
            self.node(node);
        }
        self
    }

    pub fn option<T>(&mut self, v: Option<T>, write: impl FnOnce(&mut Writer, T)) -> &mut Writer {
        self.bool(v.is_some());
        if let Some(v) = v {
            write(self, v);
        }
        self
    }

    pub fn lineage(&mut self, v: &[Stretch]) -> &mut Writer {
        self.u16(u16::try_from(v.len()).expect("lineage is pruned to LINEAGE_MAX"));
        for stretch in v {
            self.epoch(stretch.epoch)
                .node(&stretch.writer)
                .position(stretch.from);
        }
        self
    }

    pub fn digests(&mut self, v: &[u128]) -> &mut Writer {
        self.u16(u16::try_from(v.len()).expect("at most SYNC_EXTENTS_MAX"));
        for digest in v {
            self.u128(*digest);
        }
        self
    }

    pub fn bytes(&mut self, v: &[u8]) -> &mut Writer {
        self.out.put_slice(v);
        self
    }

    pub fn into_bytes(self) -> BytesMut {
        self.out
    }
}
