//! What does a primary remember of a peer whose log it gives up? A track: what changed since the peer's last position.
//!
//! A track begins where the peer has everything durably. What the log already holds from there on is read once; what comes
//! later is marked as it arrives. The durable copy of a track reaches as far as its last save, and until then the log is
//! kept: after a restart the rest is read from the log again. So a save is due only before the log may be trimmed.
//! Marks are never taken back; a track ends as a whole, once its peer is whole and counted again, or has left, or this
//! node is primary no more: what another primary writes would be missing.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Epoch, Lsn, NodeId, ReplicaState, SectorRange};

use crate::dirty::{DirtyMap, SavedTrack};
use crate::engine::{Engine, Io, Phase};
use crate::event::{DiskError, Effect};
use crate::lineage::{Position, epoch_before, jump};
use crate::record::{Batch, BatchError, Header, Record};

/// What is remembered of one peer.
#[derive(Debug)]
pub(crate) struct Track {
    /// Where its reading began.
    begin: Lsn,
    /// The same with its digest, and how far the log was read; unknown until the first batch was.
    read: Option<Read>,
    /// The end of the log when the track began: what came later was marked as it came.
    read_until: Lsn,
    pub map: DirtyMap,
    /// The durable copy holds every change before this.
    saved: Lsn,
    /// There is a durable copy.
    on_disk: bool,
    saving: bool,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    base: Position,
    covered: Position,
}

impl Track {
    /// A peer that has the whole log lacks nothing so far: there is nothing to be read.
    fn begin_at_end(&mut self, end: Position) {
        if self.begin == end.lsn && self.read.is_none() {
            let (base, covered) = (end, end);
            self.read = Some(Read { base, covered });
        }
    }

    fn at(&self) -> Lsn {
        self.read.map_or(self.begin, |read| read.covered.lsn)
    }

    fn is_live(&self) -> bool {
        self.at() >= self.read_until
    }

    /// Whether every change before `at` is in the map.
    pub fn covers(&self, at: Lsn) -> bool {
        self.is_live() || self.at() >= at
    }

    /// What the peer must have, for the map to say what it lacks.
    pub fn base(&self) -> Option<Position> {
        self.read.map(|read| read.base)
    }

    /// The peer's own log from here on is needed there, to know that the base is on its history.
    pub fn needed_there(&self) -> Lsn {
        self.read.map_or(self.begin, |read| read.base.lsn)
    }

    /// The log from here on is needed to know what changed.
    pub fn saved(&self) -> Lsn {
        self.saved
    }
}

/// All tracks of a primary.
#[derive(Debug, Default)]
pub(crate) struct Tracks {
    of: BTreeMap<NodeId, Track>,
    /// What an earlier start had saved was looked at.
    pub loaded: bool,
    reading: bool,
}

impl Tracks {
    pub fn get(&self, peer: &NodeId) -> Option<&Track> {
        self.of.get(peer)
    }

    /// The end of the log was taken back.
    pub fn retract(&mut self, end: Position) {
        for track in self.of.values_mut() {
            track.read_until = track.read_until.min(end.lsn);
            track.begin_at_end(end);
        }
    }

    /// Contents change without a log from here on, and every track holds what the log told.
    pub fn jump(&mut self, to: Position) {
        for track in self.of.values_mut() {
            if let Some(read) = &mut track.read {
                read.covered = to;
            }
            track.read_until = to.lsn;
            track.saved = to.lsn;
        }
    }

    /// Adds the same to all of them.
    pub fn join(&mut self, marks: &DirtyMap) {
        self.of.values_mut().for_each(|track| track.map.join(marks));
    }

    /// Whether nobody is remembered anything of.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether one of them is being made durable.
    pub fn are_saving(&self) -> bool {
        self.of.values().any(|track| track.saving)
    }

    /// Whether all of them are durable and hold every change before the end of the log.
    pub fn hold_all(&self, end: Lsn) -> bool {
        let holds = |track: &Track| {
            track.on_disk && !track.saving && track.is_live() && track.read.is_some() && track.saved == end
        };
        self.of.values().all(holds)
    }

    /// Each with its peer.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Track)> {
        self.of.iter()
    }
}

impl Engine {
    /// A range changes: every track names it from now on.
    pub(crate) fn mark_dirty(&mut self, range: SectorRange) {
        self.tracks
            .of
            .values_mut()
            .for_each(|track| track.map.mark(range));
    }

    /// The volume has grown. The new part is not named: a peer that begins with a partial copy makes its own zeroes first, and
    /// what is written to it from now on is marked.
    pub(crate) fn grow_tracks(&mut self) {
        let sectors = self.sectors();
        for track in self.tracks.of.values_mut() {
            // One from before a restart may know of a growth that is not loaded yet.
            if track.map.sectors() < sectors {
                track.map = track.map.resized(sectors);
            }
        }
    }

