//! How do all replicas keep the same version of a volume? Each stops writing back at the same place in history, and takes it there.
//!
//! A *snapshot* is a record, alone in its batch: its position names the version. Whoever comes to it in its log brings everything before it
//! to the disk, durably, and nothing of what is behind it; then the disk is asked for the snapshot, and write-back goes on. The primary
//! puts the record into its log at the moment in which a round of write-back begins, so that what guests write from then on gathers for the
//! next one. A disk that has to copy lets nothing change that it has not copied: see [`Effect::TakeSnapshot`].
//!
//! In the meta each snapshot is *pending* from the moment in which `written_back` is its position: a restart in between finds both or
//! neither, so it comes to the record again, or asks the disk again. Until the disk was asked, nothing changes on it; from then on
//! it knows what it may still read there, over restarts too.
//!
//! A replica that is no version there, or whose disk cannot, goes on without: the snapshot is *missing* or has *failed* there, and
//! says why. One on a history that was given up stays what it is, a version that a primary had, until it is dropped.
//!
//! Without a log, changes are held up until the disk is asked for it; there is only this replica.

use std::collections::VecDeque;
use std::fmt;

use model::{Lsn, Role, SnapshotName, VolumeSize};

use crate::codec::{DecodeError, Reader, Writer, malformed};
use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Answer, CommandError, CommandId, DiskError, Effect, Notice};
use crate::lineage::Position;
use crate::meta::SyncState;
use crate::museum::{self, Mutant};
use crate::record::Record;
use crate::straight::Road;
use crate::writeback::Round;

/// A replica remembers so many, whatever became of them.
pub const SNAPSHOTS_MAX: usize = 32;

/// A longer reason is cut off.
const REASON_BYTES_MAX: usize = 200;

/// A version of the volume that was to be kept here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What people call it.
    pub name: SnapshotName,
    /// Which version: everything before this, nothing behind it. Equal positions are equal contents, on every replica; except of a
    /// volume without a log, where only the name tells them apart.
    pub at: Position,
    /// The volume's length there.
    pub size: VolumeSize,
    /// When it was asked for by its primary's wall clock, in microseconds since 1970; for people.
    pub unix_micros: u64,
    /// What became of it here.
    pub state: SnapshotState,
}

/// What became of a snapshot on one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// The disk holds this version, and takes it.
    Pending,
    /// It is there, durably.
    Kept,
    /// The disk refused.
    Failed {
        /// What it said.
        reason: String,
    },
    /// This replica was not this version when it came to it.
    Missing {
        /// Why.
        why: Absence,
    },
    /// It is being given up.
    Dropping,
}

/// Why a replica has no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Its full sync was not finished.
    Copying,
    /// A repair had already brought newer contents.
    Repairing,
    /// That end of its history was dropped before the disk took it.
    Lost,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Absence::Copying => "its full sync was not finished there",
            Absence::Repairing => "a repair had already brought newer contents",
            Absence::Lost => "that end of its history was dropped",
        })
    }
}

impl Snapshot {
    fn is(&self, name: &SnapshotName, at: Position) -> bool {
        self.name == *name && self.at == at
    }

