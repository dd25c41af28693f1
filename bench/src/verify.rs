//! What must a volume contain after what was written to it? The model behind the verified writer.
//!
//! Every 512-byte sector that the writer writes says who wrote it, where it belongs and in which write, and the rest
//! of it follows from these; so any content can be judged alone: `stale`, `lost`, `torn`, `misplaced`, `foreign`.
//! Of each sector the model keeps the last acknowledged write, writes whose outcome is not known, and what a power
//! failure could bring back because no flush has followed yet.

mod content;
mod state;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

pub use content::{Found, SECTOR_BYTES, fill, judge};
pub use state::State;

/// What a write left in a sector: nothing yet, data of a numbered write, or zeroes of a numbered write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32);

/// Marks a version that reads as zeroes.
const ZEROES: u32 = 1;

impl Version {
    /// Never written by this writer.
    pub const NONE: Version = Version(0);

    /// The data of write `sequence` (from 1).
    pub fn data(sequence: u32) -> Version {
        Version(sequence << 1)
    }

    /// The zeroes of write `sequence` (from 1).
    pub fn zeroes(sequence: u32) -> Version {
        Version(sequence << 1 | ZEROES)
    }

    /// Number of the write; 0 for [`Version::NONE`].
    pub fn sequence(self) -> u32 {
        self.0 >> 1
    }

    fn is_zeroes(self) -> bool {
        self.0 & ZEROES != 0
    }

    /// As one number, for files.
    fn raw(self) -> u32 {
        self.0
    }

    fn matches(self, found: &Found, zeroed: bool) -> bool {
        match found {
            Found::Zeroes => self.is_zeroes() || (self == Version::NONE && zeroed),
            Found::Data { sequence } => !self.is_zeroes() && self.sequence() == *sequence,
            _ => false,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Version::NONE => f.write_str("nothing written"),
            version if version.is_zeroes() => write!(f, "zeroes of write {}", version.sequence()),
            version => write!(f, "write {}", version.sequence()),
        }
    }
}

/// A sector that does not hold what it must.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sector {sector} is {verdict}: expected {expected}, found {found}")]
pub struct Mismatch {
    /// Number of the sector on the volume, in units of 512 bytes.
    pub sector: u64,
    /// In one word.
    pub verdict: &'static str,
    /// What it may hold.
    pub expected: String,
    /// What it holds.
    pub found: String,
}

/// Everything known about one region of a volume. Sectors are counted from the start of the volume.
#[derive(Debug)]
pub struct Model {
    seed: u64,
    region: Range<u64>,
    zeroed: bool,
    sequence_next: u32,
    acknowledged: Vec<Version>,
    /// Writes without an answer (yet): each may or may not be there.
    open: HashMap<u64, Vec<Version>>,
    /// Sectors overwritten since they were last known durable, oldest first, the last one the acknowledged one; each
    /// with the number of acknowledgements before it.
    volatile: HashMap<u64, Vec<(u64, Version)>>,
    acknowledgements: u64,
}

/// What a read may find, remembered when it is sent.
#[derive(Clone, Debug)]
pub struct Expectation {
    first: u64,
    floor: Vec<Version>,
}

impl Model {
    /// A region nothing has been written to; `zeroed` says that it must read as zeroes until then.
    pub fn new(seed: u64, region: Range<u64>, zeroed: bool) -> Model {
        let acknowledged = vec![Version::NONE; (region.end - region.start) as usize];
        Model {
            seed,
            region,
            zeroed,
            sequence_next: 1,
            acknowledged,
            open: HashMap::new(),
            volatile: HashMap::new(),
            acknowledgements: 0,
        }
    }

    /// Of the writer.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The region.
    pub fn region(&self) -> Range<u64> {
        self.region.clone()
    }

    /// How many sectors have been written at least once.
    pub fn written_sectors(&self) -> u64 {
        self.acknowledged
            .iter()
            .filter(|version| **version != Version::NONE)
            .count() as u64
    }

