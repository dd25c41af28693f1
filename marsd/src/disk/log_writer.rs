//! Who writes the log? One thread appends in order; another flushes, so that appends do not wait for the disk.
//!
//! File systems that find room for data late may refuse it only when it is flushed, and then what was written may be gone from the page
//! cache, although whoever wrote it was answered. So everything appended is kept until it is durable, and is written and flushed again
//! and again when a flush finds no room.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use mars::{Event, IoId};
use model::Lsn;
use tokio::sync::oneshot;
use tracing::{Span, warn};

use super::log::{Dirty, Log, LogFiles};
use crate::run::Inbox;
use crate::thread;

/// What the appending thread is asked for, in order.
enum Job {
    Append { at: Lsn, bytes: Bytes },
    Flush { up_to: Lsn },
    Reset { id: IoId, at: Lsn, keep: bool },
    Trim { up_to: Lsn },
    AskRoom { id: IoId, bytes: u64 },
    Files { rotate: bool, answer: FilesAnswer },
}

/// Whether a write failed for lack of room: of the file system, or of what a quota leaves.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Gets what the log takes.
pub(crate) type FilesAnswer = oneshot::Sender<io::Result<LogFiles>>;

/// A flush that found no room is tried again so often.
const RETRY: Duration = Duration::from_secs(1);

/// How a log is flushed; tests have a file system without room.
type MakeDurable = Box<dyn FnMut(&Log, Dirty) -> io::Result<()> + Send>;

/// What is not durable yet.
struct Unflushed {
    dirty: Dirty,
    appends: Vec<(Lsn, Bytes)>,
    /// Whether that is all of it: an earlier process may have left something.
    complete: bool,
}

impl Unflushed {
    fn nothing() -> Unflushed {
        Unflushed {
            dirty: Dirty::default(),
            appends: Vec::new(),
            complete: true,
        }
    }

    /// Forgets what was cut off at `at`.
    fn cut(&mut self, at: Lsn) {
        self.appends.retain(|(begin, _)| *begin < at);
        for (begin, bytes) in &mut self.appends {
            bytes.truncate(usize::try_from(at.since(*begin)).unwrap_or(usize::MAX));
        }
    }
}

/// What the flushing thread is asked for, in order.
struct FlushJob {
    unflushed: Unflushed,
    then: Then,
}

/// Whom it tells when that is durable.
enum Then {
    Engine { up_to: Lsn },
    Appender { reached: Sender<()> },
}

/// Both threads; ends them, after they have done what was asked, when dropped. A flush without room is given up then: what it
/// would have made durable was not told to be.
pub(crate) struct LogWriter {
    jobs: Option<Sender<Job>>,
    running: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the threads of `log`, which is called `name` in messages.
    pub fn start(log: Arc<Log>, name: String, inbox: Inbox) -> io::Result<LogWriter> {
        LogWriter::start_with(log, name, inbox, Box::new(Log::flush))
    }

    fn start_with(log: Arc<Log>, name: String, inbox: Inbox, sync: MakeDurable) -> io::Result<LogWriter> {
        let (jobs, asked) = unbounded();
        let (flushes, flushes_asked) = unbounded();
        let (running, stopped) = bounded(0);
        let flusher = Flusher {
            log: log.clone(),
            name: name.clone(),
            inbox: inbox.clone(),
            sync,
            stopped,
        };
        // After a kill the log's tail may never have been flushed, and whoever reads it will rely on it.
        let unflushed = Unflushed {
            dirty: log.inherited()?,
            appends: Vec::new(),
            complete: false,
        };
        let appender = Appender {
            log,
            name,
            inbox,
            flushes,
            unflushed,
            full_at: None,
        };
        let threads = vec![
            thread::spawn("marsd-append", Span::current(), move || appender.run(&asked))?,
            thread::spawn("marsd-flush", Span::current(), move || {
                flusher.run(&flushes_asked)
            })?,
        ];
        Ok(LogWriter {
            jobs: Some(jobs),
            running: Some(running),
            threads,
        })
    }

    pub fn append(&self, at: Lsn, bytes: Bytes) {
        self.ask(Job::Append { at, bytes });
    }

    pub fn flush(&self, up_to: Lsn) {
        self.ask(Job::Flush { up_to });
    }

    pub fn reset(&self, id: IoId, at: Lsn, keep: bool) {
        self.ask(Job::Reset { id, at, keep });
    }

    pub fn ask_room(&self, id: IoId, bytes: u64) {
        self.ask(Job::AskRoom { id, bytes });
    }

    pub fn trim(&self, up_to: Lsn) {
        self.ask(Job::Trim { up_to });
    }

    pub fn files(&self, rotate: bool, answer: FilesAnswer) {
        self.ask(Job::Files { rotate, answer });
    }

    fn ask(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("taken on drop only");
        jobs.send(job)
            .expect("the thread ends after this sender, or the process with it");
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.jobs = None;
        self.running = None;
        for thread in self.threads.drain(..) {
            thread.join().expect("a panic there has ended the process");
        }
    }
}

struct Appender {
    log: Arc<Log>,
    name: String,
    inbox: Inbox,
    flushes: Sender<FlushJob>,
    unflushed: Unflushed,
    /// The append here did not fit: it and what comes behind it is dropped until the log is reset.
    full_at: Option<Lsn>,
}

