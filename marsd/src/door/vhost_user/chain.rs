//! What did the guest put into a request? Its chain of descriptors, followed with suspicion.

use super::memory::{Memory, Piece};
use super::ring::{DESCRIPTOR_BYTES, Ring};

/// Descriptors of one request, at most: more than any driver uses, and an end for those that go in circles.
const DESCRIPTORS_MAX: u32 = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Why nothing can be made of a chain; the queue cannot go on, since there is nowhere to put an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A head or a next that is no descriptor's number.
    #[error("descriptor {0} does not exist")]
    NoDescriptor(u16),
    /// A buffer or table that is not in memory.
    #[error("{len} bytes at {guest:#x} are no memory of the guest")]
    NoMemory {
        /// Where.
        guest: u64,
        /// How many.
        len: u32,
    },
    /// A circle, or as good as one.
    #[error("a chain has no end within {DESCRIPTORS_MAX} descriptors")]
    Endless,
    /// A table in a table, of no length, or with something behind it.
    #[error("an indirect table is malformed")]
    BadTable,
    /// What the device may only read came behind what it may write.
    #[error("a readable descriptor follows a writable one")]
    Mixed,
    /// There is no byte for the answer.
    #[error("a request has no room for its answer")]
    NoAnswer,
}

/// What one request consists of.
#[derive(Debug, Default)]
pub struct Chain {
    /// From the guest.
    pub readable: Vec<Piece>,
    /// For the guest; the very last byte is the status.
    pub writable: Vec<Piece>,
}

