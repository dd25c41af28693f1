//! Which requests of a session may still be done? Those of its newest connection, in the epoch in which that was accepted.
//!
//! This is the serving side of what makes sending twice harmless: whoever hands a session's requests to an engine asks
//! [`Admission::admits`] directly before the engine sees each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Epoch;

/// The newest generation of one session's connections to one volume on this node.
#[derive(Debug, Default)]
pub struct Gate(AtomicU64);

impl Gate {
    /// A connection of this generation wants in: true if none newer has come, and then none older gets through any more.
    pub fn raise(&self, generation: u64) -> bool {
        self.0.fetch_max(generation, Ordering::SeqCst) <= generation
    }
}

/// The right of one connection to have its requests done: until a newer one takes its place or the epoch changes.
#[derive(Clone, Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    generation: u64,
    epoch: Epoch,
}

impl Admission {
    /// For a connection of `generation`, accepted while this node was primary in `epoch`; raises the gate.
    /// `None` when a newer connection has been accepted before.
    pub fn new(gate: Arc<Gate>, generation: u64, epoch: Epoch) -> Option<Admission> {
        gate.raise(generation).then_some(Admission {
            gate,
            generation,
            epoch,
        })
    }

    /// Nothing more comes over this connection, and what came over it is not to be done any more, unless it is done already.
    pub fn end(&self) {
        self.gate.raise(self.generation.saturating_add(1));
    }

    /// Whether the connection has ended, or has been replaced by a newer one: what it asked for and is still waiting is withdrawn
    /// ([`crate::Event::Withdrawn`]).
    pub fn is_over(&self) -> bool {
        self.gate.0.load(Ordering::SeqCst) != self.generation
    }

    /// Whether a request may go to the engine; `primary_in` is [`crate::Engine::primary_in`];
    /// without the role, the engine refuses by itself, and knows best why.
    pub fn admits(&self, primary_in: Option<Epoch>) -> bool {
        primary_in.is_none_or(|epoch| epoch == self.epoch) && !self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_connection_of_the_present_epoch_is_admitted() {
        let gate = Arc::new(Gate::default());
        let (one, two) = (Epoch { term: 1, start: 1 }, Epoch { term: 2, start: 1 });
        let old = Admission::new(gate.clone(), 1, one).expect("the first");
        assert!(old.admits(Some(one)) && !old.admits(Some(two)) && old.admits(None));
        let new = Admission::new(gate.clone(), 3, one).expect("newer");
        assert!(!old.admits(Some(one)) && !old.admits(None) && new.admits(Some(one)));
        assert!(Admission::new(gate.clone(), 2, one).is_none());
        assert!(new.admits(Some(one)) && old.is_over() && !new.is_over());
        old.end();
        assert!(new.admits(Some(one)), "only a connection's own end counts");
        new.end();
        assert!(new.is_over() && Admission::new(gate, 4, one).is_some_and(|next| next.admits(Some(one))));
    }
}