impl Appender {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(mut job) = jobs.recv() {
            // Appends that queued up meanwhile are answered once.
            let mut written = None;
            loop {
                match job {
                    Job::Append { .. } if self.full_at.is_some() => {}
                    Job::Append { at, bytes } => {
                        match self.log.write(at, &bytes, &mut self.unflushed.dirty) {
                            Ok(()) => {
                                written = Some(at.advance(bytes.len() as u64));
                                self.unflushed.appends.push((at, bytes));
                            }
                            Err(error) => {
                                self.answer(written.take());
                                self.did_not_append(at, bytes.len(), error);
                            }
                        }
                    }
                    other => {
                        self.answer(written.take());
                        self.other(other);
                    }
                }
                match jobs.try_recv() {
                    Ok(next) => job = next,
                    Err(_) => break,
                }
            }
            self.answer(written);
        }
    }

    fn answer(&self, written: Option<Lsn>) {
        if let Some(up_to) = written {
            self.inbox.event(Event::LogWritten { up_to });
        }
    }

    /// What there was room for is taken back before it is told, so that the log ends where it says.
    fn did_not_append(&mut self, at: Lsn, length: usize, error: io::Error) {
        let operation = format!("append {length} bytes at {at} to {}", self.name);
        if !is_full(&error) {
            return self.inbox.disk_failed(operation, error);
        }
        warn!(%error, operation, "no room for the log");
        self.full_at = Some(at);
        match self.log.truncate(at, &mut self.unflushed.dirty) {
            Ok(()) => self.inbox.event(Event::LogFull { at }),
            Err(e) => self.inbox.disk_failed(format!("take back: {operation}"), e),
        }
    }

    fn other(&mut self, job: Job) {
        match job {
            Job::Append { .. } => unreachable!("handled by the caller"),
            // Those who wait for it ask again behind what is in the log.
            Job::Flush { up_to } if self.full_at.is_some_and(|at| up_to > at) => {}
            Job::Flush { up_to } => self.ask_flusher(Then::Engine { up_to }),
            Job::Reset { id, at, keep } => {
                self.full_at = None;
                self.reset(id, at, keep);
            }
            Job::AskRoom { id, bytes } => match self.log.room_bytes() {
                Ok(room) => {
                    let there_is = room >= bytes;
                    self.inbox.event(Event::RoomTold { id, there_is });
                }
                Err(e) => self
                    .inbox
                    .disk_failed(format!("ask for room for {}", self.name), e),
            },
            Job::Files { rotate, answer } => {
                let rotated = match rotate {
                    true => self.log.rotate(&mut self.unflushed.dirty).map(drop),
                    false => Ok(()),
                };
                // Whoever asked may have given up.
                drop(answer.send(rotated.and_then(|()| self.log.files())));
            }
            Job::Trim { up_to } => {
                // Space that is not given back now is given back by the next trim; nobody waits for it.
                if let Err(error) = self.log.trim(up_to) {
                    warn!(%error, log = self.name, up_to = up_to.0, "cannot give log space back");
                }
            }
        }
    }

    fn reset(&mut self, id: IoId, at: Lsn, keep: bool) {
        // What is flushed again must not come back behind the cut.
        if !self.is_flushed() {
            return;
        }
        let done = if keep {
            self.unflushed.cut(at);
            self.log.truncate(at, &mut self.unflushed.dirty)
        } else {
            self.unflushed = Unflushed::nothing();
            self.log.clear()
        };
        match done {
            // What stays must be durable as a whole: the unflushed part of it too.
            Ok(()) if keep && !self.is_flushed() => {}
            Ok(()) => self.inbox.event(Event::LogReset { id }),
            Err(e) => self.inbox.disk_failed(format!("cut {} at {at}", self.name), e),
        }
    }

    /// Waits until everything appended is durable; `false` when that has failed, which was told, or is not waited for any more.
    fn is_flushed(&mut self) -> bool {
        let (reached, durable) = bounded(1);
        self.ask_flusher(Then::Appender { reached });
        durable.recv().is_ok()
    }

    fn ask_flusher(&mut self, then: Then) {
        let unflushed = std::mem::replace(&mut self.unflushed, Unflushed::nothing());
        self.flushes
            .send(FlushJob { unflushed, then })
            .expect("the flusher ends after this sender, or the process with it");
    }
}

struct Flusher {
    log: Arc<Log>,
    name: String,
    inbox: Inbox,
    sync: MakeDurable,
    /// Disconnected when the volume is to stop.
    stopped: Receiver<()>,
}

impl Flusher {
    fn run(mut self, jobs: &Receiver<FlushJob>) {
        while let Ok(FlushJob { unflushed, then }) = jobs.recv() {
            match (self.make_durable(unflushed), then) {
                (Some(Ok(())), Then::Engine { up_to }) => self.inbox.event(Event::LogFlushed { up_to }),
                // The appender waits for it, so it cannot be gone.
                (Some(Ok(())), Then::Appender { reached }) => reached.send(()).expect("the appender waits"),
                (Some(Err(e)), _) => self.inbox.disk_failed(format!("flush {}", self.name), e),
                (None, _) => {}
            }
        }
    }

    /// `None` when there is no room for it and the volume stops.
    fn make_durable(&mut self, unflushed: Unflushed) -> Option<io::Result<()>> {
        let mut done = (self.sync)(&self.log, unflushed.dirty);
        let mut told = false;
        loop {
            match done {
                // Of what an earlier process has left nobody can tell any more whether it is there.
                Err(error) if is_full(&error) && unflushed.complete => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, log = self.name, "no room for the log, though it was written; it is tried again");
                        self.inbox.event(Event::LogFlushFull);
                    }
                }
                done => return Some(done),
            }
            if self.stopped.recv_timeout(RETRY) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            let again = self.log.rewrite(&unflushed.appends);
            done = again.and_then(|dirty| (self.sync)(&self.log, dirty));
        }
    }
}

#[cfg(test)]
mod tests;
