//! Which requests are under way? Written down in memory that the front end keeps when marsd dies.
//!
//! ```text
//! per queue, at multiples of 64 bytes:
//!   features u64 | version u16 = 1 | desc_num u16 | last_batch_head u16 | used_idx u16
//!   desc_num × { inflight u8 | 5 bytes | next u16 | counter u64 }
//! ```
//!
//! A head is marked before its request is begun and cleared after it was given back; `counter` tells in which order.
//! Between the entry in the used ring and the clearing, `used_idx` differs from the ring's own count, and
//! `last_batch_head` says whose mark is out of date. Little-endian, as all hosts are that we run on; source: "Inflight I/O tracking" of the vhost-user
//! specification. The front end may write anything there: heads and counts are checked, counters only sort.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};

use super::mapping::Mapping;
use super::memory::Span;
use super::ring::Ring;

const VERSION: u16 = 1;
const HEADER_BYTES: u64 = 16;
const ENTRY_BYTES: u64 = 16;
const ALIGN: u64 = 64;

const AT_VERSION: usize = 8;
const AT_DESC_NUM: usize = 10;
const AT_LAST_BATCH_HEAD: usize = 12;
const AT_USED_IDX: usize = 14;

/// The region of all queues.
#[derive(Clone, Debug)]
pub struct Inflight {
    mapping: Arc<Mapping>,
    offset: u64,
    len: u64,
    queue_size: u16,
    queues: u16,
}

/// Bytes that one queue takes.
fn queue_bytes(queue_size: u16) -> u64 {
    (HEADER_BYTES + ENTRY_BYTES * u64::from(queue_size)).next_multiple_of(ALIGN)
}

impl Inflight {
    /// A new region, empty; the file goes to the front end.
    pub fn create(queues: u16, queue_size: u16) -> io::Result<(Inflight, File)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("marsd-inflight", flags)?);
        file.set_len(queue_bytes(queue_size) * u64::from(queues))?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let inflight = Inflight::open(&file, 0, queues, queue_size)?;
        Ok((inflight, file))
    }

    /// The region that a front end has kept.
    ///
    /// Errors: it is too short for so many queues.
    pub fn open(file: &File, offset: u64, queues: u16, queue_size: u16) -> io::Result<Inflight> {
        let len = queue_bytes(queue_size) * u64::from(queues);
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "the in-flight region runs over");
        if !offset.is_multiple_of(8) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the in-flight region is not aligned",
            ));
        }
        let end = offset.checked_add(len).ok_or_else(bad)?;
        Ok(Inflight {
            mapping: Arc::new(Mapping::new(file, end)?),
            offset,
            len,
            queue_size,
            queues,
        })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The part of one queue, if there is one that is long enough.
    pub fn queue(&self, index: u16, ring: &Ring) -> Option<Tracker> {
        if index >= self.queues || self.queue_size < ring.size() {
            return None;
        }
        let at = self.offset + queue_bytes(self.queue_size) * u64::from(index);
        Some(Tracker {
            span: Span::new(self.mapping.clone(), usize::try_from(at).ok()?),
            size: ring.size(),
        })
    }
}

/// What one queue has under way.
#[derive(Clone, Debug)]
pub struct Tracker {
    span: Span,
    size: u16,
}

/// What was under way when somebody's life ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Heads, in the order in which they were begun.
    pub heads: Vec<u16>,
    /// The next counter.
    pub counter: u64,
    /// Which head of the available ring comes next.
    pub next: u16,
}

impl Tracker {
    fn entry(&self, head: u16) -> usize {
        (HEADER_BYTES + ENTRY_BYTES * u64::from(head)) as usize
    }

    fn set(&self, at: usize, value: u16) {
        // Whoever reads it after our death sees what we wrote in the order in which we wrote it.
        self.span.store_u16(at, value, Ordering::SeqCst);
    }

    fn get(&self, at: usize) -> u16 {
        self.span.load_u16(at, Ordering::SeqCst)
    }

    fn is_marked(&self, head: u16) -> bool {
        let mut byte = [0];
        self.span.read(self.entry(head), &mut byte);
        byte[0] == 1
    }

