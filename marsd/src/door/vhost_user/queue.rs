//! How does one queue run? A thread takes requests off the ring; whoever has an answer puts it back.
//!
//! ```text
//! guest ──available──► Pump (a thread) ──ask──► session ──► loop of the primary
//!   ▲                                                            │
//!   └─────used ring, interrupt──── Request::finish ◄──answer─────┘ (in the loop's thread: no switch on the way back)
//! ```
//!
//! A pump can be stopped and begun again without the guest noticing; requests under way hold what they need.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mars::{GuestError, GuestRequest, Reply};
use rustix::event::{EventfdFlags, epoll, eventfd};
use tracing::{Span, debug, warn};

use super::Context;
use super::chain::{Broken, Chain};
use super::dirty::DirtyLog;
use super::inflight::Tracker;
use super::memory::Memory;
use super::request::{Asked, HEADER_BYTES, ID_BYTES, SEGMENT_BYTES, Status, Terms, Verdict, status};
use super::ring::{Ring, Written};
use super::space::REQUEST_BYTES_MAX;
use super::tally::Tally;
use crate::thread;

/// Bytes of data of one queue under way; past that its ring is not read.
const BYTES_MAX: u64 = 2 * REQUEST_BYTES_MAX;

/// How often a queue looks whether what an earlier connection asked has come to its end.
const PREDECESSOR_EVERY: Duration = Duration::from_millis(5);

/// What a pump is to do.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Run = 0,
    /// Begin nothing new, but what an earlier life had begun.
    Drain = 1,
    Stop = 2,
}

/// Where a queue writes.
#[derive(Clone, Debug)]
pub struct Back {
    /// For the used ring.
    pub ring: Ring,
    /// What is under way is written down there.
    pub tracker: Option<Tracker>,
    /// Interrupts the guest.
    pub call: Option<Arc<File>>,
    /// Told when the queue breaks.
    pub error: Option<Arc<File>>,
    /// What we write is marked there.
    pub log: Option<Logging>,
}

/// A dirty log, and where the guest sees the used ring, if that is to be marked too.
#[derive(Clone, Debug)]
pub struct Logging {
    /// The map.
    pub log: Arc<DirtyLog>,
    /// Of the used ring.
    pub used_guest: Option<u64>,
}

impl Back {
    fn mark(&self, written: Written) {
        if let Some(Logging {
            log,
            used_guest: Some(used),
        }) = &self.log
        {
            log.mark(used.wrapping_add(written.at), written.len);
        }
    }

    fn mark_chain(&self, chain: &Chain) {
        if let Some(Logging { log, .. }) = &self.log {
            for piece in &chain.writable {
                log.mark(piece.guest, piece.len as u64);
            }
        }
    }

    fn interrupt(&self) {
        signal(self.call.as_deref());
    }
}

fn signal(event: Option<&File>) {
    let Some(event) = event else { return };
    // Full means that nobody has even looked at the last one.
    if let Err(error) = rustix::io::write(event, &1u64.to_le_bytes())
        && error != rustix::io::Errno::AGAIN
    {
        debug!(%error, "cannot signal a front end");
    }
}

/// What requests under way and the pump share.
struct Side {
    back: Back,
    next_used: u16,
    under_way: u16,
    bytes: u64,
    /// Somebody waits for one of the two to become less.
    waits: bool,
    /// Nothing is written for the guest any more: it may use its memory for something else.
    ended: bool,
}

struct Shared {
    side: Mutex<Side>,
    less: Condvar,
    mode: AtomicU8,
    wake: OwnedFd,
    tally: Arc<Tally>,
}