    /// Begins to remember what `peer` lacks, while the log still tells.
    pub(crate) fn begin_track(&mut self, peer: &NodeId) {
        let Some(begin) = self.peers.get(peer).map(|peer| peer.committed) else {
            return;
        };
        if self.tracks.of.contains_key(peer) || begin < self.meta.trimmed {
            return;
        }
        self.seal();
        let mut track = Track {
            begin,
            read: None,
            read_until: self.log.sealed.lsn,
            map: DirtyMap::clean(self.sectors()),
            saved: begin,
            on_disk: false,
            saving: false,
        };
        track.begin_at_end(self.log.sealed);
        self.tracks.of.insert(peer.clone(), track);
    }

    /// Forgets what a peer lacks, here and durably.
    pub(crate) fn end_track(&mut self, peer: &NodeId) {
        if self.tracks.of.remove(peer).is_some() {
            self.forget_saved_track(peer.clone());
        }
    }

    fn forget_saved_track(&mut self, peer: NodeId) {
        let id = self.io(Io::TrackForgotten);
        self.effects.push_back(Effect::SaveTrack {
            id,
            peer,
            track: None,
        });
    }

    /// A track that was given up is gone, or (not `kept`) its durable copy could not be removed.
    pub(crate) fn track_forgotten(&mut self, removed: bool) {
        if !removed && self.holds_back_log() {
            // After a restart it would be believed, and it lacks what changes from now on.
            let operation = format!("forget what a replica of volume {} lacked", self.config.volume);
            let reason = "its file cannot be removed".to_owned();
            self.fail(ReplicaState::Detached, DiskError { operation, reason });
        }
    }

    /// Whether one that was given up may still be there after a restart.
    pub(crate) fn is_forgetting_tracks(&self) -> bool {
        self.io.values().any(|io| matches!(io, Io::TrackForgotten))
    }

    pub(crate) fn end_all_tracks(&mut self) {
        let peers: Vec<NodeId> = self.tracks.of.keys().cloned().collect();
        peers.iter().for_each(|peer| self.end_track(peer));
    }

    /// Asks for what an earlier start of this primary has saved.
    pub(crate) fn load_tracks(&mut self) {
        self.tracks = Tracks::default();
        let id = self.io(Io::TracksLoaded);
        self.effects.push_back(Effect::LoadTracks { id });
    }

    pub(crate) fn tracks_loaded(&mut self, tracks: Vec<(NodeId, Bytes)>) {
        self.tracks.loaded = true;
        for (peer, bytes) in tracks {
            // Of another term, unreadable or too old: its peer gets a full sync.
            match SavedTrack::decode(bytes) {
                Ok(saved) if saved.peer == peer && self.is_of_use(&saved) => self.resume_track(saved),
                _ => self.forget_saved_track(peer),
            }
        }
    }

    fn is_of_use(&self, saved: &SavedTrack) -> bool {
        saved.term == self.meta.epoch.term
            && self.peers.contains_key(&saved.peer)
            && saved.base.lsn <= saved.covered.lsn
            && self.covered_by(saved).lsn >= self.meta.trimmed
            && self.covered_by(saved).lsn <= self.log.sealed.lsn
    }

    /// Everything before this is in a track that was saved: what changes without a log is marked durably before it is changed, so one that held
    /// everything before the jump holds everything up to it.
    fn covered_by(&self, saved: &SavedTrack) -> Position {
        let to = self.meta.written_back;
        match epoch_before(&self.meta.lineage, to.lsn) {
            Some(epoch) if self.meta.straight && jump(saved.covered, epoch) == to => to,
            _ => saved.covered,
        }
    }