    /// A write of data is about to be sent: its number and its bytes.
    pub fn begin_data(&mut self, sectors: Range<u64>) -> (Version, Vec<u8>) {
        let version = Version::data(self.take_sequence());
        self.begin(&sectors, version);
        let mut bytes = vec![0; ((sectors.end - sectors.start) * SECTOR_BYTES) as usize];
        for (sector, bytes) in sectors.zip(bytes.chunks_exact_mut(SECTOR_BYTES as usize)) {
            fill(bytes, self.seed, sector, version.sequence());
        }
        (version, bytes)
    }

    /// A request that clears the sectors is about to be sent: its number.
    pub fn begin_zeroes(&mut self, sectors: Range<u64>) -> Version {
        let version = Version::zeroes(self.take_sequence());
        self.begin(&sectors, version);
        version
    }

    /// The write was acknowledged, and is durable already if it asked for that.
    pub fn acknowledge(&mut self, sectors: Range<u64>, version: Version, durable: bool) {
        self.acknowledgements += 1;
        for sector in sectors {
            let index = self.index(sector);
            let before = std::mem::replace(&mut self.acknowledged[index], version);
            if let Some(open) = self.open.get_mut(&sector) {
                open.retain(|open| *open > version);
                if open.is_empty() {
                    self.open.remove(&sector);
                }
            }
            if durable {
                self.volatile.remove(&sector);
            } else {
                let history = self.volatile.entry(sector).or_insert_with(|| vec![(0, before)]);
                history.push((self.acknowledgements, version));
            }
        }
    }

    /// A flush is about to be sent: hand the mark to [`Model::flushed`] when it is answered.
    pub fn begin_flush(&self) -> u64 {
        self.acknowledgements
    }

    /// The flush was answered: everything acknowledged before it was sent is durable.
    pub fn flushed(&mut self, mark: u64) {
        self.volatile.retain(|_, history| {
            let durable = history
                .iter()
                .rposition(|(acknowledged, _)| *acknowledged <= mark)
                .unwrap_or(0);
            history.drain(..durable);
            history.len() > 1
        });
    }

    /// A read is about to be sent: what it may find at least.
    pub fn expect(&self, sectors: Range<u64>) -> Expectation {
        let floor = self.acknowledged[self.index(sectors.start)..=self.index(sectors.end - 1)].to_vec();
        Expectation {
            first: sectors.start,
            floor,
        }
    }

    /// The read was answered: every sector must hold what was acknowledged when it was sent, or something written
    /// since. Zeroes that nobody wrote in the meantime are never right, so reads must not overlap open clears.
    pub fn check(&self, expectation: &Expectation, bytes: &[u8]) -> Vec<Mismatch> {
        let sectors = (expectation.first..).zip(&expectation.floor);
        let mut mismatches = Vec::new();
        for ((sector, floor), bytes) in sectors.zip(bytes.chunks_exact(SECTOR_BYTES as usize)) {
            if *floor == Version::NONE && !self.zeroed && !self.touched(sector) {
                continue;
            }
            let found = judge(bytes, self.seed, sector);
            let now = self.acknowledged[self.index(sector)];
            let open = self.open.get(&sector).map_or(&[][..], Vec::as_slice);
            let newer = |sequence: u32| {
                sequence > floor.sequence()
                    && (sequence <= now.sequence() || open.iter().any(|open| open.sequence() == sequence))
            };
            let right = floor.matches(&found, self.zeroed)
                || now.matches(&found, self.zeroed)
                || open.iter().any(|open| open.matches(&found, self.zeroed))
                || matches!(&found, Found::Data { sequence } if newer(*sequence))
                || (*floor == Version::NONE
                    && !self.zeroed
                    && matches!(found, Found::Foreign | Found::Zeroes));
            if !right {
                mismatches.push(mismatch(sector, &[*floor], open, found));
            }
        }
        mismatches
    }

