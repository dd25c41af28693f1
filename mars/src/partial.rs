//! When may a replica keep its contents and copy only what changed? When its history holds the base of the offer.
//!
//! The source names a *base* that it knows to be durable here, and later every extent that it has changed since. What
//! this replica lacks is then among these extents, provided that
//!
//! 1. the base is on this replica's history: its own log says so, at that very position and digest;
//! 2. everything before the base is on its disk: the log that would bring it is dropped;
//! 3. what its disk holds from behind the base is of the source's history too: else it could lie outside of these extents.
//!
//! Otherwise it asks for a full sync. While the copy runs the disk is no version; it is one again by the rule of
//! `resync.rs`.

use bytes::{Bytes, BytesMut};
use model::{Lsn, NodeId, SectorOffset};

use crate::dirty::DirtyMap;
use crate::engine::{Engine, Io, Then};
use crate::event::{Effect, LinkId, Notice};
use crate::follow::State;
use crate::lineage::{Position, Relation};
use crate::message::Opened;
use crate::meta::SyncState;
use crate::record::{HEADER_BYTES, Header};

impl Engine {
    /// A source that no longer has our log offers to send what changed since `base`.
    pub(crate) fn offered_partial(
        &mut self,
        link: LinkId,
        peer: NodeId,
        source: Box<Opened>,
        base: Position,
    ) {
        let goes_on = match self.meta.sync {
            SyncState::Copying {
                base: Some(begun), ..
            } => begun == base,
            SyncState::Whole => {
                let common = match self.history().relation_to(&source.history()) {
                    Relation::Behind => self.log.sealed.lsn,
                    // What is behind it is lost, but may be on the disk.
                    Relation::Parted { at } if at.lsn >= self.meta.touched => at.lsn,
                    _ => Lsn(0),
                };
                base.lsn >= self.meta.trimmed && base.lsn <= common
            }
            SyncState::Copying { base: None, .. } | SyncState::Fresh => false,
        };
        if !goes_on {
            return self.refuse_partial();
        }
        let buffer = BytesMut::new();
        self.follow.state = State::Offered {
            link,
            peer,
            source,
            base,
            buffer,
            checked: false,
        };
        if self.meta.sync != SyncState::Whole || base == self.log.sealed {
            return self.accept_base();
        }
        let id = self.io(Io::BaseCheck { base });
        self.effects.push_back(Effect::ReadLog {
            id,
            at: base.lsn,
            bytes_max: HEADER_BYTES,
        });
    }

    pub(crate) fn base_checked(&mut self, asked: Position, bytes: &Bytes) {
        let State::Offered { base, .. } = self.follow.state else {
            return;
        };
        match Header::decode(bytes) {
            _ if base != asked => {}
            Ok(header) if header.lsn == base.lsn && header.previous == base.digest => self.accept_base(),
            _ => self.refuse_partial(),
        }
    }

    fn accept_base(&mut self) {
        if let State::Offered { base, checked, .. } = &mut self.follow.state {
            *checked = true;
            // It is durable at the source: our log up to there may be applied.
            self.follow.primary_committed = self.follow.primary_committed.max(base.lsn);
        }
    }

    /// Asks again, as if there were nothing here.
    fn refuse_partial(&mut self) {
        self.follow.begin_anew = true;
        self.drop_source();
    }

    /// Whether everything before the base is on the disk, so that the log may go.
    pub(crate) fn may_renew_partially(&self) -> bool {
        match self.follow.state {
            State::Offered { base, checked, .. } => {
                checked && (self.meta.sync != SyncState::Whole || self.marks.written_back() >= base.lsn)
            }
            _ => false,
        }
    }

    /// Begins an empty log at the source's position, and the copy. The meta is saved before the log is dropped: a restart in
    /// between finds a log that ends before it begins, so nothing of it.
    pub(crate) fn begin_partial(&mut self) {
        let State::Renewing {
            source,
            base: Some(base),
            started,
            ..
        } = &mut self.follow.state
        else {
            panic!("a partial copy without an offer")
        };
        *started = true;
        let (source, base) = (source.clone(), *base);
        self.begin_log_at(source, Some(base));
        self.save(Then::PartialSaved);
    }

    pub(crate) fn partial_saved(&mut self) {
        let id = self.io(Io::PartialReset);
        self.effects.push_back(Effect::ResetLog {
            id,
            at: self.log.sealed.lsn,
            keep: false,
        });
    }

    /// The source names what changed; perhaps before the copy has begun.
    pub(crate) fn told_dirty(&mut self, base: Position, map: DirtyMap) {
        self.follow.named = Some((base, map));
        self.name_dirty();
    }

    /// Hands to the copy what the source has named.
    pub(crate) fn name_dirty(&mut self) {
        let sectors = self.sectors();
        let (
            SyncState::Copying {
                base: Some(begun), ..
            },
            Some(resync),
        ) = (self.meta.sync, &mut self.resync)
        else {
            return;
        };
        // It is said once for a stream; a copy that is paused and resumed needs it again.
        if let Some((base, map)) = &self.follow.named
            && *base == begun
        {
            // Where the volume has grown meanwhile, the log brings the rest.
            let map = map.clone().resized(sectors);
            let partial = Some(map.dirty());
            resync.told(map);
            if let Some(source) = self.follow.source().cloned() {
                self.notice(Notice::SyncStarted { source, partial });
            }
        }
    }

    /// A partial copy whose source no longer knows what changed becomes a full one.
    pub(crate) fn widen_copy(&mut self, offered: Option<Position>) {
        if let SyncState::Copying { next, base, .. } = &mut self.meta.sync
            && base.is_some()
            && *base != offered
        {
            *base = None;
            *next = SectorOffset(0);
        }
    }
}
