//! What does this replica do about the volume's mode? It feeds `policy.rs` with figures and does what comes out.

use model::{Lsn, Mode, Role, Tick};

use crate::engine::{Engine, Phase, Then};
use crate::event::{Answer, CommandError, CommandId, Effect, Notice};
use crate::message::Message;
use crate::policy::{self, Change, Needed};
use crate::settings::{LIMIT_BYTES_MIN, Limits, MaxLag, Settings};
use crate::ship::Peer;

/// While log is missing somewhere, its age is looked at so often.
const WATCH_MILLIS: u64 = 50;

impl Engine {
    /// What an operator asks for: checked, made durable, then told.
    pub(crate) fn set_mode(&mut self, id: CommandId, mode: Mode, max_lag: MaxLag) {
        if let Some(refusal) = self.refusal_to_decide() {
            return self.answer(id, Err(refusal));
        }
        if let Some(refusal) = self.refusal_of_mode(mode, max_lag) {
            return self.answer(id, Err(refusal));
        }
        let settings = self.meta.settings;
        self.decide(
            id,
            Settings {
                mode,
                max_lag,
                ..settings
            },
        );
    }

    /// As [`Engine::set_mode`], for the volume's share of the network.
    pub(crate) fn set_limits(&mut self, id: CommandId, limits: Limits) {
        if let Some(refusal) = self.refusal_to_decide() {
            return self.answer(id, Err(refusal));
        }
        let slow = |limit: Option<u64>| limit.is_some_and(|limit| limit < LIMIT_BYTES_MIN);
        if slow(limits.ship_bytes_per_second) || slow(limits.sync_bytes_per_second) {
            let reason = format!(
                "a limit is at least {LIMIT_BYTES_MIN} bytes per second; to stop a replica, pause its fetch or sync"
            );
            return self.answer(id, Err(CommandError::Unfit { reason }));
        }
        let settings = self.meta.settings;
        self.decide(id, Settings { limits, ..settings });
    }

    /// Whether batches are compressed from now on.
    pub(crate) fn set_compression(&mut self, id: CommandId, compressed: bool) {
        if let Some(refusal) = self.refusal_to_decide() {
            return self.answer(id, Err(refusal));
        }
        let settings = self.meta.settings;
        self.decide(
            id,
            Settings {
                compressed,
                ..settings
            },
        );
    }

    /// Why nothing can be decided for the volume here and now.
    fn refusal_to_decide(&self) -> Option<CommandError> {
        match self.phase {
            _ if self.meta.role != Role::Primary => Some(CommandError::NotPrimary),
            Phase::Serving => None,
            _ => Some(CommandError::NotInService {
                reason: "recovery is under way".to_owned(),
            }),
        }
    }

    /// Lives by new settings from now on; answered and told to others once they are durable.
    fn decide(&mut self, id: CommandId, settings: Settings) {
        self.meta.settings = settings;
        self.save(Then::Decided { id });
    }

    fn refusal_of_mode(&self, mode: Mode, max_lag: MaxLag) -> Option<CommandError> {
        let others = self.peers.len();
        let (replicas, wait_millis) = match mode {
            Mode::Async => (1, 1),
            Mode::NearSync {
                replicas,
                wait_millis_max,
            } => (usize::from(replicas), wait_millis_max),
            Mode::Sync { replicas } => (usize::from(replicas), 1),
        };
        if replicas == 0 || wait_millis == 0 {
            let reason = format!(
                "mode {mode} waits for at least 1 replica, for at least 1 ms; to wait for none, use mode async"
            );
            return Some(CommandError::Unfit { reason });
        }
        if mode != Mode::Async && replicas > others {
            let reason = format!(
                "mode {mode} with {replicas} replicas needs as many besides the primary, and there are {others}; \
                 join more first, or wait for fewer"
            );
            return Some(CommandError::Refused { reason });
        }
        if max_lag.throttle && !max_lag.is_set() {
            let reason = "a throttle needs a largest lag: give one in time or bytes".to_owned();
            return Some(CommandError::Unfit { reason });
        }
        None
    }

    pub(crate) fn decided(&mut self, id: CommandId) {
        self.tell_settings();
        self.answer(id, Ok(Answer::Done));
    }

    fn tell_settings(&mut self) {
        let settings = Box::new(self.meta.settings);
        for link in self.streaming_links() {
            let settings = settings.clone();
            let message = Message::Settings { settings };
            self.effects.push_back(Effect::Send { link, message });
        }
    }

    /// What our source says holds for the volume.
    pub(crate) fn adopt(&mut self, settings: Settings) {
        if self.meta.settings != settings {
            self.meta.settings = settings;
            self.save(Then::Nothing);
            self.tell_settings();
        }
    }

    /// Everything before this may be answered as durable.
    pub(crate) fn assured(&self) -> Lsn {
        let mode = self.meta.settings.mode;
        // Most volumes are asynchronous, and most calls come with every batch.
        let there = match mode {
            Mode::Async => None,
            _ => self.needed_last(true).map(|needed| needed.committed),
        };
        self.policy.assured(mode, self.marks.committed(), there)
    }

