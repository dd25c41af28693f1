//! What may a guest expect to read? The last write it was told of, or one that it is still waiting for.
//!
//! The guest keeps, for every sector, all versions it ever wrote. It never has two changes of one sector under way, as no sane
//! guest does, and as `mars::session` sees to. After a power cut of the primary a new guest begins: it may find, per sector,
//! any version from the last one known durable to the last one ever asked for; once it has seen which, that one stays.
//!
//! A guest behind a session (`world/door.rs`) lives on when its primary loses power or is replaced: what only the session has copies of
//! must be there afterwards, and for the rest it may find what that primary knew.

use std::collections::BTreeMap;

use bytes::Bytes;
use mars::{BlockExtent, GuestRequest, Reply, RequestTag};
use model::{SectorRange, Tick};

use crate::rng::Rng;
use crate::stamp;

#[derive(Clone, Copy, Debug)]
struct Version {
    stamp: u64,
    /// When its answer came, in answers.
    acked: Option<u64>,
    /// Known to survive a power cut.
    durable: bool,
}

/// Whether a session has a copy of the last answered write of a sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Copied {
    #[default]
    No,
    /// It may have been given up.
    Maybe,
    Yes,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    versions: Vec<Version>,
    /// The oldest version that a read may find.
    low: usize,
    /// Any version from `low` to the newest may be there; else the one at `low`, or the one being written.
    uncertain: bool,
    writing: bool,
    copied: Copied,
    /// Perhaps the version at `low` is nowhere but in a session's copy.
    only_copied: bool,
}

impl Sector {
    /// Since what was flushed, by this count of answers, anything may be there.
    fn doubt(&mut self, flushed: u64) {
        let safe = |version: &Version| version.durable || version.acked.is_some_and(|acked| acked <= flushed);
        let flushed = self.versions.iter().rposition(safe).unwrap_or(0);
        self.low = if self.uncertain {
            self.low.max(flushed)
        } else {
            flushed
        };
        self.uncertain = self.low + 1 < self.versions.len();
        // What was answered but lost must not count as flushed when a later guest flushes.
        self.versions[self.low..]
            .iter_mut()
            .for_each(|version| version.acked = None);
        self.versions[self.low].durable = true;
        (self.copied, self.only_copied) = (Copied::No, false);
    }
}

/// A request until it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub tag: RequestTag,
    pub request: GuestRequest,
    /// Which start of which node it was sent to.
    pub sent: Option<(usize, u32)>,
    /// When.
    pub sent_at: Tick,
    /// For each sector of a range the version that is written, or the oldest that a read may find.
    marks: Vec<usize>,
    /// Answers that had come when it was asked.
    clock: u64,
    /// As of the guest then.
    doubts: u64,
    since: Tick,
}

/// What a guest likes to do, in percent; the rest are reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Requests under way at most.
    pub depth: usize,
    pub write_percent: u64,
    pub zero_percent: u64,
    pub flush_percent: u64,
    pub status_percent: u64,
    pub fua_percent: u64,
    /// Longest request.
    pub sectors_max: u64,
    /// It works on so many sectors at the beginning only; the whole volume when larger.
    pub working_set: u64,
}

/// One guest after the other, and what they know.
#[derive(Debug)]
pub(crate) struct Guest {
    sectors: Vec<Sector>,
    pub asked: BTreeMap<u64, Asked>,
    next: u64,
    next_stamp: u64,
    clock: u64,
    flushed: u64,
    /// Where it thinks the primary is.
    pub attached: usize,
    /// Takeovers up to the newest primary that it has met.
    pub takeovers: u32,
    pub habits: Habits,
    /// What it was reborn from was a power cut.
    lost_power: bool,
    /// How often it has become unclear what is there: what was read before does not tell.
    doubts: u64,
    /// What an earlier guest of the same session was not answered: where each change begins, and its stamps. It may still be made.
    strays: BTreeMap<u64, (usize, Vec<u64>)>,
    /// What an earlier guest of the same session was answered, and the session may have copies of: by sector, with the count of answers.
    left: BTreeMap<usize, (u64, u64)>,
    /// Whether a session keeps copies of what is answered now, unless it is durable.
    pub copies: bool,
    /// The world's clock.
    pub now: Tick,
    /// Longest time that a plain write has taken, in microseconds.
    pub write_micros_max: u64,
    /// Requests answered by kind.
    pub answered: BTreeMap<&'static str, u64>,
}

