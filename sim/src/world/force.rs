//! What do operators do who force? They take over at the wrong moment, twice at once, and resolve what they have parted.
//!
//! The catalog hands out each takeover once. The guest moves with the newest takeover that serves, and then believes what that
//! primary believes; a *ghost* may stay behind: a guest on the old side that nobody has told, which goes on writing. Ghosts make the
//! histories part, and prove that a primary which has heard of a newer one answers no write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mars::{Command, CommandError, CommandId, GuestRequest, Meta, Position, RequestTag};
use model::{Epoch, ReplicaState, Role, SectorRange, Tick};

use super::{Happening, Violation, World, node_index};
use crate::guest::changes;
use crate::media::SECTOR;
use crate::stamp;

/// Tags of ghosts are not those of the guest.
const GHOST_TAGS: u64 = 1 << 48;

/// Two primaries find out about each other so soon after they can: hails come every 8 s, and a link may be half open for 10.
const FENCE_MICROS_MAX: u64 = 60_000_000;

/// When there is nothing to do for so long and nobody is primary, an operator sees to it.
const VACANT_MICROS: u64 = 15_000_000;

/// What operators, their catalog and ghosts know.
#[derive(Debug, Default)]
pub(super) struct Forced {
    /// The newest takeover handed out.
    pub catalog: Epoch,
    /// Where the histories of takeovers go on, by their number.
    pub bases: BTreeMap<u32, Position>,
    /// Requests under way that are not the guest's, and at which start of which node.
    pub ghosts: BTreeMap<u64, (usize, u32)>,
    next_tag: u64,
    /// Since when there has been no primary, or more than one.
    unclear_since: Option<Tick>,
    /// Takeovers that operators were told have not come about: node and term.
    pub denied: BTreeSet<(usize, u32)>,
    /// Nodes on which parting was reported, with the peer.
    pub reported: BTreeSet<(usize, usize)>,
}

impl World {
    /// Tells a node to take over.
    pub fn take_over(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: takeover");
        self.history.forced = true;
        self.nodes[node].forced = true;
        let epoch = self.forced.catalog.next_takeover();
        self.forced.catalog = epoch;
        Some(self.command(node, Command::TakeOver { epoch }))
    }

    /// An operator was told that a takeover has failed: it must not come about later, after a restart perhaps.
    pub(super) fn take_over_denied(
        &mut self,
        node: usize,
        epoch: Epoch,
        error: &CommandError,
    ) -> Result<(), Violation> {
        if matches!(
            error,
            CommandError::Undecided { .. } | CommandError::Superseded { .. }
        ) {
            return Ok(());
        }
        self.count("operators: takeover refused");
        self.forced.denied.insert((node, epoch.term));
        let primary_in = |meta: &Meta| meta.role == Role::Primary && meta.epoch.term == epoch.term;
        if self.meta(node).is_some_and(primary_in) {
            let what = format!("refuses a takeover that is durable: {error}");
            return Err(self.violation(Some(node), what));
        }
        Ok(())
    }

    /// A node serves in the epoch of a takeover.
    pub(super) fn took_over(&mut self, node: usize, epoch: Epoch, from: Position) -> Result<(), Violation> {
        self.forced.bases.insert(epoch.takeovers(), from);
        self.count("engine: takeovers");
        if self.forced.denied.contains(&(node, epoch.term)) {
            return Err(self.violation(Some(node), "takes over although it was said that it does not"));
        }
        Ok(())
    }

    /// Tells a node to step down.
    pub fn step_down(&mut self, node: usize) -> Option<CommandId> {
        self.nodes[node].engine.as_ref()?;
        self.count("operators: step down");
        Some(self.command(node, Command::Secondary))
    }

