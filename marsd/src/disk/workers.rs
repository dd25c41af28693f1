//! In which order is a volume's disk used? As asked where ranges overlap, by a few threads at once where not.
//!
//! While a snapshot is copied, changes wait until what they overwrite is saved, and tell the copy by waiting what is wanted first.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mars::{DiskError, Event, IoId, Position};
use model::{Lsn, SectorRange, SnapshotName, VolumeSize};
use tracing::Span;

use super::copying::Saved;
use super::log::Log;
use super::snapshots::Snapshots;
use super::volume::Volume;
use crate::run::Inbox;
use crate::thread;

/// Threads per volume: enough to keep a disk's queue busy, few enough for hundreds of volumes.
const WORKERS: usize = 4;

/// Ranges that are saved at one time, at most.
const WANTED_MAX: usize = 64;

/// One operation.
pub(crate) enum Job {
    ReadLog {
        id: IoId,
        at: Lsn,
        bytes_max: usize,
    },
    Read {
        id: IoId,
        range: SectorRange,
    },
    Status {
        id: IoId,
        range: SectorRange,
    },
    Write {
        id: IoId,
        range: SectorRange,
        data: Vec<Bytes>,
    },
    Flush {
        id: IoId,
    },
    Grow {
        id: IoId,
        from: VolumeSize,
        to: VolumeSize,
    },
    TakeSnapshot {
        id: IoId,
        name: SnapshotName,
        at: Position,
        size: VolumeSize,
    },
    DropSnapshot {
        id: IoId,
        name: SnapshotName,
        at: Position,
    },
}

impl Job {
    /// What it touches, and whether it changes that.
    fn reach(&self) -> Option<(SectorRange, bool)> {
        match self {
            Job::ReadLog { .. } | Job::Flush { .. } | Job::DropSnapshot { .. } => None,
            Job::TakeSnapshot { size, .. } => Some((size.range(), false)),
            Job::Read { range, .. } | Job::Status { range, .. } => Some((*range, false)),
            Job::Write { range, .. } => Some((*range, true)),
            Job::Grow { from, to, .. } => Some((from.tail_up_to(*to), true)),
        }
    }
}

fn conflict(a: (SectorRange, bool), b: (SectorRange, bool)) -> bool {
    (a.1 || b.1) && a.0.overlaps(b.0)
}

/// A snapshot that is being taken: it may read what is not saved, so nobody changes that.
struct Taking {
    name: SnapshotName,
    at: Position,
    saved: Saved,
    /// It could not be taken: nothing more is saved, and changes wait until it is dropped.
    refused: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    active: Vec<(SectorRange, bool)>,
    taking: Option<Taking>,
    stopping: bool,
}

impl Queue {
    /// The first job that conflicts with none before it.
    fn take(&mut self) -> Option<Job> {
        let mut before: Vec<(SectorRange, bool)> = self.active.clone();
        let free = self.waiting.iter().position(|job| {
            let Some(reach) = job.reach() else { return true };
            let free = !before.iter().any(|earlier| conflict(*earlier, reach)) && !self.is_held(reach);
            before.push(reach);
            free
        })?;
        let job = self.waiting.remove(free)?;
        match &job {
            Job::TakeSnapshot { name, at, size, .. } => {
                self.taking = Some(Taking {
                    name: name.clone(),
                    at: *at,
                    saved: Saved::none(*size),
                    refused: false,
                });
            }
            job => self.active.extend(job.reach()),
        }
        Some(job)
    }

    /// Whether a change must wait until what it overwrites is saved.
    fn is_held(&self, (range, changes): (SectorRange, bool)) -> bool {
        changes
            && self
                .taking
                .as_ref()
                .is_some_and(|taking| !taking.saved.covers(range))
    }

    /// What waits to be saved.
    fn wanted(&self) -> Vec<SectorRange> {
        let reaches = self.waiting.iter().filter_map(Job::reach);
        let held = reaches.filter(|reach| self.is_held(*reach));
        held.map(|(range, _)| range).take(WANTED_MAX).collect()
    }

    /// Whether nothing of what waits will ever be done.
    fn is_over(&self) -> bool {
        let refused = self.taking.as_ref().is_some_and(|taking| taking.refused);
        self.stopping && (self.waiting.is_empty() || refused)
    }

    fn done(&mut self, reach: (SectorRange, bool)) {
        let at = self.active.iter().position(|active| *active == reach);
        self.active
            .swap_remove(at.expect("it was put there when it was taken"));
    }
}

