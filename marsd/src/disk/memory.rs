//! How does a replica lie in memory, for tests? As bytes behind a lock; everything is answered at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mars::{BlockExtent, DiskError, Event, IoId, Meta, Position, VolumeData};
use model::{Lsn, NodeId, SectorRange, SnapshotName, VolumeSize};

use super::{Disk, FilesAnswer, LogFiles};
use crate::run::Inbox;

/// What a replica in memory consists of.
#[derive(Default)]
struct Store {
    log: BTreeMap<Lsn, Bytes>,
    volume: Vec<u8>,
    meta: Option<Meta>,
    tracks: BTreeMap<NodeId, Bytes>,
}

impl Store {
    fn log_read(&self, at: Lsn, bytes_max: usize) -> Bytes {
        let mut out = Vec::new();
        let first = self.log.range(..=at).next_back().map_or(at, |(from, _)| *from);
        for (from, bytes) in self.log.range(first..) {
            let wanted = at.advance(out.len() as u64);
            if *from > wanted {
                break;
            }
            let skip = (wanted.since(*from) as usize).min(bytes.len());
            out.extend_from_slice(&bytes[skip..]);
        }
        out.truncate(bytes_max);
        Bytes::from(out)
    }

    fn bytes(&mut self, range: SectorRange) -> &mut [u8] {
        let start = range.start.bytes() as usize;
        &mut self.volume[start..start + range.len_bytes() as usize]
    }
}

/// A replica in memory. Cloned before it is given to a loop, it shows what survives that loop.
#[derive(Clone)]
pub struct MemoryDisk {
    store: Arc<Mutex<Store>>,
    inbox: Inbox,
}

impl MemoryDisk {
    /// An empty replica of a volume of `size`.
    pub fn new(size: VolumeSize, inbox: Inbox) -> MemoryDisk {
        let store = Store {
            volume: vec![0; size.bytes() as usize],
            ..Store::default()
        };
        MemoryDisk {
            store: Arc::new(Mutex::new(store)),
            inbox,
        }
    }

    /// The same replica for the next loop, and what it remembers.
    pub fn reopen(&self, inbox: Inbox) -> (MemoryDisk, Option<Meta>) {
        let meta = self.store().meta.clone();
        (
            MemoryDisk {
                store: self.store.clone(),
                inbox,
            },
            meta,
        )
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn append_log(&mut self, at: Lsn, bytes: Bytes) {
        let up_to = at.advance(bytes.len() as u64);
        self.store().log.insert(at, bytes);
        self.inbox.event(Event::LogWritten { up_to });
    }

    fn flush_log(&mut self, up_to: Lsn) {
        self.inbox.event(Event::LogFlushed { up_to });
    }

    fn read_log(&mut self, id: IoId, at: Lsn, bytes_max: usize) {
        let bytes = self.store().log_read(at, bytes_max);
        self.inbox.event(Event::LogRead { id, bytes });
    }

    fn reset_log(&mut self, id: IoId, at: Lsn, keep: bool) {
        let mut store = self.store();
        drop(store.log.split_off(&at));
        match store.log.last_entry() {
            Some(mut last) if keep => {
                let kept = at.since(*last.key()) as usize;
                last.get_mut().truncate(kept);
            }
            _ => store.log.clear(),
        }
        self.inbox.event(Event::LogReset { id });
    }

    fn ask_room(&mut self, id: IoId, _: u64) {
        let there_is = true;
        self.inbox.event(Event::RoomTold { id, there_is });
    }

    fn trim_log(&mut self, up_to: Lsn) {
        self.store()
            .log
            .retain(|from, bytes| from.advance(bytes.len() as u64) > up_to);
    }

    fn log_files(&mut self, _rotate: bool, answer: FilesAnswer) {
        let bytes = self.store().log.values().map(|bytes| bytes.len() as u64).sum();
        // Whoever asked may have given up.
        drop(answer.send(Ok(LogFiles { count: 1, bytes })));
    }

    fn read_volume(&mut self, id: IoId, range: SectorRange) {
        let bytes = Bytes::copy_from_slice(self.store().bytes(range));
        let data = if bytes.iter().all(|b| *b == 0) {
            VolumeData::Zeroes
        } else {
            VolumeData::Data(bytes)
        };
        self.inbox.event(Event::VolumeRead { id, data });
    }

    fn volume_status(&mut self, id: IoId, range: SectorRange) {
        let extents = vec![BlockExtent { range, data: true }];
        self.inbox.event(Event::VolumeStatus { id, extents });
    }

    fn write_volume(&mut self, id: IoId, range: SectorRange, data: Vec<Bytes>) {
        let mut store = self.store();
        let mut rest = store.bytes(range);
        for piece in &data {
            let (begin, behind) = rest.split_at_mut(piece.len());
            begin.copy_from_slice(piece);
            rest = behind;
        }
        rest.fill(0);
        self.inbox.event(Event::VolumeWritten { id });
    }

    fn flush_volume(&mut self, id: IoId) {
        self.inbox.event(Event::VolumeFlushed { id });
    }

    fn grow_volume(&mut self, id: IoId, from: VolumeSize, to: VolumeSize) {
        let mut store = self.store();
        store.volume.truncate(from.bytes() as usize);
        store.volume.resize(to.bytes() as usize, 0);
        let result = Ok(());
        self.inbox.event(Event::VolumeGrown { id, result });
    }

    fn take_snapshot(&mut self, id: IoId, name: SnapshotName, _: Position, _: VolumeSize) {
        let result = Err(DiskError {
            operation: format!("take snapshot {name}"),
            reason: "a disk in memory has no place for snapshots".to_owned(),
        });
        self.inbox.event(Event::SnapshotTaken { id, result });
    }

    fn drop_snapshot(&mut self, id: IoId, _: SnapshotName, _: Position) {
        let result = Ok(());
        self.inbox.event(Event::SnapshotDropped { id, result });
    }

    fn save_meta(&mut self, generation: u64, meta: Box<Meta>) {
        self.store().meta = Some(*meta);
        self.inbox.event(Event::MetaSaved { generation });
    }

    fn save_track(&mut self, id: IoId, peer: NodeId, track: Option<Bytes>) {
        let mut store = self.store();
        match track {
            Some(track) => store.tracks.insert(peer, track),
            None => store.tracks.remove(&peer),
        };
        self.inbox.event(Event::TrackSaved { id, kept: true });
    }

    fn load_tracks(&mut self, id: IoId) {
        let tracks = self.store().tracks.clone().into_iter().collect();
        self.inbox.event(Event::TracksLoaded { id, tracks });
    }
}
