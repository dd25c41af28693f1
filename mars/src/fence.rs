//! How does a primary of the past learn that it is one, and what does it do then?
//!
//! Members tell each other the highest epoch they have heard of, on every link that there is; a primary besides *hails* each
//! member that does not follow it, again and again. Whoever hears of a newer term than its own is *fenced*: from that moment it
//! answers no write, makes durable that it is secondary, and sends its guests on. Its history stays as it is: whether it has
//! parted from the newer one is found out when it looks for a source (`split.rs`).
//!
//! A primary that starts again hails first and serves afterwards, unless nobody can be reached: most takeovers happen
//! while the old primary is down, and it should hear of it before it accepts a single write.

use std::collections::{BTreeMap, BTreeSet};

use model::{Epoch, NodeId, Role, Tick};

use crate::engine::{Engine, Phase, Then};
use crate::event::{CommandError, Effect, GuestError, LinkId, Notice};
use crate::message::Message;
use crate::relay::Avoided;

/// A member that does not follow its primary is hailed this soon, and then ever less often, up to the last.
const HAIL_MILLIS_MIN: u64 = 500;
const HAIL_MILLIS_MAX: u64 = 8000;

/// A hail that is not answered in this time has failed.
const ANSWER_MILLIS_MAX: u64 = 3000;

/// A primary that starts again waits so long for members that neither answer nor refuse: guests wait too.
const ASK_MILLIS_MAX: u64 = 1000;

/// One member that is hailed.
#[derive(Debug)]
struct Hail {
    step: Step,
    wait_millis: u64,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Waiting { due: Tick },
    Dialling { until: Tick },
    Asked { link: LinkId, until: Tick },
}

/// Hails under way, of a primary.
#[derive(Debug, Default)]
pub(crate) struct Hails {
    members: BTreeMap<NodeId, Hail>,
    /// After a restart: who has not yet said anything, and how long that is waited for.
    asking: Option<(BTreeSet<NodeId>, Tick)>,
}

impl Hails {
    fn of(&self, link: LinkId) -> Option<&NodeId> {
        self.members
            .iter()
            .find(|(_, hail)| matches!(hail.step, Step::Asked { link: asked, .. } if asked == link))
            .map(|(node, _)| node)
    }

    /// A member has spoken, or there is no hope that it will.
    pub fn heard_from(&mut self, node: &NodeId) {
        if let Some((left, _)) = &mut self.asking {
            left.remove(node);
        }
    }
}

impl Engine {
    fn is_hailing(&self) -> bool {
        self.meta.role == Role::Primary && matches!(self.phase, Phase::Serving | Phase::Promoting { .. })
    }

    pub(crate) fn hail_due(&self) -> Option<Tick> {
        if !self.is_hailing() {
            return None;
        }
        let asked = self.hails.asking.as_ref().map(|(_, until)| *until);
        let steps = self.hails.members.values().map(|hail| match hail.step {
            Step::Waiting { due } => due,
            Step::Dialling { until } | Step::Asked { until, .. } => until,
        });
        steps.chain(asked).min()
    }

    /// After a restart: everybody is to be asked before anybody is served.
    pub(crate) fn ask_before_serving(&mut self) {
        let others = self.config.members.iter().filter(|m| **m != self.config.node);
        self.hails.asking = Some((others.cloned().collect(), self.now.after_millis(ASK_MILLIS_MAX)));
    }

    /// Whether somebody might still say that there is a newer primary.
    pub(crate) fn is_asking(&mut self) -> bool {
        let now = self.now;
        self.hails
            .asking
            .take_if(|(left, until)| left.is_empty() || now >= *until);
        self.hails.asking.is_some()
    }

