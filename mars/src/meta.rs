//! What must a replica remember besides its log and its disk?
//!
//! The driver keeps the encoded form in two slots and writes the older one, so that a torn write leaves the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Epoch, Lsn, NodeId, Role, SectorOffset, VolumeId, VolumeSize};

use crate::codec::{DecodeError, Reader, Writer, malformed};
use crate::envelope;
use crate::lineage::{Position, Stretch};
use crate::settings::Settings;
use crate::snapshot::{SNAPSHOTS_MAX, Snapshot};
use crate::split::{Side, SplitBrain};
use crate::switch::Paused;
use crate::verify::{Difference, Verified, VerifyEnd, VerifyNode, VerifyRun};

/// Stretches of history kept; older ones are forgotten (a replica that far back needs a full sync anyway).
pub const LINEAGE_MAX: usize = 256;

/// Encoded size never exceeds this: one slot.
pub const META_BYTES_MAX: usize = 64 * 1024;

/// Preferred sources of a replica, at most.
pub const SOURCES_MAX: usize = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"PDM6");

/// A replica's durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Grows with every save: the higher slot is the newer.
    pub generation: u64,
    /// Which volume.
    pub volume: VolumeId,
    /// Which host's replica.
    pub node: NodeId,
    /// The volume's length at `written_back`: what the log has from there on may make it longer.
    pub size: VolumeSize,
    /// Its role.
    pub role: Role,
    /// Highest epoch ever heard of; as primary, one's own.
    pub epoch: Epoch,
    /// Everything before this is on the disk: recovery begins here.
    pub written_back: Position,
    /// Nothing at or behind this has reached the disk: recovery must get at least this far.
    pub touched: Lsn,
    /// Everything before this is durable in the log and must be readable: damage before it is corruption.
    pub committed: Position,
    /// Epoch of the batch that ends at `committed`.
    pub committed_epoch: Epoch,
    /// Log before this may be gone.
    pub trimmed: Lsn,
    /// Whether the disk is a version of the volume.
    pub sync: SyncState,
    /// Where the log ended when an operator, not a full sync, said that it is; until a full sync says so too, or a full verify that
    /// began behind that place.
    pub faked: Option<Lsn>,
    /// What an operator has stopped here.
    pub paused: Paused,
    /// As primary: the disk has changed without the log since `written_back`; what the log has from there on is newer.
    pub straight: bool,
    /// From whom an operator would rather have this replica get its log than from the primary, best first.
    pub sources: Vec<NodeId>,
    /// What an operator has decided for the volume; a replica's is its source's.
    pub settings: Settings,
    /// The role was granted away in this epoch and position; repeated to the successor until it is heard of as primary.
    pub granted: Option<Granted>,
    /// Who wrote which stretch of the log, oldest first.
    pub lineage: Vec<Stretch>,
    /// As primary: the comparison under way, or the last one.
    pub verify: Option<VerifyRun>,
    /// When each member was last found equal to the others.
    pub verified: Vec<(NodeId, Verified)>,
    /// Members whose history has parted from ours.
    pub splits: BTreeMap<NodeId, SplitBrain>,
    /// What was to be kept here, oldest first.
    pub snapshots: Vec<Snapshot>,
}

/// A primary role given away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// To whom.
    pub to: NodeId,
    /// The successor's epoch.
    pub epoch: Epoch,
    /// Where its history begins.
    pub at: Position,
}

/// Whether a replica's disk is a version of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// It is (together with the log).
    Whole,
    /// It has no history yet: neither log nor contents mean anything.
    Fresh,
    /// A full sync is under way.
    Copying {
        /// Sectors before this are settled.
        next: SectorOffset,
        /// Settled contents may hold writes up to here.
        end: Lsn,
        /// Bytes that differed so far.
        copied_bytes: u64,
        /// Sync restarts when the primary's term is another.
        term: u32,
        /// A partial copy: the contents were a version at or behind this position before, and only extents that the
        /// primary names are compared. `None`: all are.
        base: Option<Position>,
    },
}

