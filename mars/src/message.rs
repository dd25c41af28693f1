//! What do two engines of one volume say to each other, and how does it lie on the wire?
//!
//! A replica dials and opens; its source streams. Framing, encryption and proof of identity belong to the driver's
//! link. Layout: kind u8, then the fields in the order of the variant; little-endian; bulk data last.

use bytes::{Bytes, BytesMut};
use model::{Epoch, Lsn, NodeId, SectorOffset, SectorRange, VolumeSize};

use crate::codec::{DecodeError, Reader, Writer, malformed};
use crate::dirty::DirtyMap;
use crate::lineage::{History, Position, Stretch};
use crate::relay::HOPS_MAX;
use crate::settings::Settings;
use crate::split::Side;
use crate::switch::Paused;

/// Sectors in one extent of a full sync: digests are compared and data is sent in these.
pub const SYNC_EXTENT_SECTORS: u64 = 128;

/// Extents asked for in one [`Message::SyncRequest`] at most.
pub const SYNC_EXTENTS_MAX: usize = 16;

/// Largest encoded message; a link drops a peer that announces more.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// One message between two engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Replica to source: this is where I stand, send me what follows.
    Open {
        /// Highest epoch I have heard of; an older source must not stream to me.
        epoch_seen: Epoch,
        /// End of my log; `None` when I have no history at all and want a full sync.
        end: Option<Position>,
        /// Epoch of the last batch of my log.
        end_epoch: Epoch,
        /// What is stopped here: with fetch among it, say hello but send me no log.
        paused: Paused,
    },
    /// Source to replica: my log continues yours.
    Opened(Box<Opened>),
    /// Source to replica: my log does not continue yours. Where they part, and whether what you have behind that was ever
    /// promised to anybody, you can tell from my history.
    Parted {
        /// My epoch.
        epoch: Epoch,
        /// Who wrote what, and where it ends.
        history: History,
    },
    /// Either way: our histories have parted there, and this is what is on my side.
    Fork {
        /// The last position that both have.
        at: Position,
        /// What I have behind it.
        side: Side,
    },
    /// Either way, while sides are counted: I am still here.
    Patience {
        /// It is I who counts, and wants to hear the same.
        counts: bool,
    },
    /// Either way: I cannot be your source.
    NotSource {
        /// Highest epoch I have heard of.
        epoch_seen: Epoch,
        /// Where the primary is thought to be.
        primary: Option<NodeId>,
    },
    /// Source to replica: the next bytes of the log (perhaps none: then a sign of life).
    Log {
        /// Position of the first byte.
        at: Lsn,
        /// Everything before this is durable at the primary; nothing behind it may be replayed.
        committed: Lsn,
        /// Nothing before this is needed by any member.
        horizon: Lsn,
        /// Log bytes; may end in the middle of a batch.
        bytes: Bytes,
    },
    /// Replica to source: how far I am.
    Ack {
        /// Written to my log.
        appended: Lsn,
        /// Durable in my log.
        committed: Lsn,
        /// On my disk.
        written_back: Lsn,
        /// Whether I hold a version at all.
        whole: bool,
        /// Sectors the running full sync has settled.
        synced: SectorOffset,
        /// The volume's length as far as my log is loaded.
        size: VolumeSize,
        /// What is stopped here.
        paused: Paused,
    },
    /// Replica to source: compare these extents with yours.
    SyncRequest {
        /// Numbers requests on one link.
        id: u64,
        /// All of them; the last may be shorter than the others.
        range: SectorRange,
        /// xxh3-128 of each extent as it is here.
        digests: Vec<u128>,
    },
    /// Source to replica: this is what differs.
    SyncReply {
        /// Of the request.
        id: u64,
        /// The contents may hold writes up to here; a copy is whole only behind it.
        end: Lsn,
        /// For each extent asked for, in order.
        extents: Vec<SyncExtent>,
    },
    /// Replica to source: where do you have data? What is a hole on both sides need not be compared.
    SurveyRequest,
    /// Source to replica: nowhere but here.
    Survey {
        /// The contents may hold writes up to here; a copy is whole only behind it.
        end: Lsn,
        /// Extents that may hold data.
        map: DirtyMap,
    },
    /// Source to replica, after [`Message::Opened`] with a base: what may have changed since then.
    Dirty {
        /// As in [`Message::Opened`].
        base: Position,
        /// The extents to compare.
        map: DirtyMap,
    },
    /// Replica to primary: my digests of a piece at a barrier.
    Digests {
        /// End of the barrier's batch.
        at: Lsn,
        /// First sector of the piece.
        start: SectorOffset,
        /// xxh3-128 of each extent; `None` when I cannot tell now.
        digests: Option<Vec<u128>>,
    },
    /// Primary to replica: this piece differs; ask for its extents as in a full sync.
    Repair {
        /// The piece.
        range: SectorRange,
    },
    /// Replica to primary: I have copied the piece that begins here.
    Repaired {
        /// First sector of the piece.
        start: SectorOffset,
    },
    /// Old primary to its successor: from this position on you are primary in this epoch.
    Grant {
        /// The new epoch; its term is the next one.
        epoch: Epoch,
        /// The end of my history; you have all of it.
        at: Position,
        /// What an operator has decided for the volume: the promise that you take over.
        settings: Box<Settings>,
    },
    /// Source that is no primary to its own source: this is what somebody has who follows me, or follows one who does.
    Report {
        /// Who.
        node: NodeId,
        /// Whether it still follows.
        connected: bool,
        /// Written to its log.
        appended: Lsn,
        /// Durable in its log.
        committed: Lsn,
        /// On its disk.
        written_back: Lsn,
        /// What is stopped there.
        paused: Paused,
    },
    /// Source to replica, from the primary through whoever stands between: that one shall follow the primary itself for a while,
    /// since it is to be handed the role.
    Summon {
        /// Who.
        node: NodeId,
    },
    /// Source to replica: an operator has decided anew.
    Settings {
        /// What holds now.
        settings: Box<Settings>,
    },
    /// Any member to any other: the highest epoch that I know of. A primary says it to members that do not follow it, who
    /// answer in kind.
    Hail {
        /// Durably known to the one who says it.
        epoch: Epoch,
        /// Who is primary, as far as it knows: itself, if it is.
        primary: Option<NodeId>,
    },
}

