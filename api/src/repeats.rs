//! Has this been said just now? What goes wrong again and again is told once a minute, with how often it was.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same words are not said again before.
const WINDOW: Duration = Duration::from_secs(60);

/// Different words remembered, at most; what is forgotten may be said again too early.
const WORDS_MAX: usize = 1000;

#[derive(Debug)]
struct Said {
    at: Instant,
    withheld: u64,
}

/// What was said lately, by its words.
#[derive(Debug, Default)]
pub struct Repeats {
    said: Mutex<BTreeMap<String, Said>>,
}

impl Repeats {
    /// Whether these words are to be said now: how often they were withheld since they were said last. `None`: they
    /// were said less than a minute ago.
    pub fn withheld(&self, words: String, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = said.get_mut(&words) {
            if now.saturating_duration_since(before.at) < WINDOW {
                before.withheld += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.withheld));
        }
        if said.len() >= WORDS_MAX {
            said.retain(|_, before| now.saturating_duration_since(before.at) < WINDOW);
        }
        if said.len() >= WORDS_MAX {
            said.pop_first();
        }
        said.insert(words, Said { at: now, withheld: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_counted() {
        let (repeats, begin) = (Repeats::default(), Instant::now());
        let says = |words: &str, seconds| {
            let now = begin + Duration::from_secs(seconds);
            repeats.withheld(words.to_owned(), now)
        };
        assert_eq!(says("a", 0), Some(0));
        assert_eq!((says("a", 1), says("b", 1), says("a", 59)), (None, Some(0), None));
        assert_eq!((says("a", 60), says("a", 61)), (Some(2), None));
        assert_eq!(says("a", 1000), Some(1));
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        for number in 0..2 * WORDS_MAX {
            assert_eq!(repeats.withheld(number.to_string(), now), Some(0));
        }
        assert_eq!(repeats.said.lock().map(|said| said.len()).ok(), Some(WORDS_MAX));
    }
}
