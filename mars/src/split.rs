//! Have two histories parted, where exactly, and what has each side behind that place?
//!
//! A replica whose log does not continue its source's is told the source's history; `lineage.rs` says where the two part. If what
//! the replica has behind that place was lost by its own writer, or holds no write at all, it is cut off. Anything else
//! may have been promised to a guest: then both sides count what they have there, tell each other, and report. Nothing more
//! happens by itself; the replica keeps everything and waits for an operator.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Lsn, NodeId, Tick};

use crate::codec::{DecodeError, Reader, Writer};
use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Effect, LinkId, Notice};
use crate::lineage::{History, Position, Relation};
use crate::message::Message;
use crate::meta::SyncState;
use crate::record::Header;

/// While a side is counted, whoever waits for it hears so this often.
const PATIENCE_MILLIS: u64 = 1000;

/// Log read at one time to count what is in it.
const READ_BYTES: usize = 256 << 10;

/// What one side of a split brain has behind the place where histories part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Where it ended when this was counted.
    pub end: Lsn,
    /// Log behind the parting.
    pub bytes: u64,
    /// Changes of the volume in it, as far as its log is still there.
    pub records: u64,
    /// When the first of it was written by its writer's clock, in microseconds since 1970; 0 when there is nothing or nobody knows.
    pub first_unix_micros: u64,
    /// The same for the last of it.
    pub last_unix_micros: u64,
    /// Whether the log was there from the parting on; else `records` counts only a part, and `first_unix_micros` is too late.
    pub complete: bool,
}

impl Side {
    /// Six fields in order.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.lsn(self.end)
            .u64(self.bytes)
            .u64(self.records)
            .u64(self.first_unix_micros)
            .u64(self.last_unix_micros)
            .bool(self.complete);
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Side, DecodeError> {
        Ok(Side {
            end: r.lsn("end")?,
            bytes: r.u64("bytes")?,
            records: r.u64("records")?,
            first_unix_micros: r.u64("first")?,
            last_unix_micros: r.u64("last")?,
            complete: r.bool("complete")?,
        })
    }
}

/// Two histories that have parted, as one of the two members sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitBrain {
    /// The last position that both have; the beginning when no common one is known.
    pub at: Position,
    /// What is here.
    pub ours: Side,
    /// What is there; `None` until it was told.
    pub theirs: Option<Side>,
}

/// A side being counted.
#[derive(Debug)]
struct Count {
    peer: NodeId,
    at: Position,
    begin: Lsn,
    next: Lsn,
    side: Side,
    theirs: Option<Side>,
}

/// What is being found out; what was found is in the meta, so that a restart without the other side does not hide it.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    counts: BTreeMap<LinkId, Count>,
    /// What was being counted when its link went down: the next one goes on there.
    begun: BTreeMap<NodeId, Count>,
    /// When those who wait are told that this goes on.
    patience_due: Tick,
    /// The meta says something else than the disk.
    unsaved: bool,
}

impl Splits {
    /// What was asked on a link will not be answered there.
    pub fn link_down(&mut self, link: LinkId) {
        if let Some(count) = self.counts.remove(&link) {
            self.begun.insert(count.peer.clone(), count);
        }
    }
}