struct Descriptor {
    guest: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn decode(bytes: &[u8; DESCRIPTOR_BYTES]) -> Descriptor {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = *bytes;
        Descriptor {
            guest: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

/// Where descriptors are read from.
enum Table {
    Ring,
    Indirect { guest: u64, entries: u32 },
}

impl Chain {
    /// Follows the chain from `head`. Each descriptor is read once: what the guest changes meanwhile is its own loss.
    pub fn follow(memory: &Memory, ring: &Ring, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain::default();
        let mut table = Table::Ring;
        let mut number = head;
        for _ in 0..DESCRIPTORS_MAX {
            let descriptor = table.read(memory, ring, number)?;
            let bad = Broken::NoMemory {
                guest: descriptor.guest,
                len: descriptor.len,
            };
            if descriptor.flags & INDIRECT != 0 {
                let whole = descriptor.len > 0 && descriptor.len.is_multiple_of(DESCRIPTOR_BYTES as u32);
                if !matches!(table, Table::Ring) || descriptor.flags & NEXT != 0 || !whole {
                    return Err(Broken::BadTable);
                }
                table = Table::Indirect {
                    guest: descriptor.guest,
                    entries: descriptor.len / DESCRIPTOR_BYTES as u32,
                };
                number = 0;
                continue;
            }
            let into = if descriptor.flags & WRITE != 0 {
                &mut chain.writable
            } else if chain.writable.is_empty() {
                &mut chain.readable
            } else {
                return Err(Broken::Mixed);
            };
            if !memory.pieces(descriptor.guest, u64::from(descriptor.len), into) {
                return Err(bad);
            }
            if descriptor.flags & NEXT == 0 {
                return match chain.writable.is_empty() {
                    true => Err(Broken::NoAnswer),
                    false => Ok(chain),
                };
            }
            number = descriptor.next;
        }
        Err(Broken::Endless)
    }

    /// Bytes from the guest.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|piece| piece.len as u64).sum()
    }

    /// Bytes for the guest, the status among them.
    pub fn writable_bytes(&self) -> u64 {
        self.writable.iter().map(|piece| piece.len as u64).sum()
    }

    /// Fills `into` with what the guest wrote from its `skip`th byte on; of both what is shorter.
    pub fn read(&self, memory: &Memory, skip: usize, into: &mut [u8]) {
        let mut rest = into;
        for piece in parts(&self.readable, skip) {
            let len = piece.len.min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            memory.read(&piece, now);
            rest = later;
        }
    }

    /// Copies what the guest is to see into the front of its buffers; of both what is shorter.
    pub fn write(&self, memory: &Memory, from: &[u8]) {
        let mut rest = from;
        for piece in &self.writable {
            let (now, later) = rest.split_at(piece.len.min(rest.len()));
            memory.write(piece, now);
            rest = later;
        }
    }

    /// Sets the last byte.
    pub fn write_status(&self, memory: &Memory, status: u8) {
        let before = self.writable_bytes().saturating_sub(1);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        for piece in parts(&self.writable, before) {
            memory.write(&piece, &[status]);
        }
    }
}

/// What is left of pieces without their first `skip` bytes.
fn parts(pieces: &[Piece], skip: usize) -> impl Iterator<Item = Piece> {
    let mut skip = skip;
    pieces.iter().filter_map(move |piece| {
        let here = skip.min(piece.len);
        skip -= here;
        piece.from(here)
    })
}

impl Table {
    fn read(&self, memory: &Memory, ring: &Ring, number: u16) -> Result<Descriptor, Broken> {
        match *self {
            Table::Ring if number < ring.size() => Ok(Descriptor::decode(&ring.descriptor(number))),
            Table::Indirect { guest, entries } if u32::from(number) < entries => {
                let mut bytes = [0; DESCRIPTOR_BYTES];
                let at = guest.checked_add(u64::from(number) * DESCRIPTOR_BYTES as u64);
                match at {
                    Some(at) if memory.read_at(at, &mut bytes) => Ok(Descriptor::decode(&bytes)),
                    _ => Err(Broken::NoMemory {
                        guest,
                        len: DESCRIPTOR_BYTES as u32,
                    }),
                }
            }
            Table::Ring | Table::Indirect { .. } => Err(Broken::NoDescriptor(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ring::tests::{ADDRESSES, memory};
    use super::*;

    fn put(memory: &Memory, at: u64, guest: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        bytes[..8].copy_from_slice(&guest.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        write_at(memory, at, &bytes);
    }

    fn write_at(memory: &Memory, at: u64, bytes: &[u8]) {
        let mut pieces = Vec::new();
        assert!(memory.pieces(at, bytes.len() as u64, &mut pieces));
        memory.write(&pieces[0], bytes);
    }

    /// Descriptors from the ring's number 0 on, as (guest, len, flags, next).
    fn follow(descriptors: &[(u64, u32, u16, u16)], head: u16) -> Result<(u64, u64), Broken> {
        let memory = memory();
        for (number, (guest, len, flags, next)) in descriptors.iter().enumerate() {
            put(&memory, 16 * number as u64, *guest, *len, *flags, *next);
        }
        let ring = Ring::new(&memory, ADDRESSES, 8, true).unwrap();
        Chain::follow(&memory, &ring, head).map(|chain| (chain.readable_bytes(), chain.writable_bytes()))
    }

    #[test]
    fn chains_are_followed_or_refused() {
        let (header, data, status) = (
            (0x8000, 16, NEXT, 1),
            (0x9000, 512, NEXT, 2),
            (0xa000, 1, WRITE, 0),
        );
        assert_eq!(follow(&[header, data, status], 0), Ok((528, 1)));
        assert_eq!(follow(&[header, data, status], 8), Err(Broken::NoDescriptor(8)));
        assert_eq!(follow(&[(0, 16, NEXT, 9)], 0), Err(Broken::NoDescriptor(9)));
        assert_eq!(follow(&[(0, 16, NEXT, 0)], 0), Err(Broken::Endless));
        assert_eq!(follow(&[(0, 16, 0, 0)], 0), Err(Broken::NoAnswer));
        assert_eq!(follow(&[(0, 0, WRITE, 0)], 0), Err(Broken::NoAnswer));
        assert_eq!(
            follow(&[(0, 1, WRITE | NEXT, 1), (0, 1, 0, 0)], 0),
            Err(Broken::Mixed)
        );
        let outside = 1 << 20;
        assert_eq!(
            follow(&[(outside, 1, WRITE, 0)], 0),
            Err(Broken::NoMemory {
                guest: outside,
                len: 1
            })
        );
        assert_eq!(
            follow(&[(u64::MAX, u32::MAX, 0, 0)], 0),
            Err(Broken::NoMemory {
                guest: u64::MAX,
                len: u32::MAX
            })
        );
    }

    #[test]
    fn tables_are_followed_or_refused() {
        let check = |descriptor, table: &[(u64, u32, u16, u16)], want| {
            let memory = memory();
            for (number, (guest, len, flags, next)) in table.iter().enumerate() {
                put(&memory, 0x4000 + 16 * number as u64, *guest, *len, *flags, *next);
            }
            let (guest, len, flags, next) = descriptor;
            put(&memory, 0, guest, len, flags, next);
            let ring = Ring::new(&memory, ADDRESSES, 8, true).unwrap();
            let found = Chain::follow(&memory, &ring, 0)
                .map(|chain| (chain.readable_bytes(), chain.writable_bytes()));
            assert_eq!(found, want);
        };
        let table = [
            (0x8000, 16, NEXT, 2),
            (0, 0, INDIRECT, 0),
            (0xa000, 513, WRITE, 0),
        ];
        check((0x4000, 48, INDIRECT, 0), &table, Ok((16, 513)));
        check((0x4000, 32, INDIRECT, 0), &table, Err(Broken::NoDescriptor(2)));
        check((0x4000, 47, INDIRECT, 0), &table, Err(Broken::BadTable));
        check((0x4000, 0, INDIRECT, 0), &table, Err(Broken::BadTable));
        check((0x4000, 48, INDIRECT | NEXT, 0), &table, Err(Broken::BadTable));
        check((0x4010, 16, INDIRECT, 0), &table, Err(Broken::BadTable));
        check(
            (1 << 40, 48, INDIRECT, 0),
            &table,
            Err(Broken::NoMemory {
                guest: 1 << 40,
                len: 16,
            }),
        );
        check(
            (u64::MAX - 15, 0x8000_0000, INDIRECT, 0),
            &table,
            Err(Broken::NoMemory {
                guest: u64::MAX - 15,
                len: 16,
            }),
        );
    }

    #[test]
    fn contents_cross_descriptors() {
        let memory = memory();
        put(&memory, 0, 0x8000, 10, NEXT, 1);
        put(&memory, 16, 0x9000, 10, NEXT, 2);
        put(&memory, 32, 0xa000, 3, WRITE | NEXT, 3);
        put(&memory, 48, 0xb000, 3, WRITE | NEXT, 4);
        put(&memory, 64, 0xc000, 0, WRITE, 0);
        write_at(&memory, 0x8000, b"0123456789");
        write_at(&memory, 0x9000, b"abcdefghij");
        let ring = Ring::new(&memory, ADDRESSES, 8, true).unwrap();
        let chain = Chain::follow(&memory, &ring, 0).unwrap();
        let mut bytes = [0; 6];
        chain.read(&memory, 8, &mut bytes);
        assert_eq!(&bytes, b"89abcd");
        chain.write(&memory, b"vwxyz");
        chain.write_status(&memory, b'!');
        let mut seen = [0; 3];
        assert!(memory.read_at(0xa000, &mut seen) && &seen == b"vwx");
        assert!(memory.read_at(0xb000, &mut seen) && &seen == b"yz!");
    }

    proptest! {
        /// Whatever stands in memory: an end is found, and nothing outside is touched.
        #[test]
        fn any_bytes_have_an_end(bytes in prop::collection::vec(any::<u8>(), 128), small: bool, head: u16) {
            let memory = memory();
            let mut bytes = bytes;
            if small {
                // Addresses, lengths, flags and numbers that nearly make sense.
                for descriptor in bytes.chunks_mut(16) {
                    descriptor[3..8].fill(0);
                    descriptor[10..12].fill(0);
                    descriptor[12] &= 7;
                    descriptor[13] = 0;
                    descriptor[14] &= 7;
                    descriptor[15] = 0;
                }
            }
            write_at(&memory, 0, &bytes);
            write_at(&memory, 0x40, &bytes);
            let ring = Ring::new(&memory, ADDRESSES, 8, true).unwrap();
            let head = if small { head % 8 } else { head };
            if let Ok(chain) = Chain::follow(&memory, &ring, head) {
                let mut all = vec![0; usize::try_from(chain.readable_bytes().min(1 << 20)).unwrap()];
                chain.read(&memory, 0, &mut all);
                chain.write(&memory, &all);
                chain.write_status(&memory, 1);
                prop_assert!(chain.writable_bytes() > 0);
            }
        }
    }
}
