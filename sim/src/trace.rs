//! What happened lately, and was it the same as last time? A ring of lines and a digest of all of them.

use std::collections::VecDeque;

use model::Tick;
use xxhash_rust::xxh3::Xxh3;

/// Listens to everything that happens in a run.
pub(crate) struct Trace {
    hasher: Box<Xxh3>,
    kept_max: usize,
    kept: VecDeque<String>,
    /// Lines so far.
    pub lines: u64,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Trace {
    /// Keeps the last `kept_max` lines.
    pub fn new(kept_max: usize) -> Trace {
        Trace {
            hasher: Box::default(),
            kept_max,
            kept: VecDeque::new(),
            lines: 0,
        }
    }

    /// Notes what happened: `print` tells it from others cheaply, `write` puts it into words when somebody reads them;
    /// `node` is who it is about.
    pub fn note(
        &mut self,
        now: Tick,
        node: Option<usize>,
        print: u64,
        write: impl FnOnce(&mut String) -> std::fmt::Result,
    ) {
        use std::fmt::Write;
        self.lines += 1;
        let words = [now.0, node.map_or(u64::MAX, |node| node as u64), print];
        self.hasher.update(&words.map(u64::to_le_bytes).concat());
        if self.kept_max == 0 {
            return;
        }
        let mut line = if self.kept.len() == self.kept_max {
            self.kept.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let begun = match node {
            Some(node) => write!(line, "{:>4}.{:06} h{node} ", now.0 / 1_000_000, now.0 % 1_000_000),
            None => write!(line, "{:>4}.{:06}    ", now.0 / 1_000_000, now.0 % 1_000_000),
        };
        begun
            .and_then(|()| write(&mut line))
            .expect("a String takes every line");
        self.kept.push_back(line);
    }

    /// xxh3-64 of everything so far.
    pub fn digest(&self) -> u64 {
        self.hasher.digest()
    }

    /// The lines kept, oldest first.
    pub fn kept(&self) -> Vec<String> {
        self.kept.iter().cloned().collect()
    }
}