    fn is_pending(&self) -> bool {
        self.state == SnapshotState::Pending
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.snapshot_name(&self.name)
            .position(self.at)
            .size(self.size)
            .u64(self.unix_micros);
        match &self.state {
            SnapshotState::Pending => w.u8(1),
            SnapshotState::Kept => w.u8(2),
            SnapshotState::Failed { reason } => {
                let mut end = reason.len().min(REASON_BYTES_MAX);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                w.u8(3).u8(end as u8).bytes(&reason.as_bytes()[..end])
            }
            SnapshotState::Missing { why } => w.u8(4).u8(match why {
                Absence::Copying => 1,
                Absence::Repairing => 2,
                Absence::Lost => 3,
            }),
            SnapshotState::Dropping => w.u8(5),
        };
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Snapshot, DecodeError> {
        Ok(Snapshot {
            name: r.snapshot_name("snapshot")?,
            at: r.position("snapshot's position")?,
            size: r.size("snapshot's length")?,
            unix_micros: r.u64("snapshot's time")?,
            state: match r.u8("snapshot's state")? {
                1 => SnapshotState::Pending,
                2 => SnapshotState::Kept,
                3 => {
                    let length = r.u8("reason")?;
                    let reason = r.bytes(usize::from(length), "reason")?;
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    SnapshotState::Failed { reason }
                }
                4 => SnapshotState::Missing {
                    why: match r.u8("why it is missing")? {
                        1 => Absence::Copying,
                        2 => Absence::Repairing,
                        3 => Absence::Lost,
                        other => return Err(malformed(format!("absence {other} is unknown"))),
                    },
                },
                5 => SnapshotState::Dropping,
                other => return Err(malformed(format!("state {other} of a snapshot is unknown"))),
            },
        })
    }
}

/// Snapshots under way.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// As primary: what operators wait for, and is not in the log.
    asked: VecDeque<Asked>,
    /// As primary: a batch on its way to the log says so; it holds once that is durable.
    logged: Option<(Position, Asked)>,
    /// Loaded, and not reached by write-back.
    ahead: Option<Ahead>,
    /// How far the pending one is.
    step: Step,
    /// Operators who wait until one is given up.
    dropping: Vec<(CommandId, SnapshotName, Position)>,
}

#[derive(Debug)]
struct Asked {
    ids: Vec<CommandId>,
    name: SnapshotName,
}

#[derive(Debug)]
struct Ahead {
    snapshot: Snapshot,
    /// A round is under way that ends there.
    frozen: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// The meta says that it is pending, or there is none.
    #[default]
    Noted,
    /// The meta is being saved.
    Noting,
    /// The disk takes it.
    Taking,
}

impl Snapshots {
    /// Whether the log waits at a record until a round ends there.
    pub fn holds_load(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| !ahead.frozen)
    }

    /// Everything but the operators who wait: what is durable tells the rest.
    pub fn forget(&mut self) {
        self.ahead = None;
    }

    /// The end of the log was taken back, perhaps with a record: it is written again once there is room.
    pub fn retract(&mut self, end: Lsn) {
        if let Some((_, asked)) = self.logged.take_if(|(at, _)| at.lsn > end) {
            self.asked.push_front(asked);
        }
        self.ahead.take_if(|ahead| ahead.snapshot.at.lsn > end);
    }

    /// Everyone who waits, for a replica that goes out of service or is primary no more.
    fn take_asked(&mut self) -> Vec<CommandId> {
        let logged = self.logged.take().map(|(_, asked)| asked);
        let asked = self.asked.drain(..).chain(logged);
        asked.flat_map(|asked| asked.ids).collect()
    }

    /// The same, with those who wait for one to be given up.
    pub fn take_waiting(&mut self) -> Vec<CommandId> {
        let mut ids = self.take_asked();
        ids.extend(self.dropping.drain(..).map(|(id, ..)| id));
        ids
    }
}

impl Engine {
    /// An operator wants this version kept on every replica.
    pub(crate) fn start_snapshot(&mut self, id: CommandId, name: SnapshotName) {
        if let Some(refusal) = self.refusal_unless_serving() {
            return self.answer(id, Err(refusal));
        }
        // Asked again, perhaps because the answer was lost.
        let snapshots = &mut self.snapshots;
        let on_its_way = snapshots.logged.iter_mut().map(|(_, asked)| asked);
        let mut waiting = snapshots.asked.iter_mut().chain(on_its_way);
        if let Some(asked) = waiting.find(|asked| asked.name == name) {
            return asked.ids.push(id);
        }
        let ahead = snapshots.ahead.iter().map(|ahead| &ahead.snapshot);
        let mut known = self.meta.snapshots.iter().rev().chain(ahead);
        if let Some(known) = known.find(|known| known.name == name) {
            let at = known.at;
            return self.answer(id, Ok(Answer::Snapshot { at }));
        }
        if self.meta.snapshots.len() + snapshots.asked.len() >= SNAPSHOTS_MAX {
            let reason = format!("it has {SNAPSHOTS_MAX} snapshots already; delete one first");
            return self.answer(id, Err(CommandError::Refused { reason }));
        }
        let ids = vec![id];
        snapshots.asked.push_back(Asked { ids, name });
    }

