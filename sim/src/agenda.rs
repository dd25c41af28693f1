//! What happens next? Everything that is arranged, by time, and in the order of arranging where the time is the same.
//!
//! What is arranged stays where it was put, and only small keys are sorted: moving it about cost a sixth of all time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use model::Tick;

/// Things that will happen.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    /// When, the how-manieth, and where it lies.
    keys: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    places: Vec<Option<T>>,
    vacant: Vec<usize>,
    /// Things arranged so far.
    arranged: u64,
}

impl<T> Agenda<T> {
    /// Nothing is going to happen.
    pub fn new() -> Agenda<T> {
        Agenda {
            keys: BinaryHeap::new(),
            places: Vec::new(),
            vacant: Vec::new(),
            arranged: 0,
        }
    }

    /// Arranges something.
    pub fn add(&mut self, at: Tick, thing: T) {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(thing);
        self.arranged += 1;
        self.keys.push(Reverse((at, self.arranged, place)));
    }

    /// When the first thing happens.
    pub fn next_at(&self) -> Option<Tick> {
        self.keys.peek().map(|Reverse((at, ..))| *at)
    }

    /// The first thing, if it happens until then.
    pub fn take_until(&mut self, until: Tick) -> Option<(Tick, T)> {
        if self.next_at()? > until {
            return None;
        }
        let Reverse((at, _, place)) = self.keys.pop()?;
        self.vacant.push(place);
        Some((at, self.places[place].take()?))
    }

    /// Things arranged so far, those that have happened included.
    pub fn arranged(&self) -> u64 {
        self.arranged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_then_in_the_order_of_arranging() {
        let mut agenda = Agenda::new();
        for (at, thing) in [(5, "d"), (1, "a"), (3, "b"), (3, "c")] {
            agenda.add(Tick(at), thing);
        }
        assert_eq!(agenda.next_at(), Some(Tick(1)));
        assert_eq!(agenda.take_until(Tick(0)), None);
        assert_eq!(agenda.take_until(Tick(9)), Some((Tick(1), "a")));
        agenda.add(Tick(3), "after c");
        let rest: Vec<&str> =
            std::iter::from_fn(|| agenda.take_until(Tick(4)).map(|(_, thing)| thing)).collect();
        assert_eq!(rest, ["b", "c", "after c"]);
        assert_eq!((agenda.next_at(), agenda.arranged()), (Some(Tick(5)), 5));
    }
}