    /// A takeover by chance: perhaps of a primary that is alive, perhaps cut off, perhaps with a second takeover elsewhere.
    pub(super) fn force(&mut self, node: usize) {
        // What is damaged, and nobody has found yet, must not become what others copy.
        if !self.all_are_sound() {
            return;
        }
        let members: Vec<usize> = self.members.iter().copied().collect();
        let old = self.primary().filter(|old| *old != node);
        if let Some(old) = old {
            if self.rng.chance(60) {
                for other in members.iter().copied().filter(|other| *other != old) {
                    if self.rng.chance(80) {
                        self.cut_link(old, other, false);
                        let micros = self.rng.spread(100_000, 8_000_000);
                        self.schedule(micros, Happening::Heal { a: old, b: other });
                    }
                }
            }
            if self.rng.chance(70) {
                let until = self.now.after_micros(self.rng.spread(10_000, 6_000_000));
                self.schedule(1, Happening::Ghost { node: old, until });
            }
        }
        let micros = self.rng.spread(1, 2_000_000);
        self.schedule(micros, Happening::TakeOver { node });
        if self.rng.chance(25)
            && let Some(second) = self.rng.pick(&members).copied()
        {
            let micros = micros + self.rng.below(20_000);
            self.schedule(micros, Happening::TakeOver { node: second });
        }
    }

    /// Steps down, and later somebody takes over.
    pub(super) fn vacate(&mut self, next: usize) {
        if !self.all_are_sound() {
            return;
        }
        let Some(node) = self.primary() else { return };
        self.step_down(node);
        let micros = self.rng.spread(1000, 4_000_000);
        self.schedule(micros, Happening::TakeOver { node: next });
    }

    pub(super) fn take_over_now(&mut self, node: usize) {
        if self.all_are_sound() && !self.is_faked(node) && self.members.contains(&node) {
            self.take_over(node);
        }
    }

    /// A guest that was left behind writes on, where there is still a primary for it.
    pub fn ghost(&mut self, node: usize, until: Tick) {
        let status = self.status(node);
        // Where the guest is, nobody else writes; nor where its session will be.
        let is_behind = |number: u32| match self.door {
            None => number != self.guest.takeovers,
            Some(_) => number < self.guest.takeovers,
        };
        if status.is_some_and(|s| s.serving && is_behind(s.epoch.takeovers())) {
            let sectors = status.map_or(0, |status| status.size.sectors().0);
            let start = self.rng.below(sectors);
            let count = self.rng.spread(1, 8).min(sectors - start);
            let range = SectorRange::new(start, count).expect("within the volume");
            self.forced.next_tag += 1;
            let tag = RequestTag(GHOST_TAGS + self.forced.next_tag);
            let first = (1 << 56) + self.forced.next_tag * 64;
            let data = Bytes::from(stamp::sectors(first..first + count));
            let fua = self.rng.chance(30);
            self.forced.ghosts.insert(tag.0, (node, self.nodes[node].boot));
            let request = GuestRequest::Write { range, data, fua };
            self.deliver(1, node, mars::Event::Guest { tag, request });
        }
        if self.now < until {
            let micros = self.rng.spread(200, 100_000);
            self.schedule(micros, Happening::Ghost { node, until });
        }
    }

    /// The guest leaves for a node; what it asked elsewhere it asks there.
    pub fn move_guest_to(&mut self, node: usize) {
        self.guest.attached = node;
        for asked in self.guest.asked.values_mut() {
            asked.sent = None;
        }
        self.send_asked();
    }

    /// The guest has nothing more to ask.
    pub fn hush(&mut self) {
        self.busy = false;
    }

    /// What time it is.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// What became of a ghost's request; `None` when it is not one.
    pub(super) fn ghost_answered(
        &mut self,
        node: usize,
        tag: RequestTag,
        done: bool,
    ) -> Option<Result<(), Violation>> {
        self.forced.ghosts.remove(&tag.0)?;
        if !done {
            return Some(Ok(()));
        }
        self.count("ghosts: requests answered");
        // As it stood before this batch of events: within it, it may have answered first and stepped down then.
        let role = self.stood(node).map(|stood| stood.role);
        if role == Some(Role::Secondary) {
            let what = "answers a write although it is primary no more";
            return Some(Err(self.violation(Some(node), what)));
        }
        Some(Ok(()))
    }

    /// Requests that went to an earlier start of a node will not be answered.
    pub(super) fn ghosts_lost(&mut self, place: (usize, u32)) {
        self.forced.ghosts.retain(|_, at| *at != place);
    }

