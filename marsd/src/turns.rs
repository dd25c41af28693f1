//! Which full syncs go on at one time on this host? As many as allowed; who waits is let in by preference, then in order.
//!
//! A replica whose full sync could go on says so, and is told when its turn comes. A turn that has begun lasts until the sync
//! is over or cannot go on; only a smaller limit takes turns back, the least preferred first. A sync that waits keeps how far it came.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mars::Event;
use model::VolumeId;

use crate::run::Inbox;

/// The turns of one host.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// At one time; `None`: all.
    syncs_max: Option<u32>,
    /// Who goes first.
    preferred: Vec<VolumeId>,
    wanted: BTreeMap<VolumeId, Wish>,
    /// Counts wishes, so that the oldest is known.
    newest: u64,
}

struct Wish {
    number: u64,
    granted: bool,
    inbox: Inbox,
}

impl Turns {
    /// Lets so many go on at one time, these first.
    pub fn set(&self, syncs_max: Option<u32>, preferred: Vec<VolumeId>) {
        let mut state = self.lock();
        (state.syncs_max, state.preferred) = (syncs_max, preferred);
        state.settle();
    }

    /// A replica's full sync could go on, or not any more.
    pub fn want(&self, volume: VolumeId, wants: bool, inbox: &Inbox) {
        let mut state = self.lock();
        if wants {
            state.newest += 1;
            let wish = Wish {
                number: state.newest,
                granted: false,
                inbox: inbox.clone(),
            };
            state.wanted.entry(volume).or_insert(wish);
        } else if state.wanted.remove(&volume).is_some() {
            // It waits for its turn again when it wants another.
            inbox.event(Event::SyncTurn { granted: false });
        }
        state.settle();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self) {
        let order = |volume: &VolumeId| self.preferred.iter().position(|other| other == volume);
        let row = |(volume, wish): (&VolumeId, &Wish)| {
            let place = order(volume).unwrap_or(usize::MAX);
            (!wish.granted, place, wish.number, *volume)
        };
        let mut rows: Vec<_> = self.wanted.iter().map(row).collect();
        rows.sort_unstable();
        let max = self.syncs_max.map_or(usize::MAX, |max| max as usize);
        for (place, (_, _, _, volume)) in rows.into_iter().enumerate() {
            let granted = place < max;
            if let Some(wish) = self
                .wanted
                .get_mut(&volume)
                .filter(|wish| wish.granted != granted)
            {
                wish.granted = granted;
                wish.inbox.event(Event::SyncTurn { granted });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_limit_and_the_preference() {
        let turns = Turns::default();
        let (inbox, _inputs) = Inbox::new();
        let [a, b, c] = [1, 2, 3].map(VolumeId);
        let going = || -> Vec<u128> {
            let state = turns.lock();
            let going = state.wanted.iter().filter(|(_, wish)| wish.granted);
            going.map(|(volume, _)| volume.0).collect()
        };
        turns.set(Some(1), vec![c, a, b]);
        for volume in [b, a, c] {
            turns.want(volume, true, &inbox);
        }
        assert_eq!(going(), [2], "who has begun goes on");
        turns.want(b, false, &inbox);
        assert_eq!(going(), [3]);
        turns.set(Some(2), vec![c, a, b]);
        assert_eq!(going(), [1, 3]);
        turns.want(b, true, &inbox);
        turns.set(Some(1), vec![c, a, b]);
        assert_eq!(going(), [3], "the least preferred lets others go first");
        turns.set(None, Vec::new());
        assert_eq!(going(), [1, 2, 3]);
    }
}
