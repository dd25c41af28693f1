//! How does a test play a virtual machine? A vhost-user-blk front end with a guest's driver, in memory of its own.
//!
//! Its memory is a file that is read and written at offsets: what the other side maps, this side never does, so it may also
//! be as malicious as it likes. It survives the daemon: [`Guest::connect`] again, and what was under way is answered.
//!
//! Source: the vhost-user specification of QEMU; virtio 1.2, sections 2.7 and 5.2.

mod front;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::MemfdFlags;

pub use front::{Front, code};

/// Entries of each ring.
pub const RING: u16 = 128;
/// Requests of one queue under way, at most: three descriptors each.
pub const SLOTS: usize = 32;
/// Most data of one request.
pub const DATA_BYTES: usize = 64 << 10;
/// Memory of one queue: rings, headers, tables, data.
const QUEUE_BYTES: u64 = 4 << 20;
/// What the front end adds to the guest's addresses.
pub const USER: u64 = 0x7000_0000_0000;

const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADERS: u64 = 0x4000;
const TABLES: u64 = 0x8000;
const DATA: u64 = 0x10_0000;

const F_LOG_ALL: u64 = 1 << 26;
/// What a guest of ours can: version 1, protocol features, event index, indirect descriptors, flush, discard, zeroes, queues.
pub const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;
/// Multi-queue, dirty log, acknowledgements, back channel, configuration, in-flight region.
const PROTOCOL: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What a guest may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// So many sectors from this one on.
    Read {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
    },
    /// These bytes from this sector on.
    Write {
        /// First sector.
        sector: u64,
        /// Whole sectors.
        data: Vec<u8>,
    },
    /// Everything answered so far durable.
    Flush,
    /// The volume's name.
    Id,
    /// No longer needed.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
    },
    /// Zeroes from now on.
    Zeroes {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
    },
}

impl Op {
    fn header(&self) -> (u32, u64) {
        match self {
            Op::Read { sector, .. } => (0, *sector),
            Op::Write { sector, .. } => (1, *sector),
            Op::Flush => (4, 0),
            Op::Id => (8, 0),
            Op::Discard { .. } => (11, 0),
            Op::Zeroes { .. } => (13, 0),
        }
    }
}

/// A request's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which queue.
    pub queue: usize,
    /// Which of its [`SLOTS`].
    pub index: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// To which request.
    pub slot: Slot,
    /// 0 done, 1 failed, 2 not known.
    pub status: u8,
    /// What was read.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Queue {
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    used: u16,
    /// Of requests under way: bytes that come back.
    open: Vec<Option<usize>>,
}

/// A guest with a disk.
#[derive(Debug)]
pub struct Guest {
    memory: File,
    features: u64,
    queues: Vec<Queue>,
    inflight: Option<(File, Vec<u8>)>,
    log: Option<File>,
    front: Option<Front>,
    ear: Option<UnixStream>,
}

