//! How do a replica's log, volume and meta behave, and what is left of them after a crash?
//!
//! Four lanes, each in order, one operation at a time; answers may overtake one another between lanes and on their way
//! back. A snapshot is what the volume holds when it is asked for: while it is being copied, the volume changes. Assumptions: a save of the meta is old or new, never torn (two slots); one 512-byte sector is written as one.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use mars::Position;
use mars::museum::{self, Mutant};
use mars::{BlockExtent, DiskError, Effect, Event, Meta, SyncState, VolumeData};
use model::{NodeId, SectorCount, SectorOffset, SectorRange, SnapshotName, VolumeSize};

use crate::media::{Media, SECTOR};
use crate::rng::Rng;
use crate::stamp;

/// What is done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Log,
    Volume,
    Meta,
    Copy,
}

impl Lane {
    /// In the order in which a crash stops them.
    pub const ALL: [Lane; 4] = [Lane::Log, Lane::Volume, Lane::Meta, Lane::Copy];

    /// Those whose operations may be refused in a way that puts a replica out of service.
    pub const REFUSING: [Lane; 3] = [Lane::Log, Lane::Volume, Lane::Meta];

    /// The lane of an operation; `None` for what is not done by a disk.
    pub fn of(effect: &Effect) -> Option<Lane> {
        match effect {
            Effect::AppendLog { .. }
            | Effect::FlushLog { .. }
            | Effect::ReadLog { .. }
            | Effect::ResetLog { .. }
            | Effect::TrimLog { .. }
            | Effect::AskRoom { .. } => Some(Lane::Log),
            Effect::ReadVolume { .. }
            | Effect::VolumeStatus { .. }
            | Effect::WriteVolume { .. }
            | Effect::GrowVolume { .. }
            | Effect::FlushVolume { .. } => Some(Lane::Volume),
            Effect::TakeSnapshot { .. } | Effect::DropSnapshot { .. } => Some(Lane::Copy),
            Effect::SaveMeta { .. } | Effect::SaveTrack { .. } | Effect::LoadTracks { .. } => {
                Some(Lane::Meta)
            }
            _ => None,
        }
    }
}

/// A version that a disk keeps.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub name: SnapshotName,
    pub at: Position,
    pub contents: Vec<u8>,
    /// The disk itself was no version.
    pub is_doubtful: bool,
}

/// A copy that was begun.
#[derive(Clone, Debug)]
struct Attempt {
    taken: Taken,
    /// The volume is another by now, so that only what was saved can tell the version.
    needed: bool,
    /// It was refused, and changes wait until it is given up.
    refused: bool,
}

/// One replica's disks.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub log: Media,
    pub volume: Media,
    /// Sectors known to be zero without reading.
    holes: Vec<bool>,
    /// The newest save.
    pub meta: Option<Box<Meta>>,
    /// What is remembered of peers.
    tracks: BTreeMap<NodeId, Bytes>,
    /// The newest save says that disk, log and meta are a version.
    pub is_whole: bool,
    waiting: [VecDeque<Effect>; 4],
    /// Every operation takes so many times longer than on a good day.
    pub slowness: u64,
    /// A read of the log takes so many microseconds longer.
    pub log_read_micros: u64,
    /// A copy of the volume takes so many times longer still.
    pub copy_slowness: u64,
    /// How many operations in a hundred take far longer than the others.
    pub stall_percent: u64,
    /// The next operation of this lane is refused.
    pub failing: Option<Lane>,
    /// So much log fits on its file system.
    pub log_room: Option<u64>,
    /// The file system takes appends, but has no room for them when they are flushed.
    pub flush_full: bool,
    /// The flush at the head was told to have found none.
    flush_told: bool,
    /// The first append that did not fit: it and what comes behind it is dropped until the log is reset.
    unfit: Option<u64>,
    /// There is no room below for a longer volume, or for a snapshot.
    pub full: bool,
    /// Durable as soon as they are there.
    pub snapshots: Vec<Taken>,
    attempt: Option<Attempt>,
    /// What it holds now is damaged, or a guess.
    pub is_doubtful: bool,
}