impl Engine {
    /// The peer's history is a beginning of ours, or it has none here any more.
    pub(crate) fn forget_split(&mut self, peer: &NodeId) {
        // What is being counted for an earlier link of it would be remembered for one that has not parted; if it has, it will say so.
        let counts = self.splits.counts.iter().filter(|(_, count)| count.peer == *peer);
        for link in counts.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.splits.link_down(link);
        }
        self.splits.unsaved |= self.meta.splits.remove(peer).is_some();
    }

    /// Our place among the others has changed: everything is to be found out anew.
    pub(crate) fn forget_splits(&mut self) {
        self.keep_splits(&[]);
        self.splits.counts.clear();
        self.splits.begun.clear();
    }

    /// Only members matter.
    pub(crate) fn keep_splits(&mut self, members: &[NodeId]) {
        let before = self.meta.splits.len();
        self.meta.splits.retain(|peer, _| members.contains(peer));
        self.splits.unsaved |= self.meta.splits.len() != before;
    }

    fn split_found(&mut self, peer: NodeId, split: SplitBrain) {
        if self.meta.splits.get(&peer) != Some(&split) {
            self.meta.splits.insert(peer, split);
            self.splits.unsaved = true;
        }
    }

    pub(crate) fn splits_due(&self) -> Option<Tick> {
        (!self.splits.counts.is_empty()).then_some(self.splits.patience_due)
    }

    /// What is read of a log may take longer than a link is silent or a replica waits for an answer.
    fn ask_for_patience(&mut self) {
        if self.splits_due().is_none_or(|due| self.now < due) {
            return;
        }
        self.splits.patience_due = self.now.after_millis(PATIENCE_MILLIS);
        for link in self.splits.counts.keys().copied().collect::<Vec<_>>() {
            self.follow.wait_for_other_side(link, self.now);
            let message = Message::Patience { counts: true };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    /// The other side goes on, or waits.
    pub(crate) fn other_side_is_there(&mut self, link: LinkId, counts: bool) {
        self.follow.wait_for_other_side(link, self.now);
        if counts {
            let message = Message::Patience { counts: false };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    pub(crate) fn pump_splits(&mut self) {
        self.ask_for_patience();
        if self.splits.unsaved && !matches!(self.phase, Phase::Scanning(_)) {
            self.splits.unsaved = false;
            self.save(Then::Nothing);
        }
    }

    /// Our history as we tell it to others.
    pub(crate) fn history(&self) -> History {
        History {
            lineage: self.meta.lineage.clone(),
            tip: self.log.sealed,
        }
    }

    /// Our source says that its history does not continue ours.
    pub(crate) fn source_parted(&mut self, link: LinkId, theirs: &History) {
        if !self.log.is_quiet() {
            // A primary that was fenced a moment ago: what it has is not all in its log yet.
            return self.close_follow(link);
        }
        let ours = self.history();
        match ours.relation_to(theirs) {
            // It has written on, or been told more, since it looked.
            Relation::Behind | Relation::Ahead => self.close_follow(link),
            Relation::Parted { at } if ours.tail_was_lost(theirs, at) && self.may_cut_to(&ours, at) => {
                self.check_cut(at);
            }
            // What is no version yet cannot be one that somebody misses.
            _ if self.meta.sync != SyncState::Whole => self.start_over(link),
            Relation::Parted { at } => self.count_side(link, at, None),
            Relation::Strangers => self.count_side(link, Position::default(), None),
        }
    }

    /// Nothing behind `at` was written by ourselves, or has reached our disk.
    fn may_cut_to(&self, ours: &History, at: Position) -> bool {
        let own = |stretch: &crate::Stretch| stretch.writer == self.config.node;
        at.lsn >= self.meta.touched && !ours.stretches_behind(at).iter().any(own)
    }

    /// A replica tells what it has behind the place where our histories part.
    pub(crate) fn fork_told(&mut self, link: LinkId, at: Position, side: Side) {
        if at.lsn > self.marks.appended() || !matches!(self.phase, Phase::Serving) {
            return self.close_ship(link);
        }
        self.count_side(link, at, Some(side));
    }

    /// Counts what is in our log behind `at`.
    fn count_side(&mut self, link: LinkId, at: Position, theirs: Option<Side>) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer.clone()) else {
            return;
        };
        let end = self.marks.appended();
        // What was counted before need not be read again.
        let known = self.meta.splits.get(&peer).filter(|known| known.at == at);
        let known = known.map(|known| known.ours).filter(|side| side.end <= end);
        let counted = known.unwrap_or(Side {
            end: at.lsn.max(self.meta.trimmed),
            complete: at.lsn >= self.meta.trimmed,
            ..Side::default()
        });
        let begun = self.splits.begun.remove(&peer);
        let begun = begun.filter(|begun| begun.at == at && begun.side.end <= end);
        let (begin, read, counted) = match begun {
            Some(begun) => (begun.begin, begun.next, begun.side),
            None => {
                let begin = counted.end.max(self.meta.trimmed);
                (begin, counted.end, counted)
            }
        };
        let next = read.max(self.meta.trimmed);
        let side = Side {
            end,
            bytes: end.since(at.lsn),
            complete: counted.complete && next == read,
            ..counted
        };
        let count = Count {
            peer,
            at,
            begin,
            next,
            side,
            theirs,
        };
        if self.splits.counts.is_empty() {
            self.splits.patience_due = self.now.after_millis(PATIENCE_MILLIS);
        }
        self.splits.counts.insert(link, count);
        self.count_on(link);
    }

    fn count_on(&mut self, link: LinkId) {
        let Some(count) = self.splits.counts.get(&link) else {
            return;
        };
        let (at, left) = (count.next, count.side.end.since(count.next));
        if left == 0 {
            return self.counted(link);
        }
        let id = self.io(Io::CountSide { link });
        let bytes_max = READ_BYTES.min(left as usize);
        self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
    }

    pub(crate) fn side_read(&mut self, link: LinkId, bytes: &Bytes) {
        let Some(count) = self.splits.counts.get_mut(&link) else {
            return;
        };
        let begin = count.next;
        let mut offset = 0;
        while count.next < count.side.end
            && let Some(rest) = bytes.get(offset..)
            && let Ok(header) = Header::decode(rest)
            && header.lsn == count.next
        {
            if count.next == count.at.lsn && header.previous != count.at.digest {
                // Not the parting that it was said to be.
                count.side.complete = false;
            }
            if count.side.first_unix_micros == 0 {
                count.side.first_unix_micros = header.written_unix_micros;
            }
            count.side.last_unix_micros = header.written_unix_micros;
            count.side.records += u64::from(header.record_count);
            count.next = count.next.advance(u64::from(header.batch_bytes));
            offset += header.batch_bytes as usize;
        }
        if count.next == begin {
            // Given up meanwhile, or damaged, which whoever applies it will say.
            count.side.complete = false;
            count.next = count.side.end;
        }
        self.count_on(link);
    }

    fn counted(&mut self, link: LinkId) {
        let Some(Count {
            peer,
            at,
            begin,
            mut side,
            theirs,
            ..
        }) = self.splits.counts.remove(&link)
        else {
            return;
        };
        // Each stretch begins with a record that says who writes: not a change of the volume.
        let begun = |stretch: &&crate::Stretch| stretch.from.lsn >= begin && stretch.from.lsn < side.end;
        let begun = self.meta.lineage.iter().filter(begun).count() as u64;
        side.records = side.records.saturating_sub(begun);
        let is_source = theirs.is_some();
        if !is_source && side.records == 0 && side.complete && at.lsn >= self.meta.trimmed {
            // Somebody was primary there and wrote nothing: nobody can miss it.
            return self.check_cut(at);
        }
        let before = self.meta.splits.get(&peer);
        let is_news = before.is_none_or(|before| before.at != at);
        let told = before
            .filter(|before| before.at == at)
            .and_then(|before| before.theirs);
        if !is_source {
            // A replica has one source: what it thought of earlier ones is past.
            self.keep_splits(std::slice::from_ref(&peer));
        }
        let split = SplitBrain {
            at,
            ours: side,
            theirs: theirs.or(told),
        };
        self.split_found(peer.clone(), split.clone());
        if is_source && is_news {
            self.notice(Notice::SplitBrain { peer, split });
        }
        let message = Message::Fork { at, side };
        self.effects.push_back(Effect::Send { link, message });
        self.follow.wait_for_other_side(link, self.now);
    }

    /// Our source tells what it has on its side.
    pub(crate) fn other_side_told(&mut self, link: LinkId, at: Position, side: Side) {
        let peer = self.links.get(&link).map(|link| link.peer.clone());
        if let Some(peer) = peer
            && let Some(known) = self.meta.splits.get(&peer).filter(|known| known.at == at)
        {
            let split = SplitBrain {
                theirs: Some(side),
                ..known.clone()
            };
            let is_news = known.theirs.is_none();
            self.split_found(peer.clone(), split.clone());
            if is_news {
                self.notice(Notice::SplitBrain { peer, split });
            }
        }
        self.rest_parted(link);
    }
}
