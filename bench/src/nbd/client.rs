//! How are many requests kept in flight over one connection, and what happens when it breaks?
//!
//! Submitters write to the socket themselves; one thread reads replies. When the connection breaks, that thread makes
//! a new one and everything unanswered is sent again, in order, as the kernel's and QEMU's clients do.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Error;
use super::handshake::{Export, negotiate};
use super::reply::{Answer, Assembly, read_piece};
use super::request::{Request, goodbye};
use super::target::{Stream, Target};

/// Pause between two attempts to reconnect.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// A server that accepts and then says nothing is as good as none.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ask for structured replies and block status.
    pub structured: bool,
    /// How long a broken connection is tried again before everything in flight fails; zero: never.
    pub reconnect: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            structured: true,
            reconnect: Duration::ZERO,
        }
    }
}

/// One finished request.
#[derive(Debug)]
pub struct Completion {
    /// What [`Client::submit`] returned.
    pub cookie: u64,
    /// What was asked.
    pub request: Request,
    /// The answer.
    pub result: Result<Answer, Error>,
    /// From submission to answer, reconnects included.
    pub latency: Duration,
}

/// A connection with requests in flight. Dropping it says goodbye and fails what is unanswered.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    export: Export,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    options: Options,
    /// Taken before `pending`, so that a request is either written or resent, never both.
    sender: Mutex<SendHalf>,
    pending: Mutex<BTreeMap<u64, Pending>>,
    reconnects: AtomicU64,
}

#[derive(Debug)]
struct SendHalf {
    stream: Stream,
    cookie_next: u64,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The owner is leaving: a lost connection is not made again.
    Closing,
    Lost(Error),
}

#[derive(Debug)]
struct Pending {
    request: Request,
    since: Instant,
    answer_to: Sender<Completion>,
    assembly: Assembly,
}

impl Client {
    /// Connects and opens the export.
    pub fn open(target: &Target, options: Options) -> Result<Client, Error> {
        let (stream, export) = connect(target, &options)?;
        let receiver = stream.try_clone()?;
        let shared = Arc::new(Shared {
            target: target.clone(),
            options,
            sender: Mutex::new(SendHalf {
                stream,
                cookie_next: 1,
                state: State::Open,
            }),
            pending: Mutex::new(BTreeMap::new()),
            reconnects: AtomicU64::new(0),
        });
        let reader = thread::Builder::new().name("nbd-reader".into()).spawn({
            let (shared, export) = (shared.clone(), export.clone());
            move || shared.read_all(receiver, &export)
        })?;
        Ok(Client {
            shared,
            export,
            reader: Some(reader),
        })
    }

    /// What the server said about the export.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// How often the connection was made again.
    pub fn reconnects(&self) -> u64 {
        self.shared.reconnects.load(Ordering::Relaxed)
    }

    /// Sends a request; its completion arrives at `answer_to`, in any order. Returns its cookie.
    pub fn submit(&self, request: Request, answer_to: &Sender<Completion>) -> u64 {
        let mut sender = lock(&self.shared.sender);
        let cookie = sender.cookie_next;
        sender.cookie_next += 1;
        let pending = Pending {
            request: request.clone(),
            since: Instant::now(),
            answer_to: answer_to.clone(),
            assembly: Assembly::default(),
        };
        if let State::Lost(error) = &sender.state {
            pending.complete(cookie, Err(error.clone()));
            return cookie;
        }
        lock(&self.shared.pending).insert(cookie, pending);
        // A failed write needs no handling: the reader sees the same broken connection and resends or fails all.
        if write_request(&mut sender.stream, cookie, &request).is_err() {
            sender.stream.shutdown();
        }
        cookie
    }

    /// Sends a request and waits for its answer.
    pub fn call(&self, request: Request) -> Result<Answer, Error> {
        let (answer_to, answers) = mpsc::channel();
        self.submit(request, &answer_to);
        drop(answer_to);
        match answers.recv() {
            Ok(completion) => completion.result,
            Err(_) => Err(Error::Disconnected("the client was closed".into())),
        }
    }

