//! When does a crash hurt most? Between saying something and being able to keep it.
//!
//! A crash at a random time seldom falls into the microseconds between an answer and what makes it true. So some of what
//! engines say is followed by the crash of whoever said it, soon enough that nothing slower than the promise allows could
//! have become durable in between.

use mars::{Effect, Message, Notice, Reply};

use super::{Happening, World};

/// What dies after something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    Process,
    Power,
}

/// After what, of how many, within how many microseconds, and how.
fn moment(effect: &Effect) -> Option<(u64, u64, Crash)> {
    match effect {
        // A plain write survives the death of the process alone.
        Effect::Complete {
            result: Ok(Reply::Done),
            ..
        } => Some((3000, 40, Crash::Process)),
        Effect::Send { message, .. } => match message {
            Message::Grant { .. } => Some((6, 1500, Crash::Power)),
            Message::SyncReply { .. } | Message::Survey { .. } => Some((25, 3000, Crash::Power)),
            Message::Ack { .. } => Some((4000, 1500, Crash::Power)),
            _ => None,
        },
        Effect::TakeSnapshot { .. } => Some((8, 100_000, Crash::Power)),
        // What it writes first must not be in an epoch that it can forget.
        Effect::Notice(notice) if matches!(**notice, Notice::BecamePrimary { .. }) => {
            Some((8, 4000, Crash::Power))
        }
        _ => None,
    }
}

impl World {
    /// Lets a node crash soon after what it says now, sometimes.
    pub(super) fn tempt(&mut self, node: usize, effect: &Effect) {
        if self.now >= self.chaos_until || self.profile.troubles.is_empty() {
            return;
        }
        let Some((one_in, micros_max, crash)) = moment(effect) else {
            return;
        };
        if self.rng.below(one_in) == 0 {
            let micros = self.rng.below(micros_max);
            let boot = self.nodes[node].boot;
            self.schedule(micros, Happening::Crash { node, boot, crash });
        }
    }

    /// Dies as it was arranged, if it lives still.
    pub(super) fn crash(&mut self, node: usize, boot: u32, crash: Crash) {
        if !self.is_current(node, boot) || self.now >= self.chaos_until {
            return;
        }
        self.count("aimed: right after its word");
        match crash {
            Crash::Process => self.kill(node),
            Crash::Power => self.power_cut(node),
        }
        self.come_back(node);
    }
}
