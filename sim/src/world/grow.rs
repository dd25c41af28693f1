//! Is a volume as long as its guests were told, never shorter, and never longer before that is durable?

use mars::{Event, GuestError, GuestRequest, Reply, RequestTag};
use model::{SectorRange, VolumeSize};

use super::{Violation, World};

/// Tags of probes are neither the guest's nor a ghost's.
const PROBE_TAGS: u64 = 1 << 49;

impl World {
    /// Somebody reads behind the end of the volume.
    pub(super) fn probe(&mut self, node: usize) {
        let Some(size) = self.status(node).map(|status| status.size) else {
            return;
        };
        let range = SectorRange::new(size.sectors().0, 1).expect("volumes are small");
        let tag = PROBE_TAGS + self.next_command;
        self.next_command += 1;
        self.probes.insert(tag, range.end().0);
        let (tag, request) = (RequestTag(tag), GuestRequest::Read { range });
        self.deliver(1, node, Event::Guest { tag, request });
    }

    pub(super) fn probe_answered(
        &mut self,
        node: usize,
        end: u64,
        result: Result<Reply, GuestError>,
    ) -> Result<(), Violation> {
        self.count("checks: reads beyond the end");
        let engine = self.nodes[node].engine.as_ref();
        let now = engine.map_or(0, |engine| engine.status(self.now).size.sectors().0);
        let before = self.status(node).map_or(0, |status| status.size.sectors().0);
        let what = match result {
            Ok(_) if now < end => format!("serves sector {} of {now}", end - 1),
            Err(GuestError::OutOfBounds) if before >= end => {
                format!("refuses sector {} of {before}", end - 1)
            }
            _ => return Ok(()),
        };
        Err(self.violation(Some(node), what))
    }

    /// An operator was told that the volume is longer: so is its guest, if it is there.
    pub(super) fn grow_answered(&mut self, node: usize, to: VolumeSize) -> Result<(), Violation> {
        self.count("operators: grow done");
        let engine = self.nodes[node].engine.as_ref();
        let status = engine.map(|engine| engine.status(self.now));
        if let Some(status) = status.filter(|status| status.epoch.takeovers() == self.guest.takeovers) {
            if status.size < to {
                let what = format!(
                    "says that the volume has grown to {to}, but it has {}",
                    status.size
                );
                return Err(self.violation(Some(node), what));
            }
            self.guest.grow(to.sectors().0 as usize);
        }
        Ok(())
    }
}
