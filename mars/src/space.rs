//! What does a replica do when the room for its log runs short? It feeds `pressure.rs` with figures and does what comes out.
//!
//! # An append that does not fit
//!
//! The file system of the log may be full, whoever filled it. The driver then takes back what it wrote of that append, says
//! [`Event::LogFull`](crate::Event::LogFull), and drops everything that is appended until the log is reset. Nothing of it was
//! answered, shipped or written back, so all of it is *retracted* here: positions go back to what is in the log, guests' requests go
//! back to where they waited, and what memory shows beyond the log is forgotten by applying the log once more.
//!
//! * A primary then goes straight, if it may; else guests' changes wait. Nobody gets an error.
//! * A replica cuts its log to what is there, asks its source for no more log, and goes on with everything else.
//!
//! # A flush that does not fit
//!
//! What was appended was answered and sent, so nothing is taken back: the driver keeps it and flushes it again and again. Changes and
//! flushes wait meanwhile, which is the level *stalled*: a way past the log would have to begin with what is not durable in it.
//!
//! Both ask now and then whether there is room, and go on by themselves.

use model::{Lsn, Mode, Role, Tick};

use crate::engine::{Engine, Io, Phase};
use crate::event::{Answer, CommandError, CommandId, Effect, GuestRequest, Notice, RequestTag};
use crate::follow::{CutStep, State};
use crate::pressure::{self, LOG_BYTES_MIN, Level, Reason, Room};
use crate::replay::Replay;
use crate::shadow::Shadow;
use crate::writeback::Round;

/// So often it is asked whether there is room.
const ASK_MILLIS: u64 = 1000;

/// After an append that did not fit, nobody asks for so long; longer each time that it comes soon after the last.
const REST_MILLIS_MIN: u64 = 1000;
const REST_MILLIS_MAX: u64 = 60_000;

/// Room for so much is room, unless the budget is smaller.
const ROOM_BYTES: u64 = 16 << 20;

/// What is known of the room for the log.
#[derive(Debug, Default)]
pub(crate) struct Space {
    pub level: Level,
    /// Since when.
    pub since: Tick,
    /// An append did not fit, and there has been no room since.
    pub full: bool,
    /// A flush did not fit; the driver tries it again.
    pub unflushed: bool,
    /// Positions were taken back; memory may show what is in no log.
    pub retracted: bool,
    ask_at: Tick,
    asking: bool,
    rest_millis: u64,
    had_room_at: Tick,
}

