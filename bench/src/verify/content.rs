//! What does a written sector look like, and what does a read one tell?
//!
//! Shape: seed u64 | sector u64 | sequence u64 | check u64 | filling; little-endian; check and filling follow from the
//! first three, so that every byte of the sector is verified.

use std::fmt;

/// Length of a sector in bytes.
pub const SECTOR_BYTES: u64 = 512;

const WORDS: usize = SECTOR_BYTES as usize / 8;

/// What a sector holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Only zeroes.
    Zeroes,
    /// Data of this writer for this sector.
    Data {
        /// Of which write.
        sequence: u32,
    },
    /// Begins like data of this writer for this sector; the rest is something else.
    Torn {
        /// Of which write the beginning is.
        sequence: u32,
        /// The first byte that differs.
        offset: usize,
    },
    /// Data of this writer for another sector.
    Misplaced {
        /// For which.
        sector: u64,
        /// Of which write.
        sequence: u64,
    },
    /// Anything else.
    Foreign,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Zeroes => f.write_str("zeroes"),
            Found::Data { sequence } => write!(f, "write {sequence}"),
            Found::Torn { sequence, offset } => {
                write!(f, "write {sequence} up to byte {offset}, then something else")
            }
            Found::Misplaced { sector, sequence } => write!(f, "write {sequence} of sector {sector}"),
            Found::Foreign => f.write_str("data of somebody else"),
        }
    }
}

/// Writes a sector's content into `bytes` (512 of them).
pub fn fill(bytes: &mut [u8], seed: u64, sector: u64, sequence: u32) {
    for (word, value) in bytes.chunks_exact_mut(8).zip(words(seed, sector, sequence)) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Says what a sector of a writer's region holds.
pub fn judge(bytes: &[u8], seed: u64, sector: u64) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zeroes;
    }
    let word = |index: usize| {
        bytes[index * 8..index * 8 + 8]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let Ok(sequence) = u32::try_from(word(2)) else {
        return Found::Foreign;
    };
    if word(0) != seed || sequence == 0 || word(3) != check(seed, word(1), sequence) {
        return Found::Foreign;
    }
    if word(1) != sector {
        return Found::Misplaced {
            sector: word(1),
            sequence: sequence.into(),
        };
    }
    match words(seed, sector, sequence)
        .enumerate()
        .find(|(index, value)| word(*index) != *value)
    {
        Some((index, _)) => Found::Torn {
            sequence,
            offset: index * 8,
        },
        None => Found::Data { sequence },
    }
}

fn words(seed: u64, sector: u64, sequence: u32) -> impl Iterator<Item = u64> {
    let check = check(seed, sector, sequence);
    let filling = (0..WORDS as u64 - 4).map(move |index| check.rotate_left(index as u32) ^ mixed(index));
    [seed, sector, sequence.into(), check].into_iter().chain(filling)
}

fn check(seed: u64, sector: u64, sequence: u32) -> u64 {
    mixed(mixed(mixed(seed) ^ sector) ^ u64::from(sequence))
}

/// SplitMix64's output function: every bit of the input moves about half of the output.
fn mixed(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_found_and_every_byte_counts() {
        let mut bytes = [0; 512];
        fill(&mut bytes, 1, 2, 3);
        assert_eq!(judge(&bytes, 1, 2), Found::Data { sequence: 3 });
        assert_eq!(judge(&bytes, 2, 2), Found::Foreign);
        assert_eq!(
            judge(&bytes, 1, 9),
            Found::Misplaced {
                sector: 2,
                sequence: 3
            }
        );
        for index in 0..512 {
            bytes[index] ^= 1;
            assert_ne!(judge(&bytes, 1, 2), Found::Data { sequence: 3 }, "byte {index}");
            bytes[index] ^= 1;
        }
        bytes[300..].fill(0);
        assert_eq!(
            judge(&bytes, 1, 2),
            Found::Torn {
                sequence: 3,
                offset: 296
            }
        );
    }
}
