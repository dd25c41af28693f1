//! Who wrote which stretch of history, and where do two histories part?

use std::fmt;

use model::{Epoch, Lsn, NodeId};

use crate::record::BATCH_ALIGN_BYTES;

/// Digest of the log up to a batch boundary: each batch's covers its predecessor's, so equal digests mean equal
/// histories (xxh3-128; links are authenticated, so this guards against faults, not against adversaries).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}

/// A batch boundary in one history: where, and the digest of everything before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of log before it.
    pub lsn: Lsn,
    /// Digest of that log.
    pub digest: Digest,
}

/// One epoch's stretch of a history: it begins at `from` and ends where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whose numbers.
    pub epoch: Epoch,
    /// Who wrote it.
    pub writer: NodeId,
    /// Where it begins.
    pub from: Position,
}

/// In which epoch the last batch before `at` was written, as far as `lineage` goes back.
pub(crate) fn epoch_before(lineage: &[Stretch], at: Lsn) -> Option<Epoch> {
    let mut before = lineage.iter().rev();
    before
        .find(|stretch| stretch.from.lsn < at)
        .map(|stretch| stretch.epoch)
}

/// Where a history goes on after a primary in `epoch` has changed contents without a log since `end`: a position that nobody else can
/// have, neither who has the log up to `end` nor another primary that went on from there in the same way; the same however often it is
/// worked out.
pub fn jump(end: Position, epoch: Epoch) -> Position {
    let lsn = end.lsn.advance(BATCH_ALIGN_BYTES as u64);
    let mut bytes = *b"contents changed without a log..0123456789abcdefTERMSTRT";
    bytes[32..48].copy_from_slice(&end.digest.0.to_le_bytes());
    bytes[48..52].copy_from_slice(&epoch.term.to_le_bytes());
    bytes[52..].copy_from_slice(&epoch.start.to_le_bytes());
    let digest = Digest(xxhash_rust::xxh3::xxh3_128(&bytes));
    Position { lsn, digest }
}

/// One history as its owner can tell it: who wrote what, and where it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Oldest first; the beginning may be forgotten.
    pub lineage: Vec<Stretch>,
    /// Its end.
    pub tip: Position,
}

/// How two histories lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Ours is a beginning of theirs, perhaps all of it.
    Behind,
    /// Theirs is a beginning of ours.
    Ahead,
    /// They have the same beginning up to there, and both have something of their own behind it.
    Parted {
        /// The last position that both have.
        at: Position,
    },
    /// No common position is known: too much is forgotten, or these were never one volume.
    Strangers,
}

impl History {
    /// How this history lies to another.
    ///
    /// Exact to the batch although nobody reads a log: one epoch is written by one writer, who never writes a position twice, so
    /// of two copies of one stretch the shorter is a beginning of the longer. Histories therefore part where, in the last
    /// stretch that both have, the first of them leaves it.
    pub fn relation_to(&self, other: &History) -> Relation {
        let at = match self.last_common_stretch(other) {
            Some((ours, theirs)) => {
                let (own_end, other_end) = (self.end_of(ours), other.end_of(theirs));
                if own_end.lsn == other_end.lsn && own_end.digest != other_end.digest {
                    // Somebody wrote a position twice in one epoch. That must not be, and least of all be glossed over.
                    self.lineage[ours].from
                } else if own_end.lsn <= other_end.lsn {
                    own_end
                } else {
                    other_end
                }
            }
            // All histories begin in the same nothing, if only we can look back so far.
            None if self.is_complete() && other.is_complete() => Position::default(),
            None => return Relation::Strangers,
        };
        if at == self.tip {
            Relation::Behind
        } else if at == other.tip {
            Relation::Ahead
        } else {
            Relation::Parted { at }
        }
    }

    /// Whether what this history has behind `at`, where it parts from `other`, was lost by its own writer: the writer has restarted in the
    /// same term without it, so it was never durable there and no flush was answered for it.
    pub fn tail_was_lost(&self, other: &History, at: Position) -> bool {
        let next = other
            .last_common_stretch(self)
            .map_or(other.lineage.first(), |(common, _)| other.lineage.get(common + 1));
        let Some(next) = next.filter(|next| next.from == at) else {
            return false;
        };
        self.stretches_behind(at)
            .iter()
            .all(|lost| lost.epoch.term == next.epoch.term && lost.epoch < next.epoch)
    }

    /// The stretches that hold something behind `at`.
    pub fn stretches_behind(&self, at: Position) -> &[Stretch] {
        let later = self.lineage.partition_point(|stretch| stretch.from.lsn <= at.lsn);
        match later.checked_sub(1) {
            Some(holding) => &self.lineage[holding..],
            None => &self.lineage,
        }
    }

    /// Indices in ours and theirs.
    fn last_common_stretch(&self, other: &History) -> Option<(usize, usize)> {
        let place = |stretch: &Stretch| other.lineage.iter().rposition(|theirs| theirs == stretch);
        (0..self.lineage.len())
            .rev()
            .find_map(|ours| Some((ours, place(&self.lineage[ours])?)))
    }

    fn end_of(&self, stretch: usize) -> Position {
        self.lineage.get(stretch + 1).map_or(self.tip, |next| next.from)
    }

    fn is_complete(&self) -> bool {
        self.lineage
            .first()
            .map_or(self.tip == Position::default(), |first| {
                first.from == Position::default()
            })
    }
}

#[cfg(test)]
mod tests;
