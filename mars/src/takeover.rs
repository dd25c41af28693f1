//! How does a replica become primary when nobody can grant it the role?
//!
//! By force, and only by an operator's word: `TakeOver` names an epoch that was given out once, above everything heard of here.
//! The replica must be whole; it gives up its source, replays its whole own log, makes its epoch durable, and serves. What
//! others have behind its end is not part of its history: guests lose it. Whether the old primary really is gone makes no
//! difference to these rules; if it is not, both write until it hears of the newer term.

use model::{Epoch, Lsn, Role};

use crate::engine::{Engine, Phase};
use crate::event::{Answer, CommandError, CommandId, Notice};
use crate::meta::SyncState;

impl Engine {
    pub(crate) fn start_take_over(&mut self, id: CommandId, epoch: Epoch) {
        if self.meta.role == Role::Primary && self.meta.epoch.term == epoch.term {
            // Asked again, perhaps because the answer was lost.
            return match self.phase {
                Phase::Serving => self.answer(id, Ok(Answer::Done)),
                _ => self.taking_over.push(id),
            };
        }
        if let Some(refusal) = self.refusal_of_take_over(epoch) {
            return self.answer(id, Err(refusal));
        }
        self.taking_over.push(id);
        match self.phase {
            // What has been accepted in the old term stays in it.
            Phase::Serving => self.seal(),
            _ => self.stop_following(),
        }
        self.follow.horizon = Lsn(0);
        self.meta.role = Role::Primary;
        self.meta.granted = None;
        self.begin_promotion(epoch);
    }

    fn refusal_of_take_over(&self, epoch: Epoch) -> Option<CommandError> {
        let heard = self.meta.epoch;
        if !epoch.is_takeover() || epoch.term <= heard.term {
            return Some(CommandError::OldEpoch { epoch, heard });
        }
        let not_ready = |reason: String| {
            let node = self.config.node.clone();
            Some(CommandError::NotReady { node, reason })
        };
        match self.phase {
            Phase::Following | Phase::Serving => {}
            Phase::Demoting => return Some(CommandError::Busy),
            Phase::Scanning(_) | Phase::Promoting { .. } | Phase::Failed { .. } => {
                let reason = "recovery is under way; ask again when it has ended".to_owned();
                return Some(CommandError::NotInService { reason });
            }
        }
        if self.hand_over.is_some() {
            return Some(CommandError::Busy);
        }
        if self.meta.sync != SyncState::Whole {
            let percent = self.synced().0 * 100 / self.sectors().0;
            return not_ready(format!(
                "its full sync is at {percent} %, so its disk is no version; wait for the sync, or take over on a whole replica"
            ));
        }
        if self.follow.is_cutting() {
            return not_ready("it is dropping the end of its log; ask again in a moment".to_owned());
        }
        None
    }

    /// Whether this replica was the last primary that it knows of, and gave the role to nobody.
    pub(crate) fn has_stepped_down(&self) -> bool {
        let last = self.meta.lineage.last();
        let wrote_last = last.is_some_and(|s| s.writer == self.config.node && s.epoch == self.meta.epoch);
        wrote_last && self.meta.role == Role::Secondary && self.meta.granted.is_none()
    }

    /// This replica serves: whoever took it there is told, and everybody what was left behind.
    pub(crate) fn tell_of_take_over(&mut self) {
        let (epoch, from) = (self.meta.epoch, self.log.sealed);
        if epoch.is_takeover() {
            let missing_bytes = self.follow.known_committed.since(from.lsn);
            self.notice(Notice::TookOver {
                epoch,
                from,
                missing_bytes,
            });
        }
        for id in std::mem::take(&mut self.taking_over) {
            self.answer(id, Ok(Answer::TookOver { epoch, from }));
        }
    }
}
