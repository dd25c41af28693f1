//! Is every promise kept? Looked at after every step, at random moments, and at rest.

use std::collections::BTreeSet;

use bytes::Bytes;
use mars::record::{Batch, BatchError, Record};
use mars::{
    Command, Level, Limits, MaxLag, Meta, Notice, PeerStatus, Position, SnapshotState, Status, Switch,
    SyncState,
};
use model::{Epoch, Lsn, Mode, ReplicaState, Role};

use super::{Happening, Kept, Stood, Violation, World, node_index};
use crate::disk::Disk;
use crate::guest::Asked;
use crate::media::SECTOR;
use crate::stamp;

/// A command that is not answered by then is stuck: the longest has 30 s to drain and a few at the gate.
const COMMAND_MICROS_MAX: u64 = 60_000_000;

/// A request that its primary has not answered by then never will be: slow disks recover in 2 s, a gate opens in 3 s.
pub(super) const GUEST_MICROS_MAX: u64 = 20_000_000;

/// A healed cluster is at rest by then, full syncs over slow links included.
pub(crate) const SETTLE_MICROS_MAX: u64 = 180_000_000;

impl World {
    /// After every batch of events: one who serves, marks that only grow and are in order.
    pub(super) fn observe(&mut self, node: usize) -> Result<(), Violation> {
        let Some(engine) = &self.nodes[node].engine else {
            return Ok(());
        };
        let stands = Stood::of(engine);
        let marks = stands.watermarks;
        let chain = [
            marks.trimmed(),
            marks.written_back(),
            marks.touched(),
            marks.committed(),
            marks.appended(),
        ];
        if !chain.is_sorted() {
            return Err(self.violation(Some(node), format!("watermarks out of order: {marks:?}")));
        }
        if let Some(before) = self.nodes[node].marks {
            let before = [
                before.trimmed(),
                before.written_back(),
                before.touched(),
                before.committed(),
                before.appended(),
            ];
            if before.iter().zip(&chain).any(|(before, now)| now < before) {
                return Err(self.violation(
                    Some(node),
                    format!("watermarks go back from {before:?} to {chain:?}"),
                ));
            }
        }
        if let Some(before) = self.stood(node)
            && stands.epoch < before.epoch
        {
            let what = format!("epoch goes back from {} to {}", before.epoch, stands.epoch);
            return Err(self.violation(Some(node), what));
        }
        let (is_primary, serves) = (stands.role == Role::Primary, stands.serving);
        let place = &mut self.nodes[node];
        (place.marks, place.stood) = (Some(marks), Some(stands));
        place.status.take();
        let alone = !is_primary && !self.network.has_link(node, self.nodes[node].boot);
        let is_uptodate =
            |status: &Status| status.state == ReplicaState::Uptodate && status.tip != self.history.end();
        if alone && self.status(node).is_some_and(is_uptodate) {
            let what = "calls itself up to date, but is not and hears of nobody";
            return Err(self.violation(Some(node), what));
        }
        if serves && !is_primary {
            return Err(self.violation(Some(node), "serves guests without being primary"));
        }
        if serves {
            let serving = self.serving();
            let terms = serving
                .iter()
                .filter_map(|node| Some(self.stood(*node)?.epoch.term));
            let terms: BTreeSet<u32> = terms.collect();
            // Two that were forced may serve until they hear of each other; two in one term never.
            if serving.len() > 1 && (!self.history.forced || terms.len() < serving.len()) {
                return Err(self.violation(Some(node), format!("{serving:?} serve at the same time")));
            }
        }
        Ok(())
    }

    /// No log is given up that a peer which counts does not have durably.
    pub(super) fn check_trim(&mut self, node: usize, up_to: Lsn) -> Result<(), Violation> {
        if !self.stood(node).is_some_and(|stood| stood.serving) {
            return Ok(());
        }
        for (peer, kept) in self.nodes[node].kept.clone() {
            let Some(index) = node_index(&peer).filter(|index| self.members.contains(index)) else {
                continue;
            };
            let whole = self.meta(index).is_some_and(|meta| meta.sync == SyncState::Whole);
            let has = self.nodes[index].disk.log.durable_end();
            if kept == Kept::Counts && whole && has < up_to.0 {
                let what = format!(
                    "gives up its log before {up_to}, but {peer}, which counts, has it to {has} only"
                );
                return Err(self.violation(Some(node), what));
            }
        }
        Ok(())
    }

