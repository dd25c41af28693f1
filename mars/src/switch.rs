//! What has an operator stopped at this replica, and what does that mean?
//!
//! | paused | stops | goes on |
//! |---|---|---|
//! | fetch | the source sends no more log; it counts as a laggard there | replay of what is here; a link, so that the source knows why |
//! | replay | the log is not brought to the disk, beyond what makes the disk one version | fetch |
//! | sync | a full sync compares no more extents | fetch and replay |
//!
//! The switches belong to the replica, not to the volume; they are durable before they are answered, and a primary heeds none
//! of them until it is a secondary again. Whoever pauses wants to keep what is there: so a whole replica on which anything is
//! paused does not begin anew when its source has no log for it any more; it waits until it is resumed.

use std::fmt;

use model::Role;

use crate::engine::{Engine, Then};
use crate::event::{Answer, CommandError, CommandId, Notice};
use crate::meta::SyncState;

/// Something that an operator can stop at one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Comparing disks in a full sync.
    Sync,
    /// Taking log from a source.
    Fetch,
    /// Bringing the log to the disk.
    Replay,
}

impl Switch {
    /// Every switch.
    pub const ALL: [Switch; 3] = [Switch::Sync, Switch::Fetch, Switch::Replay];
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Switch::Sync => "sync",
            Switch::Fetch => "fetch",
            Switch::Replay => "replay",
        })
    }
}

/// What is stopped at a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paused(u8);

/// Nobody has paused it, but it takes no log in.
const FULL: u8 = 8;

impl Paused {
    fn bit(switch: Switch) -> u8 {
        match switch {
            Switch::Sync => 1,
            Switch::Fetch => 2,
            Switch::Replay => 4,
        }
    }

    /// As it lies on disk and wire: bit 0 sync, bit 1 fetch, bit 2 replay; on the wire bit 3: not by an operator, there is no room
    /// for log.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What the bits say; `None` when there are unknown ones.
    pub fn from_bits(bits: u8) -> Option<Paused> {
        (bits < 16).then_some(Paused(bits))
    }

    /// Whether this is stopped.
    pub fn has(self, switch: Switch) -> bool {
        self.0 & Paused::bit(switch) != 0
    }

    /// The same, and whether there is room for log.
    pub(crate) fn with_room(self, there_is: bool) -> Paused {
        Paused(if there_is { self.0 & !FULL } else { self.0 | FULL })
    }

    /// Whether there is no room for log.
    pub fn is_full(self) -> bool {
        self.0 & FULL != 0
    }

    /// Whether no log is taken in, whoever has stopped that.
    pub fn stops_fetch(self) -> bool {
        self.has(Switch::Fetch) || self.is_full()
    }

    /// Whether anything is stopped.
    pub fn any(self) -> bool {
        self.0 != 0
    }

    fn with(self, switch: Switch, paused: bool) -> Paused {
        let bit = Paused::bit(switch);
        Paused(if paused { self.0 | bit } else { self.0 & !bit })
    }

    /// What holds a replica back: a paused sync only while there is something to copy.
    pub(crate) fn holding(self, whole: bool) -> Paused {
        if whole {
            self.with(Switch::Sync, false)
        } else {
            self
        }
    }
}

/// As in "sync and replay".
impl fmt::Display for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Switch::ALL.into_iter().filter(|switch| self.has(*switch));
        for (i, word) in words.enumerate() {
            write!(f, "{}{word}", if i > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

impl Engine {
    /// Stops something, or lets it go on.
    pub(crate) fn set_switch(&mut self, id: CommandId, switch: Switch, paused: bool) {
        if self.meta.paused.has(switch) == paused {
            return self.answer(id, Ok(Answer::Done));
        }
        self.meta.paused = self.meta.paused.with(switch, paused);
        if switch == Switch::Sync {
            match self.follow.source().cloned() {
                Some(source) if !paused => self.start_resync(source, self.meta.epoch.term),
                _ => self.stop_resync(),
            }
        }
        if !paused {
            self.follow.retry_now(self.now);
        }
        self.save(Then::Answer { id });
    }

    /// What is stopped here, for whoever sends to us.
    pub(crate) fn paused_now(&self) -> Paused {
        self.meta.paused.with_room(!self.has_no_room())
    }

    /// The host lets the full sync here go on, or others first.
    pub(crate) fn sync_turn(&mut self, granted: bool) {
        if self.sync_waits != granted {
            return;
        }
        self.sync_waits = !granted;
        match self.follow.source().cloned() {
            Some(source) if granted => self.start_resync(source, self.meta.epoch.term),
            _ => self.stop_resync(),
        }
    }

    /// Whether a full sync would go on here if its turn came.
    pub(crate) fn wants_sync(&self) -> bool {
        let copying = matches!(self.meta.sync, SyncState::Copying { .. });
        copying && !self.is_paused(Switch::Sync) && self.follow.source().is_some()
    }

    /// Whether this is stopped here and heeded.
    pub(crate) fn is_paused(&self, switch: Switch) -> bool {
        self.meta.role == Role::Secondary && self.meta.paused.has(switch)
    }

    /// Whether there is a version here that an operator wants to keep as it is.
    pub(crate) fn keeps_what_it_has(&self) -> bool {
        self.meta.sync == SyncState::Whole && self.meta.paused.any()
    }

    /// An operator vouches for the disk of a replica whose full sync is not finished.
    pub(crate) fn fake_sync(&mut self, id: CommandId) {
        match self.meta.sync {
            SyncState::Whole => return self.answer(id, Ok(Answer::Done)),
            SyncState::Fresh => {
                let reason =
                    "its log has not begun: let it reach its source first, or resume fetch".to_owned();
                return self.answer(id, Err(CommandError::Refused { reason }));
            }
            SyncState::Copying { .. } => {}
        }
        self.stop_resync();
        self.meta.sync = SyncState::Whole;
        self.meta.faked = Some(self.log.sealed.lsn);
        self.notice(Notice::SyncFaked);
        self.save(Then::Answer { id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_is_its_own_and_reads_as_words() {
        let mut paused = Paused::default();
        assert_eq!((paused.to_string().as_str(), paused.any()), ("", false));
        for switch in Switch::ALL {
            paused = paused.with(switch, true);
            assert!(paused.has(switch));
        }
        assert_eq!(paused.to_string(), "sync and fetch and replay");
        assert_eq!(paused.holding(true).to_string(), "fetch and replay");
        paused = paused.with(Switch::Fetch, false);
        assert_eq!(Paused::from_bits(paused.bits()), Some(paused));
        assert_eq!((Paused::from_bits(16), paused.has(Switch::Fetch)), (None, false));
        assert!(!paused.stops_fetch() && paused.with_room(false).stops_fetch());
        assert!(paused.with_room(false).is_full() && !paused.with_room(true).is_full());
    }
}
