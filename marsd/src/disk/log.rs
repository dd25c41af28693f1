//! How does a log lie in files? As segments of fixed length, named by their number, each byte at a place of its own.
//!
//! Byte `lsn` of the log is byte `lsn % SEGMENT_BYTES` of the file `log-N`, N = `lsn / SEGMENT_BYTES` in 16 hex
//! digits. A log that begins within a segment leaves the segment's beginning a hole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
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

/// The segments of one log. Methods block; reads may run beside one writer.
pub(crate) struct Log {
    path: PathBuf,
    directory: File,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
}

impl Log {
    /// Opens the log in `path`, which is created when it is missing.
    pub fn open(path: &Path) -> io::Result<Log> {
        crate::persist::create_directory(path)?;
        let directory = File::open(path)?;
        Ok(Log {
            path: path.to_owned(),
            directory,
            open: Mutex::default(),
        })
    }

    /// Writes at `at`; across the end of a segment into the next.
    pub fn write(&self, at: Lsn, bytes: &[u8], dirty: &mut Dirty) -> io::Result<()> {
        for (segment, offset, part) in split(at, bytes.len() as u64) {
            let file = match self.segment(segment)? {
                Some(file) => file,
                None => {
                    dirty.created = true;
                    self.create(segment)?
                }
            };
            file.write_all_at(&bytes[part.clone()], offset)?;
            dirty.files.insert(segment, file);
        }
        Ok(())
    }

    /// What an earlier process may have left in the page cache only: everything.
    pub fn inherited(&self) -> io::Result<Dirty> {
        let mut files = BTreeMap::new();
        for segment in self.list()? {
            files.extend(self.segment(segment)?.map(|file| (segment, file)));
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
        for (segment, offset, part) in split(at, bytes_max as u64) {
            let Some(file) = self.segment(segment)? else {
                break;
            };
            let wanted = part.len();
            if read_into(&file, offset, wanted, &mut out)? < wanted {
                break;
            }
        }
        Ok(Bytes::from(out))
    }

    /// Drops everything at and behind `at`, durably.
    pub fn truncate(&self, at: Lsn) -> io::Result<()> {
        let (last, offset) = (at.0 / SEGMENT_BYTES, at.0 % SEGMENT_BYTES);
        // From the end backwards: whatever a crash leaves is a beginning of the log.
        self.remove(|segment| segment > last || (segment == last && offset == 0))?;
        if let Some(file) = self.segment(last)?
            && file.metadata()?.len() > offset
        {
            file.set_len(offset)?;
            file.sync_all()?;
        }
        Ok(())
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

    /// Gives back whole segments before `up_to`.
    pub fn trim(&self, up_to: Lsn) -> io::Result<()> {
        let first = up_to.0 / SEGMENT_BYTES;
        for segment in self.list()?.into_iter().filter(|segment| *segment < first) {
            self.unlink(segment)?;
        }
        Ok(())
    }

    fn remove(&self, which: impl Fn(u64) -> bool) -> io::Result<()> {
        let mut removed = false;
        for segment in self.list()?.into_iter().rev().filter(|segment| which(*segment)) {
            self.unlink(segment)?;
            removed = true;
        }
        if removed {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    fn unlink(&self, segment: u64) -> io::Result<()> {
        self.files().remove(&segment);
        std::fs::remove_file(self.segment_path(segment))
    }

    /// Numbers of the segments that exist, in order.
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("log-"));
            if let Some(digits) = digits.filter(|digits| digits.len() == 16)
                && let Ok(segment) = u64::from_str_radix(digits, 16)
            {
                segments.push(segment);
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn segment_path(&self, segment: u64) -> PathBuf {
        self.path.join(format!("log-{segment:016x}"))
    }

    fn segment(&self, segment: u64) -> io::Result<Option<Arc<File>>> {
        if let Some(file) = self.files().get(&segment) {
            return Ok(Some(file.clone()));
        }
        match File::options()
            .read(true)
            .write(true)
            .open(self.segment_path(segment))
        {
            Ok(file) => Ok(Some(self.keep(segment, file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn create(&self, segment: u64) -> io::Result<Arc<File>> {
        let path = self.segment_path(segment);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(self.keep(segment, file))
    }

    fn keep(&self, segment: u64, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut open = self.files();
        if open.len() >= OPEN_MAX {
            open.pop_first();
        }
        open.insert(segment, file.clone());
        file
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<File>>> {
        // A panic elsewhere ends the process; until it has, the map is whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of `length` bytes at `at` by segment: its number, the offset within it, and which of the bytes.
fn split(at: Lsn, length: u64) -> impl Iterator<Item = (u64, u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let (segment, offset) = ((at.0 + done) / SEGMENT_BYTES, (at.0 + done) % SEGMENT_BYTES);
        let count = (SEGMENT_BYTES - offset).min(length - done);
        let part = done as usize..(done + count) as usize;
        done += count;
        Some((segment, offset, part))
    })
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
