//! When may a flush be answered, and when are the replicas too far behind? Pure: figures in, decisions out.
//!
//! | mode | a FLUSH, or a write with FUA, is answered once durable here and |
//! |---|---|
//! | async | – |
//! | near-sync | at r replicas; but when that takes longer than t ms it is answered without, and so is every later one (*degraded*), until r replicas have been close again for a second |
//! | sync | at r replicas, however long that takes; with fewer than r in reach, guests' flushes wait (*short*) |
//!
//! The choice in sync mode is deliberate: a volume that must not lose a flushed write stops rather than lose it, and says so.
//! Who would rather go on has near-sync, which is the same with a patience. The operator's way out is to change the mode, which
//! works while flushes wait. Plain writes are never held back: the device announces a write cache, and what was not flushed was
//! not promised. A replica counts when it is whole and gets its log from the primary itself.

use model::{Lsn, Mode, Tick};

use crate::pressure::PACE_BYTES_MIN;
use crate::settings::MaxLag;

/// Replicas must have been close for so long before flushes wait for them again.
const RESTORE_MILLIS: u64 = 1000;

/// A flush in sync mode that waits for so long is worth a word.
const HELD_MILLIS: u64 = 1000;

/// How coarse the age of log is known; a replica this close is close.
const AGE_GRAIN_MICROS: u64 = 40_000;

/// An alarm ends at this part of the limit, so that it does not flicker.
const CLEAR_PERCENT: u64 = 80;

/// The figures of the replica that is needed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Durable there.
    pub committed: Lsn,
    /// Log that is missing there.
    pub lag_bytes: u64,
    /// Age of the oldest byte of it.
    pub lag_micros: u64,
    /// What it takes lately, in bytes of log per second.
    pub drain_per_second: u64,
}

/// What has changed, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Too few replicas keep up: near-sync goes on without, sync waits.
    Short,
    /// Enough of them keep up again.
    Restored,
}

/// What the policy remembers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    /// Since when too few replicas keep up.
    pub short_since: Option<Tick>,
    /// Since when they do again.
    close_since: Option<Tick>,
    /// Since when the lag is past its limit.
    pub late_since: Option<Tick>,
}

/// How many replicas a mode waits for; their lag is what the volume's lag is measured by.
pub(crate) fn needed(mode: Mode) -> usize {
    match mode {
        Mode::Async => 1,
        Mode::NearSync { replicas, .. } | Mode::Sync { replicas } => usize::from(replicas),
    }
}

/// How long a flush that is durable here waits before something happens.
fn patience_millis(mode: Mode) -> Option<u64> {
    match mode {
        Mode::Async => None,
        Mode::NearSync { wait_millis_max, .. } => Some(u64::from(wait_millis_max)),
        Mode::Sync { .. } => Some(HELD_MILLIS),
    }
}

impl Policy {
    /// Everything before this may be answered as durable; `there` is what the replicas that are waited for have durably.
    pub fn assured(&self, mode: Mode, here: Lsn, there: Option<Lsn>) -> Lsn {
        match mode {
            Mode::Async => here,
            Mode::NearSync { .. } if self.short_since.is_some() => here,
            Mode::NearSync { .. } | Mode::Sync { .. } => there.map_or(Lsn(0), |there| there.min(here)),
        }
    }

    /// Looks at who has waited since when for replicas only, and at the replica that is needed last.
    pub fn judge(
        &mut self,
        now: Tick,
        mode: Mode,
        oldest_wait: Option<Tick>,
        there: Option<Needed>,
    ) -> Option<Change> {
        let Some(patience) = patience_millis(mode) else {
            self.close_since = None;
            return self.short_since.take().map(|_| Change::Restored);
        };
        let late = oldest_wait.is_some_and(|since| now >= since.after_millis(patience));
        if self.short_since.is_none() {
            self.close_since = None;
            self.short_since = late.then_some(now);
            return late.then_some(Change::Short);
        }
        let close = there.is_some_and(|there| there.lag_micros <= patience * 500 + AGE_GRAIN_MICROS);
        if !close || late {
            self.close_since = None;
            return None;
        }
        let since = *self.close_since.get_or_insert(now);
        if now < since.after_millis(RESTORE_MILLIS) {
            return None;
        }
        self.short_since = None;
        self.close_since = None;
        Some(Change::Restored)
    }

    /// When [`Policy::judge`] wants to be asked again if nothing happens before.
    pub fn judge_at(&self, mode: Mode, oldest_wait: Option<Tick>) -> Option<Tick> {
        let patience = patience_millis(mode)?;
        match (self.short_since, self.close_since) {
            (None, _) => oldest_wait.map(|since| since.after_millis(patience)),
            (Some(_), Some(since)) => Some(since.after_millis(RESTORE_MILLIS)),
            (Some(_), None) => None,
        }
    }

    /// Whether the lag has just passed its limit (`true`) or is well below it again (`false`).
    pub fn watch(&mut self, now: Tick, max: MaxLag, lag: Option<Needed>) -> Option<bool> {
        let over = |percent: u64| {
            let past = |have: u64, limit: Option<u64>| {
                limit.is_some_and(|limit| u128::from(have) * 100 > u128::from(limit) * u128::from(percent))
            };
            lag.is_some_and(|lag| past(lag.lag_micros / 1000, max.millis) || past(lag.lag_bytes, max.bytes))
        };
        match self.late_since {
            None if over(100) => {
                self.late_since = Some(now);
                Some(true)
            }
            Some(_) if !over(CLEAR_PERCENT) => {
                self.late_since = None;
                Some(false)
            }
            _ => None,
        }
    }
}

