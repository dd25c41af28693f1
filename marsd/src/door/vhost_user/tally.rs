//! What of a connection is still under way after it has ended? A request that was sent twice must not be done late.
//!
//! A guest that connects again sends what was not answered a second time. The first one may still be on its way to the
//! primary; were it done after the second one had been answered, it would undo what the guest has written since. So
//! queues begin only when nothing of ended connections is under way.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests of one connection under way.
#[derive(Debug, Default)]
pub struct Tally {
    count: Mutex<u64>,
    none: Condvar,
}

impl Tally {
    fn count(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn more(&self) {
        *self.count() += 1;
    }

    /// One less.
    pub fn less(&self) {
        let mut count = self.count();
        *count -= 1;
        if *count == 0 {
            self.none.notify_all();
        }
    }

    /// Whether there are any.
    pub fn is_busy(&self) -> bool {
        *self.count() > 0
    }

    /// Waits until there are none, or for so long.
    pub fn wait(&self, patience: Duration) {
        let count = self.count();
        drop(self.none.wait_timeout_while(count, patience, |count| *count > 0));
    }
}

/// Connections of a door that have ended.
#[derive(Debug, Default)]
pub struct Predecessors(Mutex<Vec<Arc<Tally>>>);

impl Predecessors {
    /// One has ended.
    pub fn add(&self, tally: Arc<Tally>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tally);
    }

    /// Whether something that they asked for is under way.
    pub fn are_busy(&self) -> bool {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|tally| tally.is_busy());
        !ended.is_empty()
    }
}