struct Shared {
    log: Arc<Log>,
    volume: Volume,
    snapshots: Snapshots,
    name: String,
    inbox: Inbox,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The threads; ends them, after they have done what was asked, when dropped.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads.
    pub fn start(
        log: Arc<Log>,
        name: String,
        volume: Volume,
        snapshots: Snapshots,
        inbox: Inbox,
    ) -> io::Result<Workers> {
        let (queue, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared {
            log,
            volume,
            snapshots,
            name,
            inbox,
            queue,
            changed,
        });
        let mut workers = Workers {
            shared,
            threads: Vec::with_capacity(WORKERS),
        };
        for _ in 0..WORKERS {
            let shared = workers.shared.clone();
            let thread = thread::spawn("marsd-disk", Span::current(), move || shared.run())?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Asks for one operation.
    pub fn ask(&self, job: Job) {
        self.shared.lock().waiting.push_back(job);
        self.shared.changed.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            thread.join().expect("a panic there has ended the process");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere ends the process; until it has, the queue is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.take() {
                drop(queue);
                let reach = job.reach().filter(|_| !matches!(job, Job::TakeSnapshot { .. }));
                let event = self.perform(job);
                queue = self.lock();
                if let Some(reach) = reach {
                    queue.done(reach);
                    if reach.1 && !queue.waiting.is_empty() {
                        self.changed.notify_all();
                    }
                }
                // After the range is free and before the lock is: an answer never overtakes what it makes possible.
                if let Some(event) = event {
                    self.inbox.event(event);
                }
            } else if queue.is_over() {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The answer, unless it was a failure, which has been told.
    fn perform(&self, job: Job) -> Option<Event> {
        let disk = || self.volume.path().display();
        let failed = |operation: String, error: io::Error| self.inbox.disk_failed(operation, error);
        match job {
            Job::ReadLog { id, at, bytes_max } => match self.log.read(at, bytes_max) {
                Ok(bytes) => return Some(Event::LogRead { id, bytes }),
                Err(e) => failed(format!("read {bytes_max} bytes at {at} of {}", self.name), e),
            },
            Job::Read { id, range } => match self.volume.read(range) {
                Ok(data) => return Some(Event::VolumeRead { id, data }),
                Err(e) => failed(format!("read {range} of {}", disk()), e),
            },
            Job::Status { id, range } => match self.volume.status(range) {
                Ok(extents) => return Some(Event::VolumeStatus { id, extents }),
                Err(e) => failed(format!("find the holes in {range} of {}", disk()), e),
            },
            Job::Write { id, range, data } => {
                let written = match data.is_empty() {
                    true => self.volume.clear(range),
                    false => self.volume.write(range, &data),
                };
                match written {
                    Ok(()) => return Some(Event::VolumeWritten { id }),
                    Err(e) => failed(format!("write {range} of {}", disk()), e),
                }
            }
            Job::Flush { id } => match self.volume.flush() {
                Ok(()) => return Some(Event::VolumeFlushed { id }),
                Err(e) => failed(format!("flush {}", disk()), e),
            },
            Job::Grow { id, from, to } => {
                let refused = |e: io::Error| DiskError {
                    operation: format!("make {} {} bytes long", disk(), to.bytes()),
                    reason: e.to_string(),
                };
                let result = self.volume.grow(from, to).map_err(refused);
                return Some(Event::VolumeGrown { id, result });
            }
            Job::TakeSnapshot { id, name, at, size } => {
                let refused = |e: io::Error| DiskError {
                    operation: format!("take snapshot {name} of {}", disk()),
                    reason: e.to_string(),
                };
                let result = match self.take_snapshot(&name, at, size) {
                    Ok(Taken::Kept) => Ok(()),
                    Ok(Taken::Later) => return None,
                    Err(error) => Err(refused(error)),
                };
                let mut queue = self.lock();
                match &result {
                    Ok(()) => queue.taking = None,
                    Err(_) => queue.taking.iter_mut().for_each(|taking| taking.refused = true),
                }
                self.changed.notify_all();
                return Some(Event::SnapshotTaken { id, result });
            }
            Job::DropSnapshot { id, name, at } => {
                let refused = |e: io::Error| DiskError {
                    operation: format!("remove {}", self.snapshots.path(&name, at).display()),
                    reason: e.to_string(),
                };
                let result = self.snapshots.remove(&name, at).map_err(refused);
                // Nobody will ask for it again, whatever is left of it.
                let given_up =
                    |taking: &mut Taking| taking.refused && (&taking.name, taking.at) == (&name, at);
                self.lock().taking.take_if(given_up);
                self.changed.notify_all();
                return Some(Event::SnapshotDropped { id, result });
            }
        }
        None
    }

    /// Keeps what the disk holds, and lets it change wherever that is saved.
    fn take_snapshot(&self, name: &SnapshotName, at: Position, size: VolumeSize) -> io::Result<Taken> {
        let disk = self.volume.file();
        let Some(mut copying) = self.snapshots.begin(disk, name, at, size)? else {
            return Ok(Taken::Kept);
        };
        if let Some(taking) = &mut self.lock().taking {
            taking.saved = copying.saved().clone();
        }
        self.changed.notify_all();
        while !copying.is_done() {
            let wanted = {
                let queue = self.lock();
                let wanted = queue.wanted();
                // Whoever stops the replica waits for changes, not for a copy; after the next start it goes on.
                if queue.stopping && wanted.is_empty() {
                    return Ok(Taken::Later);
                }
                wanted
            };
            let saved = copying.save(disk, &wanted)?;
            if let Some(taking) = &mut self.lock().taking {
                saved.iter().for_each(|extents| taking.saved.add(extents));
            }
            self.changed.notify_all();
        }
        self.snapshots.finish(name, at)?;
        Ok(Taken::Kept)
    }
}

/// How far a snapshot has come.
enum Taken {
    Kept,
    /// After the next start.
    Later,
}

#[cfg(test)]
mod tests;