/// What a source says when a stream begins: my log continues yours at `from`. A replica that opened without history, or whose
/// history I no longer hold (`fresh`), begins an empty log at `from` and a full sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// My epoch.
    pub epoch: Epoch,
    /// Where the stream begins.
    pub from: Position,
    /// Epoch of the last batch before `from`.
    pub from_epoch: Epoch,
    /// Whether you must begin anew.
    pub fresh: bool,
    /// I know what changed since here. If that is on your history, keep your contents: a [`Message::Dirty`] follows,
    /// and only what it names need be compared.
    pub base: Option<Position>,
    /// The volume's length; when you must begin anew, at `from`.
    pub size: VolumeSize,
    /// Through whom my log comes, the primary first; empty when I am the primary.
    pub via: Vec<NodeId>,
    /// What an operator has decided for the volume.
    pub settings: Settings,
    /// Who wrote what, up to my end.
    pub lineage: Vec<Stretch>,
}

impl Opened {
    /// The source's history up to where the stream begins.
    pub(crate) fn history(&self) -> History {
        History {
            lineage: self.lineage.clone(),
            tip: self.from,
        }
    }
}

/// One extent in a [`Message::SyncReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncExtent {
    /// As at the replica.
    Same,
    /// All zeroes here.
    Zeroes,
    /// Different: these bytes.
    Data(Bytes),
}

impl Message {
    /// Bytes of the volume's contents that it carries.
    pub(crate) fn content_bytes(&self) -> u64 {
        let bytes = |extent: &SyncExtent| match extent {
            SyncExtent::Data(data) => data.len() as u64,
            SyncExtent::Same | SyncExtent::Zeroes => 0,
        };
        match self {
            Message::SyncReply { extents, .. } => extents.iter().map(bytes).sum(),
            _ => 0,
        }
    }