    fn resume_track(&mut self, saved: SavedTrack) {
        let covered = self.covered_by(&saved);
        let SavedTrack { peer, base, map, .. } = saved;
        let map = map.resized(map.sectors().max(self.sectors()));
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.counts = false;
            peer.committed = peer.committed.min(base.lsn);
        }
        let track = Track {
            begin: covered.lsn,
            read: Some(Read { base, covered }),
            read_until: self.log.sealed.lsn,
            map,
            saved: covered.lsn,
            on_disk: true,
            saving: false,
        };
        self.tracks.of.insert(peer, track);
    }

    pub(crate) fn pump_tracks(&mut self) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        // One that is whole and counted is waited for again; the log tells what it lacks.
        let done: Vec<NodeId> = self
            .tracks
            .of
            .keys()
            .filter(|node| {
                self.peers
                    .get(node)
                    .is_none_or(|peer| peer.whole && peer.counts && peer.committed >= self.meta.trimmed)
            })
            .cloned()
            .collect();
        done.iter().for_each(|peer| self.end_track(peer));
        self.read_for_tracks();
        self.save_tracks(false);
    }

    fn read_for_tracks(&mut self) {
        let behind = self.tracks.of.values().filter(|track| !track.is_live());
        let Some(at) = behind.map(Track::at).min() else {
            return;
        };
        // What is sealed but not yet written cannot be read.
        if self.tracks.reading || at >= self.marks.appended() {
            return;
        }
        self.tracks.reading = true;
        let bytes_max = self.read_bytes().max(self.tracks_batch_bytes);
        let bytes_max = bytes_max.min(self.marks.appended().since(at) as usize);
        let id = self.io(Io::TrackRead { at, bytes_max });
        self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
    }

    pub(crate) fn track_read(&mut self, at: Lsn, bytes: Bytes, bytes_max: usize) {
        self.tracks.reading = false;
        self.tracks_batch_bytes = 0;
        let is_here = |track: &&mut Track| track.at() == at && !track.is_live();
        let Ok(header) = Header::decode(&bytes) else {
            return self.give_up_tracks(at);
        };
        // A track that has just begun learns here which history its position belongs to.
        let here = Position {
            lsn: at,
            digest: header.previous,
        };
        for track in self.tracks.of.values_mut().filter(is_here) {
            track.read.get_or_insert(Read {
                base: here,
                covered: here,
            });
        }
        let (mut position, mut rest) = (here, bytes.clone());
        loop {
            match Batch::decode_next(&rest, self.config.volume, position, Epoch::NONE) {
                Ok(batch) => {
                    rest = rest.slice(batch.header.batch_bytes as usize..);
                    for track in self.tracks.of.values_mut() {
                        if let Some(read) = &mut track.read
                            && read.covered == position
                            && position.lsn < track.read_until
                        {
                            batch
                                .records
                                .iter()
                                .filter(|record| record.growth().is_none())
                                .filter_map(Record::range)
                                .for_each(|range| track.map.mark(range));
                            read.covered = batch.end;
                        }
                    }
                    position = batch.end;
                }
                Err(BatchError::Incomplete { need, .. }) if bytes.len() == bytes_max => {
                    self.tracks_batch_bytes = if rest.len() == bytes.len() { need } else { 0 };
                    return;
                }
                // The end of what is written.
                Err(BatchError::Incomplete { .. }) if position.lsn > at => return,
                Err(_) => return self.give_up_tracks(position.lsn),
            }
        }
    }

    /// The log does not tell what changed: whoever needs to know gets a full sync.
    fn give_up_tracks(&mut self, at: Lsn) {
        let lost = self
            .tracks
            .of
            .iter()
            .filter(|(_, track)| track.at() == at && !track.is_live());
        let lost: Vec<NodeId> = lost.map(|(peer, _)| peer.clone()).collect();
        lost.iter().for_each(|peer| self.end_track(peer));
    }

    /// A saved track may only speak of log that a restart finds again. `all` are saved again, or those for which it is time.
    pub(crate) fn save_tracks(&mut self, all: bool) {
        let step = (self.config.log_bytes_max / 16).clamp(4096, 64 << 20);
        let (sealed, committed) = (self.log.sealed, self.meta.committed);
        let last = self.gives_up_log();
        let mut due = Vec::new();
        for (peer, track) in &mut self.tracks.of {
            let Some(read) = track.read else { continue };
            let covered = if track.is_live() { sealed } else { read.covered };
            let covered = if covered.lsn <= committed.lsn {
                covered
            } else {
                committed
            };
            let rest = covered.lsn > track.saved || !track.on_disk;
            let wanted = all || covered.lsn.since(track.saved) >= step || (last && rest && covered == sealed);
            if !track.saving && wanted {
                track.saving = true;
                let saved = SavedTrack {
                    term: self.meta.epoch.term,
                    peer: peer.clone(),
                    base: read.base,
                    covered,
                    map: track.map.clone(),
                };
                due.push(saved);
            }
        }
        for saved in due {
            let track = Some(saved.encode());
            let (peer, up_to) = (saved.peer, saved.covered.lsn);
            let id = self.io(Io::TrackSave {
                peer: peer.clone(),
                begin: saved.base,
                up_to,
            });
            self.effects.push_back(Effect::SaveTrack { id, peer, track });
        }
    }

    pub(crate) fn track_saved(&mut self, peer: &NodeId, begin: Position, up_to: Lsn, kept: bool) {
        // The answer may be for one that has ended meanwhile, and begun anew.
        let Some(track) = self
            .tracks
            .of
            .get_mut(peer)
            .filter(|track| track.base() == Some(begin))
        else {
            return;
        };
        track.saving = false;
        if kept {
            track.saved = track.saved.max(up_to);
            track.on_disk = true;
        } else {
            // Without a durable copy it would hold the log for ever.
            self.end_track(peer);
        }
    }
}
