//! How does a real replica lie on a host? Log segments, two meta slots, and the volume's disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::Sender;
use mars::{Event, IoId, Meta, Position};
use model::{Lsn, NodeId, SectorRange, SnapshotName, VolumeSize};
use tracing::{Span, warn};

use super::log::Log;
use super::log_writer::LogWriter;
pub use super::meta::MetaError;
use super::meta::MetaFile;
use super::snapshots::Snapshots;
use super::tracks::TrackFiles;
pub use super::volume::DiskUnfit;
use super::volume::Volume;
use super::workers::{Job, Workers};
use super::{Disk, FilesAnswer};
use crate::run::Inbox;
use crate::thread;

/// Where the parts of a replica are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory of the log's segments.
    pub log: PathBuf,
    /// File of the replica's memory.
    pub meta: PathBuf,
    /// The volume's disk: a file or block device.
    pub disk: PathBuf,
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its disk is missing, too small, in use.
    #[error(transparent)]
    Disk(#[from] DiskUnfit),
    /// Its memory is damaged or unreadable.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Its log directory cannot be used, or there is no room for its threads.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

/// What the saving thread is asked for, in order.
enum Save {
    Meta {
        generation: u64,
        meta: Box<Meta>,
    },
    Track {
        id: IoId,
        peer: NodeId,
        track: Option<Bytes>,
    },
    LoadTracks {
        id: IoId,
    },
}

/// A replica in files.
pub struct FileDisk {
    log: LogWriter,
    workers: Workers,
    saves: Option<Sender<Save>>,
    saver: Option<JoinHandle<()>>,
}

impl FileDisk {
    /// Opens what is at `places` for a volume of `size`, or of what the meta says; answers go to `inbox`. The meta is `None` for a replica that
    /// has no state yet. The disk stays locked until the value is dropped.
    pub fn open(
        places: &Places,
        size: VolumeSize,
        inbox: &Inbox,
    ) -> Result<(FileDisk, Option<Meta>), OpenError> {
        let (meta_file, meta) = MetaFile::open(&places.meta)?;
        let size = meta.as_ref().map_or(size, |meta| meta.size);
        let volume = Volume::open(&places.disk, size)?;
        let name = format!("log {}", places.log.display());
        let io = |what: String| move |error| OpenError::Io { what, error };
        let log = Arc::new(Log::open(&places.log).map_err(io(format!("open {name}")))?);
        let snapshots = Snapshots::beside(&places.disk);
        if meta.is_none() {
            snapshots
                .clear()
                .map_err(io(format!("clear the snapshots of {}", places.disk.display())))?;
            // Left by a replica that was forgotten before its directory was gone.
            log.clear().map_err(io(format!("clear {name}")))?;
        }
        let threads = || io("start threads of a volume".to_owned());
        let workers =
            Workers::start(log.clone(), name.clone(), volume, snapshots, inbox.clone()).map_err(threads())?;
        let log = LogWriter::start(log, name, inbox.clone()).map_err(threads())?;
        let (saves, asked) = crossbeam_channel::unbounded();
        let beside = places.meta.parent().map_or_else(PathBuf::new, Path::to_owned);
        let tracks = TrackFiles::in_directory(beside);
        if meta.is_none() {
            tracks
                .clear()
                .map_err(io(format!("clear {}", tracks.path().display())))?;
        }
        let saver = Saver {
            file: meta_file,
            tracks,
            path: places.meta.clone(),
            inbox: inbox.clone(),
        };
        let saver = thread::spawn("marsd-meta", Span::current(), move || saver.run(&asked));
        let saver = Some(saver.map_err(threads())?);
        Ok((
            FileDisk {
                log,
                workers,
                saves: Some(saves),
                saver,
            },
            meta,
        ))
    }
}

impl FileDisk {
    fn save(&self, save: Save) {
        let saves = self.saves.as_ref().expect("taken on drop only");
        saves
            .send(save)
            .expect("the thread ends after this sender, or the process with it");
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.saves = None;
        if let Some(saver) = self.saver.take() {
            saver.join().expect("a panic there has ended the process");
        }
    }
}

impl Disk for FileDisk {
    fn append_log(&mut self, at: Lsn, bytes: Bytes) {
        self.log.append(at, bytes);
    }

    fn flush_log(&mut self, up_to: Lsn) {
        self.log.flush(up_to);
    }

    fn read_log(&mut self, id: IoId, at: Lsn, bytes_max: usize) {
        self.workers.ask(Job::ReadLog { id, at, bytes_max });
    }

    fn reset_log(&mut self, id: IoId, at: Lsn, keep: bool) {
        self.log.reset(id, at, keep);
    }

    fn ask_room(&mut self, id: IoId, bytes: u64) {
        self.log.ask_room(id, bytes);
    }

    fn trim_log(&mut self, up_to: Lsn) {
        self.log.trim(up_to);
    }

    fn log_files(&mut self, rotate: bool, answer: FilesAnswer) {
        self.log.files(rotate, answer);
    }

    fn read_volume(&mut self, id: IoId, range: SectorRange) {
        self.workers.ask(Job::Read { id, range });
    }

    fn volume_status(&mut self, id: IoId, range: SectorRange) {
        self.workers.ask(Job::Status { id, range });
    }

    fn write_volume(&mut self, id: IoId, range: SectorRange, data: Vec<Bytes>) {
        self.workers.ask(Job::Write { id, range, data });
    }

    fn flush_volume(&mut self, id: IoId) {
        self.workers.ask(Job::Flush { id });
    }

    fn grow_volume(&mut self, id: IoId, from: VolumeSize, to: VolumeSize) {
        self.workers.ask(Job::Grow { id, from, to });
    }

    fn take_snapshot(&mut self, id: IoId, name: SnapshotName, at: Position, size: VolumeSize) {
        self.workers.ask(Job::TakeSnapshot { id, name, at, size });
    }

    fn drop_snapshot(&mut self, id: IoId, name: SnapshotName, at: Position) {
        self.workers.ask(Job::DropSnapshot { id, name, at });
    }

    fn save_meta(&mut self, generation: u64, meta: Box<Meta>) {
        self.save(Save::Meta { generation, meta });
    }

    fn save_track(&mut self, id: IoId, peer: NodeId, track: Option<Bytes>) {
        self.save(Save::Track { id, peer, track });
    }

    fn load_tracks(&mut self, id: IoId) {
        self.save(Save::LoadTracks { id });
    }
}

/// Saves the memory, in order, on a thread of its own: nothing else waits for its flushes.
struct Saver {
    file: MetaFile,
    tracks: TrackFiles,
    path: PathBuf,
    inbox: Inbox,
}

impl Saver {
    fn run(mut self, saves: &crossbeam_channel::Receiver<Save>) {
        while let Ok(mut save) = saves.recv() {
            // A newer memory replaces the older ones that queued up; its answer stands for theirs.
            while matches!(save, Save::Meta { .. })
                && let Ok(newer) = saves.try_recv()
            {
                if !matches!(newer, Save::Meta { .. }) {
                    self.perform(save);
                }
                save = newer;
            }
            self.perform(save);
        }
    }

    fn perform(&mut self, save: Save) {
        match save {
            Save::Meta { generation, meta } => match self.file.save(&meta) {
                Ok(()) => self.inbox.event(Event::MetaSaved { generation }),
                Err(e) => self.inbox.disk_failed(format!("save {}", self.path.display()), e),
            },
            Save::Track { id, peer, track } => {
                let done = match track {
                    Some(track) => self.tracks.save(&peer, &track),
                    None => self.tracks.remove(&peer),
                };
                // The engine can do without: its peer then gets a full sync.
                if let Err(error) = &done {
                    warn!(%peer, %error, "cannot keep what has changed since a replica's last position");
                }
                let kept = done.is_ok();
                self.inbox.event(Event::TrackSaved { id, kept });
            }
            Save::LoadTracks { id } => match self.tracks.load() {
                Ok(tracks) => self.inbox.event(Event::TracksLoaded { id, tracks }),
                Err(e) => {
                    let operation = format!("read tracks in {}", self.tracks.path().display());
                    self.inbox.disk_failed(operation, e);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests;
