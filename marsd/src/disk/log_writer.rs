//! Who writes the log? One thread appends in order; another flushes, so that appends do not wait for the disk.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
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

/// What the flushing thread is asked for, in order.
enum FlushJob {
    Flush {
        up_to: Lsn,
        dirty: Dirty,
    },
    /// Everything before this has been flushed when it is answered.
    Barrier {
        reached: Sender<()>,
    },
}

/// Both threads; ends them, after they have done what was asked, when dropped.
pub(crate) struct LogWriter {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the threads of `log`, which is called `name` in messages.
    pub fn start(log: Arc<Log>, name: String, inbox: Inbox) -> io::Result<LogWriter> {
        let (jobs, asked) = unbounded();
        let (flushes, flushes_asked) = unbounded();
        let flusher = Flusher {
            log: log.clone(),
            name: name.clone(),
            inbox: inbox.clone(),
        };
        // After a kill the log's tail may never have been flushed, and whoever reads it will rely on it.
        let dirty = log.inherited()?;
        let appender = Appender {
            log,
            name,
            inbox,
            flushes,
            dirty,
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
    dirty: Dirty,
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
                    Job::Append { at, bytes } => match self.log.write(at, &bytes, &mut self.dirty) {
                        Ok(()) => written = Some(at.advance(bytes.len() as u64)),
                        Err(error) => {
                            self.answer(written.take());
                            self.did_not_append(at, bytes.len(), error);
                        }
                    },
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
        match self.log.truncate(at) {
            Ok(()) => self.inbox.event(Event::LogFull { at }),
            Err(e) => self.inbox.disk_failed(format!("take back: {operation}"), e),
        }
    }

    fn other(&mut self, job: Job) {
        match job {
            Job::Append { .. } => unreachable!("handled by the caller"),
            // Those who wait for it ask again behind what is in the log.
            Job::Flush { up_to } if self.full_at.is_some_and(|at| up_to > at) => {}
            Job::Flush { up_to } => {
                let dirty = std::mem::take(&mut self.dirty);
                self.ask_flusher(FlushJob::Flush { up_to, dirty });
            }
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
                    true => self.log.rotate(&mut self.dirty).map(drop),
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
        let (reached, barrier) = bounded(1);
        self.ask_flusher(FlushJob::Barrier { reached });
        barrier
            .recv()
            .expect("the flusher answers, or the process has ended");
        // What stays must be durable as a whole: the unflushed part of it too.
        let dirty = std::mem::take(&mut self.dirty);
        let done = if keep {
            self.log.truncate(at).and_then(|()| self.log.flush(dirty))
        } else {
            self.log.clear()
        };
        match done {
            Ok(()) => self.inbox.event(Event::LogReset { id }),
            Err(e) => self.inbox.disk_failed(format!("cut {} at {at}", self.name), e),
        }
    }

    fn ask_flusher(&self, job: FlushJob) {
        self.flushes
            .send(job)
            .expect("the flusher ends after this sender, or the process with it");
    }
}

struct Flusher {
    log: Arc<Log>,
    name: String,
    inbox: Inbox,
}

impl Flusher {
    fn run(self, jobs: &Receiver<FlushJob>) {
        while let Ok(job) = jobs.recv() {
            match job {
                FlushJob::Flush { up_to, dirty } => match self.log.flush(dirty) {
                    Ok(()) => self.inbox.event(Event::LogFlushed { up_to }),
                    Err(e) => self.inbox.disk_failed(format!("flush {}", self.name), e),
                },
                // The appender waits for it, so it cannot be gone.
                FlushJob::Barrier { reached } => reached.send(()).expect("the appender waits"),
            }
        }
    }
}