    /// At a random moment: would a replica that says it is whole be a version of the volume if everything stopped now?
    pub(super) fn inspect(&mut self) -> Result<(), Violation> {
        let members: Vec<usize> = self.members.iter().copied().collect();
        if let Some(node) = self.rng.pick(&members).copied() {
            self.inspect_node(node)?;
        }
        let late = self
            .commands
            .values()
            .find(|c| self.now.micros_since(c.since) > COMMAND_MICROS_MAX);
        if let Some(late) = late {
            return Err(self.violation(Some(late.node), format!("never answers {:?}", late.command)));
        }
        self.check_patience()?;
        self.check_door_patience()?;
        self.check_laggards()?;
        if self.now < self.chaos_until {
            let micros = self.rng.spread(20_000, 2_000_000);
            self.schedule(micros, Happening::Inspect);
        }
        Ok(())
    }

    /// A log that is longer than its budget is kept for nobody who is that far behind.
    fn check_laggards(&self) -> Result<(), Violation> {
        for node in self.serving() {
            let Some(status) = self.status(node) else { continue };
            let on_disk = status.watermarks.written_back();
            let budget = status.log_bytes_max.max(mars::LOG_BYTES_MIN);
            let kept = &self.nodes[node].kept;
            let is_late = |peer: &&PeerStatus| {
                let counts = kept.get(&peer.node) == Some(&Kept::Counts);
                // One that was dropped by an earlier term of this node looks the same, but nothing is kept for it.
                let kept = peer.lag_bytes.min(status.log_bytes);
                counts && peer.peer_committed < on_disk && kept > budget
            };
            if let Some(peer) = status.peers.iter().find(is_late) {
                let (lag, late) = (peer.lag_bytes, &peer.node);
                let what = format!("keeps {lag} bytes of log for {late} with a budget of {budget}");
                return Err(self.violation(Some(node), what));
            }
        }
        Ok(())
    }

