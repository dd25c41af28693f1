//! What does a replica do when the room for its log runs short? It feeds `pressure.rs` with figures and does what comes out.

use model::Tick;

use crate::engine::{Engine, Phase};
use crate::event::Notice;
use crate::pressure::{self, Level, Reason, Room};
use crate::switch::Switch;

/// What is known of the room for the log.
#[derive(Debug, Default)]
pub(crate) struct Space {
    pub level: Level,
    /// Since when.
    pub since: Tick,
}

impl Engine {
    fn room(&self) -> Room {
        Room {
            log_bytes: self.log.sealed.lsn.since(self.marks.trimmed()),
            log_bytes_max: self.config.log_bytes_max,
            full: false,
            may_do_without: false,
        }
    }

    /// Finds out the level, and tells when it is another.
    pub(crate) fn pump_space(&mut self) {
        let level = match self.phase {
            Phase::Serving => self.space.level.next(&self.room()),
            _ => Level::Normal,
        };
        if level == self.space.level {
            return;
        }
        let before = std::mem::replace(&mut self.space.level, level);
        self.space.since = self.now;
        let log_bytes = self.room().log_bytes;
        self.notice(Notice::Pressure {
            before,
            level,
            log_bytes,
        });
    }

    /// What guests may write so that the log does not outgrow its budget. `None`: as much as they like, because there is room, or
    /// because slowing them would help nobody.
    pub(crate) fn space_pace(&self) -> Option<u64> {
        if !matches!(self.space.level, Level::Throttled | Level::Dropping) {
            return None;
        }
        let Reason::Peer(node) = self.horizon().reason else {
            return None;
        };
        // One that takes nothing in will be dropped; nobody is slowed for it.
        let peer = self.peers.get(&node)?;
        let takes = self.sent_to(peer).is_some() && !peer.paused.has(Switch::Fetch);
        takes.then(|| pressure::pace(&self.room(), peer.drain.per_second(self.now)))?
    }
}