    /// The message as it goes over the wire.
    pub fn encode(&self) -> BytesMut {
        let mut w = Writer::default();
        match self {
            Message::Open {
                epoch_seen,
                end,
                end_epoch,
                paused,
            } => {
                w.u8(1).epoch(*epoch_seen).option(*end, |w, end| {
                    w.position(end);
                });
                w.epoch(*end_epoch).u8(paused.bits());
            }
            Message::Opened(opened) => {
                w.u8(2)
                    .epoch(opened.epoch)
                    .position(opened.from)
                    .epoch(opened.from_epoch)
                    .bool(opened.fresh)
                    .option(opened.base, |w, base| {
                        w.position(base);
                    })
                    .size(opened.size);
                w.nodes(&opened.via);
                opened.settings.write(&mut w);
                w.lineage(&opened.lineage);
            }
            Message::Parted { epoch, history } => {
                w.u8(3)
                    .epoch(*epoch)
                    .lineage(&history.lineage)
                    .position(history.tip);
            }
            Message::Fork { at, side } => {
                w.u8(4).position(*at);
                side.write(&mut w);
            }
            Message::Patience { counts } => {
                w.u8(16).bool(*counts);
            }
            Message::NotSource { epoch_seen, primary } => {
                w.u8(5).epoch(*epoch_seen).option(primary.as_ref(), |w, node| {
                    w.node(node);
                });
            }
            Message::Log {
                at,
                committed,
                horizon,
                bytes,
            } => {
                w.u8(6).lsn(*at).lsn(*committed).lsn(*horizon).bytes(bytes);
            }
            Message::Ack {
                appended,
                committed,
                written_back,
                whole,
                synced,
                size,
                paused,
            } => {
                w.u8(7)
                    .lsn(*appended)
                    .lsn(*committed)
                    .lsn(*written_back)
                    .bool(*whole)
                    .u64(synced.0)
                    .size(*size)
                    .u8(paused.bits());
            }
            Message::SyncRequest { id, range, digests } => {
                w.u8(8).u64(*id).range(*range).digests(digests);
            }
            Message::SyncReply { id, end, extents } => {
                w.u8(9).u64(*id).lsn(*end).u16(extents.len() as u16);
                for extent in extents {
                    match extent {
                        SyncExtent::Same => w.u8(0),
                        SyncExtent::Zeroes => w.u8(1),
                        SyncExtent::Data(data) => w.u8(2).u32(data.len() as u32).bytes(data),
                    };
                }
            }
            Message::Grant { epoch, at, settings } => {
                w.u8(10).epoch(*epoch).position(*at);
                settings.write(&mut w);
            }
            Message::Report {
                node,
                connected,
                appended,
                committed,
                written_back,
                paused,
            } => {
                w.u8(30)
                    .node(node)
                    .bool(*connected)
                    .lsn(*appended)
                    .lsn(*committed)
                    .lsn(*written_back)
                    .u8(paused.bits());
            }
            Message::Summon { node } => {
                w.u8(31).node(node);
            }
            Message::Settings { settings } => {
                w.u8(11);
                settings.write(&mut w);
            }
            Message::SurveyRequest => {
                w.u8(13);
            }
            Message::Survey { end, map } => {
                w.u8(14).lsn(*end);
                map.write(&mut w);
            }
            Message::Dirty { base, map } => {
                w.u8(12).position(*base);
                map.write(&mut w);
            }
            Message::Hail { epoch, primary } => {
                w.u8(15).epoch(*epoch).option(primary.as_ref(), |w, node| {
                    w.node(node);
                });
            }
            Message::Digests { at, start, digests } => {
                w.u8(20)
                    .lsn(*at)
                    .u64(start.0)
                    .option(digests.as_ref(), |w, digests| {
                        w.digests(digests);
                    });
            }
            Message::Repair { range } => {
                w.u8(21).range(*range);
            }
            Message::Repaired { start } => {
                w.u8(22).u64(start.0);
            }
        }
        w.into_bytes()
    }

