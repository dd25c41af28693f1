//! How does a replica become primary when nobody can grant it the role?
//!
//! By force, and only by an operator's word: `TakeOver` names an epoch that was given out once, above everything heard of here.
//! The replica must be whole; it reads what it has not replayed, to see that its log is sound, and until then nothing has changed.
//! Then it gives up its source, makes its epoch durable, replays its whole own log, and serves. What others have behind its end
//! is not part of its history: guests lose it. Whether the old primary really is gone makes no difference to these rules; if it
//! is not, both write until it hears of the newer term.

use bytes::Bytes;
use model::{Epoch, Lsn, Role};

use crate::engine::{Engine, Io, Phase};
use crate::event::{Answer, CommandError, CommandId, Effect, Notice};
use crate::lineage::Position;
use crate::meta::SyncState;
use crate::record::{Batch, BatchError};

/// A takeover that waits until the log it would stand on is known to be sound.
#[derive(Debug)]
pub(crate) struct Proof {
    epoch: Epoch,
    asked: Vec<CommandId>,
    /// Sound up to here.
    at: Position,
    /// To be read up to here: what came later was looked at when it came.
    up_to: Lsn,
    /// Length of the next batch, when the last read ended within it.
    batch_bytes: usize,
}

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
        match &mut self.proof {
            Some(proof) if proof.epoch == epoch => proof.asked.push(id),
            Some(_) => self.answer(id, Err(CommandError::Busy)),
            None => {
                self.proof = Some(Proof {
                    epoch,
                    asked: vec![id],
                    at: self.replay.loaded,
                    up_to: self.marks.committed(),
                    batch_bytes: 0,
                });
                self.prove();
            }
        }
    }

    /// Reads on, or takes over when everything is read.
    fn prove(&mut self) {
        let Some(proof) = &mut self.proof else { return };
        // What was replayed meanwhile may be trimmed already.
        if self.replay.loaded.lsn > proof.at.lsn {
            proof.at = self.replay.loaded;
        }
        let (at, up_to, batch_bytes) = (proof.at.lsn, proof.up_to, proof.batch_bytes);
        if at >= up_to {
            return self.proved();
        }
        let bytes_max = self.read_bytes().max(batch_bytes);
        let id = self.io(Io::Prove { at, bytes_max });
        self.effects.push_back(Effect::ReadLog { id, at, bytes_max });
    }

    pub(crate) fn proof_read(&mut self, at: Lsn, bytes: Bytes, bytes_max: usize) {
        let Some(proof) = &mut self.proof else { return };
        if self.replay.loaded.lsn > at {
            return self.prove();
        }
        let length = bytes.len();
        let mut rest = bytes;
        while proof.at.lsn < proof.up_to {
            match Batch::decode_next(&rest, self.config.volume, proof.at, Epoch::NONE) {
                Ok(batch) => {
                    rest = rest.slice(batch.header.batch_bytes as usize..);
                    proof.at = batch.end;
                }
                Err(BatchError::Incomplete { need, .. }) if length == bytes_max => {
                    proof.batch_bytes = need;
                    break;
                }
                Err(error) => {
                    let bad = proof.at.lsn;
                    return self.defective_log(bad, error.to_string());
                }
            }
        }
        self.prove();
    }

    fn proved(&mut self) {
        let Some(Proof { epoch, asked, .. }) = self.proof.take() else {
            return;
        };
        // Much may have been heard meanwhile.
        if let Some(refusal) = self.refusal_of_take_over(epoch) {
            return asked
                .into_iter()
                .for_each(|id| self.answer(id, Err(refusal.clone())));
        }
        self.taking_over.extend(asked);
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
            Phase::Scanning(_)
            | Phase::Promoting { .. }
            | Phase::Retracting { .. }
            | Phase::Failed { .. } => {
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

    /// The replica is out of service: what was asked for has not come about, unless it is on its way to the disk.
    pub(crate) fn fail_take_overs(&mut self, damaged: bool, reason: &str) {
        let asked = self.proof.take().map(|proof| proof.asked).unwrap_or_default();
        for id in asked {
            let refusal = self.refusal_of_failed(damaged, reason);
            self.answer(id, Err(refusal));
        }
        for id in std::mem::take(&mut self.taking_over) {
            let reason = reason.to_owned();
            self.answer(id, Err(CommandError::Undecided { reason }));
        }
    }

    /// The answer to a takeover of a replica that has failed.
    pub(crate) fn refusal_of_failed_take_over(
        &self,
        epoch: Epoch,
        damaged: bool,
        reason: &str,
    ) -> CommandError {
        if self.meta.role == Role::Primary && self.meta.epoch.term == epoch.term {
            let reason = reason.to_owned();
            return CommandError::Undecided { reason };
        }
        self.refusal_of_failed(damaged, reason)
    }

    fn refusal_of_failed(&self, damaged: bool, reason: &str) -> CommandError {
        let reason = reason.to_owned();
        match damaged {
            true => CommandError::NotReady {
                node: self.config.node.clone(),
                reason: format!("{reason}; make this replica anew, or take over on another"),
            },
            false => CommandError::NotInService { reason },
        }
    }

    /// Whether this replica was the last primary that it knows of, and gave the role to nobody.
    pub(crate) fn has_stepped_down(&self) -> bool {
        let last = self.meta.lineage.last();
        let wrote_last = last.is_some_and(|s| s.writer == self.config.node && s.epoch == self.meta.epoch);
        wrote_last && self.meta.role == Role::Secondary && self.meta.granted.is_none()
    }

    /// Whether nobody has served in the term of this takeover yet: a disk that refused may have needed a restart in between.
    pub(crate) fn is_new_take_over(&self) -> bool {
        let epoch = self.meta.epoch;
        let first = Epoch { start: 1, ..epoch };
        let begun = |stretch: &crate::Stretch| stretch.epoch.term == epoch.term;
        let without_log = self.straight.road.is_straight() && epoch != first;
        first.is_takeover() && !without_log && !self.meta.lineage.iter().any(begun)
    }

    /// This replica serves: whoever took it there is told, and everybody what was left behind.
    pub(crate) fn tell_of_take_over(&mut self, is_new: bool) {
        let (epoch, from) = (self.meta.epoch, self.log.sealed);
        if is_new {
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