    fn counter(&self, head: u16) -> u64 {
        let mut bytes = [0; 8];
        self.span.read(self.entry(head) + 8, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A request begins. Panics: no such head.
    pub fn begin(&self, head: u16, counter: u64) {
        assert!(head < self.size, "head {head} of {}", self.size);
        let at = self.entry(head);
        self.span.write(at + 8, &counter.to_le_bytes());
        self.set(at, 1);
    }

    /// It is about to be given back.
    pub fn end(&self, head: u16) {
        self.set(AT_LAST_BATCH_HEAD, head);
    }

    /// It was given back, and the used ring counts so many.
    pub fn ended(&self, head: u16, used: u16) {
        assert!(head < self.size, "head {head} of {}", self.size);
        self.set(self.entry(head), 0);
        self.set(AT_USED_IDX, used);
    }

    /// What an earlier life has left; a region that nobody used yet begins at `next`.
    pub fn recover(&self, ring: &Ring, next: u16) -> Recovered {
        let used = ring.used();
        if self.get(AT_VERSION) != VERSION {
            self.set(AT_DESC_NUM, self.size);
            self.set(AT_USED_IDX, used);
            self.set(AT_VERSION, VERSION);
            return Recovered {
                next,
                ..Recovered::default()
            };
        }
        let last = self.get(AT_LAST_BATCH_HEAD);
        if self.get(AT_USED_IDX) != used {
            if last < self.size {
                self.set(self.entry(last), 0);
            }
            self.set(AT_USED_IDX, used);
        }
        let mut heads: Vec<u16> = (0..self.size).filter(|head| self.is_marked(*head)).collect();
        heads.sort_by_key(|head| self.counter(*head));
        let counter = heads.last().map_or(0, |head| self.counter(*head).wrapping_add(1));
        let count = u16::try_from(heads.len()).expect("at most as many as descriptors");
        Recovered {
            next: used.wrapping_add(count),
            heads,
            counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::tests::{ADDRESSES, memory};
    use super::*;

    fn tracker() -> (Ring, Tracker, Inflight) {
        let ring = Ring::new(&memory(), ADDRESSES, 8, true).unwrap();
        let (inflight, file) = Inflight::create(2, 8).unwrap();
        assert_eq!((inflight.len(), file.metadata().unwrap().len()), (384, 384));
        assert!(inflight.queue(2, &ring).is_none());
        let kept = Inflight::open(&file, 0, 2, 8).unwrap();
        let tracker = kept.queue(1, &ring).unwrap();
        (ring, tracker, inflight)
    }

    #[test]
    fn what_was_under_way_comes_back_in_order() {
        let (ring, tracker, _) = tracker();
        let fresh = tracker.recover(&ring, 3);
        assert_eq!((fresh.heads.len(), fresh.next), (0, 3));
        for (head, counter) in [(5, 0), (2, 1), (7, 2), (0, 3)] {
            tracker.begin(head, counter);
        }
        tracker.end(2);
        ring.give_back(0, 2, 1);
        tracker.ended(2, 1);
        let want = |heads: &[u16], counter, next| Recovered {
            heads: heads.to_vec(),
            counter,
            next,
        };
        assert_eq!(tracker.recover(&ring, 0), want(&[5, 7, 0], 4, 4));
        // Death between the used ring and the mark.
        tracker.end(7);
        ring.give_back(1, 7, 1);
        assert_eq!(tracker.recover(&ring, 0), want(&[5, 0], 4, 4));
        // Death before the used ring.
        tracker.end(0);
        assert_eq!(tracker.recover(&ring, 0), want(&[5, 0], 4, 4));
    }

    #[test]
    fn garbage_in_the_region_harms_nobody() {
        let (ring, tracker, _) = tracker();
        tracker.span.write(0, &[0xff; 16]);
        tracker.recover(&ring, 9);
        tracker.span.write(0, &[0xff; 16]);
        tracker.set(AT_VERSION, VERSION);
        for head in 0..8 {
            tracker.begin(head, u64::MAX);
        }
        let found = tracker.recover(&ring, 9);
        assert_eq!((found.heads.len(), found.next, found.counter), (8, 8, 0));
    }

    #[test]
    fn regions_that_run_over_are_refused() {
        let (_, file) = Inflight::create(1, 8).unwrap();
        assert!(Inflight::open(&file, 0, 2, 8).is_err());
        assert!(Inflight::open(&file, 64, 1, 8).is_err());
        assert!(Inflight::open(&file, 4, 1, 1).is_err());
        assert!(Inflight::open(&file, u64::MAX - 7, 1, 8).is_err());
        assert!(Inflight::open(&file, 0, u16::MAX, u16::MAX).is_err());
    }
}