impl Disk {
    pub fn new(contents: Vec<u8>) -> Disk {
        let mut disk = Disk {
            log: Media::default(),
            holes: Vec::new(),
            volume: Media::with(contents),
            meta: None,
            tracks: BTreeMap::new(),
            is_whole: false,
            waiting: Default::default(),
            slowness: 1,
            log_read_micros: 0,
            copy_slowness: 1,
            stall_percent: 1,
            failing: None,
            log_room: None,
            flush_full: false,
            flush_told: false,
            unfit: None,
            full: false,
            snapshots: Vec::new(),
            attempt: None,
            is_doubtful: false,
        };
        disk.find_holes();
        disk
    }

    /// Log that is there.
    pub fn log_bytes(&self) -> u64 {
        self.log.end() - self.log.origin()
    }

    /// Whether an append that is about to be submitted will be there.
    pub fn takes(&mut self, at: u64, length: u64) -> bool {
        let begin = self.log.origin().min(at);
        let fits = self.log_room.is_none_or(|room| at + length - begin <= room);
        if self.unfit.is_none() && !fits {
            self.unfit = Some(at);
        }
        self.unfit.is_none()
    }

    /// The same disks, their log from an address on only.
    pub fn copy_from(&self, log_from: u64) -> Disk {
        Disk {
            log: self.log.copy_from(log_from),
            volume: self.volume.clone(),
            holes: self.holes.clone(),
            meta: self.meta.clone(),
            is_whole: self.is_whole,
            tracks: self.tracks.clone(),
            waiting: self.waiting.clone(),
            slowness: self.slowness,
            log_read_micros: self.log_read_micros,
            copy_slowness: self.copy_slowness,
            stall_percent: self.stall_percent,
            failing: None,
            log_room: self.log_room,
            flush_full: self.flush_full,
            flush_told: self.flush_told,
            unfit: self.unfit,
            full: self.full,
            snapshots: Vec::new(),
            attempt: self.attempt.clone(),
            is_doubtful: self.is_doubtful,
        }
    }

    fn find_holes(&mut self) {
        let length = self.volume.end() as usize;
        self.holes = self
            .volume
            .read(0, length)
            .chunks(SECTOR)
            .map(|sector| *sector == [0; SECTOR])
            .collect();
    }

    /// Puts an operation behind those that wait; whether it is the first.
    pub fn submit(&mut self, lane: Lane, effect: Effect) -> bool {
        if let Effect::TakeSnapshot { name, at, size, .. } = &effect {
            self.begin_copy(name, *at, *size);
        }
        let queue = &mut self.waiting[lane as usize];
        queue.push_back(effect);
        queue.len() == 1
    }