fn kind(request: &GuestRequest) -> &'static str {
    match request {
        GuestRequest::Read { .. } => "guest: read",
        GuestRequest::Write { fua: true, .. } => "guest: write with fua",
        GuestRequest::Write { .. } => "guest: write",
        GuestRequest::Flush => "guest: flush",
        GuestRequest::Discard { .. } => "guest: discard",
        GuestRequest::WriteZeroes { .. } => "guest: write zeroes",
        GuestRequest::BlockStatus { .. } => "guest: block status",
    }
}

/// Whether it changes the volume.
pub(crate) fn changes(request: &GuestRequest) -> bool {
    !matches!(
        request,
        GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. } | GuestRequest::Flush
    )
}

fn has_fua(request: &GuestRequest) -> bool {
    matches!(
        request,
        GuestRequest::Write { fua: true, .. }
            | GuestRequest::Discard { fua: true, .. }
            | GuestRequest::WriteZeroes { fua: true, .. }
    )
}

impl Guest {
    /// A guest of a volume with these stamps.
    pub fn new(stamps: &[u64], habits: Habits) -> Guest {
        let sector = |stamp: &u64| Sector {
            versions: vec![Version {
                stamp: *stamp,
                acked: Some(0),
                durable: true,
            }],
            ..Sector::default()
        };
        Guest {
            sectors: stamps.iter().map(sector).collect(),
            asked: BTreeMap::new(),
            next: 0,
            next_stamp: 0,
            clock: 0,
            flushed: 0,
            attached: 0,
            takeovers: 0,
            habits,
            lost_power: false,
            doubts: 0,
            strays: BTreeMap::new(),
            left: BTreeMap::new(),
            copies: false,
            now: Tick(0),
            write_micros_max: 0,
            answered: BTreeMap::new(),
        }
    }

