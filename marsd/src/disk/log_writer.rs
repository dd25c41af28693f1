//! Who writes the log? One thread appends in order; another flushes, so that appends do not wait for the disk.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mars::{Event, IoId};
use model::Lsn;
use tracing::{Span, warn};

use super::log::{Dirty, Log};
use crate::run::Inbox;
use crate::thread;

/// What the appending thread is asked for, in order.
enum Job {
    Append { at: Lsn, bytes: Bytes },
    Flush { up_to: Lsn },
    Reset { id: IoId, at: Lsn, keep: bool },
    Trim { up_to: Lsn },
}

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

    pub fn trim(&self, up_to: Lsn) {
        self.ask(Job::Trim { up_to });
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
}

impl Appender {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(mut job) = jobs.recv() {
            // Appends that queued up meanwhile are answered once.
            let mut written = None;
            loop {
                match job {
                    Job::Append { at, bytes } => written = self.append(at, &bytes).or(written),
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

    fn append(&mut self, at: Lsn, bytes: &[u8]) -> Option<Lsn> {
        match self.log.write(at, bytes, &mut self.dirty) {
            Ok(()) => Some(at.advance(bytes.len() as u64)),
            Err(e) => {
                self.inbox.disk_failed(
                    format!("append {} bytes at {at} to {}", bytes.len(), self.name),
                    e,
                );
                None
            }
        }
    }

    fn other(&mut self, job: Job) {
        match job {
            Job::Append { .. } => unreachable!("handled by the caller"),
            Job::Flush { up_to } => {
                let dirty = std::mem::take(&mut self.dirty);
                self.ask_flusher(FlushJob::Flush { up_to, dirty });
            }
            Job::Reset { id, at, keep } => self.reset(id, at, keep),
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
