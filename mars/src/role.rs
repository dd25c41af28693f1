//! How does the primary role move, and why are there never two writers?
//!
//! Planned hand-over: *drain* until the successor has nearly everything; close the *gate*: writes and flushes wait, reads
//! pass; once the successor has everything durably, make *durable here* that the role is given away in the next term; only then
//! *grant* it. So at every instant at most one replica may serve: the old one until its demotion is durable, the new one
//! after. A successor that misses the grant asks its old source and is told again. Until the demotion is durable the hand-over
//! can be given up, and the guests go on here.
//!
//! Stepping down is the same with nobody as successor: until a replica takes over (`takeover.rs`), nobody serves.

use model::{Epoch, Lsn, NodeId, Role, Tick};

use crate::engine::{Engine, Link, Phase, Then};
use crate::event::{Answer, CommandError, CommandId, Effect, LinkId, Notice};
use crate::lineage::Position;
use crate::message::Message;
use crate::meta::{Granted, SyncState};
use crate::museum::{self, Mutant};
use crate::relay::SUMMON_MILLIS_MAX;
use crate::settings::Settings;
use crate::straight::Road;
use crate::verify::VerifyEnd;

/// The gate closes once the successor lacks no more than this.
const GATE_LAG_BYTES: u64 = 1 << 20;

/// A successor that does not come that near in this time is not ready.
const DRAIN_MILLIS_MAX: u64 = 30_000;

/// A primary that steps down for nobody waits so long for those who follow it.
const STEP_DOWN_MICROS_MAX: u64 = 5_000_000;

/// A hand-over under way.
#[derive(Debug)]
pub(crate) struct HandOver {
    pub id: CommandId,
    /// Who gets the role; nobody when the primary just steps down.
    to: Option<NodeId>,
    gate_micros_max: u64,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The successor gets its log from another replica and is asked to follow this one, or it has just come and not yet said what it has.
    Awaiting { until: Tick, asked: Option<LinkId> },
    /// The successor catches up; guests notice nothing.
    Draining { until: Tick },
    /// Guests' writes wait.
    Gated { since: Tick },
    /// The demotion is being made durable; there is no way back.
    Granting { gate_micros: u64 },
}

impl Engine {
    /// Where the primary is thought to be.
    pub(crate) fn primary_hint(&self) -> Option<NodeId> {
        if self.meta.role == Role::Primary {
            return Some(self.config.node.clone());
        }
        let granted = self.meta.granted.as_ref().map(|granted| granted.to.clone());
        self.follow
            .path
            .first()
            .cloned()
            .or(self.follow.hint.clone())
            .or(granted)
    }

    /// Whether a hand-over holds guests' writes back.
    pub(crate) fn is_gated(&self) -> bool {
        self.hand_over
            .as_ref()
            .is_some_and(|h| matches!(h.step, Step::Gated { .. } | Step::Granting { .. }))
    }

    pub(crate) fn hand_over_due(&self) -> Option<Tick> {
        self.hand_over
            .as_ref()
            .and_then(|hand_over| match hand_over.step {
                Step::Awaiting { until, .. } | Step::Draining { until } => Some(until),
                Step::Gated { since } => Some(since.after_micros(hand_over.gate_micros_max)),
                Step::Granting { .. } => None,
            })
    }

    /// Why nothing can be asked of this node as primary now.
    fn refusal_as_primary(&self) -> Option<CommandError> {
        match self.hand_over {
            Some(_) => Some(CommandError::Busy),
            None => self.refusal_unless_serving(),
        }
    }

    /// Why this node is not the primary that serves, if it is not.
    pub(crate) fn refusal_unless_serving(&self) -> Option<CommandError> {
        match self.phase {
            Phase::Serving => None,
            Phase::Following | Phase::Demoting => Some(CommandError::NotPrimary),
            _ => Some(CommandError::NotInService {
                reason: "recovery is under way".to_owned(),
            }),
        }
    }