impl Engine {
    /// Log kept.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.sealed.lsn.since(self.marks.trimmed())
    }

    /// Whether a member that has the log up to `committed` may be waited for, also one that was dropped: it has caught up.
    pub(crate) fn may_be_waited_for(&self, committed: Lsn) -> bool {
        !self.does_without_log()
            && self.marks.appended().since(committed) <= self.config.log_bytes_max / 4
            && committed >= self.meta.trimmed
    }

    fn room(&self) -> Room {
        let serves = matches!(
            self.phase,
            Phase::Serving | Phase::Retracting { .. } | Phase::Promoting { .. }
        );
        // Who does not serve gives up as much as its source lets it.
        let log_bytes = match serves {
            true => self.log_bytes(),
            false => 0,
        };
        // A volume with one replica has no log for want of somebody to send it to.
        let alone = self.is_alone() && self.straight.road.is_straight();
        Room {
            log_bytes,
            log_bytes_max: match serves && !alone {
                true => self.config.log_bytes_max,
                false => 2 * LOG_BYTES_MIN,
            },
            full: self.has_no_room() && !alone,
            // In sync mode a flush is answered by what replicas have of the log. And what is not durable in the log is on no disk.
            may_do_without: serves
                && !self.space.unflushed
                && !matches!(self.meta.settings.mode, Mode::Sync { .. }),
        }
    }

    /// Whether the log takes nothing, as far as is known.
    pub(crate) fn has_no_room(&self) -> bool {
        self.space.full || self.space.unflushed
    }

    /// A flush has succeeded.
    pub(crate) fn flush_fits(&mut self) {
        if std::mem::take(&mut self.space.unflushed) {
            self.pump_guests();
        }
    }

    /// Whether the log takes one more change of a guest.
    pub(crate) fn log_has_room(&self) -> bool {
        if self.straight.road.is_straight() {
            return true;
        }
        let budget = self.config.log_bytes_max.max(LOG_BYTES_MIN);
        !self.has_no_room() && self.log_bytes() < budget.saturating_mul(2)
    }

    /// Finds out the level, and tells when it is another; asks for room when there was none.
    pub(crate) fn pump_space(&mut self) {
        let level = self.space.level.next(&self.room());
        if level != self.space.level {
            let before = std::mem::replace(&mut self.space.level, level);
            self.space.since = self.now;
            self.notice(Notice::Pressure {
                before,
                level,
                log_bytes: self.log_bytes(),
            });
        }
        let settled = matches!(self.phase, Phase::Serving | Phase::Following);
        if self.space.full && settled && !self.space.asking && self.now >= self.space.ask_at {
            self.space.asking = true;
            let bytes = (self.config.log_bytes_max / 4).min(ROOM_BYTES);
            let id = self.io(Io::RoomAsked);
            self.effects.push_back(Effect::AskRoom { id, bytes });
        }
    }

    pub(crate) fn space_due(&self) -> Option<Tick> {
        let settled = matches!(self.phase, Phase::Serving | Phase::Following);
        (self.space.full && settled && !self.space.asking).then_some(self.space.ask_at)
    }

    /// Whether there is room for the log again.
    pub(crate) fn room_told(&mut self, there_is: bool) {
        self.space.asking = false;
        self.space.ask_at = self.now.after_millis(ASK_MILLIS);
        if !there_is || self.space.retracted {
            return;
        }
        self.space.full = false;
        self.space.had_room_at = self.now;
        if matches!(self.phase, Phase::Serving) && !self.straight.road.is_straight() {
            self.begin_stretch_once();
        }
        self.pump_guests();
    }

    /// A primary that begins to serve finds that its contents change without a log although there are others: for lack of room,
    /// as far as is known.
    pub(crate) fn assume_no_room(&mut self) {
        if !self.space.full {
            self.space.full = true;
            self.space.ask_at = self.now;
        }
    }

    /// Another budget for the log of this replica.
    pub(crate) fn set_log_budget(&mut self, id: CommandId, bytes: u64) {
        self.config.log_bytes_max = bytes;
        self.answer(id, Ok(Answer::Done));
    }

    /// What guests may write so that the log does not outgrow its budget. `None`: as much as they like, because there is room, or
    /// because slowing them would help nobody.
    pub(crate) fn space_pace(&self) -> Option<u64> {
        if !matches!(self.space.level, Level::Throttled | Level::Dropping) {
            return None;
        }
        let Reason::Peer(node) = self.horizon().reason else {
            return None;
        };
        // One that takes nothing in will be dropped; nobody is slowed for it.
        let peer = self.peers.get(&node)?;
        let takes = self.sent_to(peer).is_some() && !peer.paused.stops_fetch();
        takes.then(|| pressure::pace(&self.room(), peer.drain.per_second(self.now)))?
    }

    /// The append at `at` did not fit, and whatever was appended behind it is dropped.
    pub(crate) fn log_full(&mut self, at: Lsn) {
        self.log_written(at);
        let soon = self.now < self.space.had_room_at.after_millis(REST_MILLIS_MAX);
        let twice = (self.space.rest_millis * 2).min(REST_MILLIS_MAX);
        self.space.rest_millis = if soon { twice } else { 0 }.max(REST_MILLIS_MIN);
        self.space.full = true;
        self.space.ask_at = self.now.after_millis(self.space.rest_millis);
        self.space.retracted = true;
        // Positions come again with other contents: a digest under way must not be taken for that of one version.
        self.straight.changes += 1;
        let back = self.log.retract();
        let end = self.log.sealed.lsn;
        // Who began to write there has not.
        self.meta.lineage.retain(|stretch| stretch.from.lsn < end);
        self.tracks.retract(self.log.sealed);
        self.growth.retract(end);
        self.snapshots.retract(end);
        if matches!(self.round, Round::Committing { end: round } if round.lsn > end) {
            self.round = Round::Idle;
        }
        match (&self.phase, self.meta.role) {
            (Phase::Serving, _) => self.retract(back, true),
            (Phase::Promoting { .. }, _) => self.retract(back, false),
            // Whoever waited is told where to go, once this is durably secondary.
            (Phase::Demoting, _) => {}
            (_, Role::Secondary) => self.cut_to_what_fits(),
            (_, Role::Primary) => {}
        }
    }

    /// Guests wait until memory shows what is in the log, and nothing else.
    fn retract(&mut self, back: Vec<(RequestTag, GuestRequest)>, then_serve: bool) {
        self.phase = Phase::Retracting {
            then_serve,
            resetting: false,
        };
        for (tag, request) in back.into_iter().rev() {
            self.guests.waiting.push_front((tag, request));
        }
        self.verify = None;
        for link in self.ship_links() {
            self.close_ship(link);
        }
        let reason = "there is no room for its log".to_owned();
        self.give_up_any_hand_over(CommandError::NotInService { reason });
    }

    /// A replica whose log's end was taken back cuts what may be left of it, and begins again where it ends now.
    pub(crate) fn cut_to_what_fits(&mut self) {
        if !self.space.retracted || self.follow.is_cutting() {
            return;
        }
        self.drop_source();
        self.follow.forget_source(self.now);
        let to = self.log.sealed;
        let step = CutStep::Wanted;
        self.follow.state = State::Cutting { to, step };
    }

    pub(crate) fn pump_retract(&mut self) {
        let Phase::Retracting {
            then_serve,
            resetting,
        } = self.phase
        else {
            return;
        };
        if self.space.retracted {
            if !resetting && self.is_quiet() {
                self.phase = Phase::Retracting {
                    then_serve,
                    resetting: true,
                };
                let id = self.io(Io::Retracted);
                let at = self.log.sealed.lsn;
                let keep = true;
                self.effects.push_back(Effect::ResetLog { id, at, keep });
            }
            return;
        }
        if !then_serve {
            self.phase = Phase::Promoting { saved: true };
            return;
        }
        let end = self.log.sealed;
        self.log.want_flush(end.lsn);
        let loaded = self.replay.loaded == end && !self.snapshots.holds_load();
        if loaded && self.marks.committed() == end.lsn {
            self.phase = Phase::Serving;
            self.find_road();
            self.pump_guests();
        }
    }

    /// The log ends where it says: what is in it is applied once more.
    pub(crate) fn log_retracted(&mut self) {
        if !matches!(self.phase, Phase::Retracting { .. }) {
            // A newer primary was heard of meanwhile: the whole replica begins again.
            return;
        }
        self.shadow = Shadow::default();
        self.round = Round::Idle;
        self.round_due = None;
        self.replay = Replay::from(self.meta.written_back);
        self.forget_growth();
        self.snapshots.forget();
        self.space.retracted = false;
    }

    /// Whether changes should go straight because there is no room for a log.
    pub(crate) fn does_without_log(&self) -> bool {
        self.space.level == Level::Unlogged
    }

    /// Since when they do, or are about to.
    pub(crate) fn unlogged_since(&self) -> Option<Tick> {
        self.does_without_log().then_some(self.space.since)
    }

    /// Before a log is given up: what each peer lacks is remembered from here on, and nobody waits for peers.
    pub(crate) fn leave_log_to_maps(&mut self) {
        let held_bytes = self.log_bytes();
        let nodes: Vec<model::NodeId> = self.peers.keys().cloned().collect();
        for node in nodes {
            self.begin_track(&node);
            let counted = self.peers.get_mut(&node).is_some_and(|peer| {
                let counted = peer.counts;
                peer.counts = false;
                counted
            });
            if counted {
                let peer = node;
                self.notice(Notice::PeerDropped { peer, held_bytes });
            }
        }
        self.be_short_without_log();
    }
}
