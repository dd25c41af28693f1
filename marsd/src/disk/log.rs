//! How does a log lie in files? As segments, each named by the position of its first byte.
//!
//! Byte `lsn` of the log is byte `lsn - S` of the file `log-S`, where S, in 16 hex digits, is the greatest such position that is
//! not behind `lsn`. A segment ends where the next one begins, or when it has its full length. Where segments begin is each
//! host's own business: what members have in common is the stream of bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::Lsn;

/// Length of a whole segment.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// Segments kept open; the oldest are closed first, because a log is mostly used at its end.
const OPEN_MAX: usize = 16;

/// What appends have left to be flushed.
#[derive(Default)]
pub(crate) struct Dirty {
    files: BTreeMap<u64, Arc<File>>,
    /// Whether a segment was created: its name must become durable too.
    created: bool,
}

/// Which segments there are by their first position, and which of them are open.
type Segments = BTreeMap<u64, Option<Arc<File>>>;

/// The segments of one log. Methods block; reads may run beside one writer.
pub(crate) struct Log {
    path: PathBuf,
    directory: File,
    segments: Mutex<Segments>,
}

/// Where some bytes of a log lie.
struct Part {
    segment: u64,
    offset: u64,
    /// To the end of the segment.
    bytes_max: u64,
}

/// What a log takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFiles {
    /// How many segments.
    pub count: u64,
    /// What they take of their file system.
    pub bytes: u64,
}

impl Log {
    /// Opens the log in `path`, which is created when it is missing.
    pub fn open(path: &Path) -> io::Result<Log> {
        crate::persist::create_directory(path)?;
        let directory = File::open(path)?;
        let segments: Segments = segments_in(path)?
            .into_iter()
            .map(|segment| (segment, None))
            .collect();
        Ok(Log {
            path: path.to_owned(),
            directory,
            segments: Mutex::new(segments),
        })
    }