    pub(crate) fn start_hand_over(&mut self, id: CommandId, to: NodeId, gate_micros_max: u64) {
        let refusal = if !self.config.members.contains(&to) {
            Some(CommandError::NotMember { node: to.clone() })
        } else {
            self.refusal_as_primary()
        };
        if let Some(refusal) = refusal {
            return self.answer(id, Err(refusal));
        }
        if to == self.config.node {
            return self.answer(id, Ok(Answer::Done));
        }
        if self.meta.epoch.next_term().is_takeover() {
            let reason = "no hand-over has a term left before the next takeover: take over there".to_owned();
            return self.answer(id, Err(CommandError::NotReady { node: to, reason }));
        }
        let far = !self.does_without_log()
            && self
                .peers
                .get(&to)
                .is_some_and(|peer| peer.via.is_some() || (peer.link.is_some() && !peer.heard));
        let step = if far {
            let until = self.now.after_millis(SUMMON_MILLIS_MAX);
            Step::Awaiting { until, asked: None }
        } else if let Some(reason) = self.reason_not_ready(&to) {
            return self.answer(id, Err(CommandError::NotReady { node: to, reason }));
        } else {
            self.drain_from_now()
        };
        self.hand_over = Some(HandOver {
            id,
            to: Some(to),
            gate_micros_max,
            step,
        });
    }

    fn drain_from_now(&self) -> Step {
        let until = self.now.after_millis(DRAIN_MILLIS_MAX);
        Step::Draining { until }
    }

    /// Steps down for nobody: guests wait at once, what is connected gets everything if it can, then the role is given up.
    pub(crate) fn start_step_down(&mut self, id: CommandId) {
        match self.refusal_as_primary() {
            Some(CommandError::NotPrimary) => self.answer(id, Ok(Answer::Done)),
            Some(refusal) => self.answer(id, Err(refusal)),
            None => {
                self.hand_over = Some(HandOver {
                    id,
                    to: None,
                    gate_micros_max: STEP_DOWN_MICROS_MAX,
                    step: Step::Gated { since: self.now },
                });
            }
        }
    }

    /// Why a member could not become primary now.
    fn reason_not_ready(&self, to: &NodeId) -> Option<String> {
        let peer = self.peers.get(to)?;
        if self.does_without_log() {
            return Some(
                "contents change without a log, for lack of room, and it lacks what has changed".to_owned(),
            );
        }
        if self.sent_to(peer).is_none() {
            return Some("it is not connected to the primary".to_owned());
        }
        let paused = peer.paused.holding(peer.whole);
        if paused.is_full() {
            return Some("there is no room for its log".to_owned());
        }
        if paused.any() {
            return Some(format!(
                "an operator has paused its {paused}; `poolctl volume resume` on {to} lets it go on"
            ));
        }
        if !peer.whole && !museum::is(Mutant::GrantedUnwhole) {
            let percent = peer.synced.0 * 100 / self.sectors().0;
            return Some(format!("its full sync is at {percent} %"));
        }
        None
    }

    pub(crate) fn pump_hand_over(&mut self) {
        let Some(HandOver {
            to,
            step,
            gate_micros_max,
            ..
        }) = &self.hand_over
        else {
            return;
        };
        let (to, step, gate_micros_max) = (to.clone(), *step, *gate_micros_max);
        if matches!(step, Step::Granting { .. }) {
            return;
        }
        let Some(to) = to else {
            return self.pump_step_down(step, gate_micros_max);
        };
        if let Step::Awaiting { until, asked } = step {
            return self.await_successor(to, until, asked);
        }
        if let Some(reason) = self.reason_not_ready(&to) {
            return self.give_up_hand_over(CommandError::NotReady { node: to, reason });
        }
        let Some(peer) = self.peers.get(&to) else {
            return self.give_up_hand_over(CommandError::NotMember { node: to });
        };
        let (peer_committed, peer_replayed) = (peer.committed, peer.replayed);
        let is_as_long = peer.size == Some(self.config.size);
        match step {
            Step::Draining { until } => {
                // What the successor has not on its disk must fit into its shadow, or its guests would wait for its disk.
                let near = self.log.sealed.lsn.since(peer_committed) <= GATE_LAG_BYTES
                    && !self.growth.is_under_way()
                    && is_as_long
                    && self.log.sealed.lsn.since(peer_replayed) <= self.config.shadow_bytes_max / 2;
                if near {
                    self.set_step(Step::Gated { since: self.now });
                    self.pump_hand_over();
                } else if self.now >= until && !is_as_long {
                    let bytes = self.config.size.bytes();
                    let reason = format!("its disk has not grown to {bytes} bytes yet");
                    self.give_up_hand_over(CommandError::NotReady { node: to, reason });
                } else if self.now >= until {
                    self.give_up_hand_over(CommandError::TimedOut { node: to });
                }
            }
            Step::Gated { since } => {
                self.seal();
                let end = self.log.sealed;
                self.log.want_flush(end.lsn);
                let everything_is_there = self.marks.committed() == end.lsn
                    && (peer_committed == end.lsn || museum::is(Mutant::GrantedBehind));
                let gate_micros = self.now.micros_since(since);
                if everything_is_there && self.log.nobody_waits() {
                    let epoch = self.meta.epoch.next_term();
                    self.meta.epoch = epoch;
                    self.meta.granted = Some(Granted { to, epoch, at: end });
                    self.demote(gate_micros);
                } else if gate_micros >= gate_micros_max {
                    self.note_gate(gate_micros);
                    self.give_up_hand_over(CommandError::TimedOut { node: to });
                }
            }
            Step::Awaiting { .. } | Step::Granting { .. } => {}
        }
    }