    /// Sees whether the guest may talk to a node: it moves with newer takeovers and never back.
    pub(super) fn guest_fits(&mut self, node: usize) -> bool {
        let Some(status) = self.status(node) else {
            return true;
        };
        let number = status.epoch.takeovers();
        if status.role == Role::Secondary || number == self.guest.takeovers {
            return true;
        }
        if number < self.guest.takeovers || !status.serving {
            return false;
        }
        let place = (node, self.nodes[node].boot);
        let sectors = status.size.sectors().0 as usize;
        let busy = self.forced.ghosts.values().any(|at| *at == place);
        let Some(base) = self.base_of(number, node) else {
            return false;
        };
        // While its log comes back, neither its disk nor its history tells what it has.
        let unclear = busy || (status.straight && self.nodes[node].disk.log_bytes() > 0);
        if unclear || self.guest.asked.values().any(|asked| asked.sent == Some(place)) {
            return false;
        }
        self.say(|| format!("GUEST MOVES to takeover {number} at h{node}, from {}", base.lsn));
        self.count("guest: moved with a takeover");
        self.move_guest(number, base, sectors, false);
        true
    }

    /// Where the history of a takeover goes on. One that was durable, and died before it could say so, is found in its lineage.
    pub(super) fn base_of(&self, number: u32, node: usize) -> Option<Position> {
        let told = self.forced.bases.get(&number).copied();
        told.or_else(|| {
            let lineage = &self.meta(node)?.lineage;
            let first = lineage.iter().find(|stretch| stretch.epoch.takeovers() == number);
            first.map(|stretch| stretch.from)
        })
    }

    /// The guest begins anew with what the primary of a takeover has, or lives on with that.
    pub(super) fn move_guest(&mut self, number: u32, base: Position, sectors: usize, lives_on: bool) {
        // A change that was asked for elsewhere may still be made there: whoever comes back must not meet it.
        let asked = self.guest.asked.values().filter(|_| !lives_on);
        for asked in asked.filter(|asked| changes(&asked.request)) {
            self.forced
                .ghosts
                .extend(asked.sent.map(|place| (asked.tag.0, place)));
        }
        // What a primary holds that has no log is on no history yet, but on its disk; also while its log is being turned on.
        let straight = |node: &usize| {
            let place = &self.nodes[*node];
            self.status(*node).is_some_and(|s| {
                let logless = s.straight || place.straight_from.is_some();
                logless && s.role == Role::Primary && s.epoch.takeovers() == number
            })
        };
        if let Some(node) = self.members.iter().copied().find(straight) {
            let (volume, history) = (&self.nodes[node].disk.volume, &self.history);
            let logged_from = self.nodes[node].straight_from;
            self.guest.moved(number, sectors, lives_on, |sector| {
                let at = (sector * SECTOR) as u64;
                let both = [volume.durable(at), volume.read(at, SECTOR)];
                let mut stamps = both.map(|bytes| stamp::of(bytes).unwrap_or(u64::MAX)).to_vec();
                stamps.extend(
                    logged_from
                        .into_iter()
                        .flat_map(|from| history.stamps_behind(sector, from.lsn, number)),
                );
                stamps
            });
            self.acked_epoch = Epoch::NONE;
            return;
        }
        let history = &self.history;
        assert!(history.holds(base), "takeovers go on from a history");
        let stamp_at = history.version_at(base);
        // What was not there yet read as zeroes when it came.
        self.guest.moved(number, sectors, lives_on, |sector| {
            let mut stamps = vec![stamp_at(sector)];
            stamps.extend(history.stamps_behind(sector, base.lsn, number));
            stamps
        });
        self.acked_epoch = Epoch::NONE;
    }

    /// A change was answered by a primary of another takeover than the guest knows of: whoever had asked for it is a ghost now.
    pub(super) fn guest_left_behind(&mut self, node: usize) {
        let place = (node, self.nodes[node].boot);
        for tag in self.guest.forget_sent_to(place) {
            self.forced.ghosts.insert(tag, place);
        }
    }

    /// Whether no takeover can be newer than a node's.
    pub(super) fn is_newest(&self, node: usize) -> bool {
        let status = self.status(node);
        status.is_some_and(|s| s.epoch.takeovers() == self.forced.catalog.takeovers())
    }