    /// The replica that is needed last: the r-th best of those that count. To wait for, only whole ones that we stream to count;
    /// to tell a lag, all that are whole for all we know.
    fn needed_last(&self, streaming: bool) -> Option<Needed> {
        let counts = |peer: &&Peer| {
            let streams = self.sent_to(peer).is_some();
            if streaming {
                streams && peer.whole
            } else {
                peer.whole || !streams
            }
        };
        let mut peers: Vec<&Peer> = self.peers.values().filter(counts).collect();
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.committed));
        let last = peers.get(policy::needed(self.meta.settings.mode).checked_sub(1)?)?;
        Some(Needed {
            committed: last.committed,
            lag_bytes: self.marks.appended().since(last.committed),
            lag_micros: self.lag_micros(self.now, last.committed),
            drain_per_second: last.drain.per_second(self.now),
        })
    }

    pub(crate) fn pump_policy(&mut self) {
        self.policy_due = None;
        let settings = self.meta.settings;
        if !matches!(self.phase, Phase::Serving) {
            self.policy = policy::Policy::default();
            return self.pace.set(self.now, None);
        }
        let for_space = self.space_pace();
        let quiet = self.policy.short_since.is_none() && self.policy.late_since.is_none();
        if settings == Settings::default() && quiet && self.log.wait_replicas.is_empty() {
            return self.set_pace(for_space);
        }
        let there = self.needed_last(true);
        self.be_short_without_log();
        self.judge(settings.mode, there);
        self.settle_flushes();
        let lag = if settings.max_lag.is_set() {
            self.needed_last(false)
        } else {
            None
        };
        self.watch_lag(settings.max_lag, lag);
        let paced = there.filter(|_| settings.max_lag.throttle && self.policy.late_since.is_some());
        let for_lag = paced.and_then(|there| policy::pace(settings.max_lag, there));
        self.set_pace(for_lag.into_iter().chain(for_space).min());
        let oldest = self.oldest_wait();
        let judge_at = self.policy.judge_at(settings.mode, oldest);
        let aging = lag.is_some_and(|lag| lag.lag_bytes > 0) || self.policy.short_since.is_some();
        let watch_at = aging.then(|| self.now.after_millis(WATCH_MILLIS));
        self.policy_due = judge_at.into_iter().chain(watch_at).min();
    }

    /// Flushes that replicas have kept waiting to the end: whoever is primary next answers them.
    pub(crate) fn bounce_flushes(&mut self) {
        for (_, tag, _) in std::mem::take(&mut self.log.wait_replicas) {
            let result = Err(self.not_primary());
            self.effects.push_back(Effect::Complete { tag, result });
        }
    }

    fn oldest_wait(&self) -> Option<Tick> {
        self.log.wait_replicas.front().map(|(_, _, since)| *since)
    }

    /// Without a log no replica can have what is flushed, however close it was.
    pub(crate) fn be_short_without_log(&mut self) {
        let mode = self.meta.settings.mode;
        let bound = self.does_without_log() || self.straight.road.is_straight();
        if bound && matches!(mode, Mode::NearSync { .. }) && self.policy.short_since.is_none() {
            self.policy.short_since = Some(self.now);
            self.notice(Notice::Short { mode });
        }
    }

    fn judge(&mut self, mode: Mode, there: Option<Needed>) {
        if self.does_without_log() && mode != Mode::Async {
            return;
        }
        let since = self.policy.short_since;
        let oldest = self.oldest_wait();
        match self.policy.judge(self.now, mode, oldest, there) {
            Some(Change::Short) => self.notice(Notice::Short { mode }),
            Some(Change::Restored) => {
                let short_micros = since.map_or(0, |since| self.now.micros_since(since));
                self.notice(Notice::Restored { short_micros });
            }
            None => {}
        }
    }

    fn watch_lag(&mut self, max: MaxLag, lag: Option<Needed>) {
        let since = self.policy.late_since;
        match (self.policy.watch(self.now, max, lag), lag) {
            (Some(true), Some(lag)) => self.notice(Notice::LagExceeded {
                lag_bytes: lag.lag_bytes,
                lag_micros: lag.lag_micros,
            }),
            (Some(false), _) => {
                let late_micros = since.map_or(0, |since| self.now.micros_since(since));
                self.notice(Notice::LagCleared { late_micros });
            }
            _ => {}
        }
    }

    /// A pace that has hardly changed is left alone, so that its debt is not forgiven all the time.
    fn set_pace(&mut self, pace: Option<u64>) {
        let near = |old: u64, new: u64| old.abs_diff(new) <= old / 8;
        let same = match (self.pace.per_second(), pace) {
            (Some(old), Some(new)) => near(old, new),
            (old, new) => old == new,
        };
        if !same {
            self.pace.set(self.now, pace);
        }
    }

    /// When a slowed guest may go on.
    pub(crate) fn pace_due(&self) -> Option<Tick> {
        let waits = !self.guests.waiting.is_empty() && !self.pace.is_ready(self.now);
        waits.then(|| self.pace.ready_at(self.now))
    }
}
