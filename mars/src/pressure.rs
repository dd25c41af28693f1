//! How far may the log be given up, who holds it, and what happens when it takes too much room? Pure: figures in,
//! decisions out.
//!
//! | level | entered | left | what it means |
//! |---|---|---|---|
//! | normal | | | guests write as fast as they like |
//! | throttled | above 60 % of the budget | below 45 % | guests' writes are slowed, if that helps whoever holds the log |
//! | dropping | above the budget | below 75 % | the log stops waiting for laggards; what they lack goes into maps |
//! | unlogged | no room for a log at all | when there is | changes go straight to the disk; what every peer lacks goes into maps |
//! | stalled | the same, where that is not allowed | the same | a primary in sync mode lets changes wait, a replica takes nothing in |
//! | stalled | a flush of the log found no room | when one has | changes wait: what is not durable in the log is on no disk yet |
//!
//! A guest never gets an error from any of them.

use std::fmt;

use model::{Lsn, NodeId};

/// A log with less room than this is none.
pub const LOG_BYTES_MIN: u64 = 32 << 10;

/// Guests are slowed from this share of the budget on, in percent, and until the lower one.
const SOFT_PERCENT: u64 = 60;
const SOFT_LEAVE_PERCENT: u64 = 45;

/// Laggards are dropped above the budget; that is over at this share of it, in percent.
const HARD_LEAVE_PERCENT: u64 = 75;

/// What is left of the budget is given out over so many seconds: nobody is slowed for much longer than two of that.
const SPREAD_SECONDS: u128 = 60;

/// A slowed guest gets at least this: it must never stand still because of a replica.
pub(crate) const PACE_BYTES_MIN: u64 = 64 << 10;

/// How much trouble the room for the log gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// None.
    #[default]
    Normal,
    /// Guests are slowed.
    Throttled,
    /// The log stops waiting for laggards.
    Dropping,
    /// There is no log.
    Unlogged,
    /// There is no room for the log, and it may not be done without.
    Stalled,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Normal => "normal",
            Level::Throttled => "throttled",
            Level::Dropping => "dropping",
            Level::Unlogged => "unlogged",
            Level::Stalled => "stalled",
        })
    }
}

/// What a level follows from.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Log kept.
    pub log_bytes: u64,
    /// Its budget.
    pub log_bytes_max: u64,
    /// An append did not fit, and there has been no room since.
    pub full: bool,
    /// Whether changes may do without a log.
    pub may_do_without: bool,
}

impl Level {
    /// The level that follows this one.
    pub fn next(self, room: &Room) -> Level {
        // A budget that has just become one again must be well above nothing.
        let least = match self {
            Level::Unlogged => 2 * LOG_BYTES_MIN,
            _ => LOG_BYTES_MIN,
        };
        if room.full || room.log_bytes_max < least {
            if room.may_do_without {
                return Level::Unlogged;
            }
            if room.full {
                return Level::Stalled;
            }
        }
        let budget = room.log_bytes_max.max(LOG_BYTES_MIN);
        let above =
            |percent: u64| u128::from(room.log_bytes) * 100 > u128::from(budget) * u128::from(percent);
        if above(100) || (self == Level::Dropping && above(HARD_LEAVE_PERCENT)) {
            return Level::Dropping;
        }
        let slowed = matches!(self, Level::Throttled | Level::Dropping);
        if above(SOFT_PERCENT) || (slowed && above(SOFT_LEAVE_PERCENT)) {
            return Level::Throttled;
        }
        Level::Normal
    }
}

/// How fast guests may write while a replica that takes `drain` bytes per second holds the log: what it takes, and what is left
/// of the budget within a minute; much more than that at first. So a burst that ends in time costs no copy, and one that does not
/// ends in a dropped laggard, not in guests that are slow for ever.
pub fn pace(room: &Room, drain: u64) -> Option<u64> {
    let budget = u128::from(room.log_bytes_max.max(LOG_BYTES_MIN));
    let used = u128::from(room.log_bytes);
    let soft = budget * u128::from(SOFT_PERCENT) / 100;
    if used <= soft {
        return None;
    }
    let left = (budget * 11 / 10).saturating_sub(used);
    let more = left * (budget - soft) / ((used - soft) * SPREAD_SECONDS);
    let pace = u128::from(drain) + more;
    Some(u64::try_from(pace).unwrap_or(u64::MAX).max(PACE_BYTES_MIN))
}

/// Who still needs the log from some position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not on our own disk yet.
    WriteBack,
    /// A peer that counts does not have it durably.
    Peer(NodeId),
    /// What a peer lacks is not saved so far: a restart would read it from the log.
    Track(NodeId),
    /// The source says that some member needs it.
    Source,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::WriteBack => f.write_str("write-back to the disk"),
            Reason::Peer(node) => write!(f, "replica {node}"),
            Reason::Track(node) => write!(f, "saving what {node} lacks"),
            Reason::Source => f.write_str("another replica, says the primary"),
        }
    }
}

/// One term of the horizon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Who.
    pub reason: Reason,
    /// The log from here on.
    pub from: Lsn,
}

/// How far the log may be given up: the least of all needs, and whose it is. Of equal ones the first counts; what is not on
/// the own disk is always needed.
pub fn horizon(written_back: Lsn, others: impl IntoIterator<Item = Need>) -> Need {
    let own = Need {
        reason: Reason::WriteBack,
        from: written_back,
    };
    others.into_iter().fold(
        own,
        |least, need| if need.from < least.from { need } else { least },
    )
}

