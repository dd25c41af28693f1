//! Which changes of a replica's state are news? Those that last; told once, with the reason.
//!
//! Under load a replica is behind and up to date again many times in a second; what comes and goes is nobody's business. A
//! host that is away is told of by itself, not once for each of its replicas.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::ApiError;
use model::ReplicaState;

use super::Leader;
use super::view::View;
use crate::catalog::Records;
use crate::inventory::Snapshot;

/// A state that has lasted for so long is news; being behind is what asynchronous replication does.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_BEHIND: Duration = Duration::from_secs(15);

/// What was told of each replica, by volume and host.
#[derive(Debug, Default)]
pub struct Watching {
    rows: BTreeMap<(String, String), Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    told: ReplicaState,
    seen: ReplicaState,
    since: Instant,
}

impl Row {
    /// Takes in what is seen now. Answers the state that was told before, if the new one is news.
    fn see(&mut self, state: ReplicaState, now: Instant) -> Option<ReplicaState> {
        if self.seen != state {
            (self.seen, self.since) = (state, now);
        }
        let patience = match state {
            ReplicaState::Behind => PATIENCE_BEHIND,
            _ => PATIENCE,
        };
        let lasts = now.saturating_duration_since(self.since) >= patience;
        (lasts && self.told != state).then(|| std::mem::replace(&mut self.told, state))
    }
}

impl Leader {
    /// Tells which replicas are in another state than before.
    pub(super) fn note_states(
        &self,
        records: &Records,
        snapshot: &Snapshot,
        now: Instant,
        watching: &mut Watching,
    ) -> Result<(), ApiError> {
        let view = View {
            leader: &self.node,
            records,
            snapshot,
            now,
        };
        let mut rows = BTreeMap::new();
        let mut news = Vec::new();
        for volume in records.live_volumes() {
            let primary = snapshot.primary(&volume.id, now);
            for place in &volume.members {
                let key = (volume.id.clone(), place.node.clone());
                let before = watching.rows.get(&key).copied();
                if snapshot.marsd(&place.node, now).is_err() {
                    rows.extend(before.map(|before| (key, before)));
                    continue;
                }
                let (state, row) = view.replica(volume, &place.node, &place.vg, primary);
                let mut known = before.unwrap_or(Row {
                    told: state,
                    seen: state,
                    since: now,
                });
                if let Some(told) = known.see(state, now) {
                    let why = row.reason.map(|why| format!(": {why}")).unwrap_or_default();
                    let what = format!("the replica on node {} is {state}, was {told}{why}", place.node);
                    news.push((format!("volume {}", volume.name), what));
                }
                rows.insert(key, known);
            }
        }
        watching.rows = rows;
        if news.is_empty() {
            return Ok(());
        }
        self.catalog.change(false, |tx| {
            news.into_iter()
                .try_for_each(|(object, what)| tx.event(object, what))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_what_flickers_never() {
        use ReplicaState::{Behind, SplitBrain, Unreachable, Uptodate};
        let begin = Instant::now();
        let mut row = Row {
            told: Uptodate,
            seen: Uptodate,
            since: begin,
        };
        let mut at = |seconds, state| row.see(state, begin + Duration::from_secs(seconds));
        for second in 1..100 {
            assert_eq!(at(second, if second % 2 == 0 { Behind } else { Uptodate }), None);
        }
        assert_eq!(
            (at(100, Unreachable), at(102, Unreachable)),
            (None, Some(Uptodate))
        );
        assert_eq!(at(200, Unreachable), None);
        assert_eq!((at(201, Behind), at(215, Behind)), (None, None));
        assert_eq!(at(216, Behind), Some(Unreachable));
        assert_eq!((at(217, SplitBrain), at(219, SplitBrain)), (None, Some(Behind)));
        assert_eq!((at(220, Uptodate), at(222, Uptodate)), (None, Some(SplitBrain)));
    }
}
