//! Which parts of a volume need comparing in a full sync? Those where either side may hold data: two holes are equal.
//!
//! Both sides ask their disks for holes at the same time, a window after another, and the source sends a map of where it has
//! data. Nothing is locked for it: a sector that no record behind the beginning of the copy touches is still as it was
//! surveyed, and one that is touched is brought by replay before the replica may call itself whole, because the
//! source's answer carries an `end` like every other. So what is empty costs neither reading nor bytes on the wire.

use model::units::SECTOR_BYTES;
use model::{Lsn, SectorCount, SectorRange};

use crate::dirty::DirtyMap;
use crate::engine::{Engine, Io, Link, Phase};
use crate::event::{BlockExtent, Effect, LinkId};
use crate::message::{Message, SYNC_EXTENT_SECTORS};
use crate::meta::SyncState;
use crate::shadow::Overlay;

/// A disk is asked about so much at a time: the list of its holes must not grow with the volume.
const WINDOW_SECTORS_MAX: u64 = (4 << 30) / SECTOR_BYTES;

/// One side's way over its own disk.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Where data may be, as far as known.
    map: DirtyMap,
    /// Sectors before this are known.
    next: u64,
    /// The disk has been asked.
    asked: bool,
}

impl Survey {
    fn of(volume: SectorCount) -> Survey {
        Survey {
            map: DirtyMap::clean(volume),
            next: 0,
            asked: false,
        }
    }

    /// What to ask the disk for next; `None` once everything is known. Small volumes take several steps too.
    fn window(&self) -> Option<SectorRange> {
        let sectors = self.map.sectors().0;
        let count = (sectors / 4).clamp(SYNC_EXTENT_SECTORS, WINDOW_SECTORS_MAX);
        let range = SectorRange::new(self.next, count.min(sectors - self.next))?;
        (!range.is_empty()).then_some(range)
    }

    /// The disk has answered for a window.
    fn learn(&mut self, window: SectorRange, extents: &[BlockExtent]) {
        let data = extents.iter().filter(|extent| extent.data);
        data.for_each(|extent| self.map.mark(extent.range));
        self.next = window.end().0;
        self.asked = false;
    }
}

/// A replica's two surveys: its own, and what its source says.
#[derive(Debug)]
pub(crate) struct Surveys {
    id: u64,
    own: Survey,
    theirs: Option<DirtyMap>,
}

impl Engine {
    /// Begins to look for what need not be compared.
    pub(crate) fn start_survey(&mut self) -> Surveys {
        self.sync_pieces += 1;
        if let Some(link) = self.follow.source_link() {
            let message = Message::SurveyRequest;
            self.effects.push_back(Effect::Send { link, message });
        }
        Surveys {
            id: self.sync_pieces,
            own: Survey::of(self.sectors()),
            theirs: None,
        }
    }

    /// Goes on; once both sides are known, the copy begins.
    pub(crate) fn pump_survey(&mut self) {
        // A copy that a stream of before still has under way may yet fill a hole.
        let settled = !self.io.values().any(|io| matches!(io, Io::SyncWrite { .. }));
        let sectors = self.sectors();
        let Some(resync) = &mut self.resync else { return };
        let Some(surveys) = resync.surveys() else { return };
        match (surveys.own.window(), &surveys.theirs) {
            (Some(range), _) if settled && !surveys.own.asked => {
                surveys.own.asked = true;
                let survey = surveys.id;
                let id = self.io(Io::SurveyOwn { survey, range });
                self.effects.push_back(Effect::VolumeStatus { id, range });
            }
            (None, Some(theirs)) => {
                // Where the volume has grown meanwhile, or the source had heard of it first, the log brings the rest.
                let mut map = surveys.own.map.resized(sectors);
                map.join(&theirs.resized(sectors));
                resync.told(map);
            }
            _ => {}
        }
    }

    pub(crate) fn own_surveyed(&mut self, survey: u64, window: SectorRange, extents: &[BlockExtent]) {
        if let Some(surveys) = self.resync.as_mut().and_then(|resync| resync.surveys())
            && surveys.id == survey
        {
            surveys.own.learn(window, extents);
        }
    }

