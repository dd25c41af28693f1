//! How is a volume's disk read and written? A plain file or a block device, through the page cache.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mars::{BlockExtent, VolumeData};
use model::{SectorCount, SectorOffset, SectorRange, VolumeSize};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::copying::data_from;
use super::lock::lock;
use super::log::read_into;

/// Shorter reads just read: asking for holes costs more than it saves.
const HOLE_BYTES_MIN: u64 = 64 * 1024;

/// Pieces in one call to the system, at most.
const PIECES_MAX: usize = 1024;

/// Zeroes written at one time where holes cannot be punched.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Why a disk cannot serve a volume.
#[derive(Debug, thiserror::Error)]
pub enum DiskUnfit {
    /// It cannot be opened, or not be locked.
    #[error("disk {path}: {error}")]
    Io {
        /// The disk.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("disk {path} is neither a regular file nor a block device")]
    Kind {
        /// The disk.
        path: String,
    },
    /// Shorter than its volume.
    #[error("disk {path} has {have} bytes, the volume needs {need}; make it larger first")]
    TooSmall {
        /// The disk.
        path: String,
        /// Its length.
        have: u64,
        /// What is needed.
        need: u64,
    },
}

/// The disk of one replica. Methods block; calls whose ranges overlap must not run at the same time.
pub(crate) struct Volume {
    path: PathBuf,
    file: File,
    /// Whether it can tell where it has holes: a block device cannot, and everything on it counts as data.
    tells_holes: bool,
    /// Whether the system below can make holes; found out by trying.
    punches: AtomicBool,
}

impl Volume {
    /// Opens the disk at `path` for a volume of `size` and locks it against other daemons.
    pub fn open(path: &Path, size: VolumeSize) -> Result<Volume, DiskUnfit> {
        let shown = || path.display().to_string();
        let io = |error| DiskUnfit::Io { path: shown(), error };
        let kind = std::fs::metadata(path).map_err(io)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskUnfit::Kind { path: shown() });
        }
        let file = File::options().read(true).write(true).open(path).map_err(io)?;
        lock(&file, path).map_err(io)?;
        let have = seek(&file, SeekFrom::End(0)).map_err(|errno| io(errno.into()))?;
        if have < size.bytes() {
            return Err(DiskUnfit::TooSmall {
                path: shown(),
                have,
                need: size.bytes(),
            });
        }
        Ok(Volume {
            path: path.to_owned(),
            file,
            tells_holes: kind.is_file(),
            punches: AtomicBool::new(true),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk itself, for whoever copies all of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads a range; a hole is known to be zeroes without reading.
    pub fn read(&self, range: SectorRange) -> io::Result<VolumeData> {
        let (start, length) = (range.start.bytes(), range.len_bytes());
        if self.tells_holes
            && length >= HOLE_BYTES_MIN
            && data_from(&self.file, start)?.is_none_or(|data| data >= start + length)
        {
            return Ok(VolumeData::Zeroes);
        }
        let mut out = Vec::new();
        if read_into(&self.file, start, length as usize, &mut out)? < length as usize {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the disk has become shorter",
            ));
        }
        Ok(VolumeData::Data(Bytes::from(out)))
    }

    /// Data and holes of a range, in order and without gaps.
    pub fn status(&self, range: SectorRange) -> io::Result<Vec<BlockExtent>> {
        let mut extents = Vec::new();
        let mut at = range.start.bytes();
        let end = range.end().bytes();
        if !self.tells_holes {
            push(&mut extents, at, end, true);
            return Ok(extents);
        }
        while at < end {
            // Rounded so that a sector that holds any data counts as data.
            let data = data_from(&self.file, at)?.map_or(end, |data| floor_sector(data).clamp(at, end));
            push(&mut extents, at, data, false);
            if data == end {
                break;
            }
            let hole = seek(&self.file, SeekFrom::Hole(data)).map_err(io::Error::from)?;
            at = ceil_sector(hole).clamp(data, end);
            push(&mut extents, data, at, true);
        }
        Ok(extents)
    }

    /// Writes pieces behind one another from the range's start.
    pub fn write(&self, range: SectorRange, data: &[Bytes]) -> io::Result<()> {
        let mut at = range.start.bytes();
        for pieces in data.chunks(PIECES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut slices = slices.as_mut_slice();
            // An empty piece alone would look like a disk that takes nothing.
            IoSlice::advance_slices(&mut slices, 0);
            while !slices.is_empty() {
                match rustix::io::pwritev(&self.file, slices, at) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut slices, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    /// Makes a range zeroes, giving its space back where the system can.
    pub fn clear(&self, range: SectorRange) -> io::Result<()> {
        let (start, length) = (range.start.bytes(), range.len_bytes());
        while self.punches.load(Ordering::Relaxed) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&self.file, flags, start, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
                    self.punches.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut at = start;
        while at < start + length {
            let count = (start + length - at).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Makes the disk at least `to` long if it is a file, and what is behind `from` zeroes, durably. A block device must have been made
    /// longer before; what its new extents held is cleared.
    pub fn grow(&self, from: VolumeSize, to: VolumeSize) -> io::Result<()> {
        let have = seek(&self.file, SeekFrom::End(0)).map_err(io::Error::from)?;
        let is_file = self.file.metadata()?.is_file();
        if have < to.bytes() && !is_file {
            let text = format!("it has {have} bytes only; extend it first");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        // What a file gets by becoming longer is a hole.
        let old = if is_file {
            ceil_sector(have).min(to.bytes())
        } else {
            to.bytes()
        };
        let left = SectorRange::from_bytes(from.bytes(), old.saturating_sub(from.bytes()));
        if let Some(left) = left.filter(|left| !left.is_empty()) {
            self.clear(left)?;
        }
        if have < to.bytes() {
            self.file.set_len(to.bytes())?;
        }
        self.file.sync_all()
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn floor_sector(bytes: u64) -> u64 {
    bytes - bytes % model::units::SECTOR_BYTES
}

fn ceil_sector(bytes: u64) -> u64 {
    bytes.next_multiple_of(model::units::SECTOR_BYTES)
}

/// Adds a stretch, in bytes, as sectors.
fn push(extents: &mut Vec<BlockExtent>, start: u64, end: u64, data: bool) {
    let sector = model::units::SECTOR_BYTES;
    if start < end {
        let (start, count) = (SectorOffset(start / sector), SectorCount((end - start) / sector));
        extents.push(BlockExtent {
            range: SectorRange { start, count },
            data,
        });
    }
}

#[cfg(test)]
mod tests;