    /// Reads `length` bytes at `offset`.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        match self.call(Request::Read { offset, length })? {
            Answer::Data(data) => Ok(data),
            other => Err(Error::Protocol(format!("a read was answered by {other:?}"))),
        }
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: impl Into<bytes::Bytes>, fua: bool) -> Result<(), Error> {
        self.call(Request::Write {
            offset,
            data: data.into(),
            fua,
        })
        .map(drop)
    }

    /// Makes durable what was answered before.
    pub fn flush(&self) -> Result<(), Error> {
        self.call(Request::Flush).map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        {
            let mut sender = lock(&self.shared.sender);
            if sender.state == State::Open {
                sender.state = State::Closing;
            }
            let _gone_already = sender.stream.write_all(&goodbye());
            sender.stream.shutdown();
        }
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

impl Pending {
    fn complete(self, cookie: u64, result: Result<Answer, Error>) {
        let completion = Completion {
            cookie,
            request: self.request,
            result,
            latency: self.since.elapsed(),
        };
        // Whoever asked may have left; then nobody wants the answer.
        let _nobody_waits = self.answer_to.send(completion);
    }
}

impl Shared {
    fn read_all(self: Arc<Self>, mut receiver: Stream, export: &Export) {
        loop {
            let error = self.read_until_broken(&receiver);
            receiver.shutdown();
            match self.reconnect(export, error) {
                Ok(stream) => receiver = stream,
                Err(error) => return self.fail_all(error),
            }
        }
    }

    fn read_until_broken(&self, receiver: &Stream) -> Error {
        let mut from = match receiver.try_clone() {
            Ok(stream) => BufReader::with_capacity(256 << 10, stream),
            Err(error) => return error.into(),
        };
        loop {
            let open = |cookie| {
                let mut pending = lock(&self.pending);
                let pending = pending.get_mut(&cookie)?;
                Some((pending.request.clone(), std::mem::take(&mut pending.assembly)))
            };
            let store = |cookie, request: Request, assembly: Assembly, last: bool| {
                let mut pending = lock(&self.pending);
                if !last {
                    if let Some(pending) = pending.get_mut(&cookie) {
                        pending.assembly = assembly;
                    }
                } else if let Some(done) = pending.remove(&cookie) {
                    drop(pending);
                    done.complete(cookie, assembly.finish(&request));
                }
            };
            if let Err(error) = read_piece(&mut from, open, store) {
                return error;
            }
        }
    }

    /// A new connection with everything unanswered on its way, or the error that ends this client.
    fn reconnect(self: &Arc<Self>, export: &Export, error: Error) -> Result<Stream, Error> {
        let deadline = Instant::now() + self.options.reconnect;
        let mut last = error;
        // A server that breaks the protocol would do so again.
        while !matches!(last, Error::Protocol(_)) && Instant::now() < deadline {
            if lock(&self.sender).state != State::Open {
                break;
            }
            match connect(&self.target, &self.options) {
                Ok((_, found)) if found.size_bytes != export.size_bytes => {
                    let message = format!("size changed from {} to {}", export.size_bytes, found.size_bytes);
                    return Err(Error::Protocol(message));
                }
                Ok((stream, _)) => {
                    let receiver = stream.try_clone()?;
                    self.reconnects.fetch_add(1, Ordering::Relaxed);
                    self.resend(stream)?;
                    return Ok(receiver);
                }
                Err(error) => last = error,
            }
            thread::sleep(RETRY_PAUSE);
        }
        Err(last)
    }

    /// Sends everything unanswered again, beside the reader: it must take answers meanwhile, else both ends could wait
    /// for each other with full sockets.
    fn resend(self: &Arc<Self>, stream: Stream) -> Result<(), Error> {
        let mut lost = Vec::new();
        {
            let mut sender = lock(&self.sender);
            sender.stream = stream.try_clone()?;
            for (cookie, pending) in lock(&self.pending).iter_mut() {
                pending.assembly = Assembly::default();
                lost.push((*cookie, pending.request.clone()));
            }
        }
        let shared = self.clone();
        let mut stream = stream;
        // The lock is taken per request, so that new requests are interleaved whole and do not wait for all of these.
        thread::Builder::new().name("nbd-resend".into()).spawn(move || {
            for (cookie, request) in lost {
                let _one_request_at_a_time = lock(&shared.sender);
                if write_request(&mut stream, cookie, &request).is_err() {
                    stream.shutdown();
                    return;
                }
            }
        })?;
        Ok(())
    }

    fn fail_all(&self, error: Error) {
        let mut sender = lock(&self.sender);
        sender.state = State::Lost(error.clone());
        let pending = std::mem::take(&mut *lock(&self.pending));
        drop(sender);
        for (cookie, pending) in pending {
            pending.complete(cookie, Err(error.clone()));
        }
    }
}

fn connect(target: &Target, options: &Options) -> Result<(Stream, Export), Error> {
    let mut stream = target.connect()?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let export = negotiate(&mut stream, &target.export, options.structured)?;
    stream.set_read_timeout(None)?;
    Ok((stream, export))
}

fn write_request(stream: &mut Stream, cookie: u64, request: &Request) -> std::io::Result<()> {
    let header = request.header(cookie);
    let payload = request.payload();
    if payload.is_empty() {
        return stream.write_all(&header);
    }
    // One call to the kernel per request: two would double the cost of small writes for every server alike.
    let mut frame = Vec::with_capacity(header.len() + payload.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

/// A thread that panicked while it held a lock has already failed the test; what it guarded is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