    /// Asks a successor that follows another replica, until it has come.
    fn await_successor(&mut self, to: NodeId, until: Tick, asked: Option<LinkId>) {
        let Some(peer) = self.peers.get(&to) else {
            return self.give_up_hand_over(CommandError::NotMember { node: to });
        };
        let via = peer.via;
        if self.does_without_log() {
            let reason = self.reason_not_ready(&to).unwrap_or_default();
            self.give_up_hand_over(CommandError::NotReady { node: to, reason });
        } else if self.sent_to(peer).is_some() && peer.heard {
            self.set_step(self.drain_from_now());
            self.pump_hand_over();
        } else if self.now >= until {
            let source = via.and_then(|link| self.links.get(&link));
            let reason = match source {
                Some(Link { peer: source, .. }) => {
                    format!(
                        "it gets its log from {source}, and did not come to this primary when it was asked"
                    )
                }
                None => self.reason_not_ready(&to).unwrap_or_default(),
            };
            self.give_up_hand_over(CommandError::NotReady { node: to, reason });
        } else if via.is_some() && via != asked {
            self.summon(&to);
            self.set_step(Step::Awaiting { until, asked: via });
        }
    }

    fn pump_step_down(&mut self, step: Step, gate_micros_max: u64) {
        let Step::Gated { since } = step else { return };
        self.seal();
        let end = self.log.sealed.lsn;
        self.log.want_flush(end);
        let gate_micros = self.now.micros_since(since);
        let followers_have_it = self
            .peers
            .values()
            .all(|peer| self.sent_to(peer).is_none() || !peer.whole || peer.committed == end);
        let settled = self.settle_straight();
        let settled = settled && !self.growth.is_under_way();
        let here = settled && self.marks.committed() == end && self.log.nobody_waits_here();
        let all_is_well = followers_have_it && self.log.wait_replicas.is_empty();
        if here && (all_is_well || gate_micros >= gate_micros_max) {
            self.demote(gate_micros);
        }
    }

    fn set_step(&mut self, step: Step) {
        if let Some(hand_over) = &mut self.hand_over {
            hand_over.step = step;
        }
    }

    fn note_gate(&mut self, gate_micros: u64) {
        self.gate_micros_max = self.gate_micros_max.max(gate_micros);
    }

    /// Gives up a hand-over, if one is under way.
    pub(crate) fn give_up_any_hand_over(&mut self, error: CommandError) {
        if self.hand_over.is_some() {
            self.give_up_hand_over(error);
        }
    }

    fn give_up_hand_over(&mut self, error: CommandError) {
        if museum::is(Mutant::GateStaysShut)
            && self.is_gated()
            && let Some(hand_over) = &self.hand_over
        {
            let id = hand_over.id;
            self.set_step(Step::Granting { gate_micros: 0 });
            return self.answer(id, Err(error));
        }
        if let Some(hand_over) = self.hand_over.take() {
            self.answer(hand_over.id, Err(error));
        }
        self.pump_guests();
    }

    fn demote(&mut self, gate_micros: u64) {
        self.set_step(Step::Granting { gate_micros });
        self.note_gate(gate_micros);
        self.meta.role = Role::Secondary;
        self.phase = Phase::Demoting;
        self.end_verify(VerifyEnd::RoleMoved);
        if museum::is(Mutant::GrantedTooEarly) {
            self.save(Then::Nothing);
            return self.demotion_saved();
        }
        self.save(Then::Granted);
    }