    /// Reads a message that came over the wire.
    pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
        let mut r = Reader::new(bytes);
        let message = match r.u8("message kind")? {
            1 => Message::Open {
                epoch_seen: r.epoch("epoch")?,
                end: r.option("end", |r| r.position("end"))?,
                end_epoch: r.epoch("end epoch")?,
                paused: r.paused("paused")?,
            },
            2 => Message::Opened(Box::new(Opened {
                epoch: r.epoch("epoch")?,
                from: r.position("from")?,
                from_epoch: r.epoch("from epoch")?,
                fresh: r.bool("fresh")?,
                base: r.option("base", |r| r.position("base"))?,
                size: r.size("size")?,
                via: r.nodes("via", HOPS_MAX)?,
                settings: Settings::read(&mut r)?,
                lineage: r.lineage("lineage")?,
            })),
            3 => Message::Parted {
                epoch: r.epoch("epoch")?,
                history: History {
                    lineage: r.lineage("lineage")?,
                    tip: r.position("tip")?,
                },
            },
            4 => Message::Fork {
                at: r.position("at")?,
                side: Side::read(&mut r)?,
            },
            5 => Message::NotSource {
                epoch_seen: r.epoch("epoch")?,
                primary: r.option("primary", |r| r.node("primary"))?,
            },
            6 => {
                return Ok(Message::Log {
                    at: r.lsn("at")?,
                    committed: r.lsn("committed")?,
                    horizon: r.lsn("horizon")?,
                    bytes: r.rest(),
                });
            }
            7 => Message::Ack {
                appended: r.lsn("appended")?,
                committed: r.lsn("committed")?,
                written_back: r.lsn("written back")?,
                whole: r.bool("whole")?,
                synced: SectorOffset(r.u64("synced")?),
                size: r.size("size")?,
                paused: r.paused("paused")?,
            },
            8 => {
                let (id, range) = (r.u64("id")?, r.range("extents")?);
                let digests = r.digests("digests")?;
                Message::SyncRequest { id, range, digests }
            }
            9 => {
                let (id, end) = (r.u64("id")?, r.lsn("end")?);
                let count = r.u16("extent count")?;
                let extents = (0..count)
                    .map(|_| match r.u8("extent kind")? {
                        0 => Ok(SyncExtent::Same),
                        1 => Ok(SyncExtent::Zeroes),
                        2 => {
                            let length = r.u32("extent length")? as usize;
                            Ok(SyncExtent::Data(r.bytes(length, "extent data")?))
                        }
                        other => Err(malformed(format!("extent kind {other} is unknown"))),
                    })
                    .collect::<Result<_, _>>()?;
                Message::SyncReply { id, end, extents }
            }
            10 => Message::Grant {
                epoch: r.epoch("epoch")?,
                at: r.position("at")?,
                settings: Box::new(Settings::read(&mut r)?),
            },
            11 => Message::Settings {
                settings: Box::new(Settings::read(&mut r)?),
            },
            12 => Message::Dirty {
                base: r.position("base")?,
                map: DirtyMap::read(&mut r)?,
            },
            13 => Message::SurveyRequest,
            14 => Message::Survey {
                end: r.lsn("end")?,
                map: DirtyMap::read(&mut r)?,
            },
            15 => Message::Hail {
                epoch: r.epoch("epoch")?,
                primary: r.option("primary", |r| r.node("primary"))?,
            },
            16 => Message::Patience {
                counts: r.bool("counts")?,
            },
            20 => Message::Digests {
                at: r.lsn("at")?,
                start: SectorOffset(r.u64("start")?),
                digests: r.option("digests", |r| r.digests("digests"))?,
            },
            21 => Message::Repair {
                range: r.range("piece")?,
            },
            22 => Message::Repaired {
                start: SectorOffset(r.u64("start")?),
            },
            30 => Message::Report {
                node: r.node("node")?,
                connected: r.bool("connected")?,
                appended: r.lsn("appended")?,
                committed: r.lsn("committed")?,
                written_back: r.lsn("written back")?,
                paused: r.paused("paused")?,
            },
            31 => Message::Summon {
                node: r.node("node")?,
            },
            other => return Err(malformed(format!("message kind {other} is unknown"))),
        };
        r.finish("message")?;
        Ok(message)
    }
}