impl Meta {
    /// The encoded form: the envelope of `envelope.rs` around the fields in order.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u64(self.generation)
            .u128(self.volume.0)
            .node(&self.node)
            .size(self.size);
        w.u8(match self.role {
            Role::Primary => 1,
            Role::Secondary => 2,
        });
        w.epoch(self.epoch).position(self.written_back).lsn(self.touched);
        w.position(self.committed)
            .epoch(self.committed_epoch)
            .lsn(self.trimmed);
        match self.sync {
            SyncState::Whole => w.u8(1),
            SyncState::Fresh => w.u8(2),
            SyncState::Copying {
                next,
                end,
                copied_bytes,
                term,
                base,
            } => w
                .u8(3)
                .u64(next.0)
                .lsn(end)
                .u64(copied_bytes)
                .u32(term)
                .option(base, |w, base| {
                    w.position(base);
                }),
        };
        w.option(self.faked, |w, at| {
            w.lsn(at);
        });
        w.u8(self.paused.bits());
        w.bool(self.straight);
        w.nodes(&self.sources);
        self.settings.write(&mut w);
        w.option(self.granted.as_ref(), |w, granted| {
            w.node(&granted.to).epoch(granted.epoch).position(granted.at);
        });
        w.lineage(&self.lineage);
        w.option(self.verify.as_ref(), encode_run);
        w.u16(self.verified.len() as u16);
        for (node, verified) in &self.verified {
            w.node(node).lsn(verified.from).u64(verified.unix_seconds);
        }
        w.u16(self.splits.len() as u16);
        for (node, split) in &self.splits {
            w.node(node).position(split.at);
            split.ours.write(&mut w);
            w.option(split.theirs.as_ref(), |w, theirs| theirs.write(w));
        }
        w.u16(u16::try_from(self.snapshots.len()).expect("at most SNAPSHOTS_MAX"));
        self.snapshots.iter().for_each(|snapshot| snapshot.write(&mut w));
        let out = envelope::wrap(MAGIC, w);
        assert!(
            out.len() <= META_BYTES_MAX,
            "LINEAGE_MAX keeps meta within its slot"
        );
        out
    }

    /// Reads a slot; bytes behind the encoded form are ignored.
    pub fn decode(slot: Bytes) -> Result<Meta, DecodeError> {
        let mut r = envelope::open(MAGIC, slot, "a replica's meta")?;
        let meta = Meta {
            generation: r.u64("generation")?,
            volume: VolumeId(r.u128("volume")?),
            node: r.node("node")?,
            size: r.size("size")?,
            role: match r.u8("role")? {
                1 => Role::Primary,
                2 => Role::Secondary,
                other => return Err(malformed(format!("role {other} is unknown"))),
            },
            epoch: r.epoch("epoch")?,
            written_back: r.position("written back")?,
            touched: r.lsn("touched")?,
            committed: r.position("committed")?,
            committed_epoch: r.epoch("committed epoch")?,
            trimmed: r.lsn("trimmed")?,
            sync: match r.u8("sync")? {
                1 => SyncState::Whole,
                2 => SyncState::Fresh,
                3 => SyncState::Copying {
                    next: SectorOffset(r.u64("next")?),
                    end: r.lsn("end")?,
                    copied_bytes: r.u64("copied")?,
                    term: r.u32("term")?,
                    base: r.option("base", |r| r.position("base"))?,
                },
                other => return Err(malformed(format!("sync state {other} is unknown"))),
            },
            faked: r.option("faked", |r| r.lsn("faked at"))?,
            paused: r.paused("paused")?,
            straight: r.bool("straight")?,
            sources: r.nodes("sources", SOURCES_MAX)?,
            settings: Settings::read(&mut r)?,
            granted: r.option("granted", |r| {
                Ok(Granted {
                    to: r.node("granted to")?,
                    epoch: r.epoch("granted epoch")?,
                    at: r.position("granted at")?,
                })
            })?,
            lineage: r.lineage("lineage")?,
            verify: r.option("verify", decode_run)?,
            verified: r.list("verified", |r| Ok((r.node("node")?, decode_verified(r)?)))?,
            splits: r.list("splits", decode_split)?.into_iter().collect(),
            snapshots: r.list("snapshots", Snapshot::read)?,
        };
        if meta.snapshots.len() > SNAPSHOTS_MAX {
            return Err(malformed(format!("{SNAPSHOTS_MAX} snapshots at most")));
        }
        r.finish("meta")?;
        Ok(meta)
    }
}

fn decode_split(r: &mut Reader) -> Result<(NodeId, SplitBrain), DecodeError> {
    let (node, at, ours) = (r.node("node")?, r.position("parted at")?, Side::read(r)?);
    let theirs = r.option("theirs", Side::read)?;
    Ok((node, SplitBrain { at, ours, theirs }))
}

fn encode_run(w: &mut Writer, run: &VerifyRun) {
    w.lsn(run.began.from).u64(run.began.unix_seconds).u64(run.next.0);
    w.bool(run.repair).u64(run.bytes_per_second_max);
    w.u16(run.nodes.len() as u16);
    for node in &run.nodes {
        w.node(&node.node)
            .bool(node.left_out)
            .u64(node.different_bytes)
            .u64(node.repaired_bytes);
    }
    w.u16(run.differences.len() as u16);
    for difference in &run.differences {
        w.node(&difference.node).range(difference.range);
        w.bool(difference.repaired);
    }
    w.u8(match run.ended {
        None => 0,
        Some(VerifyEnd::Finished) => 1,
        Some(VerifyEnd::Cancelled) => 2,
        Some(VerifyEnd::RoleMoved) => 3,
    });
}

fn decode_verified(r: &mut Reader) -> Result<Verified, DecodeError> {
    Ok(Verified {
        from: r.lsn("verified from")?,
        unix_seconds: r.u64("verified at")?,
    })
}

fn decode_run(r: &mut Reader) -> Result<VerifyRun, DecodeError> {
    Ok(VerifyRun {
        began: decode_verified(r)?,
        next: SectorOffset(r.u64("compared")?),
        repair: r.bool("repair")?,
        bytes_per_second_max: r.u64("rate")?,
        nodes: r.list("nodes", |r| {
            Ok(VerifyNode {
                node: r.node("node")?,
                left_out: r.bool("left out")?,
                different_bytes: r.u64("different")?,
                repaired_bytes: r.u64("repaired")?,
            })
        })?,
        differences: r.list("differences", |r| {
            Ok(Difference {
                node: r.node("node")?,
                range: r.range("a difference")?,
                repaired: r.bool("repaired")?,
            })
        })?,
        ended: match r.u8("verify end")? {
            0 => None,
            1 => Some(VerifyEnd::Finished),
            2 => Some(VerifyEnd::Cancelled),
            3 => Some(VerifyEnd::RoleMoved),
            other => return Err(malformed(format!("verify end {other} is unknown"))),
        },
    })
}
