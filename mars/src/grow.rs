//! How does a volume get longer, while guests write? The disk first, then the log, then the guests.
//!
//! The primary has its own disk made longer, puts a *growth* into the log, in a batch of its own, and lets guests use the new
//! part once that batch is durable. A replica that comes to a growth, or begins a copy of a volume that is longer than
//! its own, has its disk made longer before it goes on; where that is refused it waits, says so, and tries again by itself.
//! The same holds after a restart, for replay is the same code. So a position in the log says how long the volume is there, as it
//! says what it contains, and the length of a replica is a part of its version.
//!
//! What is new reads as zeroes on every replica: whoever makes a disk longer clears the new part, whatever was below. That is
//! done again when a growth is replayed again, and harmless: everything that was written to the new part is behind it in the log.
//!
//! Without a log the disk grows in the same way, and the meta remembers the length before guests may use it.
//! A volume never shrinks, but a length that only a deposed primary knew of is lost like a write that only it had.

use std::collections::VecDeque;

use model::{Lsn, Role, Tick, VolumeSize};

use crate::engine::{Engine, Io, Phase, Then};
use crate::event::{Answer, CommandError, CommandId, DiskError, Effect, Notice};
use crate::museum::{self, Mutant};
use crate::record::Record;
use crate::straight::Road;

/// Somebody must make room below; how soon that is noticed.
const RETRY_MILLIS: u64 = 2000;

/// How this replica gets longer.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// As primary: what operators wait for.
    asked: Option<Asked>,
    /// As primary: a batch on its way to the log says so; it holds once that is durable.
    logged: Option<(Lsn, VolumeSize)>,
    /// Lengths that are loaded, each with the end of its batch, and not written back.
    ahead: VecDeque<(Lsn, VolumeSize)>,
    /// As replica or in recovery: what the disk is asked for before the log goes on.
    below: Option<Below>,
    /// What the disk said when it was asked last.
    refused: Option<(VolumeSize, DiskError)>,
}

#[derive(Debug)]
struct Asked {
    ids: Vec<CommandId>,
    to: VolumeSize,
    begun: bool,
}

#[derive(Debug)]
struct Below {
    /// Where in history the disk must be longer.
    at: Lsn,
    to: VolumeSize,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Asked,
    Done,
    Refused { retry_at: Tick },
}

impl Growth {
    /// Whether the primary's own growth is under way.
    pub fn is_under_way(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.begun)
    }

    /// Whether the log waits for the disk.
    pub fn holds_load(&self) -> bool {
        let waits = |below: &Below| !matches!(below.step, Step::Done);
        self.below.as_ref().is_some_and(waits)
    }

    /// Why this replica cannot go on.
    pub fn trouble(&self) -> Option<String> {
        let (to, error) = self.refused.as_ref()?;
        let bytes = to.bytes();
        Some(format!(
            "its disk cannot grow to {bytes} bytes ({error}); it goes on by itself once there is room"
        ))
    }

    /// Everything but the operators who wait: what is durable tells the rest.
    pub fn forget(&mut self) {
        let asked = self.asked.take();
        *self = Growth {
            asked,
            ..Growth::default()
        };
    }

    /// Everyone who waits, for a replica that goes out of service.
    pub fn take_asked(&mut self) -> Vec<CommandId> {
        self.asked.take().map(|asked| asked.ids).unwrap_or_default()
    }

    /// The end of the log was taken back, perhaps with a growth: it is begun again once there is room.
    pub fn retract(&mut self, end: Lsn) {
        if self.logged.is_some_and(|(at, _)| at > end) {
            self.logged = None;
            if let Some(asked) = &mut self.asked {
                asked.begun = false;
            }
        }
    }

    /// What is behind `written_back` as it is now; the last length that is not.
    pub fn written_back(&mut self, end: Lsn) -> Option<VolumeSize> {
        let mut last = None;
        while let Some((_, to)) = self.ahead.pop_front_if(|(at, _)| *at <= end) {
            last = Some(to);
        }
        last
    }
}

impl Engine {
    /// An operator wants the volume to be that long.
    pub(crate) fn start_grow(&mut self, id: CommandId, to: VolumeSize) {
        if let Some(refusal) = self.refusal_unless_serving() {
            return self.answer(id, Err(refusal));
        }
        let size = self.config.size;
        let refusal = match &mut self.growth.asked {
            _ if to < size => CommandError::Refused {
                reason: format!(
                    "a volume does not shrink: it has {} bytes; make a smaller one and copy",
                    size.bytes()
                ),
            },
            _ if to == size => return self.answer(id, Ok(Answer::Done)),
            Some(asked) if asked.to == to => return asked.ids.push(id),
            Some(asked) => CommandError::Growing { to: asked.to },
            none => {
                let (ids, begun) = (vec![id], false);
                *none = Some(Asked { ids, to, begun });
                return;
            }
        };
        self.answer(id, Err(refusal));
    }

    pub(crate) fn growth_due(&self) -> Option<Tick> {
        match self.growth.below.as_ref()?.step {
            Step::Refused { retry_at } => Some(retry_at),
            Step::Asked | Step::Done => None,
        }
    }

    pub(crate) fn pump_growth(&mut self) {
        if self.growth_due().is_some_and(|due| self.now >= due) {
            // Whoever still needs it asks again.
            self.growth.below = None;
        }
        let moving = self.hand_over.is_some() || self.straight.road == Road::Jumping;
        let serving = matches!(self.phase, Phase::Serving);
        let has_room = self.log_has_room();
        match &mut self.growth.asked {
            Some(_) if self.meta.role != Role::Primary => {
                for id in self.growth.take_asked() {
                    self.answer(id, Err(CommandError::NotPrimary));
                }
            }
            Some(asked) if serving && !moving && has_room && !asked.begun => {
                asked.begun = true;
                let to = asked.to;
                self.ask_disk(None, self.config.size, to);
            }
            _ => {}
        }
    }