    /// After a power failure: every sector must hold what was durable, or something written since.
    pub fn check_after_power_failure(&self, first: u64, bytes: &[u8]) -> Vec<Mismatch> {
        let mut mismatches = Vec::new();
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR_BYTES as usize)) {
            let mut allowed: Vec<Version> = match self.volatile.get(&sector) {
                Some(history) => history.iter().map(|(_, version)| *version).collect(),
                None => vec![self.acknowledged[self.index(sector)]],
            };
            let open = self.open.get(&sector).map_or(&[][..], Vec::as_slice);
            allowed.extend(open);
            if allowed.contains(&Version::NONE) && !self.zeroed {
                continue;
            }
            let found = judge(bytes, self.seed, sector);
            if !allowed.iter().any(|version| version.matches(&found, self.zeroed)) {
                mismatches.push(mismatch(sector, &allowed, &[], found));
            }
        }
        mismatches
    }

    fn touched(&self, sector: u64) -> bool {
        self.acknowledged[self.index(sector)] != Version::NONE || self.open.contains_key(&sector)
    }

    fn begin(&mut self, sectors: &Range<u64>, version: Version) {
        assert!(
            self.region.start <= sectors.start && sectors.end <= self.region.end,
            "within the region"
        );
        for sector in sectors.clone() {
            self.open.entry(sector).or_default().push(version);
        }
    }

    fn take_sequence(&mut self) -> u32 {
        let sequence = self.sequence_next;
        assert!(
            sequence < u32::MAX >> 1,
            "two thousand million writes are more than a test"
        );
        self.sequence_next += 1;
        sequence
    }

    fn index(&self, sector: u64) -> usize {
        (sector - self.region.start) as usize
    }
}

