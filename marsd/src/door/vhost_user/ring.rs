//! How do a guest and its device pass requests? A split virtqueue in shared memory (virtio 1.2, section 2.7).
//!
//! ```text
//! descriptors  size × { addr u64 | len u32 | flags u16 | next u16 }                    the guest writes
//! available    flags u16 | idx u16 | size × head u16 | used_event u16                  the guest writes
//! used         flags u16 | idx u16 | size × { id u32 | len u32 } | avail_event u16     the device writes
//! ```
//!
//! All little-endian; an `idx` runs freely and counts what was ever put there. Packed rings are not offered: to a device in
//! software they save a cache line per request where a system call or a copy costs hundreds, and a second walk of
//! foreign memory would have to be proven.

use std::sync::atomic::{Ordering, fence};

use super::memory::{Memory, Span};

/// Longest ring that virtio allows.
pub const SIZE_MAX: u16 = 32768;

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

const USED_BYTES: usize = 8;
/// Before the entries of both rings: flags and idx.
const HEAD_BYTES: usize = 4;
const IDX: usize = 2;

/// In the available ring's flags: the guest polls and wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// Where the three parts lie, in the front end's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Descriptors.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// Where the guest sees the used ring, for the dirty log.
    pub used_guest: u64,
}

/// One queue's rings; every access is inside them, whatever the guest writes.
#[derive(Clone, Debug)]
pub struct Ring {
    size: u16,
    event_idx: bool,
    descriptors: Span,
    available: Span,
    used: Span,
}

/// What was written for the guest: where in the used ring, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// First byte.
    pub at: u64,
    /// How many.
    pub len: u64,
}

