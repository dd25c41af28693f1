//! Who wrote which stretch of history, and where do two histories part?

use std::fmt;

use model::{Epoch, Lsn, NodeId};

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