impl Guest {
    /// A guest with so many queues that takes these features; not connected yet.
    pub fn new(queues: usize, features: u64) -> io::Result<Guest> {
        let memory = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?);
        memory.set_len(QUEUE_BYTES * queues as u64)?;
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let queue = |_| {
            Ok(Queue {
                kick: event()?,
                call: event()?,
                available: 0,
                used: 0,
                open: vec![None; SLOTS],
            })
        };
        Ok(Guest {
            memory,
            features,
            queues: (0..queues).map(queue).collect::<io::Result<_>>()?,
            inflight: None,
            log: None,
            front: None,
            ear: None,
        })
    }

    /// Its memory, to spoil it.
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// The connection, to say something else.
    pub fn front(&mut self) -> &mut Front {
        self.front.as_mut().expect("connected")
    }

    /// Connects (again) and lets the device begin; tries for as long as `patience`.
    pub fn connect(&mut self, path: &Path, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        loop {
            match self.try_connect(path) {
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn try_connect(&mut self, path: &Path) -> io::Result<()> {
        (self.front, self.ear) = (None, None);
        let mut front = Front::connect(path)?;
        let offered = front.ask_u64(code::GET_FEATURES)?;
        let protocol = front.ask_u64(code::GET_PROTOCOL_FEATURES)? & PROTOCOL;
        front.tell(code::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes(), &[])?;
        front.tell(code::SET_OWNER, &[], &[])?;
        let (ours, theirs) = UnixStream::pair()?;
        front.tell(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        self.ear = Some(ours);
        let features = self.features & offered | if self.log.is_some() { F_LOG_ALL } else { 0 };
        front.tell(code::SET_FEATURES, &features.to_le_bytes(), &[])?;
        let len = self.memory.metadata()?.len();
        front.tell(
            code::SET_MEM_TABLE,
            &table(&[(0, len, USER, 0)]),
            &[self.memory.as_fd()],
        )?;
        let wanted = inflight(0, self.queues.len(), RING);
        match &self.inflight {
            Some((file, region)) => front.tell(code::SET_INFLIGHT_FD, region, &[file.as_fd()])?,
            None => self.inflight = Some(front.ask_file(code::GET_INFLIGHT_FD, &wanted)?),
        }
        for (index, queue) in self.queues.iter().enumerate() {
            let number = index as u32;
            let used = self.load_u16(index, USED + 2)?;
            front.tell(code::SET_VRING_NUM, &state(number, u32::from(RING)), &[])?;
            front.tell(code::SET_VRING_BASE, &state(number, u32::from(used)), &[])?;
            front.tell(code::SET_VRING_ADDR, &addresses(index, self.log.is_some()), &[])?;
            let number = (index as u64).to_le_bytes();
            front.tell(code::SET_VRING_CALL, &number, &[queue.call.as_fd()])?;
            front.tell(code::SET_VRING_KICK, &number, &[queue.kick.as_fd()])?;
            front.tell(code::SET_VRING_ENABLE, &state(index as u32, 1), &[])?;
        }
        self.front = Some(front);
        for queue in &self.queues {
            rustix::io::write(&queue.kick, &1u64.to_le_bytes())?;
        }
        Ok(())
    }

    /// Goes away without a word.
    pub fn disconnect(&mut self) {
        (self.front, self.ear) = (None, None);
    }

    /// Length of the disk in bytes, asked now.
    pub fn size_bytes(&mut self) -> io::Result<u64> {
        let mut body = [0u32, 60, 0].map(u32::to_le_bytes).concat();
        body.resize(12 + 60, 0);
        let answer = self.front().ask(code::GET_CONFIG, &body)?;
        let capacity = answer.get(12..20).and_then(|bytes| bytes.try_into().ok());
        let capacity: [u8; 8] = capacity.ok_or(io::ErrorKind::InvalidData)?;
        Ok(u64::from_le_bytes(capacity) * 512)
    }

    /// Whether we were told within `patience` that the configuration is another one.
    pub fn hears_of_change(&mut self, patience: Duration) -> io::Result<bool> {
        let ear = self.ear.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        ear.set_read_timeout(Some(patience))?;
        let mut message = [0; 12];
        match io::Read::read_exact(&mut &*ear, &mut message) {
            Ok(()) => Ok(message[0] == 2),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// From now on, what the device writes is marked.
    pub fn log_writes(&mut self) -> io::Result<()> {
        let log = File::from(rustix::fs::memfd_create("dirty", MemfdFlags::CLOEXEC)?);
        let bytes = self.memory.metadata()?.len() / 4096 / 8;
        log.set_len(bytes)?;
        let features = self.features | F_LOG_ALL;
        let queues = self.queues.len();
        let front = self.front();
        let body = [bytes.to_le_bytes(), [0; 8]].concat();
        front.ask_with(code::SET_LOG_BASE, &body, &[log.as_fd()])?;
        front.tell(code::SET_FEATURES, &features.to_le_bytes(), &[])?;
        for index in 0..queues {
            front.tell(code::SET_VRING_ADDR, &addresses(index, true), &[])?;
        }
        self.log = Some(log);
        Ok(())
    }

    /// Pages that were marked.
    pub fn marked(&self) -> io::Result<Vec<u64>> {
        let log = self.log.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(log.metadata()?.len()).unwrap_or(0)];
        log.read_exact_at(&mut bytes, 0)?;
        let pages = 0..bytes.len() as u64 * 8;
        Ok(pages
            .filter(|page| bytes[(page / 8) as usize] & 1 << (page % 8) != 0)
            .collect())
    }

    /// Where the guest has the data of a request.
    pub fn data_at(slot: Slot) -> u64 {
        area(slot.queue) + DATA + (DATA_BYTES * slot.index) as u64
    }

    /// Stops a queue in good order: where its available ring is.
    pub fn stop(&mut self, queue: usize) -> io::Result<u16> {
        let answer = self.front().ask(code::GET_VRING_BASE, &state(queue as u32, 0))?;
        let base = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
        Ok(u16::from_le_bytes(base.ok_or(io::ErrorKind::InvalidData)?))
    }

    fn load_u16(&self, queue: usize, at: u64) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, area(queue) + at)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// A place for a request.
    pub fn free(&self, queue: usize) -> Option<Slot> {
        let index = self.queues[queue].open.iter().position(Option::is_none)?;
        Some(Slot { queue, index })
    }

    /// Requests under way.
    pub fn open(&self) -> usize {
        let of = |queue: &Queue| queue.open.iter().flatten().count();
        self.queues.iter().map(of).sum()
    }

    /// Asks; every second request by an indirect table.
    pub fn submit(&mut self, slot: Slot, op: &Op) -> io::Result<()> {
        let base = area(slot.queue);
        let at = base + HEADERS + 0x80 * slot.index as u64;
        let data_at = Guest::data_at(slot);
        let (kind, sector) = op.header();
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.memory.write_all_at(&header, at)?;
        let (from_guest, for_guest) = match op {
            Op::Read { count, .. } => (Vec::new(), *count as usize * 512),
            Op::Write { data, .. } => (data.clone(), 0),
            Op::Flush => (Vec::new(), 0),
            Op::Id => (Vec::new(), 20),
            Op::Discard { sector, count } | Op::Zeroes { sector, count } => {
                let body = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat();
                (body, 0)
            }
        };
        self.memory.write_all_at(&from_guest, data_at)?;
        self.memory.write_all_at(&[0xff], at + 0x20)?;
        let mut buffers = vec![(at, 16, 0)];
        if !from_guest.is_empty() {
            buffers.push((data_at, from_guest.len() as u32, 0));
        }
        if for_guest > 0 {
            buffers.push((data_at, for_guest as u32, WRITE));
        }
        buffers.push((at + 0x20, 1, WRITE));
        let indirect = slot.index % 2 == 1;
        let first = 3 * slot.index as u16;
        let last = buffers.len() - 1;
        let encoded = buffers.iter().enumerate().map(|(number, (guest, len, flags))| {
            let more = if number < last { NEXT } else { 0 };
            let next = number as u16 + 1 + if indirect { 0 } else { first };
            descriptor(*guest, *len, flags | more, next)
        });
        let encoded = encoded.collect::<Vec<_>>().concat();
        if indirect {
            let table = base + TABLES + 0x40 * slot.index as u64;
            self.memory.write_all_at(&encoded, table)?;
            let outer = descriptor(table, encoded.len() as u32, INDIRECT, 0);
            self.memory.write_all_at(&outer, base + 16 * u64::from(first))?;
        } else {
            self.memory.write_all_at(&encoded, base + 16 * u64::from(first))?;
        }
        self.queues[slot.queue].open[slot.index] = Some(for_guest);
        self.offer(slot.queue, first)
    }

    /// Makes a head available, whatever it is, and kicks.
    pub fn offer(&mut self, queue: usize, head: u16) -> io::Result<()> {
        let base = area(queue) + AVAILABLE;
        let own = &mut self.queues[queue];
        let at = base + 4 + 2 * u64::from(own.available % RING);
        own.available = own.available.wrapping_add(1);
        self.memory.write_all_at(&head.to_le_bytes(), at)?;
        self.memory.write_all_at(&own.available.to_le_bytes(), base + 2)?;
        rustix::io::write(&own.kick, &1u64.to_le_bytes())?;
        Ok(())
    }

    /// Answers that have come, or come within `patience`. Errors: the other side has hung up.
    pub fn answers(&mut self, patience: Duration) -> io::Result<Vec<Answered>> {
        let until = Instant::now() + patience;
        loop {
            let mut found = Vec::new();
            for queue in 0..self.queues.len() {
                self.take_used(queue, &mut found)?;
            }
            if !found.is_empty() || Instant::now() >= until {
                return Ok(found);
            }
            self.wait(until.saturating_duration_since(Instant::now()))?;
        }
    }

    fn take_used(&mut self, queue: usize, found: &mut Vec<Answered>) -> io::Result<()> {
        let base = area(queue);
        while self.load_u16(queue, USED + 2)? != self.queues[queue].used {
            let own = &mut self.queues[queue];
            let entry = base + USED + 4 + 8 * u64::from(own.used % RING);
            own.used = own.used.wrapping_add(1);
            // Interrupt me for the next one.
            let event = base + AVAILABLE + 4 + 2 * u64::from(RING);
            self.memory.write_all_at(&own.used.to_le_bytes(), event)?;
            let mut head = [0; 4];
            self.memory.read_exact_at(&mut head, entry)?;
            let index = u32::from_le_bytes(head) as usize / 3;
            let len = own.open.get_mut(index).and_then(Option::take);
            let len =
                len.ok_or_else(|| io::Error::other(format!("an answer that nobody waits for: {head:?}")))?;
            let slot = Slot { queue, index };
            let (mut data, mut status) = (vec![0; len], [0]);
            self.memory.read_exact_at(&mut data, Guest::data_at(slot))?;
            self.memory
                .read_exact_at(&mut status, base + HEADERS + 0x80 * index as u64 + 0x20)?;
            found.push(Answered {
                slot,
                status: status[0],
                data,
            });
        }
        Ok(())
    }

    fn wait(&self, patience: Duration) -> io::Result<()> {
        let front = self.front.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut waits: Vec<PollFd<'_>> = self
            .queues
            .iter()
            .map(|queue| PollFd::new(&queue.call, PollFlags::IN))
            .collect();
        waits.push(PollFd::new(front, PollFlags::IN));
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        poll(&mut waits, Some(&patience))?;
        if waits.last().is_some_and(|front| !front.revents().is_empty()) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        for queue in &self.queues {
            // Most have said nothing.
            let _empty = rustix::io::read(&queue.call, &mut [0; 8]);
        }
        Ok(())
    }

    /// Asks and waits for the answer, with nothing else under way.
    pub fn call(&mut self, op: &Op) -> io::Result<Answered> {
        let slot = self.free(0).ok_or(io::ErrorKind::WouldBlock)?;
        self.submit(slot, op)?;
        let mut answers = self.answers(Duration::from_secs(30))?;
        answers.pop().ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

fn area(queue: usize) -> u64 {
    QUEUE_BYTES * queue as u64
}

/// A descriptor.
pub fn descriptor(guest: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    [
        &guest.to_le_bytes()[..],
        &len.to_le_bytes(),
        &flags.to_le_bytes(),
        &next.to_le_bytes(),
    ]
    .concat()
}

/// Index and number, as many messages have them.
pub fn state(index: u32, number: u32) -> Vec<u8> {
    [index.to_le_bytes(), number.to_le_bytes()].concat()
}

/// Regions of memory: guest's address, length, front end's address, offset in the file.
pub fn table(regions: &[(u64, u64, u64, u64)]) -> Vec<u8> {
    let mut body = state(regions.len() as u32, 0);
    for (guest, len, user, offset) in regions {
        body.extend([guest, len, user, offset].map(|word| word.to_le_bytes()).concat());
    }
    body
}

/// Size of the region (0 when it is asked for), and for what.
pub fn inflight(bytes: u64, queues: usize, size: u16) -> Vec<u8> {
    let mut body = [bytes.to_le_bytes(), [0; 8]].concat();
    body.extend((queues as u16).to_le_bytes());
    body.extend(size.to_le_bytes());
    body.extend([0; 4]);
    body
}

fn addresses(queue: usize, log: bool) -> Vec<u8> {
    let base = area(queue);
    let user = USER + base;
    let mut body = state(queue as u32, u32::from(log));
    for address in [user, user + USED, user + AVAILABLE, base + USED] {
        body.extend(address.to_le_bytes());
    }
    body
}