/// Which peer the log stops waiting for: the one that is furthest behind, when the log is longer than `log_bytes_max` because of it.
///
/// One at a time: whoever is within half of the budget stays, and so does everyone while it is our own write-back or trimming
/// that has to catch up. `peers` are those that count, with what each has durably.
pub fn laggard<'a>(
    log: std::ops::Range<Lsn>,
    log_bytes_max: u64,
    written_back: Lsn,
    peers: impl IntoIterator<Item = (&'a NodeId, Lsn)>,
) -> Option<&'a NodeId> {
    if log.end.since(log.start) <= log_bytes_max {
        return None;
    }
    let (node, committed) = peers.into_iter().min_by_key(|(_, committed)| *committed)?;
    let holds = committed < written_back && log.end.since(committed) > log_bytes_max / 2;
    holds.then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn room(log_bytes: u64) -> Room {
        Room {
            log_bytes,
            log_bytes_max: 1 << 20,
            full: false,
            may_do_without: true,
        }
    }

    #[test]
    fn levels_come_one_after_the_other_and_do_not_flicker() {
        let percent = |percent: u64| room((percent << 20) / 100 + 1);
        let mut level = Level::Normal;
        let mut seen = Vec::new();
        for used in [30, 50, 61, 50, 46, 44, 61, 101, 99, 76, 74, 50, 44] {
            level = level.next(&percent(used));
            seen.push(level);
        }
        use Level::{Dropping, Normal, Throttled};
        let up = [Normal, Normal, Throttled, Throttled, Throttled, Normal];
        let down = [
            Throttled, Dropping, Dropping, Dropping, Throttled, Throttled, Normal,
        ];
        assert_eq!(seen, [&up[..], &down[..]].concat());
    }

    #[test]
    fn without_room_there_is_no_log_or_a_stall() {
        let full = Room {
            full: true,
            ..room(0)
        };
        let tiny = Room {
            log_bytes_max: LOG_BYTES_MIN - 1,
            ..room(0)
        };
        let small = Room {
            log_bytes_max: LOG_BYTES_MIN,
            ..room(0)
        };
        for before in [Level::Normal, Level::Dropping, Level::Unlogged, Level::Stalled] {
            assert_eq!(before.next(&full), Level::Unlogged);
            assert_eq!(before.next(&tiny), Level::Unlogged);
            let bound = |room: Room| Room {
                may_do_without: false,
                ..room
            };
            assert_eq!(before.next(&bound(full)), Level::Stalled);
            assert_eq!(before.next(&bound(tiny)), Level::Normal, "slow, but it goes on");
        }
        assert_eq!(Level::Unlogged.next(&small), Level::Unlogged);
        assert_eq!(Level::Normal.next(&small), Level::Normal);
        assert_eq!(Level::Unlogged.next(&room(0)), Level::Normal);
    }

    #[test]
    fn guests_are_slowed_smoothly_and_never_to_a_stand() {
        let drain = 1 << 20;
        let at = |percent: u64| {
            let room = Room {
                log_bytes_max: 1 << 30,
                ..room((percent << 30) / 100)
            };
            pace(&room, drain)
        };
        assert_eq!(at(60), None);
        let paces: Vec<u64> = (61..=120).map(|percent| at(percent).expect("slowed")).collect();
        assert!(paces.is_sorted_by(|a, b| a >= b), "{paces:?}");
        assert!(paces[0] > 100 * drain, "hardly at first: {}", paces[0]);
        assert!(
            at(100).is_some_and(|pace| pace > drain),
            "the log goes on to grow"
        );
        assert_eq!(at(120), Some(drain));
        assert_eq!(pace(&room(2 << 20), 0), Some(PACE_BYTES_MIN));
    }

    #[test]
    fn the_horizon_is_the_least_need_and_names_it() {
        let check = |others: &[(Reason, u64)], want: (Reason, u64)| {
            let needs = others.iter().map(|(reason, from)| Need {
                reason: reason.clone(),
                from: Lsn(*from),
            });
            let found = horizon(Lsn(100), needs);
            assert_eq!((found.reason, found.from), (want.0, Lsn(want.1)));
        };
        let (b, c) = (Reason::Peer(node("b")), Reason::Track(node("c")));
        check(&[], (Reason::WriteBack, 100));
        check(&[(b.clone(), 100)], (Reason::WriteBack, 100));
        check(&[(b.clone(), 300), (c.clone(), 70)], (c.clone(), 70));
        check(&[(b.clone(), 70), (c, 70)], (b, 70));
        check(&[(Reason::Source, 0)], (Reason::Source, 0));
    }

    #[test]
    fn only_the_furthest_behind_is_left_behind_and_only_when_it_is_to_blame() {
        let (b, c) = (node("b"), node("c"));
        let of = |b_has: u64, c_has: u64, written_back: u64| {
            let peers = [(&b, Lsn(b_has)), (&c, Lsn(c_has))];
            laggard(Lsn(0)..Lsn(1000), 800, Lsn(written_back), peers)
        };
        assert_eq!(of(100, 200, 1000), Some(&b));
        assert_eq!(of(500, 200, 1000), Some(&c));
        assert_eq!(of(200, 200, 150), None, "our own disk is further behind");
        assert_eq!(of(650, 900, 1000), None, "trimming has just to catch up");
        assert_eq!(laggard(Lsn(0)..Lsn(800), 800, Lsn(800), [(&b, Lsn(0))]), None);
        assert_eq!(laggard(Lsn(0)..Lsn(1000), 800, Lsn(1000), []), None);
    }
}