    /// Thinks of something to ask; `None` when it would touch what is being written.
    pub fn ask(&mut self, rng: &mut Rng) -> Option<()> {
        let reach = self.habits.working_set.min(self.sectors.len() as u64);
        let start = rng.below(reach);
        let count = rng
            .spread(1, self.habits.sectors_max)
            .min(self.sectors.len() as u64 - start);
        let range = SectorRange::new(start, count)?;
        let here = start as usize..(start + count) as usize;
        let fua = rng.chance(self.habits.fua_percent);
        let habits = self.habits;
        let roll = rng.below(100);
        let write = habits.write_percent;
        let zero = write + habits.zero_percent;
        let flush = zero + habits.flush_percent;
        let request = if roll < zero {
            if self.sectors[here.clone()].iter().any(|sector| sector.writing) {
                return None;
            }
            if roll < write {
                let first = self.next_stamp + 1;
                self.next_stamp += count;
                let data = Bytes::from(stamp::sectors(first..first + count));
                self.begin(here.clone(), |i| first + i);
                GuestRequest::Write { range, data, fua }
            } else {
                self.begin(here.clone(), |_| 0);
                match rng.below(3) {
                    0 => GuestRequest::Discard { range, fua },
                    unmap => GuestRequest::WriteZeroes {
                        range,
                        fua,
                        unmap: unmap == 1,
                    },
                }
            }
        } else if roll < flush {
            GuestRequest::Flush
        } else if roll < flush + habits.status_percent {
            GuestRequest::BlockStatus { range }
        } else {
            GuestRequest::Read { range }
        };
        let marks = match &request {
            GuestRequest::Flush => Vec::new(),
            GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. } => {
                self.sectors[here].iter().map(|sector| sector.low).collect()
            }
            _ => self.sectors[here]
                .iter()
                .map(|sector| sector.versions.len() - 1)
                .collect(),
        };
        let tag = RequestTag(self.next);
        self.next += 1;
        self.asked.insert(
            tag.0,
            Asked {
                tag,
                request,
                sent: None,
                sent_at: Tick(0),
                marks,
                clock: self.clock,
                doubts: self.doubts,
                since: self.now,
            },
        );
        Some(())
    }

    /// It wants to know that all is well.
    pub fn ask_flush(&mut self) {
        let asked = Asked {
            tag: RequestTag(self.next),
            request: GuestRequest::Flush,
            sent: None,
            sent_at: Tick(0),
            marks: Vec::new(),
            clock: self.clock,
            doubts: self.doubts,
            since: self.now,
        };
        self.next += 1;
        self.asked.insert(asked.tag.0, asked);
    }

    fn begin(&mut self, here: std::ops::Range<usize>, stamp: impl Fn(u64) -> u64) {
        for (i, sector) in self.sectors[here].iter_mut().enumerate() {
            sector.versions.push(Version {
                stamp: stamp(i as u64),
                acked: None,
                durable: false,
            });
            sector.writing = true;
        }
    }

    /// What is to be sent to `place`, in order, under new names.
    pub fn send(&mut self, now: Tick, place: (usize, u32)) -> Vec<(RequestTag, GuestRequest)> {
        let waiting: Vec<u64> = self
            .asked
            .values()
            .filter(|a| a.sent.is_none())
            .map(|a| a.tag.0)
            .collect();
        waiting
            .into_iter()
            .filter_map(|old| {
                let mut asked = self.asked.remove(&old)?;
                asked.tag = RequestTag(self.next);
                asked.sent = Some(place);
                asked.sent_at = now;
                self.next += 1;
                let send = (asked.tag, asked.request.clone());
                self.asked.insert(asked.tag.0, asked);
                Some(send)
            })
            .collect()
    }

    /// Nothing was done; it is to be sent again.
    pub fn refused(&mut self, tag: RequestTag) {
        if let Some(asked) = self.asked.get_mut(&tag.0) {
            asked.sent = None;
        }
    }

    /// A node's start has ended: what it was asked is to be sent again.
    pub fn lost(&mut self, place: (usize, u32)) {
        self.asked
            .values_mut()
            .filter(|asked| asked.sent == Some(place))
            .for_each(|asked| asked.sent = None);
    }

    /// An answer; `None` when nobody waits for it. Says whether it changed the volume.
    pub fn answer(&mut self, tag: RequestTag, reply: &Reply) -> Result<bool, String> {
        let Some(asked) = self.asked.remove(&tag.0) else {
            return Ok(false);
        };
        *self.answered.entry(kind(&asked.request)).or_default() += 1;
        if matches!(asked.request, GuestRequest::Write { fua: false, .. }) {
            self.write_micros_max = self.write_micros_max.max(self.now.micros_since(asked.since));
        }
        match (&asked.request, reply) {
            (GuestRequest::Read { range }, Reply::Data(data)) => {
                if data.len() as u64 != range.len_bytes() {
                    return Err(format!(
                        "a read of {range} was answered with {} bytes",
                        data.len()
                    ));
                }
                for (i, bytes) in data.chunks(512).enumerate() {
                    let since = asked.doubts == self.doubts;
                    self.check(
                        range.start.0 as usize + i,
                        asked.marks[i],
                        since,
                        stamp::of(bytes),
                    )?;
                }
                Ok(false)
            }
            (GuestRequest::BlockStatus { range }, Reply::Extents(extents)) => {
                self.check_extents(*range, &asked.marks, extents)?;
                Ok(false)
            }
            (GuestRequest::Flush, Reply::Done) => {
                self.flushed = self.flushed.max(asked.clock);
                Ok(false)
            }
            (GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. }, _)
            | (_, Reply::Data(_) | Reply::Extents(_)) => Err(format!(
                "{:?} was answered with another kind of answer",
                asked.request.range()
            )),
            (request, Reply::Done) => {
                let durable = has_fua(request);
                self.clock += 1;
                let start = request.range().map_or(0, |range| range.start.0 as usize);
                for (sector, mark) in self.sectors[start..].iter_mut().zip(asked.marks) {
                    sector.low = mark;
                    sector.uncertain = false;
                    sector.writing = false;
                    sector.versions[mark].acked = Some(self.clock);
                    sector.versions[mark].durable = durable;
                    sector.only_copied = false;
                    sector.copied = match self.copies && !durable {
                        true => Copied::Yes,
                        false => Copied::No,
                    };
                }
                Ok(true)
            }
        }
    }

    /// Whether a read may find this; one that was asked since it last became unclear tells what is there.
    fn check(&mut self, at: usize, low: usize, since: bool, stamp: Option<u64>) -> Result<(), String> {
        let sector = &mut self.sectors[at];
        let newest = sector.versions.len() - 1;
        let Some(stamp) = stamp else {
            return Err(format!("sector {at} holds a mixture"));
        };
        let allowed = &sector.versions[low..];
        let Some(first) = allowed.iter().position(|version| version.stamp == stamp) else {
            let when = sector.versions.iter().rposition(|version| version.stamp == stamp);
            return Err(format!(
                "sector {at} holds version {when:?} (stamp {stamp:#x}), but only {low} to {newest} may be there"
            ));
        };
        let last = allowed
            .iter()
            .rposition(|version| version.stamp == stamp)
            .unwrap_or(first);
        if since && sector.uncertain && !sector.writing && sector.low <= low + first {
            // What a guest has seen after a power cut is what recovery found: it stays.
            sector.versions.truncate(low + last + 1);
            sector.low = low + first;
            sector.uncertain = first != last;
            if first == last {
                // In the page cache only, if there was no power cut: durable with the next flush.
                let seen = &mut sector.versions[low + first];
                seen.durable |= self.lost_power;
                seen.acked = seen.acked.or(Some(self.clock));
            }
        }
        Ok(())
    }

    fn check_extents(
        &self,
        range: SectorRange,
        marks: &[usize],
        extents: &[BlockExtent],
    ) -> Result<(), String> {
        let mut at = range.start;
        for extent in extents {
            if extent.range.start != at || extent.range.is_empty() {
                return Err(format!("block status of {range} has a gap at {}", at.0));
            }
            at = extent.range.end();
            for sector in (extent.range.start.0..at.0.min(range.end().0)).filter(|_| !extent.data) {
                let low = marks[(sector - range.start.0) as usize];
                if self.sectors[sector as usize].versions[low..]
                    .iter()
                    .all(|version| version.stamp != 0)
                {
                    return Err(format!(
                        "block status calls sector {sector} empty, which was written"
                    ));
                }
            }
        }
        if at != range.end() {
            return Err(format!("block status of {range} ends at {}", at.0));
        }
        Ok(())
    }

    /// The primary lost power and the guest with it, or was refused by its disk; a new one begins.
    pub fn reborn(&mut self, lost_power: bool) {
        self.asked.clear();
        self.lost_power = lost_power;
        for sector in &mut self.sectors {
            sector.doubt(self.flushed);
            sector.writing = false;
        }
    }

    /// It ends, and its session does not: what it was not answered may still be made.
    pub fn leaves(&mut self) {
        for asked in self.asked.values().filter(|asked| asked.sent.is_some()) {
            if let Some(range) = asked.request.range().filter(|_| changes(&asked.request)) {
                let start = range.start.0 as usize;
                let marks = self.sectors[start..].iter().zip(&asked.marks);
                let stamps = marks.map(|(sector, mark)| sector.versions[*mark].stamp);
                self.strays.insert(asked.tag.0, (start, stamps.collect()));
            }
        }
        for (at, sector) in self.sectors.iter().enumerate() {
            if sector.copied != Copied::No {
                let stamp = sector.versions[sector.low].stamp;
                self.left.insert(at, (stamp, self.clock));
            }
        }
        self.reborn(false);
    }

    /// A session has done with a request of an earlier guest: it has a copy of what was `made`.
    pub fn done_with(&mut self, tag: RequestTag, made: bool) {
        let Some((start, stamps)) = self.strays.remove(&tag.0).filter(|_| made) else {
            return;
        };
        self.clock += 1;
        let clock = self.clock;
        let made = (start..).zip(stamps);
        self.left.extend(made.map(|(at, stamp)| (at, (stamp, clock))));
    }

    /// Answers so far: what a flush covers that is sent now.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// A session's flush was answered, or what it has answered so far is durable for another reason.
    pub fn covered(&mut self, clock: u64) {
        self.left.retain(|_, (_, acked)| *acked > clock);
        for sector in self.sectors.iter_mut().filter(|sector| !sector.uncertain) {
            let version = &mut sector.versions[sector.low];
            if version.acked.is_some_and(|acked| acked <= clock) {
                version.durable = true;
                (sector.copied, sector.only_copied) = (Copied::No, false);
            }
        }
    }

    /// The role was handed over: all that is there is durable.
    pub fn handed_over(&mut self) {
        for sector in self.sectors.iter_mut().filter(|s| !s.uncertain && !s.only_copied) {
            sector.versions[sector.low].durable |= sector.versions[sector.low].acked.is_some();
        }
    }

    /// The session is served where it is: what it gives over it need not keep.
    pub fn served_here(&mut self) {
        let copied = self.sectors.iter_mut().filter(|s| s.copied == Copied::Yes);
        copied.for_each(|sector| sector.copied = Copied::Maybe);
    }

    /// A copy could not be written again.
    pub fn copy_failed(&mut self, range: SectorRange) {
        let (start, end) = (range.start.0 as usize, range.end().0 as usize);
        let end = end.min(self.sectors.len());
        for sector in self.sectors.get_mut(start..end).unwrap_or_default() {
            sector.doubt(self.flushed);
        }
        self.look_lower();
    }

    /// The session's process is gone, with its copies.
    pub fn copies_lost(&mut self) {
        self.strays.clear();
        self.left.clear();
        for sector in &mut self.sectors {
            match sector.only_copied {
                true => sector.doubt(self.flushed),
                false => sector.copied = Copied::No,
            }
        }
        self.look_lower();
    }

    /// The primary has lost power, the guest and its session have not.
    pub fn primary_lost_power(&mut self) {
        self.lost_power = false;
        for sector in &mut self.sectors {
            match sector.copied {
                Copied::Yes => sector.only_copied = true,
                Copied::Maybe | Copied::No => sector.doubt(self.flushed),
            }
        }
        self.look_lower();
    }

    /// Reads under way may find what has just become possible.
    fn look_lower(&mut self) {
        self.doubts += 1;
        for asked in self.asked.values_mut() {
            if let GuestRequest::Read { range } | GuestRequest::BlockStatus { range } = &asked.request {
                let sectors = &self.sectors[range.start.0 as usize..];
                for (mark, sector) in asked.marks.iter_mut().zip(sectors) {
                    *mark = (*mark).min(sector.low);
                }
            }
        }
    }

    /// A takeover has another truth than the one known so far: another length, and for each sector what it began with, which is durable there, and what it
    /// got since. Only a guest behind a session `lives_on`, with what it was not answered yet and what the session has copies of.
    pub fn moved(
        &mut self,
        takeovers: u32,
        sectors: usize,
        lives_on: bool,
        stamps: impl Fn(usize) -> Vec<u64>,
    ) {
        self.takeovers = takeovers;
        self.doubts += 1;
        if !lives_on {
            self.asked.clear();
        }
        // It may be shorter, if only the old primary knew that it is longer.
        self.sectors.truncate(sectors);
        self.grow(sectors);
        for (at, sector) in self.sectors.iter_mut().enumerate() {
            let version = |(i, stamp): (usize, u64)| Version {
                stamp,
                acked: (i > 0).then_some(self.clock + 1),
                durable: i == 0,
            };
            let (copy, writing) = (sector.versions[sector.low], sector.versions.last().copied());
            let copied = if lives_on { sector.copied } else { Copied::No };
            sector.versions = stamps(at).into_iter().enumerate().map(version).collect();
            sector.low = sector.versions.len() - 1;
            sector.writing &= lives_on;
            sector.uncertain = copied == Copied::Maybe;
            (sector.copied, sector.only_copied) = (Copied::No, false);
            if let Some((stamp, _)) = self.left.get(&at).filter(|_| lives_on && copied != Copied::Yes) {
                sector.uncertain = true;
                sector.versions.push(Version {
                    stamp: *stamp,
                    acked: None,
                    durable: false,
                });
            }
            if copied != Copied::No {
                // What may be lost must not count as flushed when the guest flushes.
                let acked = copy.acked.filter(|_| copied == Copied::Yes);
                sector.versions.push(Version {
                    durable: false,
                    acked,
                    ..copy
                });
            }
            if copied == Copied::Yes {
                sector.low += 1;
                (sector.copied, sector.only_copied) = (copied, true);
            }
            let strays = self.strays.values().filter(|_| lives_on);
            let strays = strays.filter_map(|(start, stamps)| stamps.get(at.checked_sub(*start)?));
            for stamp in strays {
                sector.uncertain = true;
                sector.versions.push(Version {
                    stamp: *stamp,
                    acked: None,
                    durable: false,
                });
            }
            if sector.writing {
                sector.versions.extend(writing);
            }
        }
        self.clock += 1;
        self.asked.retain(|_, asked| {
            let range = asked.request.range();
            range.is_none_or(|range| range.end().0 as usize <= sectors)
        });
        for asked in self.asked.values_mut() {
            let looks = matches!(
                asked.request,
                GuestRequest::Read { .. } | GuestRequest::BlockStatus { .. }
            );
            let start = asked.request.range().map_or(0, |range| range.start.0 as usize);
            for (mark, sector) in asked.marks.iter_mut().zip(&self.sectors[start..]) {
                *mark = if looks {
                    sector.low
                } else {
                    sector.versions.len() - 1
                };
            }
        }
    }

    /// The volume is longer, and it has been told.
    pub fn grow(&mut self, sectors: usize) {
        let empty = Sector {
            versions: vec![Version {
                stamp: 0,
                acked: Some(0),
                durable: true,
            }],
            ..Sector::default()
        };
        let sectors = sectors.max(self.sectors.len());
        self.sectors.resize(sectors, empty);
    }

    /// How long it knows the volume to be, in sectors.
    pub fn sectors(&self) -> usize {
        self.sectors.len()
    }

    /// What was sent to a place is no longer ours; returns its names.
    pub fn forget_sent_to(&mut self, place: (usize, u32)) -> Vec<u64> {
        let here: Vec<u64> = self
            .asked
            .values()
            .filter(|asked| asked.sent == Some(place))
            .map(|asked| asked.tag.0)
            .collect();
        here.iter().for_each(|tag| drop(self.asked.remove(tag)));
        here
    }

    /// Whether a reader may see this in a sector now.
    pub fn may_hold(&self, at: usize, stamp: u64) -> bool {
        let sector = &self.sectors[at];
        // What is only in a copy is in no replica yet.
        let low = if sector.only_copied { 0 } else { sector.low };
        sector.versions[low..]
            .iter()
            .any(|version| version.stamp == stamp)
    }

    /// At rest: the sector must hold this.
    pub fn check_at_rest(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let low = self.sectors[at].low;
        self.check(at, low, true, stamp::of(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HABITS: Habits = Habits {
        depth: 4,
        write_percent: 100,
        zero_percent: 0,
        flush_percent: 0,
        status_percent: 0,
        fua_percent: 0,
        sectors_max: 1,
        working_set: 1,
    };

    fn write(guest: &mut Guest, answer: bool) -> u64 {
        guest.ask(&mut Rng::new(1)).expect("nothing is being written");
        let (tag, request) = guest.send(Tick(0), (0, 1)).pop().expect("just asked");
        if answer {
            guest
                .answer(tag, &Reply::Done)
                .expect("a write is answered with done");
        }
        match request {
            GuestRequest::Write { data, .. } => stamp::of(&data).expect("one sector"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answered_write_may_not_vanish_and_an_unanswered_one_may() {
        let mut guest = Guest::new(&[9], HABITS);
        let first = write(&mut guest, true);
        assert!(guest.check_at_rest(0, &stamp::sector(9)).is_err());
        let second = write(&mut guest, false);
        assert!(guest.check_at_rest(0, &stamp::sector(first)).is_ok());
        assert!(guest.check_at_rest(0, &stamp::sector(second)).is_ok());
        assert!(
            guest.ask(&mut Rng::new(1)).is_none(),
            "one change of a sector at a time"
        );
    }

    #[test]
    fn after_a_power_cut_what_was_flushed_stays_and_what_was_seen_too() {
        let mut guest = Guest::new(&[9], HABITS);
        let first = write(&mut guest, true);
        guest.habits.write_percent = 0;
        guest.habits.flush_percent = 100;
        guest.ask(&mut Rng::new(1)).expect("a flush");
        let (tag, _) = guest.send(Tick(0), (0, 1)).pop().expect("just asked");
        guest.answer(tag, &Reply::Done).expect("flushed");
        guest.habits.write_percent = 100;
        let second = write(&mut guest, true);
        let third = write(&mut guest, false);
        guest.reborn(true);
        assert!(guest.check_at_rest(0, &stamp::sector(9)).is_err());
        assert!(guest.check_at_rest(0, &stamp::sector(second)).is_ok());
        assert!(guest.check_at_rest(0, &stamp::sector(first)).is_err());
        assert!(guest.check_at_rest(0, &stamp::sector(third)).is_err());
    }
}