    /// The role is durably given up: tell the successor, and everybody else where it went.
    pub(crate) fn demotion_saved(&mut self) {
        let granted = self.meta.granted.clone();
        let successor = granted.as_ref().map(|granted| granted.to.clone());
        self.phase = Phase::Following;
        self.stop_hails();
        self.forget_splits();
        self.follow.forget_source(self.now);
        self.follow.hint = successor.clone();
        self.follow.horizon = self.marks.trimmed();
        self.cut_to_what_fits();
        self.dismiss_followers(successor.as_ref());
        self.end_all_tracks();
        let epoch = self.meta.epoch;
        if let Some(Granted { to, epoch, at }) = granted
            && let Some(link) = self.peers.get(&to).and_then(|peer| peer.link)
        {
            self.effects.push_back(Effect::Send {
                link,
                message: Message::Grant {
                    epoch,
                    at,
                    settings: Box::new(self.meta.settings),
                },
            });
        }
        let answer = match (&successor, &self.hand_over) {
            (
                Some(_),
                Some(HandOver {
                    step: Step::Granting { gate_micros },
                    ..
                }),
            ) => Answer::HandedOver {
                epoch,
                gate_micros: *gate_micros,
            },
            _ => Answer::Done,
        };
        self.bounce_flushes();
        self.notice(Notice::BecameSecondary { successor, epoch });
        if let Some(HandOver { id, .. }) = self.hand_over.take() {
            self.answer(id, Ok(answer));
        }
        self.pump_guests();
    }

    /// Our source grants us the role.
    pub(crate) fn granted(&mut self, link: LinkId, epoch: Epoch, at: Position, settings: Settings) {
        // Once it has written in this epoch it has more than that, so a grant that is repeated does no harm. It may have heard of the
        // epoch from others before.
        let whole = self.meta.sync == SyncState::Whole || museum::is(Mutant::GrantedUnwhole);
        let have_everything = (self.log.sealed == at || museum::is(Mutant::GrantedBehind)) && whole;
        if epoch < self.meta.epoch || !have_everything || self.follow.is_cutting() {
            return self.close_follow(link);
        }
        self.stop_following();
        self.follow.horizon = Lsn(0);
        self.meta.role = Role::Primary;
        self.meta.granted = None;
        self.meta.settings = settings;
        self.begin_promotion(epoch);
    }

    /// Becomes primary in `epoch` as soon as that is durable and the whole log is loaded.
    pub(crate) fn begin_promotion(&mut self, epoch: Epoch) {
        // One that starts again in its term is where it was.
        if epoch.term != self.meta.epoch.term {
            self.forget_splits();
        }
        self.meta.epoch = epoch;
        let trimmed = self.marks.trimmed();
        // Streams of a primary that takes over from itself go on, and so does what it knows of its peers.
        if !matches!(self.phase, Phase::Serving) {
            for peer in self.peers.values_mut() {
                let link = peer.link;
                *peer = crate::ship::Peer {
                    link,
                    ..crate::ship::Peer::remembered(trimmed)
                };
            }
            self.load_tracks();
        }
        self.phase = Phase::Promoting { saved: false };
        self.save(Then::Promoted);
    }

    pub(crate) fn promotion_saved(&mut self) {
        if let Phase::Promoting { saved } = &mut self.phase {
            *saved = true;
        }
    }

    pub(crate) fn pump_promotion(&mut self) {
        let Phase::Promoting { saved } = self.phase else {
            return;
        };
        self.log.want_flush(self.log.sealed.lsn);
        let saved = saved || museum::is(Mutant::EpochNotSaved);
        if self.is_asking()
            || !saved
            || !self.tracks.loaded
            || self.straight.road == Road::Jumping
            || self.replay.loaded != self.log.sealed
            || self.snapshots.holds_load()
            || self.marks.committed() != self.log.sealed.lsn
        {
            return;
        }
        self.phase = Phase::Serving;
        let epoch = self.meta.epoch;
        self.find_road();
        let taken_over = self.is_new_take_over();
        if !self.straight.road.is_straight() && !self.space.full {
            self.begin_stretch();
        }
        self.tell_of_take_over(taken_over);
        self.notice(Notice::BecamePrimary { epoch });
        self.pump_guests();
    }
}