    /// Whether a snapshot is between its record and what becomes of it.
    pub(crate) fn is_snapshot_under_way(&self) -> bool {
        self.snapshots.ahead.is_some() || self.pending_snapshot().is_some()
    }

    fn pending_snapshot(&self) -> Option<&Snapshot> {
        self.meta.snapshots.iter().find(|snapshot| snapshot.is_pending())
    }

    /// Whether the disk must stay as it is, because it has not been asked for what is pending.
    fn is_disk_held(&self) -> bool {
        let held = self.snapshots.step != Step::Taking && !museum::is(Mutant::SnapshotUnheld);
        held && self.pending_snapshot().is_some()
    }

    /// Whether no round of write-back may begin: it would change the disk, or end at a snapshot before the disk has the one before that.
    pub(crate) fn snapshot_holds_rounds(&self) -> bool {
        self.is_disk_held() || self.snapshots.ahead.is_some() && self.pending_snapshot().is_some()
    }

    /// Whether changes that go straight to the disk must wait for a snapshot.
    pub(crate) fn snapshot_holds_guests(&self) -> bool {
        let next = !self.snapshots.asked.is_empty() && !self.is_snapshot_under_way();
        self.straight.road.is_straight() && (self.is_disk_held() || next)
    }

    pub(crate) fn pump_snapshots(&mut self) {
        if self.meta.role != Role::Primary {
            for id in self.snapshots.take_asked() {
                self.answer(id, Err(CommandError::NotPrimary));
            }
        }
        self.begin_snapshot();
        self.take_snapshot();
    }

    /// Puts a record into the log where a round of write-back ends, or stops those who change the disk without one.
    fn begin_snapshot(&mut self) {
        let free = matches!(self.phase, Phase::Serving)
            && self.hand_over.is_none()
            && matches!(self.round, Round::Idle)
            && self.snapshots.logged.is_none()
            && !self.is_snapshot_under_way();
        if !free || self.snapshots.asked.is_empty() {
            return;
        }
        match self.straight.road {
            Road::Logged if self.log_has_room() && !self.space.retracted => {
                let Some(asked) = self.snapshots.asked.pop_front() else {
                    return;
                };
                self.seal();
                self.log.builder.push(&Record::Snapshot {
                    name: asked.name.clone(),
                });
                self.seal();
                let at = self.log.sealed;
                let name = asked.name.clone();
                self.snapshots.logged = Some((at, asked));
                self.log.want_flush(at.lsn);
                self.snapshot_loaded(name, at, self.unix_micros());
                self.begin_round();
            }
            Road::Straight if !self.is_alone() => {
                let reason =
                    "there is no room for its log, so no position is the same version everywhere: make room \
                              for the log, or ask again when there is"
                        .to_owned();
                for id in self.snapshots.take_asked() {
                    let reason = reason.clone();
                    self.answer(id, Err(CommandError::Refused { reason }));
                }
            }
            Road::Straight if self.straight_is_quiet() => {
                let Some(asked) = self.snapshots.asked.pop_front() else {
                    return;
                };
                let (at, name) = (self.log.sealed, asked.name.clone());
                // Nothing is to be appended: it holds as soon as the disk has it.
                self.snapshots.logged = Some((at, asked));
                let snapshot = Snapshot {
                    name,
                    at,
                    size: self.config.size,
                    unix_micros: self.unix_micros(),
                    state: SnapshotState::Pending,
                };
                self.note_pending(snapshot);
            }
            _ => {}
        }
    }

    /// The log is loaded up to a record; nothing behind it may be loaded until a round has begun that ends here.
    pub(crate) fn snapshot_loaded(&mut self, name: SnapshotName, at: Position, unix_micros: u64) {
        // After a restart the log is applied again from before it.
        if self.meta.snapshots.iter().any(|known| known.is(&name, at)) {
            return;
        }
        let mut snapshot = Snapshot {
            name,
            at,
            size: self.size_loaded(),
            unix_micros,
            state: SnapshotState::Pending,
        };
        let why = match self.meta.sync {
            SyncState::Whole => None,
            _ => Some(Absence::Copying),
        };
        // A log that is held back from the disk has none; see `begin_snapshot`.
        let why = why.or(self.holds_back_log().then_some(Absence::Lost));
        if let Some(why) = why {
            snapshot.state = SnapshotState::Missing { why };
            return self.settle_snapshot(snapshot);
        }
        if museum::is(Mutant::SnapshotTooEarly) {
            return self.note_pending(snapshot);
        }
        self.postpone_repair();
        let frozen = false;
        self.snapshots.ahead = Some(Ahead { snapshot, frozen });
    }