    /// What is left of forced roles when calm has come: at most one primary, and parted histories resolved by operators.
    pub(super) fn mend_roles(&mut self) -> Result<(), Violation> {
        let serving = self.serving();
        if serving.len() == 1 || !self.commands.is_empty() {
            self.forced.unclear_since = None;
        } else {
            let since = *self.forced.unclear_since.get_or_insert(self.now);
            let waited = self.now.micros_since(since);
            if serving.len() > 1 && waited > FENCE_MICROS_MAX {
                return Err(self.violation(
                    None,
                    format!("{serving:?} still serve {waited} us after the calm"),
                ));
            }
            if serving.is_empty() && waited > VACANT_MICROS && self.history.forced | self.stepped_down() {
                self.forced.unclear_since = None;
                if let Some(node) = self.longest_whole() {
                    self.take_over(node);
                }
            }
        }
        for (loser, winner) in self.parted() {
            let reported = |a: usize, b: usize| self.forced.reported.contains(&(a, b));
            if serving == [winner] && reported(loser, winner) && reported(winner, loser) {
                self.resolve(loser);
            }
        }
        Ok(())
    }

    fn stepped_down(&self) -> bool {
        self.counts.contains_key("operators: step down")
    }

    /// The member that has most, among those that may take over.
    fn longest_whole(&self) -> Option<usize> {
        let fits = |node: &usize| {
            let whole = self
                .meta(*node)
                .is_some_and(|meta| meta.sync == mars::SyncState::Whole);
            whole
                && !self.is_rotten(*node)
                && !self.is_faked(*node)
                && self
                    .status(*node)
                    .is_some_and(|s| s.state != ReplicaState::DefectiveLog)
        };
        let members = self.members.iter().copied().filter(fits);
        members.max_by_key(|node| self.stood(*node).map(|s| (s.epoch, s.tip.lsn)))
    }

    /// Members that say that their history has parted from their primary's, with that primary.
    fn parted(&self) -> Vec<(usize, usize)> {
        let mut parted = Vec::new();
        for node in self.members.iter().copied() {
            let Some(status) = self.status(node) else {
                continue;
            };
            if status.role == Role::Secondary && status.state == ReplicaState::SplitBrain {
                let peers = status.split_brain.keys().filter_map(node_index);
                parted.extend(peers.map(|peer| (node, peer)));
            }
        }
        parted
    }

    /// An operator decides against a replica.
    fn resolve(&mut self, loser: usize) {
        self.count("operators: split brain resolved");
        self.forced
            .reported
            .retain(|(node, peer)| *node != loser && *peer != loser);
        self.rejoin(loser);
    }

    /// A parting was reported: it must be the true one, to the batch.
    pub(super) fn check_parting(
        &mut self,
        node: usize,
        peer: &model::NodeId,
        split: &mars::SplitBrain,
    ) -> Result<(), Violation> {
        if !self.history.forced {
            let what = format!("sees split brain with {peer}; nobody was forced");
            return Err(self.violation(Some(node), what));
        }
        self.count("engine: split brains reported");
        let Some(peer) = node_index(peer) else {
            return Ok(());
        };
        self.forced.reported.insert((node, peer));
        let tips = [node, peer].map(|node| self.stood(node).map(|stood| stood.tip));
        let [Some(ours), Some(theirs)] = tips else {
            return Ok(());
        };
        // It has been thrown away and made anew since.
        if [ours, theirs].contains(&Position::default()) {
            return Ok(());
        }
        let truth = self.history.parting(ours, theirs);
        if truth != Some(split.at) {
            let what = format!(
                "says that histories part at {}, but it is {truth:?}",
                split.at.lsn
            );
            return Err(self.violation(Some(node), what));
        }
        let bytes = split.ours.end.since(split.at.lsn);
        if split.ours.bytes != bytes || (split.ours.complete && split.ours.last_unix_micros == 0) {
            return Err(self.violation(Some(node), format!("counts its side wrong: {split:?}")));
        }
        Ok(())
    }

    /// A replica gives up the end of its history: nothing in it may be what somebody misses.
    pub(super) fn check_dropped(&mut self, node: usize, to: model::Lsn) -> Result<(), Violation> {
        let Some(tip) = self.stood(node).map(|stood| stood.tip) else {
            return Ok(());
        };
        if let Some(at) = self.history.precious(tip, to) {
            let what = format!("drops its log behind {to}, with writes up to {at} that nobody has lost");
            return Err(self.violation(Some(node), what));
        }
        Ok(())
    }
}