    pub(crate) fn pump_hails(&mut self) {
        if !self.is_hailing() {
            return;
        }
        let others = self.config.members.iter().filter(|m| **m != self.config.node);
        for member in others.cloned().collect::<Vec<_>>() {
            let now = self.now;
            if self.links.values().any(|link| link.peer == member) {
                let follows = |peer: &crate::ship::Peer| peer.heard && self.sent_to(peer).is_some();
                match self.peers.get(&member).is_some_and(follows) {
                    true => self.stop_hailing(&member),
                    // One whose history has parted looks in from time to time, and hangs up again: no reason to begin anew.
                    false => self.rest_hailing(&member),
                }
                continue;
            }
            let due = match self.hails.asking {
                Some(_) => now,
                None => now.after_millis(HAIL_MILLIS_MIN),
            };
            let hail = self.hails.members.entry(member.clone()).or_insert(Hail {
                step: Step::Waiting { due },
                wait_millis: HAIL_MILLIS_MIN,
            });
            match hail.step {
                Step::Waiting { due } if now >= due => {
                    hail.step = Step::Dialling {
                        until: now.after_millis(ANSWER_MILLIS_MAX),
                    };
                    self.effects.push_back(Effect::Dial { peer: member });
                }
                Step::Dialling { until } if now >= until => self.hail_again_later(&member),
                Step::Asked { link, until } if now >= until => {
                    self.effects.push_back(Effect::Close { link });
                    self.hail_again_later(&member);
                }
                _ => {}
            }
        }
    }

    fn hail_again_later(&mut self, member: &NodeId) {
        self.hails.heard_from(member);
        if let Some(hail) = self.hails.members.get_mut(member) {
            let due = self.now.after_millis(hail.wait_millis);
            hail.wait_millis = (hail.wait_millis * 2).min(HAIL_MILLIS_MAX);
            hail.step = Step::Waiting { due };
        }
    }

    /// A member is here anyway, if perhaps not for long.
    fn rest_hailing(&mut self, member: &NodeId) {
        let Some(hail) = self.hails.members.get_mut(member) else {
            return;
        };
        let due = self.now.after_millis(hail.wait_millis);
        let step = std::mem::replace(&mut hail.step, Step::Waiting { due });
        if let Step::Asked { link, .. } = step {
            self.effects.push_back(Effect::Close { link });
        }
    }

    fn stop_hailing(&mut self, member: &NodeId) {
        if let Some(Hail {
            step: Step::Asked { link, .. },
            ..
        }) = self.hails.members.remove(member)
        {
            self.effects.push_back(Effect::Close { link });
        }
    }

    /// Nobody is hailed any more.
    pub(crate) fn stop_hails(&mut self) {
        self.hail_only(&[]);
        self.hails.asking = None;
    }

    /// Only these are to be hailed.
    pub(crate) fn hail_only(&mut self, members: &[NodeId]) {
        let gone = self.hails.members.keys().filter(|node| !members.contains(node));
        for member in gone.cloned().collect::<Vec<_>>() {
            self.stop_hailing(&member);
            self.hails.heard_from(&member);
        }
    }

    /// A connection that a primary dialled is up.
    pub(crate) fn hail_up(&mut self, link: LinkId, peer: &NodeId) {
        let until = self.now.after_millis(ANSWER_MILLIS_MAX);
        match self.hails.members.get_mut(peer) {
            Some(hail) if matches!(hail.step, Step::Dialling { .. }) => {
                hail.step = Step::Asked { link, until };
                self.say_hail(link);
            }
            _ => self.effects.push_back(Effect::Close { link }),
        }
    }

    /// A connection that a primary dialled is gone, or could not be made.
    pub(crate) fn hail_down(&mut self, link: Option<LinkId>, peer: &NodeId) {
        let ours = match self.hails.members.get(peer).map(|hail| hail.step) {
            Some(Step::Dialling { .. }) => link.is_none(),
            Some(Step::Asked { link: asked, .. }) => link == Some(asked),
            _ => false,
        };
        if ours {
            self.hail_again_later(peer);
        }
    }

    /// The answer to a hail of ours.
    pub(crate) fn hail_answered(&mut self, link: LinkId, message: Message) {
        let Some(peer) = self.hails.of(link).cloned() else {
            return;
        };
        self.effects.push_back(Effect::Close { link });
        self.hail_again_later(&peer);
        if let Message::Hail { epoch, primary } = message {
            self.hear(epoch, primary);
        }
    }

