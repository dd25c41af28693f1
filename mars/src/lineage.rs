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

/// Whether two histories part, as far as their stretches tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// They do not.
    None,
    /// One of them has forgotten what would tell.
    Unknown,
    /// Something was written that the other does not have there.
    Parted,
}

/// Do `theirs` have everything that `ours` have before `at`?
pub fn parting(ours: &[Stretch], theirs: &[Stretch], at: Lsn) -> Parting {
    let Some(last) = ours.iter().rfind(|stretch| stretch.from.lsn < at) else {
        return Parting::Unknown;
    };
    match theirs.iter().position(|stretch| stretch == last) {
        Some(same) => match theirs.get(same + 1) {
            Some(next) if next.from.lsn < at => Parting::Parted,
            _ => Parting::None,
        },
        None if theirs.first().is_none_or(|first| first.from.lsn > last.from.lsn) => Parting::Unknown,
        None => Parting::Parted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(term: u32, start: u32, from: u64) -> Stretch {
        Stretch {
            epoch: Epoch { term, start },
            writer: NodeId::new(&format!("h{term}")).expect("valid"),
            from: Position {
                lsn: Lsn(from),
                digest: Digest(u128::from(from)),
            },
        }
    }

    #[test]
    fn histories_part_where_a_stretch_of_ours_is_cut_short_or_missing() {
        let theirs = [stretch(1, 1, 0), stretch(1, 2, 50), stretch(2, 1, 90)];
        let check = |ours: &[Stretch], at, want| {
            assert_eq!(parting(ours, &theirs, Lsn(at)), want, "{ours:?} {at}");
        };
        check(&theirs, 1000, Parting::None);
        check(&theirs[..1], 50, Parting::None);
        // What we have behind 50 is not theirs.
        check(&theirs[..1], 51, Parting::Parted);
        check(&theirs[..2], 90, Parting::None);
        check(&[stretch(1, 1, 0), stretch(3, 1, 60)], 70, Parting::Parted);
        // It is not on the disk yet.
        check(&[stretch(1, 1, 0), stretch(3, 1, 60)], 50, Parting::None);
        check(&[], 10, Parting::Unknown);
        assert_eq!(parting(&theirs[..1], &theirs[1..], Lsn(40)), Parting::Unknown);
    }
}