impl Ring {
    /// Finds the rings; `None` when they are not in memory, not aligned, or of a length that virtio does not know.
    pub fn new(memory: &Memory, addresses: Addresses, size: u16, event_idx: bool) -> Option<Ring> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return None;
        }
        let entries = u64::from(size);
        Some(Ring {
            size,
            event_idx,
            descriptors: memory.span(addresses.descriptors, DESCRIPTOR_BYTES as u64 * entries, 16)?,
            available: memory.span(addresses.available, (HEAD_BYTES as u64 + 2) + 2 * entries, 2)?,
            used: memory.span(
                addresses.used,
                (HEAD_BYTES as u64 + 2) + USED_BYTES as u64 * entries,
                4,
            )?,
        })
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether the front end took the rings' memory away.
    pub fn is_lost(&self) -> bool {
        self.descriptors.is_lost() || self.available.is_lost() || self.used.is_lost()
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// How many heads the guest has ever made available; what it wrote before is seen after this.
    pub fn available(&self) -> u16 {
        self.available.load_u16(IDX, Ordering::Acquire)
    }

    /// The head that was made available as the `index`th; may be no descriptor's number.
    pub fn head(&self, index: u16) -> u16 {
        self.available
            .load_u16(HEAD_BYTES + 2 * self.slot(index), Ordering::Relaxed)
    }

    /// A descriptor as it is now. Panics: no such descriptor.
    pub fn descriptor(&self, number: u16) -> [u8; DESCRIPTOR_BYTES] {
        assert!(number < self.size, "descriptor {number} of {}", self.size);
        let mut bytes = [0; DESCRIPTOR_BYTES];
        self.descriptors
            .read(DESCRIPTOR_BYTES * usize::from(number), &mut bytes);
        bytes
    }

    /// How many requests were ever given back.
    pub fn used(&self) -> u16 {
        self.used.load_u16(IDX, Ordering::Acquire)
    }

    /// Gives a request back as the `index`th: first its entry, then (the guest may look) the count.
    pub fn give_back(&self, index: u16, head: u16, len: u32) -> [Written; 2] {
        let at = HEAD_BYTES + USED_BYTES * self.slot(index);
        let mut entry = [0; USED_BYTES];
        entry[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        entry[4..].copy_from_slice(&len.to_le_bytes());
        self.used.write(at, &entry);
        self.used.store_u16(IDX, index.wrapping_add(1), Ordering::Release);
        let written = |at: usize, len: usize| Written {
            at: at as u64,
            len: len as u64,
        };
        [written(at, USED_BYTES), written(IDX, 2)]
    }

    /// Whether the guest wants to hear that the count of what was given back went from `before` to `now`.
    pub fn wants_interrupt(&self, before: u16, now: u16) -> bool {
        // What it wants is read after it could see what we gave back: it looks in the other order before it sleeps.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return self.available.load_u16(0, Ordering::Relaxed) & NO_INTERRUPT == 0;
        }
        let at = HEAD_BYTES + 2 * usize::from(self.size);
        let event = self.available.load_u16(at, Ordering::Relaxed);
        now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
    }

    /// Asks to be told when the guest makes its `next`th head available; look at [`Ring::available`] again afterwards.
    pub fn want_kick(&self, next: u16) -> Option<Written> {
        let written = self.event_idx.then(|| {
            let at = HEAD_BYTES + USED_BYTES * usize::from(self.size);
            self.used.store_u16(at, next, Ordering::Relaxed);
            Written {
                at: at as u64,
                len: 2,
            }
        });
        fence(Ordering::SeqCst);
        written
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::memory::tests::region;
    use super::*;

    /// Where the rings of [`memory`] are.
    pub const ADDRESSES: Addresses = Addresses {
        descriptors: 0x7000_0000,
        available: 0x7000_1000,
        used: 0x7000_2000,
        used_guest: 0x2000,
    };

    /// A megabyte; the guest sees its first byte at 0.
    pub fn memory() -> Memory {
        Memory::new(vec![region(0, 0x7000_0000, 1 << 20)])
    }

    #[test]
    fn rings_outside_memory_are_refused() {
        let memory = memory();
        let found = |addresses, size| Ring::new(&memory, addresses, size, true).is_some();
        assert!(found(ADDRESSES, 256));
        assert!(!found(ADDRESSES, 0) && !found(ADDRESSES, 3) && !found(ADDRESSES, 65535));
        let past = 0x7000_0000 + (1 << 20);
        for at in [past, past - 16, 0, u64::MAX, 0x7000_0001] {
            assert!(!found(
                Addresses {
                    descriptors: at,
                    ..ADDRESSES
                },
                4
            ));
            assert!(!found(
                Addresses {
                    available: at,
                    ..ADDRESSES
                },
                16
            ));
            assert!(!found(
                Addresses {
                    used: at,
                    ..ADDRESSES
                },
                4
            ));
        }
    }

    #[test]
    fn counts_run_over() {
        let memory = memory();
        let ring = Ring::new(&memory, ADDRESSES, 4, true).unwrap();
        let mut index = u16::MAX - 1;
        for head in 0..4 {
            let [entry, idx] = ring.give_back(index, head, 7);
            assert_eq!(entry.at, 4 + 8 * u64::from(index % 4));
            assert_eq!(idx, Written { at: 2, len: 2 });
            index = index.wrapping_add(1);
            assert_eq!(ring.used(), index);
        }
    }

    #[test]
    fn interrupts_come_when_they_were_asked_for() {
        let memory = memory();
        let check = |event_idx: bool, word: u16, before: u16, now: u16, want: bool| {
            let ring = Ring::new(&memory, ADDRESSES, 4, event_idx).unwrap();
            let at = if event_idx { 4 + 2 * 4 } else { 0 };
            let available = memory.span(ADDRESSES.available, 16, 2).unwrap();
            available.store_u16(at, word, Ordering::Relaxed);
            assert_eq!(ring.wants_interrupt(before, now), want, "{word} {before}..{now}");
        };
        check(true, 5, 5, 6, true);
        check(true, 5, 4, 5, false);
        check(true, 5, 3, 9, true);
        check(true, u16::MAX, u16::MAX, 0, true);
        check(true, 9, 5, 6, false);
        check(false, 0, 5, 6, true);
        check(false, 1, 5, 6, false);
    }
}