impl Shared {
    fn side(&self) -> MutexGuard<'_, Side> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Acquire) == mode as u8
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
        // Its counter cannot be full: a pump that was told to stop is told once or twice.
        let _ = rustix::io::write(&self.wake, &1u64.to_le_bytes());
        let _side = self.side();
        self.less.notify_all();
    }

    /// Waits until `done`, or until the time has come.
    fn wait_for(&self, until: Instant, mut done: impl FnMut(&Side) -> bool) -> bool {
        let mut side = self.side();
        while !done(&side) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            side.waits = true;
            let waited = self.less.wait_timeout(side, left);
            side = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A request that the volume works on; answered once, or never when nobody wants the answer any more.
struct Request {
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    chain: Chain,
    head: u16,
    bytes: u64,
}

impl Request {
    /// Answers.
    fn finish(&self, result: Result<&[u8], Status>) {
        let mut side = self.shared.side();
        if side.ended {
            return;
        }
        let side = &mut *side;
        if let Ok(data) = result {
            self.chain.write(&self.memory, data);
        }
        let status = result.err().unwrap_or(Status::Ok);
        self.chain.write_status(&self.memory, status as u8);
        side.back.mark_chain(&self.chain);
        let len = u32::try_from(self.chain.writable_bytes()).unwrap_or(u32::MAX);
        let before = side.next_used;
        side.next_used = before.wrapping_add(1);
        if let Some(tracker) = &side.back.tracker {
            tracker.end(self.head);
        }
        for written in side.back.ring.give_back(before, self.head, len) {
            side.back.mark(written);
        }
        if let Some(tracker) = &side.back.tracker {
            tracker.ended(self.head, side.next_used);
        }
        if side.back.ring.wants_interrupt(before, side.next_used) {
            side.back.interrupt();
        }
    }

    fn finish_reply(&self, result: Result<Reply, GuestError>, data_bytes: u64) {
        match result {
            Ok(Reply::Data(data)) if data.len() as u64 == data_bytes => self.finish(Ok(&data)),
            Ok(Reply::Done) if data_bytes == 0 => self.finish(Ok(&[])),
            Ok(Reply::Data(_) | Reply::Done | Reply::Extents(_)) => {
                warn!("the volume answered something else than was asked for");
                self.finish(Err(Status::IoError));
            }
            Err(error) => {
                debug!(%error, "a guest's request failed");
                self.finish(Err(status(&error)));
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut side = self.shared.side();
        side.under_way -= 1;
        side.bytes -= self.bytes;
        if std::mem::take(&mut side.waits) {
            self.shared.less.notify_all();
        }
        drop(side);
        self.shared.tally.less();
    }
}

/// Where a queue begins.
#[derive(Debug)]
pub struct Start {
    /// Requests of an earlier life, in order.
    pub again: VecDeque<u16>,
    /// The next counter of the in-flight region.
    pub counter: u64,
    /// Which head of the available ring comes next.
    pub next: u16,
}

/// The reading half of a queue: what its thread owns while it runs.
struct Pump {
    shared: Arc<Shared>,
    context: Arc<Context>,
    memory: Arc<Memory>,
    ring: Ring,
    tracker: Option<Tracker>,
    write_through: bool,
    again: VecDeque<u16>,
    counter: u64,
    next: u16,
    broken: bool,
}

/// Why a pump returned early.
enum Halt {
    /// It was told to.
    Told,
    /// Nothing can be made of what the guest wrote.
    Broken(Broken),
    /// More is under way, or was made available, than the ring has room for.
    TooMany,
    /// The front end cut its memory.
    Lost,
    /// The system refused.
    Io(io::Error),
}

impl Pump {
    fn run(&mut self, kick: &File) {
        let halt = match self.pump(kick) {
            Ok(()) | Err(Halt::Told) => return,
            Err(halt) => halt,
        };
        self.broken = true;
        signal(self.shared.side().back.error.as_deref());
        match halt {
            Halt::Told => {}
            Halt::Broken(error) => warn!(%error, "a queue stops: its guest broke the protocol"),
            Halt::TooMany => warn!("a queue stops: its guest has more requests than the ring has room for"),
            Halt::Lost => warn!("a queue stops: its guest's memory was taken away"),
            Halt::Io(error) => warn!(%error, "a queue stops: it cannot wait for its guest"),
        }
    }

    fn pump(&mut self, kick: &File) -> Result<(), Halt> {
        let failed = |error: rustix::io::Errno| Halt::Io(error.into());
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        // By edge: every kick is one, so nobody has to read what a guest has counted up.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&events, kick, epoll::EventData::new_u64(0), edge).map_err(failed)?;
        let told = epoll::EventFlags::IN;
        epoll::add(&events, &self.shared.wake, epoll::EventData::new_u64(1), told).map_err(failed)?;
        while self.context.predecessors.are_busy() {
            self.check_mode()?;
            std::thread::sleep(PREDECESSOR_EVERY);
        }
        loop {
            while let Some(head) = self.again.pop_front() {
                self.begin(head)?;
            }
            if !self.shared.is(Mode::Run) {
                return Ok(());
            }
            self.take_all()?;
            let written = self.ring.want_kick(self.next);
            if let Some(written) = written {
                self.shared.side().back.mark(written);
            }
            if self.ring.available() != self.next {
                continue;
            }
            let mut ready = [const { std::mem::MaybeUninit::uninit() }; 2];
            match epoll::wait(&events, &mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn check_mode(&self) -> Result<(), Halt> {
        if self.shared.is(Mode::Stop) {
            return Err(Halt::Told);
        }
        Ok(())
    }

    fn take_all(&mut self) -> Result<(), Halt> {
        if self.memory.is_lost() || self.ring.is_lost() {
            return Err(Halt::Lost);
        }
        let available = self.ring.available();
        if available.wrapping_sub(self.next) > self.ring.size() {
            return Err(Halt::TooMany);
        }
        while self.next != available && self.shared.is(Mode::Run) {
            let head = self.ring.head(self.next);
            if head >= self.ring.size() {
                return Err(Halt::Broken(Broken::NoDescriptor(head)));
            }
            self.next = self.next.wrapping_add(1);
            if let Some(tracker) = &self.tracker {
                tracker.begin(head, self.counter);
                self.counter = self.counter.wrapping_add(1);
            }
            self.begin(head)?;
        }
        Ok(())
    }

    /// Asks for what the guest wants, or answers at once. When it was stopped first, `head` is the next one again.
    fn begin(&mut self, head: u16) -> Result<(), Halt> {
        if self.shared.is(Mode::Stop) {
            self.again.push_front(head);
            return Err(Halt::Told);
        }
        let chain = Chain::follow(&self.memory, &self.ring, head).map_err(Halt::Broken)?;
        let verdict = self.judge(&chain);
        let bytes = match &verdict {
            Verdict::Ask(GuestRequest::Read { range } | GuestRequest::Write { range, .. }) => {
                range.len_bytes()
            }
            Verdict::Ask(_) | Verdict::Name | Verdict::Answer(_) => 0,
        };
        if !self.enter(bytes)? {
            self.again.push_front(head);
            return Err(Halt::Told);
        }
        let request = Request {
            shared: self.shared.clone(),
            memory: self.memory.clone(),
            chain,
            head,
            bytes,
        };
        match verdict {
            Verdict::Answer(Status::Ok) => request.finish(Ok(&[])),
            Verdict::Answer(status) => request.finish(Err(status)),
            Verdict::Name => {
                let mut name = [0; ID_BYTES];
                let text = self.context.offer.name.as_str().as_bytes();
                let len = text.len().min(ID_BYTES);
                name[..len].copy_from_slice(&text[..len]);
                request.finish(Ok(&name));
            }
            Verdict::Ask(ask) => self.ask(ask, request),
        }
        Ok(())
    }

    fn ask(&self, ask: GuestRequest, request: Request) {
        let (ask, data_bytes) = match ask {
            GuestRequest::Write { range, fua, .. } => {
                let mut data =
                    BytesMut::zeroed(usize::try_from(request.bytes).expect("REQUEST_BYTES_MAX is small"));
                request.chain.read(&self.memory, HEADER_BYTES, &mut data);
                let data = data.freeze();
                (GuestRequest::Write { range, data, fua }, 0)
            }
            GuestRequest::Read { range } => (GuestRequest::Read { range }, range.len_bytes()),
            other => (other, 0),
        };
        let done = move |result| request.finish_reply(result, data_bytes);
        self.context.guests.ask(ask, Box::new(done));
    }

    fn judge(&self, chain: &Chain) -> Verdict {
        let readable = chain.readable_bytes();
        let Some(from_guest) = readable.checked_sub(HEADER_BYTES as u64) else {
            return Verdict::Answer(Status::IoError);
        };
        let mut header = [0; HEADER_BYTES];
        chain.read(&self.memory, 0, &mut header);
        let mut segment = [0; SEGMENT_BYTES];
        if from_guest == SEGMENT_BYTES as u64 {
            chain.read(&self.memory, HEADER_BYTES, &mut segment);
        }
        let asked = Asked {
            header,
            segment,
            from_guest,
            // A chain without a writable byte has been refused.
            for_guest: chain.writable_bytes().saturating_sub(1),
        };
        asked.judge(&Terms {
            size: self.context.offer.length.now(),
            read_only: self.context.offer.read_only,
            write_through: self.write_through,
        })
    }

    /// Waits for room; false when it was told to stop first.
    fn enter(&self, bytes: u64) -> Result<bool, Halt> {
        let mut side = self.shared.side();
        if side.under_way >= self.ring.size() {
            return Err(Halt::TooMany);
        }
        while side.bytes > 0 && side.bytes + bytes > BYTES_MAX {
            if self.shared.is(Mode::Stop) {
                return Ok(false);
            }
            side.waits = true;
            side = self
                .shared
                .less
                .wait(side)
                .unwrap_or_else(PoisonError::into_inner);
        }
        side.under_way += 1;
        side.bytes += bytes;
        drop(side);
        self.shared.tally.more();
        Ok(true)
    }
}

/// A queue that has begun; dropping it ends it.
pub struct Queue {
    shared: Arc<Shared>,
    pump: Option<Pump>,
    running: Option<JoinHandle<Pump>>,
}

impl Queue {
    /// Prepares one; [`Queue::run`] starts it.
    pub fn new(
        context: Arc<Context>,
        tally: Arc<Tally>,
        memory: Arc<Memory>,
        back: Back,
        start: Start,
        write_through: bool,
    ) -> io::Result<Queue> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (ring, tracker) = (back.ring.clone(), back.tracker.clone());
        let shared = Arc::new(Shared {
            side: Mutex::new(Side {
                next_used: ring.used(),
                back,
                under_way: 0,
                bytes: 0,
                waits: false,
                ended: false,
            }),
            less: Condvar::new(),
            mode: AtomicU8::new(Mode::Stop as u8),
            wake,
            tally,
        });
        let pump = Pump {
            shared: shared.clone(),
            context,
            memory,
            ring,
            tracker,
            write_through,
            again: start.again,
            counter: start.counter,
            next: start.next,
            broken: false,
        };
        Ok(Queue {
            shared,
            pump: Some(pump),
            running: None,
        })
    }

    /// Serves the guest from now on, woken by `kick`; nothing when it runs already or is broken.
    pub fn run(&mut self, kick: &File) -> io::Result<()> {
        let Some(mut pump) = self.pump.take_if(|pump| !pump.broken) else {
            return Ok(());
        };
        let kick = kick.try_clone()?;
        // What told an earlier one to stop must not wake this one for ever; nothing there is as good.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        self.shared.mode.store(Mode::Run as u8, Ordering::Release);
        let body = move || {
            pump.run(&kick);
            pump
        };
        self.running = Some(thread::spawn("marsd-vhost", Span::current(), body)?);
        Ok(())
    }

    /// Takes nothing new off the ring any more; what is under way goes on.
    pub fn pause(&mut self) {
        self.shared.set(Mode::Stop);
        self.join();
    }

    fn join(&mut self) {
        if let Some(running) = self.running.take() {
            self.pump = Some(running.join().expect("a panic there has ended the process"));
        }
    }

    /// Takes nothing new off the ring and waits until everything is answered; false when it is not within `patience`.
    pub fn drain(&mut self, patience: Duration, mut given_up: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + patience;
        self.shared.set(Mode::Drain);
        let mut quiet = false;
        while !quiet && Instant::now() < until && !given_up() {
            let soon = until.min(Instant::now() + Duration::from_millis(50));
            let finished = self.running.as_ref().is_none_or(JoinHandle::is_finished);
            quiet = self.shared.wait_for(soon, |side| side.under_way == 0) && finished;
            if !quiet && !finished {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.pause();
        quiet && self.pump.as_ref().is_none_or(|pump| pump.again.is_empty())
    }

    /// Where the ring is now: only while it is paused.
    pub fn next(&self) -> Option<u16> {
        self.pump.as_ref().map(|pump| pump.next)
    }

    /// Goes on with the same requests in memory that was mapped anew: only while it is paused.
    pub fn move_to(&mut self, memory: Arc<Memory>, ring: Ring) {
        if let Some(pump) = &mut self.pump {
            pump.memory = memory;
            pump.ring = ring.clone();
        }
        self.shared.side().back.ring = ring;
    }

    /// Interrupts by this from now on.
    pub fn set_call(&self, call: Option<Arc<File>>) {
        let mut side = self.shared.side();
        side.back.call = call;
        // What was given back while there was no way to say so.
        side.back.interrupt();
    }

    /// Marks what is written there from now on.
    pub fn set_log(&self, log: Option<Logging>) {
        self.shared.side().back.log = log;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.side().ended = true;
        self.pause();
    }
}