    /// A round has begun that ends where the log is loaded.
    pub(crate) fn snapshot_frozen(&mut self, end: Position) {
        if let Some(ahead) = &mut self.snapshots.ahead
            && ahead.snapshot.at == end
        {
            ahead.frozen = true;
        }
    }

    /// Everything before `end` is on the disk, durably, and perhaps that is a snapshot.
    pub(crate) fn snapshot_reached(&mut self, end: Position) {
        let Some(Ahead { mut snapshot, .. }) = self.snapshots.ahead.take_if(|ahead| ahead.snapshot.at == end)
        else {
            return;
        };
        let why = match self.meta.sync {
            SyncState::Whole if self.meta.touched > end.lsn => Some(Absence::Repairing),
            SyncState::Whole => None,
            _ => Some(Absence::Copying),
        };
        if let Some(why) = why {
            snapshot.state = SnapshotState::Missing { why };
            return self.settle_snapshot(snapshot);
        }
        self.note_pending(snapshot);
    }

    /// From here on a restart takes it, if nothing else has become of it.
    fn note_pending(&mut self, snapshot: Snapshot) {
        if !self.remember_snapshot(snapshot) {
            return;
        }
        self.snapshots.step = Step::Noting;
        self.save(Then::SnapshotNoted);
    }

    /// Keeps it in the meta, unless there are too many.
    fn remember_snapshot(&mut self, snapshot: Snapshot) -> bool {
        let fits = self.meta.snapshots.len() < SNAPSHOTS_MAX;
        if fits {
            self.meta.snapshots.push(snapshot);
        } else {
            let name = snapshot.name;
            let reason = format!("{SNAPSHOTS_MAX} snapshots are remembered here already");
            let state = SnapshotState::Failed { reason };
            self.notice(Notice::Snapshot { name, state });
        }
        fits
    }

    /// It is known what became of it, and that is told.
    fn settle_snapshot(&mut self, snapshot: Snapshot) {
        let (name, state) = (snapshot.name.clone(), snapshot.state.clone());
        if self.remember_snapshot(snapshot) {
            self.notice(Notice::Snapshot { name, state });
            self.save(Then::Nothing);
        }
    }

    pub(crate) fn snapshot_noted(&mut self) {
        if self.snapshots.step == Step::Noting {
            self.snapshots.step = Step::Noted;
        }
    }

    /// Lets the disk take what is pending, as soon as nothing changes it.
    fn take_snapshot(&mut self) {
        let steady = matches!(self.round, Round::Idle) || museum::is(Mutant::SnapshotTooEarly);
        let changing = |io: &Io| {
            matches!(
                io,
                Io::SyncWrite { .. } | Io::CopyFlush { .. } | Io::StraightWrite { .. }
            )
        };
        if self.snapshots.step != Step::Noted
            || matches!(self.phase, Phase::Scanning(_))
            || self.follow.is_cutting()
            || !steady
            || self.io.values().any(changing)
        {
            return;
        }
        let Some(pending) = self.pending_snapshot() else {
            return;
        };
        let (name, at, size) = (pending.name.clone(), pending.at, pending.size);
        self.snapshots.step = Step::Taking;
        let id = self.io(Io::SnapshotTaking);
        self.effects
            .push_back(Effect::TakeSnapshot { id, name, at, size });
        // Those who go straight to the disk.
        self.pump_guests();
    }