    /// A copy of what the volume holds now, or of what it held when that was first asked for.
    fn begin_copy(&mut self, name: &SnapshotName, at: Position, size: VolumeSize) {
        let is = |taken: &Taken| (&taken.name, taken.at) == (name, at);
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| is(&attempt.taken)) {
            attempt.refused = false;
            return;
        }
        let whole = self.snapshots.iter().find(|taken| is(taken)).cloned();
        let needed = whole.is_some();
        let taken = whole.unwrap_or_else(|| Taken {
            name: name.clone(),
            at,
            contents: self.volume.read(0, size.bytes() as usize).to_vec(),
            is_doubtful: self.is_doubtful,
        });
        let refused = false;
        self.attempt = Some(Attempt {
            taken,
            needed,
            refused,
        });
    }

    /// What is being copied, if nothing has changed since that was asked for.
    pub fn copying(&self) -> Option<&Taken> {
        let fresh = self.attempt.as_ref().filter(|attempt| !attempt.needed);
        fresh.map(|attempt| &attempt.taken)
    }

    /// Whether the first operation of the volume waits until what was refused is given up.
    fn is_held(&self) -> bool {
        let refused = self.attempt.as_ref().is_some_and(|attempt| attempt.refused);
        let first = self.waiting[Lane::Volume as usize].front();
        refused && matches!(first, Some(Effect::WriteVolume { .. }))
    }

    /// Microseconds until the first operation of a lane is done; `None` when there is none.
    pub fn service_micros(&self, lane: Lane, rng: &mut Rng) -> Option<u64> {
        let micros = match self.waiting[lane as usize].front()? {
            Effect::FlushLog { .. } if self.flush_told => rng.spread(1000, 200_000),
            Effect::AppendLog { bytes, .. } => rng.spread(2, 40) + bytes.len() as u64 / 4096,
            Effect::FlushLog { .. } | Effect::ResetLog { .. } => rng.spread(100, 4000),
            Effect::SaveMeta { .. } | Effect::SaveTrack { .. } => rng.spread(100, 4000),
            Effect::FlushVolume { .. } | Effect::GrowVolume { .. } => rng.spread(100, 8000),
            Effect::TakeSnapshot { .. } => rng.spread(500, 400_000) * self.copy_slowness,
            Effect::WriteVolume { .. } => rng.spread(10, 300),
            Effect::ReadLog { .. } => rng.spread(5, 200) + self.log_read_micros,
            _ => rng.spread(5, 200),
        };
        let stall = if rng.chance(self.stall_percent) { 20 } else { 1 };
        Some(micros * stall * self.slowness)
    }

    /// Does the first operation of a lane, and says what to answer.
    pub fn perform(&mut self, lane: Lane) -> Option<Event> {
        if let Some(Effect::FlushLog { up_to }) = self.waiting[lane as usize].front()
            && self.unfit.is_none_or(|unfit| up_to.0 <= unfit)
        {
            // It stays at the head, and is tried again.
            if self.flush_full {
                let told = std::mem::replace(&mut self.flush_told, true);
                return (!told).then_some(Event::LogFlushFull);
            }
            self.flush_told = false;
        }
        if lane == Lane::Volume && self.is_held() {
            return None;
        }
        let effect = self.waiting[lane as usize].pop_front()?;
        self.apply(effect)
    }

    fn apply(&mut self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::AppendLog { at, .. } if self.unfit == Some(at.0) => Event::LogFull { at },
            Effect::AppendLog { at, .. } if self.unfit.is_some_and(|unfit| at.0 > unfit) => return None,
            Effect::FlushLog { up_to } if self.unfit.is_some_and(|unfit| up_to.0 > unfit) => return None,
            Effect::AskRoom { id, bytes } => {
                let used = self.log_bytes();
                let there_is = self.log_room.is_none_or(|room| used + bytes <= room);
                Event::RoomTold { id, there_is }
            }
            Effect::AppendLog { at, bytes } => {
                self.log.write(at.0, &bytes);
                Event::LogWritten {
                    up_to: at.advance(bytes.len() as u64),
                }
            }
            Effect::FlushLog { up_to } => {
                if !museum::is(Mutant::FlushLies) {
                    self.log.flush();
                }
                Event::LogFlushed { up_to }
            }
            Effect::ReadLog { id, at, bytes_max } => Event::LogRead {
                id,
                bytes: Bytes::copy_from_slice(self.log.read(at.0, bytes_max)),
            },
            Effect::ResetLog { id, at, keep } => {
                self.unfit = None;
                if keep {
                    self.log.cut(at.0);
                } else {
                    self.log.reset(at.0);
                }
                Event::LogReset { id }
            }
            Effect::TrimLog { up_to } => {
                self.log.trim(up_to.0);
                return None;
            }
            Effect::ReadVolume { id, range } => {
                let data = if self.holes[sectors(range)].iter().all(|hole| *hole) {
                    VolumeData::Zeroes
                } else {
                    let bytes = self.volume.read(range.start.bytes(), range.len_bytes() as usize);
                    VolumeData::Data(Bytes::copy_from_slice(bytes))
                };
                Event::VolumeRead { id, data }
            }
            Effect::VolumeStatus { id, range } => Event::VolumeStatus {
                id,
                extents: self.extents(range),
            },
            Effect::WriteVolume { id, range, data } => {
                self.write_volume(range, &data, range.len_bytes() as usize);
                Event::VolumeWritten { id }
            }
            Effect::FlushVolume { id } => {
                self.volume.flush();
                Event::VolumeFlushed { id }
            }
            Effect::GrowVolume { id, from, to } => {
                let result = if self.full && to.bytes() > self.volume.end() {
                    Err(DiskError {
                        operation: format!("grow the volume to {to}"),
                        reason: "no space left on device".to_owned(),
                    })
                } else {
                    self.lengthen(to);
                    self.volume.clear(from.bytes(), to.bytes());
                    self.holes[sectors(from.tail_up_to(to))].fill(true);
                    Ok(())
                };
                Event::VolumeGrown { id, result }
            }
            Effect::TakeSnapshot { id, name, at, .. } => {
                let result = match (self.full, self.attempt.take()) {
                    (true, mut attempt) => {
                        attempt.iter_mut().for_each(|attempt| attempt.refused = true);
                        self.attempt = attempt;
                        Err(DiskError {
                            operation: format!("take snapshot {name}"),
                            reason: "no space left on device".to_owned(),
                        })
                    }
                    (false, attempt) => {
                        self.snapshots.retain(|old| (&old.name, old.at) != (&name, at));
                        self.snapshots.extend(attempt.map(|attempt| attempt.taken));
                        Ok(())
                    }
                };
                Event::SnapshotTaken { id, result }
            }
            Effect::DropSnapshot { id, name, at } => {
                self.snapshots.retain(|old| (&old.name, old.at) != (&name, at));
                let given_up = |attempt: &mut Attempt| (&attempt.taken.name, attempt.taken.at) == (&name, at);
                self.attempt.take_if(given_up);
                let result = Ok(());
                Event::SnapshotDropped { id, result }
            }
            Effect::SaveMeta { generation, meta } => {
                self.is_whole = meta.sync == SyncState::Whole;
                self.meta = Some(meta);
                Event::MetaSaved { generation }
            }
            Effect::SaveTrack { id, peer, track } => {
                match track {
                    Some(track) => self.tracks.insert(peer, track),
                    None => self.tracks.remove(&peer),
                };
                Event::TrackSaved { id, kept: true }
            }
            Effect::LoadTracks { id } => {
                let tracks = self.tracks.clone().into_iter().collect();
                Event::TracksLoaded { id, tracks }
            }
            other => panic!("{other:?} is not for a disk"),
        })
    }

    /// New space holds what somebody else has left there.
    fn lengthen(&mut self, to: VolumeSize) {
        let end = self.volume.end();
        let left = (end..to.bytes()).step_by(SECTOR).map(|at| (1 << 52) + at);
        self.volume.extend(&stamp::sectors(left));
        self.holes
            .resize((self.volume.end() / SECTOR as u64) as usize, false);
    }

    fn write_volume(&mut self, range: SectorRange, data: &[Bytes], length: usize) {
        let mut flat = BytesMut::with_capacity(range.len_bytes() as usize);
        data.iter().for_each(|piece| flat.extend_from_slice(piece));
        let hole = flat.is_empty();
        assert!(
            hole || flat.len() as u64 == range.len_bytes(),
            "pieces have the range's length"
        );
        flat.resize(range.len_bytes() as usize, 0);
        self.attempt.iter_mut().for_each(|attempt| attempt.needed = true);
        self.volume.write(range.start.bytes(), &flat[..length]);
        let written = SectorRange {
            start: range.start,
            count: SectorCount((length / SECTOR) as u64),
        };
        self.holes[sectors(written)].fill(hole);
    }

    fn extents(&self, range: SectorRange) -> Vec<BlockExtent> {
        let mut extents: Vec<BlockExtent> = Vec::new();
        for sector in range.start.0..range.end().0 {
            let data = !self.holes[sector as usize];
            match extents.last_mut() {
                Some(last) if last.data == data => last.range.count.0 += 1,
                _ => {
                    let range = SectorRange {
                        start: SectorOffset(sector),
                        count: SectorCount(1),
                    };
                    extents.push(BlockExtent { range, data });
                }
            }
        }
        extents
    }

    /// The first operation of a lane is refused, and nothing of it is done; a flush that is refused leaves of what was
    /// not durable what it likes. Says what was refused.
    pub fn refuse(&mut self, lane: Lane, rng: &mut Rng) -> Option<&'static str> {
        Some(match self.waiting[lane as usize].pop_front()? {
            Effect::FlushLog { .. } => {
                self.log.power_cut(rng);
                "flush of the log"
            }
            Effect::FlushVolume { .. } => {
                self.volume.power_cut(rng);
                self.find_holes();
                "flush of the volume"
            }
            Effect::AppendLog { .. } => "append to the log",
            Effect::ReadLog { .. } => "read of the log",
            Effect::WriteVolume { .. } => "write to the volume",
            Effect::ReadVolume { .. } | Effect::VolumeStatus { .. } => "read of the volume",
            Effect::SaveMeta { .. } => "save of the meta",
            _ => "another operation",
        })
    }

    /// The process ends: each lane had got some way, its next operation perhaps half way. The page cache lives on.
    pub fn kill(&mut self, rng: &mut Rng) {
        for lane in Lane::ALL {
            let held = lane == Lane::Volume && self.is_held();
            let mut waiting = std::mem::take(&mut self.waiting[lane as usize]);
            let done = match held {
                true => 0,
                false => rng.below(waiting.len() as u64 + 1) as usize,
            };
            let rest = waiting.split_off(done);
            for effect in waiting {
                self.apply(effect);
            }
            match rest.into_iter().next() {
                _ if held => {}
                Some(Effect::AppendLog { at, .. }) if self.unfit.is_some_and(|unfit| at.0 > unfit) => {}
                Some(Effect::AppendLog { at, bytes }) => {
                    let all = (bytes.len() / SECTOR) as u64 + u64::from(self.unfit.is_none());
                    let part = rng.below(all) as usize * SECTOR;
                    self.log.write(at.0, &bytes[..part]);
                }
                Some(Effect::WriteVolume { range, data, .. }) => {
                    let part = rng.below(range.count.0 + 1) as usize * SECTOR;
                    self.write_volume(range, &data, part);
                }
                // Longer, but not cleared.
                Some(Effect::GrowVolume { to, .. }) if !self.full => self.lengthen(to),
                Some(Effect::ResetLog { at, keep: true, .. }) if at.0 < self.log.end() => {
                    let part = rng.between(at.0 / 512, self.log.end() / 512) * 512;
                    self.log.cut(part);
                }
                _ => {}
            }
        }
        // Nothing was saved as long as nothing had to be.
        let forgotten = rng.chance(50);
        self.attempt.take_if(|attempt| !attempt.needed && forgotten);
        self.unfit = None;
        self.flush_told = false;
    }

    /// The host loses power, after [`Disk::kill`] if a process was running.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        self.log.power_cut(rng);
        self.volume.power_cut(rng);
        self.find_holes();
    }

    /// What is not durable on the volume is kept or lost, for good.
    pub fn lose_unflushed(&mut self, rng: &mut Rng) {
        self.volume.power_cut(rng);
        self.find_holes();
    }

    /// Turns a bit of a sector of the volume, durably; what the sector held before and holds now. `None` where something
    /// waits to be flushed.
    pub fn rot(&mut self, sector: u64, byte: u64, bit: u8) -> Option<(Vec<u8>, Vec<u8>)> {
        let at = sector * SECTOR as u64;
        if !self.volume.is_flushed(at) {
            return None;
        }
        let good = self.volume.read(at, SECTOR).to_vec();
        self.volume.turn(at + byte, bit);
        self.holes[sector as usize] = false;
        Some((good, self.volume.read(at, SECTOR).to_vec()))
    }

    /// Operations that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }
}

fn sectors(range: SectorRange) -> std::ops::Range<usize> {
    range.start.0 as usize..range.end().0 as usize
}