    /// A primary, or a member that has just left one, says which epoch it knows of.
    pub(crate) fn hailed(&mut self, link: LinkId, epoch: Epoch, primary: Option<NodeId>) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer.clone()) else {
            return;
        };
        self.hails.heard_from(&peer);
        // One whose history has parted from ours is no nearer for saying again what it has said.
        let is_news = epoch > self.meta.epoch || !self.meta.splits.contains_key(&peer);
        self.hear(epoch, primary.clone());
        self.say_hail(link);
        let is_primary = primary.as_ref() == Some(&peer) && epoch >= self.meta.epoch;
        if self.meta.role == Role::Secondary && is_primary && is_news {
            self.follow.look_at(&peer, self.now);
        }
    }

    /// The highest epoch that somebody durably knows of. One's own that is not durable yet may never have been.
    pub(crate) fn epoch_known(&self) -> Epoch {
        match self.phase {
            Phase::Following => self.meta.epoch,
            _ => self.epoch_durable,
        }
    }

    pub(crate) fn say_hail(&mut self, link: LinkId) {
        let message = Message::Hail {
            epoch: self.epoch_known(),
            primary: self.primary_hint(),
        };
        self.effects.push_back(Effect::Send { link, message });
    }

    /// Somebody has heard of `epoch`, and says where its primary may be.
    pub(crate) fn hear(&mut self, epoch: Epoch, primary: Option<NodeId>) {
        if epoch <= self.meta.epoch {
            return;
        }
        let primary = primary.filter(|node| *node != self.config.node);
        if self.meta.role == Role::Primary {
            // A later start of our own term can be nobody else's. Recovery ends as it began; then everybody is asked.
            if epoch.term > self.meta.epoch.term && !matches!(self.phase, Phase::Scanning(_)) {
                self.fence(epoch, primary);
            }
            return;
        }
        self.meta.epoch = epoch;
        // Who was no primary in an older epoch may be the one of this.
        self.follow.avoided = Avoided::default();
        self.meta.granted.take_if(|granted| granted.epoch < epoch);
        self.save(Then::Nothing);
        if let Some(link) = self.follow.link() {
            // Whoever we listen to should know why we do not any more.
            self.say_hail(link);
            self.close_follow(link);
        }
        if primary.is_some() {
            self.follow.hint = primary;
        }
    }

    /// A door has met a primary of this epoch. Only a primary needs that: a replica that was just granted the role may be named to doors
    /// before it hears of it, and must not leave the giver for that.
    pub(crate) fn heard_at_a_door(&mut self, epoch: Epoch) {
        if self.meta.role == Role::Primary {
            self.hear(epoch, None);
        }
    }

    /// There is a newer primary: nobody is answered any more, and that this one is secondary becomes durable.
    fn fence(&mut self, epoch: Epoch, primary: Option<NodeId>) {
        let superseded = || CommandError::Superseded { epoch };
        if let Some(hand_over) = self.hand_over.take() {
            self.answer(hand_over.id, Err(superseded()));
        }
        for id in std::mem::take(&mut self.taking_over) {
            self.answer(id, Err(superseded()));
        }
        self.stop_hails();
        if matches!(self.phase, Phase::Serving) {
            // What has entered the shadow has its place in the log, although nobody will be told.
            self.seal();
        }
        self.guests.fenced.extend(self.log.take_waiting());
        let straight = self.take_straight();
        self.guests.fenced.extend(straight);
        self.meta.role = Role::Secondary;
        self.meta.epoch = epoch;
        self.follow.hint = primary;
        self.phase = Phase::Demoting;
        self.save(Then::Fenced);
    }

    pub(crate) fn fenced_saved(&mut self) {
        self.phase = Phase::Following;
        let primary = self.follow.hint.clone();
        self.follow.forget_source(self.now);
        self.follow.horizon = self.marks.trimmed();
        self.cut_to_what_fits();
        self.forget_splits();
        self.dismiss_followers(None);
        self.end_all_tracks();
        for tag in std::mem::take(&mut self.guests.fenced) {
            let result = Err(GuestError::NotPrimary {
                hint: primary.clone(),
                granted: None,
            });
            self.effects.push_back(Effect::Complete { tag, result });
        }
        let epoch = self.meta.epoch;
        self.notice(Notice::Fenced { epoch, primary });
        self.pump_guests();
    }
}