    /// The disk has taken it, or could not.
    pub(crate) fn snapshot_taken(&mut self, result: Result<(), DiskError>) {
        self.snapshots.step = Step::Noted;
        let Some(pending) = self.meta.snapshots.iter_mut().find(|s| s.is_pending()) else {
            return;
        };
        pending.state = match result {
            Ok(()) => SnapshotState::Kept,
            Err(error) => SnapshotState::Failed {
                reason: error.to_string(),
            },
        };
        let (name, at, state) = (pending.name.clone(), pending.at, pending.state.clone());
        // After a refusal the disk waits until that is durable.
        self.save(match state {
            SnapshotState::Failed { .. } => Then::SnapshotsDropping,
            _ => Then::Nothing,
        });
        self.notice(Notice::Snapshot { name, state });
        if self.straight.road.is_straight()
            && let Some((at, asked)) = self.snapshots.logged.take_if(|(logged, _)| *logged == at)
        {
            for id in asked.ids {
                self.answer(id, Ok(Answer::Snapshot { at }));
            }
        }
        self.pump_guests();
    }

    /// More of the log is durable: perhaps a record that operators wait for.
    pub(crate) fn settle_snapshots(&mut self) {
        let committed = self.marks.committed();
        if !self.straight.road.is_straight()
            && let Some((at, asked)) = self.snapshots.logged.take_if(|(at, _)| at.lsn <= committed)
        {
            for id in asked.ids {
                self.answer(id, Ok(Answer::Snapshot { at }));
            }
        }
    }

    /// The contents are given up, and with them what the disk was not asked for.
    pub(crate) fn lose_snapshots(&mut self) {
        for snapshot in self.meta.snapshots.iter_mut().filter(|s| s.is_pending()) {
            snapshot.state = SnapshotState::Missing { why: Absence::Lost };
        }
    }

    /// What was pending when the replica stopped is still to be taken.
    pub(crate) fn recover_snapshots(&mut self) {
        for snapshot in self.meta.snapshots.iter_mut().filter(|s| s.is_pending()) {
            if museum::is(Mutant::SnapshotNotRedone) {
                snapshot.state = SnapshotState::Kept;
            }
        }
        self.drop_snapshots();
    }

    /// An operator does not need a snapshot any more; of this replica alone.
    pub(crate) fn drop_snapshot(&mut self, id: CommandId, name: SnapshotName, at: Position) {
        let mut found = self.meta.snapshots.iter_mut();
        let Some(found) = found.find(|snapshot| snapshot.is(&name, at)) else {
            return self.answer(id, Ok(Answer::Done));
        };
        if found.is_pending() {
            let reason = format!("snapshot `{name}` is being taken; ask again when it is");
            return self.answer(id, Err(CommandError::Refused { reason }));
        }
        found.state = SnapshotState::Dropping;
        self.snapshots.dropping.push((id, name, at));
        self.save(Then::SnapshotsDropping);
    }

    /// What is durably to be given up goes, and what is left of what the disk has refused.
    pub(crate) fn drop_snapshots(&mut self) {
        let dropping =
            |s: &&Snapshot| matches!(s.state, SnapshotState::Dropping | SnapshotState::Failed { .. });
        let wanted: Vec<_> = self.meta.snapshots.iter().filter(dropping).cloned().collect();
        for Snapshot { name, at, .. } in wanted {
            let under_way =
                |io: &Io| matches!(io, Io::SnapshotDrop { name: n, at: a } if *n == name && *a == at);
            if self.io.values().any(under_way) {
                continue;
            }
            let id = self.io(Io::SnapshotDrop {
                name: name.clone(),
                at,
            });
            self.effects.push_back(Effect::DropSnapshot { id, name, at });
        }
    }

    pub(crate) fn snapshot_dropped(
        &mut self,
        name: SnapshotName,
        at: Position,
        result: Result<(), DiskError>,
    ) {
        let waiting = std::mem::take(&mut self.snapshots.dropping);
        let (done, waiting) = waiting.into_iter().partition(|(_, n, a)| *n == name && *a == at);
        self.snapshots.dropping = waiting;
        let done: Vec<(CommandId, SnapshotName, Position)> = done;
        match result {
            Ok(()) => {
                // Of one that the disk has refused, it stays known that and why.
                let given_up = |s: &Snapshot| s.is(&name, at) && s.state == SnapshotState::Dropping;
                self.meta.snapshots.retain(|snapshot| !given_up(snapshot));
                self.save(Then::Nothing);
                for (id, ..) in done {
                    self.save(Then::Answer { id });
                }
            }
            Err(error) => {
                for (id, ..) in done {
                    let reason = error.to_string();
                    self.answer(id, Err(CommandError::Failed { reason }));
                }
            }
        }
    }
}