    /// A primary that serves leaves no guest waiting, whoever else is dead.
    fn check_patience(&self) -> Result<(), Violation> {
        let waits = |asked: &&Asked| {
            let node = asked.sent.filter(|(node, boot)| self.is_current(*node, *boot));
            // In synchronous mode a dead replica does hold guests up: that is what it is for.
            let status = node.and_then(|(node, _)| self.status(node));
            let bound = status.is_some_and(|status| !matches!(status.settings.mode, Mode::Sync { .. }));
            bound && self.now.micros_since(asked.sent_at) > GUEST_MICROS_MAX
        };
        match self.guest.asked.values().find(waits) {
            Some(asked) => {
                let node = asked.sent.map(|(node, _)| node);
                let seconds = GUEST_MICROS_MAX / 1_000_000;
                Err(self.violation(node, format!("leaves a guest waiting for more than {seconds} s")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn inspect_node(&mut self, node: usize) -> Result<(), Violation> {
        self.check_snapshots(node)?;
        let Some(meta) = self.meta(node).filter(|meta| is_version(meta)) else {
            return Ok(());
        };
        // Recovery reads no log before `written_back`.
        let from = meta.written_back.lsn.0;
        let mut disk = self.nodes[node].disk.copy_from(from);
        if self.rng.chance(70) {
            disk.kill(&mut self.rng);
            if self.rng.chance(70) {
                disk.power_cut(&mut self.rng);
            }
        }
        self.check_version(node, disk)
    }

    /// A replica is disk, log and meta together: what recovery would make of them must be a version.
    fn check_version(&mut self, node: usize, mut disk: Disk) -> Result<(), Violation> {
        let Some(meta) = disk.meta.clone() else {
            return Ok(());
        };
        if !is_version(&meta) || self.is_faked(node) {
            return Ok(());
        }
        // The damage is known; what is asked here is whether it was kept away from the disk.
        disk.log.repair();
        self.mend(node, &mut disk);
        self.count("checks: inspections");
        self.recover(&meta, disk, self.nodes[node].forced)
            .map_err(|what| self.violation(Some(node), what))
    }

    fn recover(&self, meta: &Meta, disk: Disk, forced: bool) -> Result<(), String> {
        let version = meta.touched;
        if !self.history.holds(meta.written_back) {
            return Err(format!(
                "its disk begins at {}, which is on no primary's history",
                meta.written_back.lsn
            ));
        }
        let mut at = meta.written_back;
        let mut end = at;
        let from = at.lsn.0;
        let mut rest = Bytes::from(disk.log.into_bytes_from(from));
        let mut contents = disk.volume.into_bytes_from(0);
        let mut size = meta.size;
        while at.lsn < meta.committed.lsn {
            let batch = match Batch::decode_next(&rest, meta.volume, at, Epoch::NONE) {
                Ok(batch) => batch,
                Err(BatchError::Incomplete { .. }) | Err(BatchError::Bad { .. }) => {
                    return Err(format!(
                        "its log is not whole at {}; {} was durable",
                        at.lsn, meta.committed.lsn
                    ));
                }
            };
            rest = rest.slice(batch.header.batch_bytes as usize..);
            at = batch.end;
            if at.lsn <= version {
                end = at;
                batch.records.iter().for_each(|record| lay(record, &mut contents));
                let growth = batch.records.first().and_then(Record::growth);
                size = growth.map_or(size, |(_, to)| to);
            }
        }
        if end.lsn != version || !self.history.holds(end) {
            return Err(format!(
                "its disk holds writes up to {version}, where no batch of any primary ends"
            ));
        }
        if !forced && meta.role == Role::Secondary && !self.history.is_safe(end) {
            return Err(format!(
                "its disk holds writes up to {version}, which its primary could still lose"
            ));
        }
        let (sectors, want) = (size.sectors().0 as usize, self.history.size_at(end));
        if sectors != want || contents.len() < sectors * SECTOR {
            let have = contents.len() / SECTOR;
            return Err(format!(
                "is {sectors} sectors long on {have}, at {version} it was {want}"
            ));
        }
        let stamp_at = self.history.version_at(end);
        for (sector, bytes) in contents.chunks(SECTOR).enumerate().take(sectors) {
            let want = stamp_at(sector);
            if stamp::of(bytes) != Some(want) {
                return Err(format!(
                    "sector {sector} is no version: at {version} it was {want:#x}, recovery from {from} makes {:#x?}",
                    stamp::of(bytes)
                ));
            }
        }
        Ok(())
    }

    /// What a node durably says of its log tells when the history goes on without one, and when contents are a version again.
    pub(super) fn note_road(&mut self, node: usize) -> Result<(), Violation> {
        let Some(meta) = self.meta(node) else {
            return Ok(());
        };
        let (straight, written_back, epoch) = (meta.straight, meta.written_back, meta.epoch);
        let sectors = meta.size.sectors().0 as usize;
        let (primary, whole) = (meta.role == Role::Primary, meta.sync == SyncState::Whole);
        if let Some((at, to)) = meta
            .granted
            .as_ref()
            .map(|granted| (granted.at.lsn, granted.epoch))
        {
            let told = self.history.granted(node, at, to);
            told.map_err(|what| self.violation(Some(node), what))?;
        }
        // A primary that is fenced while its log is being turned on goes on with that as a secondary.
        if straight && !primary {
            return Ok(());
        }
        if straight {
            let told = self.history.jumped(written_back, epoch);
            told.map_err(|what| self.violation(Some(node), what))?;
            self.history.grown_straight(written_back, sectors);
            self.nodes[node].straight_from = Some(written_back);
        } else if let Some(at) = self.nodes[node].straight_from.take()
            && whole
        {
            self.settle_straight(node, at);
        }
        Ok(())
    }

    /// What is on a node's disk is the version at `at`.
    fn settle_straight(&mut self, node: usize, at: Position) {
        let sectors = self.history.size_at(at);
        let contents = self.nodes[node].disk.volume.read(0, sectors * SECTOR).to_vec();
        // A mixture is found when it is compared with what guests were told.
        let stamps = contents
            .chunks(SECTOR)
            .map(|sector| stamp::of(sector).unwrap_or(u64::MAX));
        let stamps: Vec<u64> = stamps.collect();
        self.history.settled(at, &stamps);
    }

    /// Faults stop, everything comes back, the guest gets its answers; then all replicas must be one.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.calm_down();
        let until = self.now.after_micros(SETTLE_MICROS_MAX);
        while self.now < until {
            self.run_until(100_000, World::is_at_rest)?;
            if self.comes_to_rest()? {
                break;
            }
        }
        self.check_rest()
    }

    /// Faults stop and everything comes back.
    pub(crate) fn calm_down(&mut self) {
        self.say(|| "CALM".to_owned());
        self.chaos_until = self.now;
        self.busy = false;
        self.network.heal_all();
        if self.network.quality != self.profile.quality {
            // What was connected while the network was slow would stay slow for ever.
            self.network.quality = self.profile.quality;
            self.lose_all_links();
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.slowness = 1;
            self.nodes[node].disk.failing = None;
            self.make_room(node);
            self.nodes[node].disk.full = false;
            self.nodes[node].keeps_old_members = false;
            if self.members.contains(&node) {
                self.start_after(node, 1000);
            }
        }
        self.tell_members();
        self.calm_door();
    }

    /// Whether nothing is left to do; what no replica can mend by itself is mended.
    pub(crate) fn comes_to_rest(&mut self) -> Result<bool, Violation> {
        self.mend_roles()?;
        if let Some(node) = (0..self.nodes.len()).find(|node| self.nodes[*node].told_damage) {
            self.replace(node);
        }
        self.want_no_more_replicas_than_there_are();
        self.resume_all();
        self.hurry_verify();
        self.flush_door();
        if !self.is_at_rest() {
            return Ok(false);
        }
        let rotten = self.members.iter().any(|node| self.is_rotten(*node));
        Ok(match self.primary() {
            Some(primary) if rotten => self.verify(primary, true, 0).is_none(),
            _ => true,
        })
    }

    fn never_rests(&self) -> Violation {
        let states: Vec<String> = self.members.iter().map(|node| self.stand(*node)).collect();
        let what = format!(
            "never comes to rest; {} requests and {} commands unanswered, {:?} serve, history ends at {}\n  {}",
            self.guest.asked.len(),
            self.commands.len(),
            self.serving(),
            self.history.end().lsn,
            states.join("\n  ")
        );
        self.violation(None, what)
    }

    /// A mode that waits for members which have left since waits for ever, as it should: the operator gives it up.
    fn want_no_more_replicas_than_there_are(&mut self) {
        let Some(primary) = self.primary() else { return };
        let mode = self.status(primary).map(|status| status.settings.mode);
        let asked = self
            .commands
            .values()
            .any(|c| matches!(c.command, Command::SetMode { .. }));
        if let Some(Mode::Sync { replicas } | Mode::NearSync { replicas, .. }) = mode
            && usize::from(replicas) >= self.members.len()
            && !asked
        {
            self.set_mode(primary, Mode::Async, MaxLag::default());
        }
    }

    /// A comparison that was told to take its time would take it.
    fn hurry_verify(&mut self) {
        let Some(primary) = self.primary() else { return };
        let run = self.status(primary).and_then(|status| status.verify.as_ref());
        let slow = run
            .filter(|run| run.is_active() && run.bytes_per_second_max > 0)
            .map(|run| run.repair);
        if let Some(repair) = slow.filter(|_| self.commands.is_empty()) {
            self.verify(primary, repair, 0);
        }
    }

    /// The operator takes back what was paused or limited, and trusts no fake.
    fn resume_all(&mut self) {
        if let Some(primary) = self.primary() {
            let limited = self
                .status(primary)
                .is_some_and(|s| s.settings.limits != Limits::default());
            let asked = self
                .commands
                .values()
                .any(|c| matches!(c.command, Command::SetLimits { .. }));
            if limited && !asked {
                self.set_limits(primary, Limits::default());
            }
        }
        for node in self.members.clone() {
            if self.nodes[node].config.log_bytes_max != self.profile.log_bytes_max {
                self.set_log_budget(node, self.profile.log_bytes_max);
            }
            if self.is_faked(node)
                && self
                    .status(node)
                    .is_some_and(|status| status.role == Role::Secondary)
            {
                self.replace(node);
            }
            let asked = self
                .commands
                .values()
                .any(|c| c.node == node && matches!(c.command, Command::Switch { .. }));
            // Modes and comparisons wait for those who follow the primary itself.
            let named = self.meta(node).is_some_and(|meta| !meta.sources.is_empty());
            let naming = self
                .commands
                .values()
                .any(|c| c.node == node && matches!(c.command, Command::SetSources { .. }));
            if named && !naming {
                self.set_sources(node, &[]);
            }
            let paused = self.status(node).map(|status| status.paused);
            for switch in Switch::ALL {
                if !asked && paused.is_some_and(|paused| paused.has(switch)) {
                    self.switch(node, switch, false);
                }
            }
        }
    }

    fn tell_members(&mut self) {
        for node in self.members.clone() {
            self.schedule(5000, Happening::Tell { node });
        }
    }

    fn stand(&self, node: usize) -> String {
        match self.status(node) {
            None => format!("h{node} is down"),
            Some(s) => format!(
                "h{node} {} {} ({}) epoch {} primary {:?} tip {} waiting {} disk {} short {:?} late {:?} \
                 verify {:?} {} {:?}",
                s.role,
                s.state,
                s.reason.as_deref().unwrap_or("-"),
                s.epoch,
                s.primary,
                s.tip.lsn,
                s.waiting_requests,
                self.nodes[node].disk.waiting(),
                s.short_micros,
                s.late_micros,
                s.verify,
                s.pressure,
                s.watermarks
            ),
        }
    }

    /// Whether nothing is left to do.
    pub fn is_at_rest(&self) -> bool {
        self.guest.asked.is_empty()
            && self.door_rests()
            && self.commands.is_empty()
            && self.serving().len() == 1
            && self.members.iter().all(|node| {
                self.nodes[*node].disk.waiting() == 0
                    && self.status(*node).is_some_and(|status| {
                        let marks = status.watermarks;
                        status.state == ReplicaState::Uptodate
                            && marks.written_back() == marks.appended()
                            && status.pressure == Level::Normal
                            && match status.straight {
                                true => self.members.len() == 1,
                                false => status.tip == self.history.end(),
                            }
                            && status.short_micros.is_none()
                            && status.late_micros.is_none()
                            && status.shadow_bytes == 0
                            && status.snapshots.iter().all(|snapshot| {
                                !matches!(snapshot.state, SnapshotState::Pending | SnapshotState::Dropping)
                            })
                            && status.verify.as_ref().is_none_or(|run| !run.is_active())
                    })
            })
    }

    /// All replicas hold the same, the same as the history, and the same as what the guest was told.
    pub(crate) fn check_rest(&mut self) -> Result<(), Violation> {
        if let Some(found) = self.found.take() {
            return Err(found);
        }
        if !self.is_at_rest() {
            return Err(self.never_rests());
        }
        self.say(|| "AT REST".to_owned());
        let mut end = self.history.end();
        if let Some((newest, base)) = self.forced.bases.last_key_value()
            && *newest > self.guest.takeovers
        {
            // It had nothing to ask since.
            let (newest, base) = (*newest, *base);
            self.move_guest(newest, base, self.history.size_at(end), false);
        }
        if let Some(node) = self.primary()
            && let Some(at) = self.nodes[node].straight_from
        {
            self.settle_straight(node, at);
            end = at;
        }
        let sectors = self.history.size_at(end) as u64;
        if (sectors as usize) < self.guest.sectors() {
            let what = format!("at rest the volume has {sectors} sectors, and its guest was told of more");
            return Err(self.violation(None, what));
        }
        for node in self.members.clone() {
            let size = self.status(node).map(|status| status.size.sectors().0);
            if size != Some(sectors) {
                let what = format!("at rest is {size:?} sectors long instead of {sectors}");
                return Err(self.violation(Some(node), what));
            }
            for sector in 0..sectors {
                let bytes = self.nodes[node]
                    .disk
                    .volume
                    .read(sector * SECTOR as u64, SECTOR)
                    .to_vec();
                let want = self.history.version_at(end)(sector as usize);
                if stamp::of(&bytes) != Some(want) {
                    let have = stamp::of(&bytes);
                    let what = format!("at rest sector {sector} holds {have:#x?} instead of {want:#x}");
                    return Err(self.violation(Some(node), what));
                }
                if sector as usize >= self.guest.sectors() {
                    continue;
                }
                let told = self.guest.check_at_rest(sector as usize, &bytes);
                told.map_err(|what| self.violation(Some(node), format!("at rest, {what}")))?;
            }
            self.check_version(node, self.nodes[node].disk.clone())?;
        }
        self.check_snapshots_at_rest()?;
        self.count("checks: rests");
        Ok(())
    }

    /// Longest time that a plain write has taken since this was asked last, in microseconds.
    pub fn take_write_micros_max(&mut self) -> u64 {
        std::mem::take(&mut self.guest.write_micros_max)
    }

    /// How a node stood after it last did something: within what it does now, it may have changed already.
    pub(super) fn stood(&self, node: usize) -> Option<&Stood> {
        self.nodes[node].stood.as_ref()
    }

    /// How a node stands; `None` when it is down.
    pub fn status(&self, node: usize) -> Option<&Status> {
        let place = &self.nodes[node];
        let engine = place.engine.as_ref()?;
        Some(place.status.get_or_init(|| engine.status(self.clock(node))))
    }

    /// The node that serves guests now.
    pub fn primary(&self) -> Option<usize> {
        self.serving().first().copied()
    }

    /// News so far, each with who told it.
    pub fn notices(&self) -> &[(usize, Notice)] {
        &self.notices
    }
}

fn lay(record: &Record, contents: &mut Vec<u8>) {
    let Some((range, data)) = record.change() else {
        return;
    };
    if record.growth().is_some() {
        let length = contents.len().max(range.end().bytes() as usize);
        contents.resize(length, 0);
    }
    let place = &mut contents[range.start.bytes() as usize..range.end().bytes() as usize];
    match data {
        Some(data) => place.copy_from_slice(data),
        None => place.fill(0),
    }
}

/// Contents that change without a log, or that are being copied, are no version: they are held against what guests were told.
fn is_version(meta: &Meta) -> bool {
    meta.sync == SyncState::Whole && !meta.straight
}