    fn ask_disk(&mut self, at: Option<Lsn>, from: VolumeSize, to: VolumeSize) {
        let from = if museum::is(Mutant::TailNotCleared) {
            to
        } else {
            from
        };
        let id = self.io(Io::Growth { at, to });
        self.effects.push_back(Effect::GrowVolume { id, from, to });
    }

    /// Whether the disk is long enough for a volume that grows to `to` at this place in history; sees to it that it will be.
    pub(crate) fn disk_is_long_enough(&mut self, at: Lsn, from: VolumeSize, to: VolumeSize) -> bool {
        if from >= to {
            return true;
        }
        match &self.growth.below {
            Some(below) if below.at == at && below.to == to => matches!(below.step, Step::Done),
            _ => {
                let step = Step::Asked;
                self.growth.below = Some(Below { at, to, step });
                self.ask_disk(Some(at), from, to);
                false
            }
        }
    }

    /// The disk has answered: to the log that waits for it, or to a primary's own wish.
    pub(crate) fn disk_grew(&mut self, at: Option<Lsn>, to: VolumeSize, result: Result<(), DiskError>) {
        let Some(at) = at else {
            return self.own_disk_grew(to, result);
        };
        let Some(below) = self.growth.below.as_mut().filter(|b| b.at == at && b.to == to) else {
            return;
        };
        match result {
            Ok(()) => below.step = Step::Done,
            Err(error) => {
                let retry_at = self.now.after_millis(RETRY_MILLIS);
                below.step = Step::Refused { retry_at };
                let refused = Some((to, error));
                if self.growth.refused != refused {
                    self.growth.refused = refused;
                    let reason = self.growth.trouble().unwrap_or_default();
                    self.notice(Notice::CannotGrow { to, reason });
                }
            }
        }
    }

    fn own_disk_grew(&mut self, to: VolumeSize, result: Result<(), DiskError>) {
        let serving = matches!(self.phase, Phase::Serving);
        let has_room = self.log_has_room();
        let Some(asked) = self.growth.asked.as_mut().filter(|a| a.begun && a.to == to) else {
            return;
        };
        match (result, self.straight.road) {
            (Err(error), _) => {
                let node = self.config.node.clone();
                let reason = format!("the disk on {node} cannot grow: {error}");
                for id in self.growth.take_asked() {
                    let reason = reason.clone();
                    self.answer(id, Err(CommandError::Failed { reason }));
                }
            }
            // A takeover came between: it is done again in the new epoch.
            (Ok(()), _) if !serving => asked.begun = false,
            (Ok(()), Road::Jumping) => asked.begun = false,
            (Ok(()), Road::Logged | Road::Closing { .. } | Road::Opening { .. }) if !has_room => {
                asked.begun = false;
            }
            (Ok(()), Road::Straight) => {
                self.meta.size = to;
                self.save(Then::Grown);
            }
            (Ok(()), Road::Logged | Road::Closing { .. } | Road::Opening { .. }) => {
                let from = self.config.size;
                self.seal();
                self.log.builder.push(&Record::Grow { from, to });
                self.seal();
                let at = self.log.sealed.lsn;
                self.growth.logged = Some((at, to));
                self.log.want_flush(at);
                if museum::is(Mutant::GrownBeforeLogged) {
                    self.growth.logged = None;
                    self.grown(at, to);
                }
            }
        }
    }

    /// How long the volume is where the log is loaded: a primary's own records are before they are durable.
    pub(crate) fn size_loaded(&self) -> VolumeSize {
        self.growth.logged.map_or(self.config.size, |(_, to)| to)
    }

    /// More of the log is durable: perhaps what the volume has grown by.
    pub(crate) fn settle_growth(&mut self) {
        if let Some((at, to)) = self.growth.logged
            && at <= self.marks.committed()
        {
            self.growth.logged = None;
            self.grown(at, to);
        }
    }

    /// The volume is that long, behind the batch that ends at `at`.
    pub(crate) fn grown(&mut self, at: Lsn, to: VolumeSize) {
        self.growth.ahead.push_back((at, to));
        self.set_size(to);
        self.grow_tracks();
        self.notice(Notice::Grown { to });
        // One that was deposed meanwhile has a growth that nobody may ever follow.
        let holds = self.meta.role == Role::Primary;
        if holds && self.growth.asked.as_ref().is_some_and(|asked| asked.to == to) {
            for id in self.growth.take_asked() {
                self.answer(id, Ok(Answer::Done));
            }
        }
    }

    /// The length is durable without a log.
    pub(crate) fn grown_straight(&mut self) {
        let to = self.meta.size;
        self.straight.changes += 1;
        self.set_size(to);
        self.grow_tracks();
        self.straight.forget_marks();
        self.notice(Notice::Grown { to });
        if self.meta.role == Role::Primary {
            for id in self.growth.take_asked() {
                self.answer(id, Ok(Answer::Done));
            }
        }
    }

    fn set_size(&mut self, to: VolumeSize) {
        self.config.size = to;
        self.growth.below = None;
        self.growth.refused = None;
    }

    /// The log is applied once more from `written_back` on, growths and all.
    pub(crate) fn forget_growth(&mut self) {
        self.growth.forget();
        self.config.size = self.meta.size;
    }

    /// The log begins anew, in a volume of this length.
    pub(crate) fn begin_size(&mut self, size: VolumeSize) {
        self.growth.forget();
        self.meta.size = size;
        self.set_size(size);
    }
}