/// How fast guests may write while a connected replica is too far behind: what it takes, less by as much as it is over its
/// limit, so that it gains on them, and the slower the further it is behind. `None`: as fast as they like.
pub(crate) fn pace(max: MaxLag, lag: Needed) -> Option<u64> {
    let part = |have: u64, limit: Option<u64>| -> Option<u64> {
        // In percent: 100 at the limit, 50 at twice of it.
        limit.map(|limit| (u128::from(limit) * 100 / u128::from(have.max(1))) as u64)
    };
    let millis = part(lag.lag_micros / 1000, max.millis);
    let bytes = part(lag.lag_bytes, max.bytes);
    let percent = millis.into_iter().chain(bytes).min()?.clamp(10, 100);
    Some((lag.drain_per_second / 100 * percent).max(PACE_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Mode = Mode::NearSync {
        replicas: 1,
        wait_millis_max: 100,
    };
    const SYNC: Mode = Mode::Sync { replicas: 1 };

    fn needed(committed: u64, lag_micros: u64) -> Needed {
        Needed {
            committed: Lsn(committed),
            lag_bytes: 1000,
            lag_micros,
            drain_per_second: 1 << 20,
        }
    }

    #[test]
    fn what_is_assured_in_each_mode() {
        let short = Policy {
            short_since: Some(Tick(0)),
            ..Policy::default()
        };
        for (policy, mode, there, want) in [
            (Policy::default(), Mode::Async, None, 9),
            (Policy::default(), NEAR, None, 0),
            (Policy::default(), NEAR, Some(Lsn(5)), 5),
            (Policy::default(), NEAR, Some(Lsn(12)), 9),
            (short, NEAR, Some(Lsn(5)), 9),
            (short, SYNC, Some(Lsn(5)), 5),
            (short, SYNC, None, 0),
        ] {
            assert_eq!(
                policy.assured(mode, Lsn(9), there),
                Lsn(want),
                "{mode:?} {there:?}"
            );
        }
    }

    #[test]
    fn near_sync_degrades_after_its_patience_and_comes_back_after_a_calm_second() {
        let mut policy = Policy::default();
        let asked = Tick(1_000_000);
        assert_eq!(policy.judge(asked, NEAR, Some(asked), None), None);
        assert_eq!(policy.judge_at(NEAR, Some(asked)), Some(asked.after_millis(100)));
        let late = asked.after_millis(100);
        assert_eq!(policy.judge(late, NEAR, Some(asked), None), Some(Change::Short));
        assert_eq!(policy.judge_at(NEAR, None), None);
        let far = late.after_millis(5000);
        assert_eq!(policy.judge(far, NEAR, None, Some(needed(1, 2_000_000))), None);
        assert_eq!(policy.judge(far, NEAR, None, Some(needed(1, 0))), None);
        assert_eq!(policy.judge_at(NEAR, None), Some(far.after_millis(1000)));
        // It was gone once more: the calm second begins anew.
        assert_eq!(policy.judge(far.after_millis(500), NEAR, None, None), None);
        let back = far.after_millis(2000);
        assert_eq!(policy.judge(back, NEAR, None, Some(needed(1, 0))), None);
        let calm = back.after_millis(1000);
        assert_eq!(
            policy.judge(calm, NEAR, None, Some(needed(1, 0))),
            Some(Change::Restored)
        );
        assert_eq!(policy.short_since, None);
    }

    #[test]
    fn a_change_of_mode_ends_a_shortage() {
        let mut policy = Policy::default();
        assert_eq!(
            policy.judge(Tick(2_000_000), SYNC, Some(Tick(0)), None),
            Some(Change::Short)
        );
        assert_eq!(
            policy.judge(Tick(2_000_001), Mode::Async, None, None),
            Some(Change::Restored)
        );
        assert_eq!(policy.judge(Tick(2_000_002), Mode::Async, None, None), None);
    }

    #[test]
    fn an_alarm_comes_once_and_goes_well_below_the_limit() {
        let max = MaxLag {
            millis: Some(1000),
            bytes: None,
            throttle: false,
        };
        let mut policy = Policy::default();
        let mut told = Vec::new();
        for millis in [0, 1000, 1001, 1200, 900, 801, 800, 900, 1000] {
            told.push(policy.watch(Tick(1), max, Some(needed(0, millis * 1000))));
        }
        assert_eq!(
            told,
            [None, None, Some(true), None, None, None, Some(false), None, None]
        );
        assert_eq!(policy.watch(Tick(1), max, None), None);
    }

    #[test]
    fn a_slowed_guest_gets_less_the_later_the_replica_is_but_never_nothing() {
        let max = MaxLag {
            millis: Some(1000),
            bytes: None,
            throttle: true,
        };
        let at = |millis: u64, drain: u64| {
            let lag = Needed {
                drain_per_second: drain,
                ..needed(0, millis * 1000)
            };
            pace(max, lag).expect("there is a limit")
        };
        assert_eq!(at(1000, 10 << 20) / 100 * 100, (10 << 20) / 100 * 100);
        assert!(at(2000, 10 << 20) <= 5 << 20);
        assert!(at(60_000, 10 << 20) >= PACE_BYTES_MIN);
        assert_eq!(at(2000, 0), PACE_BYTES_MIN);
        assert_eq!(pace(MaxLag::default(), needed(0, 9)), None);
    }
}
