//! How far may the log be given up, who holds it, and whom does it stop waiting for? Pure: figures in, decisions out.

use std::fmt;

use model::{Lsn, NodeId};

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
