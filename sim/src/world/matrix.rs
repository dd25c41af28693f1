//! What happened in the middle of what? Every fault is counted under the verbs that it struck.

use std::collections::BTreeMap;

use mars::Command;
use model::Tick;

use super::World;

/// How long a change of members counts as under way, in microseconds: until all daemons have been told, and a little more.
const CHANGE_MICROS: u64 = 1_000_000;

/// Faults by class and verb.
pub type Matrix = BTreeMap<(&'static str, &'static str), u64>;

/// Damage that only a replica without the role may suffer: while the role moves, nobody can say whose copy is the only one.
const DAMAGE: [&str; 4] = [
    "bit flipped in a log",
    "bit flipped on a disk",
    "lost write in a log",
    "misdirected write in a log",
];

/// Whether the fault model never lets this fault strike this verb.
pub(crate) fn is_ruled_out(class: &str, verb: &str) -> bool {
    DAMAGE.contains(&class) && ["hand-over", "take-over"].contains(&verb)
}

/// Counts a fault under what was under way.
#[derive(Debug, Default)]
pub(super) struct Struck {
    pub matrix: Matrix,
    /// Changes of members, and when they were begun.
    begun: BTreeMap<&'static str, Tick>,
}

fn verb(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::HandOver { .. } => "hand-over",
        Command::Checksum => "checksum",
        Command::SetMode { .. } => "set mode",
        Command::TakeOver { .. } => "take-over",
        Command::Verify { .. } => "verify",
        Command::Grow { .. } => "grow",
        Command::Snapshot { .. } => "snapshot",
        _ => return None,
    })
}

impl World {
    /// Notes what is counted: a change of members is a verb for a while, a fault strikes the verbs under way.
    pub(super) fn note_struck(&mut self, what: &'static str) {
        if let Some(verb) = what.strip_prefix("operators: ") {
            match verb {
                "join" | "leave" | "replace" | "verify" | "grow" | "snapshot" => {
                    self.struck.begun.insert(verb, self.now);
                }
                _ => {}
            }
        }
        let Some(class) = what.strip_prefix("faults: ") else {
            return;
        };
        let mut verbs: Vec<&'static str> = self
            .commands
            .values()
            .filter_map(|commanded| verb(&commanded.command))
            .collect();
        let begun = self.struck.begun.iter();
        verbs.extend(
            begun
                .filter(|(_, at)| self.now.micros_since(**at) < CHANGE_MICROS)
                .map(|(verb, _)| *verb),
        );
        let is_syncing = |s: &mars::Status| s.synced.0 < s.size.sectors().0;
        if (0..self.nodes.len()).any(|node| self.status(node).is_some_and(is_syncing)) {
            verbs.push("full sync");
        }
        verbs.push(if self.guest.asked.is_empty() {
            "nothing"
        } else {
            "guest"
        });
        verbs.sort_unstable();
        verbs.dedup();
        for verb in verbs {
            *self.struck.matrix.entry((class, verb)).or_default() += 1;
        }
    }
}