fn mismatch(sector: u64, expected: &[Version], open: &[Version], found: Found) -> Mismatch {
    let newest = expected.iter().max().copied().unwrap_or(Version::NONE);
    let verdict = match &found {
        Found::Data { sequence } if *sequence < newest.sequence() => "stale",
        Found::Data { .. } => "ahead of its time",
        Found::Zeroes => "lost",
        Found::Torn { .. } => "torn",
        Found::Misplaced { .. } => "misplaced",
        Found::Foreign => "foreign",
    };
    let words: HashSet<String> = expected.iter().chain(open).map(Version::to_string).collect();
    let mut words: Vec<String> = words.into_iter().collect();
    words.sort();
    Mismatch {
        sector,
        verdict,
        expected: words.join(" or "),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn model() -> Model {
        Model::new(SEED, 100..200, true)
    }

    fn verdicts(mismatches: &[Mismatch]) -> Vec<&'static str> {
        mismatches.iter().map(|mismatch| mismatch.verdict).collect()
    }

    #[test]
    fn acknowledged_content_is_the_only_right_one() {
        let mut model = model();
        let (first, old) = model.begin_data(104..106);
        model.acknowledge(104..106, first, false);
        let (second, new) = model.begin_data(104..106);
        model.acknowledge(104..106, second, false);
        let read = model.expect(104..106);
        assert_eq!(model.check(&read, &new), []);
        assert_eq!(verdicts(&model.check(&read, &old)), ["stale", "stale"]);
        assert_eq!(verdicts(&model.check(&read, &[0; 1024])), ["lost", "lost"]);
        assert_eq!(verdicts(&model.check(&read, &[3; 1024])), ["foreign", "foreign"]);
        let swapped = [&new[512..], &new[..512]].concat();
        assert_eq!(
            verdicts(&model.check(&read, &swapped)),
            ["misplaced", "misplaced"]
        );
        let torn = [&new[..256], &old[256..]].concat();
        assert_eq!(verdicts(&model.check(&read, &torn)), ["torn", "stale"]);
    }

    #[test]
    fn a_write_in_flight_may_show_old_or_new() {
        let mut model = model();
        let (first, old) = model.begin_data(150..151);
        model.acknowledge(150..151, first, false);
        let (_, new) = model.begin_data(150..151);
        let read = model.expect(150..151);
        assert_eq!(model.check(&read, &old), []);
        assert_eq!(model.check(&read, &new), []);
        assert_eq!(verdicts(&model.check(&read, &[0; 512])), ["lost"]);
    }

    #[test]
    fn a_read_may_see_writes_that_came_and_went_meanwhile() {
        let mut model = model();
        let read = model.expect(110..111);
        let (first, old) = model.begin_data(110..111);
        model.acknowledge(110..111, first, false);
        let (second, new) = model.begin_data(110..111);
        model.acknowledge(110..111, second, false);
        for bytes in [&[0; 512][..], &old, &new] {
            assert_eq!(model.check(&read, bytes), []);
        }
    }

    #[test]
    fn zeroes_are_expected_where_they_were_written() {
        let mut model = model();
        let (first, old) = model.begin_data(120..121);
        model.acknowledge(120..121, first, false);
        let cleared = model.begin_zeroes(120..121);
        model.acknowledge(120..121, cleared, false);
        let read = model.expect(120..122);
        assert_eq!(model.check(&read, &[0; 1024]), []);
        assert_eq!(
            verdicts(&model.check(&read, &[&old[..], &[0; 512]].concat())),
            ["stale"]
        );
    }

    #[test]
    fn a_power_failure_may_bring_back_what_was_not_flushed() {
        let mut model = model();
        let (first, one) = model.begin_data(130..131);
        model.acknowledge(130..131, first, false);
        let mark = model.begin_flush();
        let (second, two) = model.begin_data(130..131);
        model.acknowledge(130..131, second, false);
        assert_eq!(model.check_after_power_failure(130, &[0; 512]), []);
        model.flushed(mark);
        assert_eq!(
            verdicts(&model.check_after_power_failure(130, &[0; 512])),
            ["lost"]
        );
        assert_eq!(model.check_after_power_failure(130, &one), []);
        assert_eq!(model.check_after_power_failure(130, &two), []);
        let mark = model.begin_flush();
        model.flushed(mark);
        assert_eq!(verdicts(&model.check_after_power_failure(130, &one)), ["stale"]);
        let (third, three) = model.begin_data(130..131);
        model.acknowledge(130..131, third, true);
        assert_eq!(verdicts(&model.check_after_power_failure(130, &two)), ["stale"]);
        assert_eq!(model.check_after_power_failure(130, &three), []);
    }

    #[test]
    fn content_of_others_is_no_concern_before_the_first_write() {
        let mut model = Model::new(SEED, 0..8, false);
        let read = model.expect(0..2);
        assert_eq!(model.check(&read, &[9; 1024]), []);
        let (first, bytes) = model.begin_data(0..1);
        assert_eq!(model.check(&read, &[9; 1024]), []);
        assert_eq!(model.check(&read, &[0; 1024]), []);
        model.acknowledge(0..1, first, false);
        let read = model.expect(0..2);
        assert_eq!(model.check(&read, &[&bytes[..], &[9; 512]].concat()), []);
        assert_eq!(verdicts(&model.check(&read, &[9; 1024])), ["foreign"]);
    }

    #[test]
    fn a_saved_model_judges_as_the_first_one_did() {
        let mut model = model();
        let (first, one) = model.begin_data(100..164);
        model.acknowledge(100..164, first, true);
        let (second, _) = model.begin_data(110..120);
        model.acknowledge(110..120, second, false);
        let cleared = model.begin_zeroes(190..200);
        model.acknowledge(190..200, cleared, false);
        let (_, open) = model.begin_data(180..181);
        let text = serde_json::to_string(&State::of(&model)).unwrap();
        let again = serde_json::from_str::<State>(&text)
            .unwrap()
            .into_model()
            .unwrap();
        assert_eq!(again.acknowledged, model.acknowledged);
        let read = again.expect(100..110);
        assert_eq!(again.check(&read, &one[..5120]), []);
        let read = again.expect(180..181);
        assert_eq!(again.check(&read, &open), []);
        assert_eq!(again.check_after_power_failure(110, &one[5120..10240]), []);
        assert_eq!(
            verdicts(&again.check_after_power_failure(100, &[0; 512])),
            ["lost"]
        );
    }

    #[test]
    fn a_state_that_contradicts_itself_is_refused() {
        let mut state = State::of(&model());
        state.acknowledged.push([150, 51, 4]);
        assert!(state.into_model().is_err());
    }
}
