//! What is in a sector? Its stamp, repeated: so a torn, misplaced or old sector is told at a glance.

use crate::media::SECTOR;

/// A sector as bytes; stamp 0 is zeroes.
pub(crate) fn sector(stamp: u64) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    out.chunks_exact_mut(8)
        .for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
    out
}

/// The stamp of a sector's bytes; `None` when it is no stamp, or pieces of several.
pub(crate) fn of(bytes: &[u8]) -> Option<u64> {
    let word = bytes.get(..8)?;
    let same = bytes.len() == SECTOR && bytes[8..] == bytes[..SECTOR - 8];
    same.then_some(u64::from_le_bytes(word.try_into().ok()?))
}

/// Sectors with these stamps, one behind the other.
pub(crate) fn sectors(stamps: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(stamps.size_hint().0 * SECTOR);
    stamps.for_each(|stamp| out.extend_from_slice(&sector(stamp)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_a_mixture_does_not() {
        assert_eq!(of(&sector(77)), Some(77));
        let mut torn = sector(77);
        torn[256..].copy_from_slice(&sector(78)[256..]);
        assert_eq!(of(&torn), None);
    }
}
