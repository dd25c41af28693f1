//! Which answered writes could their primary still lose? Copies of them, until a flush says none.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Epoch, SectorCount, SectorOffset, SectorRange, units::SECTOR_BYTES};

use crate::event::GuestRequest;

/// What a piece costs besides its data: keeps a flood of tiny or empty pieces within the budget too.
const PIECE_BYTES: u64 = 128;

/// What one stretch of sectors was last made to hold.
#[derive(Clone, Debug)]
enum Content {
    /// Bytes, cut from a buffer of `held` bytes that they keep alive.
    Data { data: Bytes, held: usize },
    /// Forgotten by the guest.
    Discarded,
    /// Cleared.
    Zeroed { unmap: bool },
}

#[derive(Clone, Debug)]
struct Piece {
    end: u64,
    content: Content,
    /// When it was answered, on the session's count of answers.
    stamp: u64,
    /// By which primary.
    epoch: Epoch,
}

/// Disjoint stretches of the volume with their newest contents: a newer write cuts what it covers out of older ones, so
/// the pieces may be sent again in any order.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
}

impl Copies {
    /// Memory held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A mutation was answered in `epoch`: what it covers replaces what was there; kept only if it `may_be_lost`.
    pub fn answered(&mut self, request: &GuestRequest, stamp: u64, epoch: Epoch, may_be_lost: bool) {
        let (range, content) = match request {
            GuestRequest::Write { range, data, .. } => (
                *range,
                Content::Data {
                    data: data.clone(),
                    held: data.len(),
                },
            ),
            GuestRequest::Discard { range, .. } => (*range, Content::Discarded),
            GuestRequest::WriteZeroes { range, unmap, .. } => (*range, Content::Zeroed { unmap: *unmap }),
            GuestRequest::Read { .. } | GuestRequest::Flush | GuestRequest::BlockStatus { .. } => return,
        };
        self.cut(range);
        if may_be_lost && !range.is_empty() {
            self.put(
                range.start.0,
                Piece {
                    end: range.end().0,
                    content,
                    stamp,
                    epoch,
                },
            );
        }
    }

    /// A flush sent when the count of answers stood at `stamp` is answered: what was answered before is safe.
    pub fn flushed(&mut self, stamp: u64) {
        let bytes = &mut self.bytes;
        self.pieces.retain(|start, piece| {
            let keep = piece.stamp > stamp;
            if !keep {
                *bytes -= cost(*start, piece);
            }
            keep
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    /// The primary of `from` handed everything over to that of `to`.
    pub fn handed_over(&mut self, from: Epoch, to: Epoch) {
        for piece in self.pieces.values_mut().filter(|p| p.epoch == from) {
            piece.epoch = to;
        }
    }

    /// What the primary of `epoch` may not have, as requests.
    pub fn unknown_to(&self, epoch: Epoch) -> Vec<GuestRequest> {
        self.pieces
            .iter()
            .filter(|(_, p)| p.epoch != epoch)
            .map(|(start, p)| request(*start, p))
            .collect()
    }

    /// Forgets everything that the primary of `epoch` has.
    pub fn forget_known_to(&mut self, epoch: Epoch) {
        let bytes = &mut self.bytes;
        self.pieces.retain(|start, piece| {
            let keep = piece.epoch != epoch;
            if !keep {
                *bytes -= cost(*start, piece);
            }
            keep
        });
    }

    /// Forgets the range, leaving what is beside it.
    pub fn cut(&mut self, range: SectorRange) {
        let (start, end) = (range.start.0, range.end().0);
        if start == end {
            return;
        }
        if let Some((&before, piece)) = self.pieces.range(..start).next_back()
            && piece.end > start
        {
            let piece = self.take(before);
            self.put_slice(&piece, before, before, start);
            if piece.end > end {
                self.put_slice(&piece, before, end, piece.end);
            }
        }
        while let Some((&next, _)) = self.pieces.range(start..end).next() {
            let piece = self.take(next);
            if piece.end > end {
                self.put_slice(&piece, next, end, piece.end);
            }
        }
    }

    fn take(&mut self, start: u64) -> Piece {
        let piece = self.pieces.remove(&start).expect("the caller has just found it");
        self.bytes -= cost(start, &piece);
        piece
    }

    fn put(&mut self, start: u64, piece: Piece) {
        self.bytes += cost(start, &piece);
        let replaced = self.pieces.insert(start, piece);
        assert!(replaced.is_none(), "copies overlap at sector {start}");
    }

    /// Puts back sectors `from..to` of a piece that began at `start`.
    fn put_slice(&mut self, piece: &Piece, start: u64, from: u64, to: u64) {
        let content = match &piece.content {
            Content::Data { data, held } => {
                let part = data.slice(byte_count(from - start)..byte_count(to - start));
                // A sliver must not keep a large buffer alive, or the budget would mean nothing.
                if part.len() * 2 < *held {
                    Content::Data {
                        held: part.len(),
                        data: Bytes::copy_from_slice(&part),
                    }
                } else {
                    Content::Data {
                        data: part,
                        held: *held,
                    }
                }
            }
            other => other.clone(),
        };
        self.put(
            from,
            Piece {
                end: to,
                content,
                stamp: piece.stamp,
                epoch: piece.epoch,
            },
        );
    }
}

fn byte_count(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR_BYTES).expect("within a buffer that exists")
}

fn cost(start: u64, piece: &Piece) -> u64 {
    match piece.content {
        Content::Data { .. } => PIECE_BYTES + (piece.end - start) * SECTOR_BYTES,
        Content::Discarded | Content::Zeroed { .. } => PIECE_BYTES,
    }
}

fn request(start: u64, piece: &Piece) -> GuestRequest {
    let range = SectorRange {
        start: SectorOffset(start),
        count: SectorCount(piece.end - start),
    };
    match &piece.content {
        Content::Data { data, .. } => GuestRequest::Write {
            range,
            data: data.clone(),
            fua: false,
        },
        Content::Discarded => GuestRequest::Discard { range, fua: false },
        Content::Zeroed { unmap } => GuestRequest::WriteZeroes {
            range,
            fua: false,
            unmap: *unmap,
        },
    }
}