    /// Writes at `at`; across the end of a segment into the next.
    pub fn write(&self, at: Lsn, bytes: &[u8], dirty: &mut Dirty) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = at.0 + done as u64;
            let part = match self.part(at) {
                Some(part) => part,
                None => {
                    dirty.created = true;
                    self.create(at)?
                }
            };
            let count = (bytes.len() - done).min(part.bytes_max as usize);
            let file = self.file(part.segment)?;
            file.write_all_at(&bytes[done..done + count], part.offset)?;
            dirty.files.insert(part.segment, file);
            done += count;
        }
        Ok(())
    }

    /// What an earlier process may have left in the page cache only: everything.
    pub fn inherited(&self) -> io::Result<Dirty> {
        let mut files = BTreeMap::new();
        for segment in self.list() {
            files.insert(segment, self.file(segment)?);
        }
        Ok(Dirty { files, created: true })
    }

    /// Makes what was written durable.
    pub fn flush(&self, dirty: Dirty) -> io::Result<()> {
        for file in dirty.files.values() {
            file.sync_data()?;
        }
        if dirty.created {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    /// Up to `bytes_max` bytes from `at`; fewer where the log ends.
    pub fn read(&self, at: Lsn, bytes_max: usize) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(bytes_max);
        while out.len() < bytes_max {
            let Some(part) = self.part(at.0 + out.len() as u64) else {
                break;
            };
            let wanted = (bytes_max - out.len()).min(part.bytes_max as usize);
            let file = match self.file(part.segment) {
                Ok(file) => file,
                // Given back this very moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            if read_into(&file, part.offset, wanted, &mut out)? < wanted {
                break;
            }
        }
        Ok(Bytes::from(out))
    }

    /// Drops everything at and behind `at`; durable with the next flush.
    pub fn truncate(&self, at: Lsn, dirty: &mut Dirty) -> io::Result<()> {
        // From the end backwards: whatever a crash leaves is a beginning of the log.
        self.remove(|segment| segment >= at.0)?;
        dirty.files.retain(|segment, _| *segment < at.0);
        if let Some(last) = self.list().last() {
            let (file, length) = (self.file(*last)?, at.0 - last);
            if file.metadata()?.len() > length {
                file.set_len(length)?;
                dirty.files.insert(*last, file);
            }
        }
        Ok(())
    }

    /// Writes again what a flush has not made durable: it may be gone from the page cache since.
    pub fn rewrite(&self, appends: &[(Lsn, Bytes)]) -> io::Result<Dirty> {
        let mut dirty = Dirty {
            created: true,
            ..Dirty::default()
        };
        for (at, bytes) in appends {
            self.write(*at, bytes, &mut dirty)?;
        }
        Ok(dirty)
    }

    /// Drops everything, durably.
    pub fn clear(&self) -> io::Result<()> {
        self.remove(|_| true)
    }

    /// Bytes that its file system still has for us.
    pub fn room_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// From now on appends go to a new segment; nothing happens where the last one is empty. Where that begins.
    pub fn rotate(&self, dirty: &mut Dirty) -> io::Result<Lsn> {
        let Some(last) = self.list().last().copied() else {
            return Ok(Lsn(0));
        };
        let end = last + self.file(last)?.metadata()?.len();
        if end > last {
            self.create(end)?;
            dirty.created = true;
        }
        Ok(Lsn(end))
    }

    /// Gives back whole segments before `up_to`; never the last one.
    pub fn trim(&self, up_to: Lsn) -> io::Result<()> {
        let segments = self.list();
        for pair in segments.windows(2).filter(|pair| pair[1] <= up_to.0) {
            self.unlink(pair[0])?;
        }
        Ok(())
    }

    /// What the log takes.
    pub fn files(&self) -> io::Result<LogFiles> {
        let mut files = LogFiles::default();
        for segment in self.list() {
            let metadata = match std::fs::metadata(self.segment_path(segment)) {
                Ok(metadata) => metadata,
                // Given back meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            files.count += 1;
            files.bytes += metadata.blocks() * 512;
        }
        Ok(files)
    }

    fn remove(&self, which: impl Fn(u64) -> bool) -> io::Result<()> {
        let mut removed = false;
        for segment in self.list().into_iter().rev().filter(|segment| which(*segment)) {
            self.unlink(segment)?;
            removed = true;
        }
        if removed {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    fn unlink(&self, segment: u64) -> io::Result<()> {
        std::fs::remove_file(self.segment_path(segment))?;
        self.segments().remove(&segment);
        Ok(())
    }

    /// First positions of the segments, in order.
    fn list(&self) -> Vec<u64> {
        self.segments().keys().copied().collect()
    }

    fn segment_path(&self, segment: u64) -> PathBuf {
        self.path.join(format!("log-{segment:016x}"))
    }

    /// Where byte `at` lies, or would; `None` where it is in no segment and no segment goes on that far.
    fn part(&self, at: u64) -> Option<Part> {
        let segments = self.segments();
        let (segment, _) = segments.range(..=at).next_back()?;
        let next = segments.range(at + 1..).next().map(|(next, _)| *next);
        let end = next.unwrap_or(u64::MAX).min(segment + SEGMENT_BYTES);
        (at < end).then(|| Part {
            segment: *segment,
            offset: at - segment,
            bytes_max: end - at,
        })
    }

    fn file(&self, segment: u64) -> io::Result<Arc<File>> {
        let mut segments = self.segments();
        match segments.get(&segment) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => {
                let path = self.segment_path(segment);
                let file = File::options().read(true).write(true).open(path)?;
                Ok(keep(&mut segments, segment, file))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, at: u64) -> io::Result<Part> {
        let path = self.segment_path(at);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        keep(&mut self.segments(), at, file);
        Ok(Part {
            segment: at,
            offset: 0,
            bytes_max: SEGMENT_BYTES,
        })
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        // A panic elsewhere ends the process; until it has, the map is whole.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers an open segment, and closes the oldest where there are too many.
fn keep(segments: &mut Segments, segment: u64, file: File) -> Arc<File> {
    let file = Arc::new(file);
    let mut open = segments.iter_mut().filter(|(_, file)| file.is_some());
    let oldest = open.next();
    if let Some((_, oldest)) = oldest
        && open.count() + 1 >= OPEN_MAX
    {
        *oldest = None;
    }
    segments.insert(segment, Some(file.clone()));
    file
}

fn segments_in(path: &Path) -> io::Result<Vec<u64>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("log-"));
        if let Some(digits) = digits.filter(|digits| digits.len() == 16)
            && let Ok(segment) = u64::from_str_radix(digits, 16)
        {
            segments.push(segment);
        }
    }
    Ok(segments)
}

/// Appends up to `count` bytes of the file at `offset` to `out`, without clearing memory first; how many there were.
pub(crate) fn read_into(file: &File, offset: u64, count: usize, out: &mut Vec<u8>) -> io::Result<usize> {
    let begin = out.len();
    out.reserve_exact(count);
    while out.len() < begin + count {
        let at = offset + (out.len() - begin) as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(out), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // The vector may have had room for more than was asked for.
    out.truncate(begin + count);
    Ok(out.len() - begin)
}

#[cfg(test)]
mod tests;