    /// The source says where it has data.
    pub(crate) fn told_survey(&mut self, said_end: Lsn, map: DirtyMap) {
        if let Some(surveys) = self.resync.as_mut().and_then(|resync| resync.surveys())
            && let SyncState::Copying { end, .. } = &mut self.meta.sync
        {
            *end = (*end).max(said_end);
            surveys.theirs = Some(map);
        }
    }

    /// As source: a replica wants to know where there is data.
    pub(crate) fn asked_for_survey(&mut self, link: LinkId) {
        if !matches!(self.phase, Phase::Serving) {
            return self.close_ship(link);
        }
        let sectors = self.sectors();
        if let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link) {
            ship.survey = Some(Survey::of(sectors));
            self.survey_on(link);
        }
    }

    fn survey_on(&mut self, link: LinkId) {
        let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link) else {
            return;
        };
        let Some(survey) = &mut ship.survey else { return };
        let Some(window) = survey.window() else {
            let map = ship.survey.take().map(|survey| survey.map);
            // What has entered the shadow must have a position, so that `end` can name it.
            self.seal();
            let end = self.log.sealed.lsn;
            if let (Some(map), Some(Link { ship: Some(ship), .. })) = (map, self.links.get_mut(&link)) {
                ship.replies.push_back((end, Message::Survey { end, map }));
            }
            return;
        };
        if std::mem::replace(&mut survey.asked, true) {
            return;
        }
        let overlay = self.shadow.overlay(window);
        match overlay.missing() {
            None => self.source_surveyed(link, overlay, &[]),
            Some(range) => {
                let id = self.io(Io::SurveySource { link, overlay });
                self.effects.push_back(Effect::VolumeStatus { id, range });
            }
        }
    }

    pub(crate) fn source_surveyed(&mut self, link: LinkId, overlay: Overlay, disk: &[BlockExtent]) {
        let window = overlay.range();
        if let Some(Link { ship: Some(ship), .. }) = self.links.get_mut(&link)
            && let Some(survey) = &mut ship.survey
            // An answer for a survey of before is as true as one for this, but only of the window that is next.
            && survey.next == window.start.0
        {
            survey.learn(window, &overlay.compose_status(disk));
            self.survey_on(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(start, count).expect("small")
    }

    fn walk(sectors: u64, data: &[SectorRange]) -> (DirtyMap, usize) {
        let mut survey = Survey::of(SectorCount(sectors));
        let mut steps = 0;
        while let Some(window) = survey.window() {
            let parts = data.iter().filter_map(|data| data.intersection(window));
            let extents: Vec<_> = parts.map(|range| BlockExtent { range, data: true }).collect();
            survey.learn(window, &extents);
            steps += 1;
        }
        (survey.map, steps)
    }

    #[test]
    fn a_volume_of_any_size_is_surveyed_in_bounded_steps() {
        assert_eq!(walk(8, &[]).1, 1);
        assert_eq!(walk(1000, &[]).1, 4);
        let (map, steps) = walk((4 << 40) / SECTOR_BYTES, &[range(7 << 30, 1)]);
        assert_eq!(steps, 1024);
        assert_eq!(map.dirty().0, 8192);
    }

    proptest! {
        #[test]
        fn whatever_holds_data_on_either_side_is_compared(
            ours in proptest::collection::vec((0..5000u64, 1..300u64), 0..6),
            theirs in proptest::collection::vec((0..5000u64, 1..300u64), 0..6),
        ) {
            let ranges = |list: &[(u64, u64)]| list.iter().map(|(at, n)| range(*at, *n)).collect::<Vec<_>>();
            let (ours, theirs) = (ranges(&ours), ranges(&theirs));
            let mut map = walk(6000, &ours).0;
            map.join(&walk(6000, &theirs).0);
            for data in ours.iter().chain(&theirs) {
                for sector in data.start.0..data.end().0 {
                    let named = map.next_dirty(model::SectorOffset(sector), SectorCount(1));
                    prop_assert_eq!(named, Some(range(sector, 1)));
                }
            }
        }
    }
}
