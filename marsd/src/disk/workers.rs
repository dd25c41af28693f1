//! In which order is a volume's disk used? As asked where ranges overlap, by a few threads at once where not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mars::{DiskError, Event, IoId, Position};
use model::{Lsn, SectorRange, SnapshotName, VolumeSize};
use tracing::Span;

use super::log::Log;
use super::snapshots::Snapshots;
use super::volume::Volume;
use crate::run::Inbox;
use crate::thread;

/// Threads per volume: enough to keep a disk's queue busy, few enough for hundreds of volumes.
const WORKERS: usize = 4;

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

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    active: Vec<(SectorRange, bool)>,
    stopping: bool,
}

impl Queue {
    /// The first job that conflicts with none before it.
    fn take(&mut self) -> Option<Job> {
        let mut before: Vec<(SectorRange, bool)> = self.active.clone();
        let free = self.waiting.iter().position(|job| {
            let Some(reach) = job.reach() else { return true };
            let free = !before.iter().any(|earlier| conflict(*earlier, reach));
            before.push(reach);
            free
        })?;
        let job = self.waiting.remove(free)?;
        self.active.extend(job.reach());
        Some(job)
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
                let reach = job.reach();
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
            } else if queue.stopping && queue.waiting.is_empty() {
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
                // Whoever stops the replica does not wait for a copy; it is made again after the next start.
                let stops = || self.lock().stopping;
                let taken = self.snapshots.take(self.volume.file(), &name, at, size, &stops);
                let result = taken.map_err(refused);
                return Some(Event::SnapshotTaken { id, result });
            }
            Job::DropSnapshot { id, name, at } => {
                let refused = |e: io::Error| DiskError {
                    operation: format!("remove {}", self.snapshots.path(&name, at).display()),
                    reason: e.to_string(),
                };
                let result = self.snapshots.remove(&name, at).map_err(refused);
                return Some(Event::SnapshotDropped { id, result });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(start: u64, count: u64) -> Job {
        Job::Read {
            id: IoId(start),
            range: SectorRange::new(start, count).unwrap(),
        }
    }

    fn write(start: u64, count: u64) -> Job {
        Job::Write {
            id: IoId(1000 + start),
            range: SectorRange::new(start, count).unwrap(),
            data: Vec::new(),
        }
    }

    fn taken(queue: &mut Queue) -> Option<(u64, bool)> {
        queue.take().map(|job| {
            job.reach()
                .map(|(range, writes)| (range.start.0, writes))
                .unwrap()
        })
    }

    #[test]
    fn overlapping_operations_keep_their_order_and_others_do_not_wait() {
        let mut queue = Queue::default();
        queue
            .waiting
            .extend([write(0, 8), read(4, 8), write(8, 8), read(100, 1), read(0, 1)]);
        assert_eq!(taken(&mut queue), Some((0, true)));
        // read(4) waits for write(0); write(8) waits for read(4) although that has not begun.
        assert_eq!(taken(&mut queue), Some((100, false)));
        assert_eq!(taken(&mut queue), None);
        queue.done(write(0, 8).reach().unwrap());
        assert_eq!(taken(&mut queue), Some((4, false)));
        assert_eq!(taken(&mut queue), Some((0, false)));
        assert_eq!(taken(&mut queue), None);
        queue.done(read(4, 8).reach().unwrap());
        assert_eq!(taken(&mut queue), Some((8, true)));
    }

    #[test]
    fn reads_of_one_place_run_together() {
        let mut queue = Queue::default();
        queue.waiting.extend([read(0, 8), read(0, 8), write(0, 1)]);
        assert_eq!(taken(&mut queue), Some((0, false)));
        assert_eq!(taken(&mut queue), Some((0, false)));
        assert_eq!(taken(&mut queue), None);
    }
}
