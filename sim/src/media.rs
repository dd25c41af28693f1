//! What is on a disk, what is only in the page cache, and what does a power cut leave of it?

use std::collections::BTreeMap;

use crate::rng::Rng;

/// What a disk writes as one.
pub(crate) const SECTOR: usize = 512;

/// Bytes with an address: a log that grows at its end and is given up at its beginning, or a volume of fixed length.
///
/// Reads see the page cache. For every sector that was written since the last flush, the durable contents are kept, so
/// that a power cut can bring them back.
#[derive(Clone, Debug, Default)]
pub struct Media {
    /// Address of the first byte.
    origin: u64,
    bytes: Vec<u8>,
    /// Bytes at the front that were given up; moving the rest each time would cost more than keeping them.
    given_up: usize,
    /// Durable contents of sectors written since; `None` for one that was beyond the durable end.
    unflushed: BTreeMap<u64, Option<Box<[u8]>>>,
    durable_end: u64,
    /// Bits turned, as long as their bytes are there.
    flipped: Vec<(u64, u8)>,
}

impl Media {
    /// A disk with contents, all durable.
    pub fn with(bytes: Vec<u8>) -> Media {
        let durable_end = bytes.len() as u64;
        Media {
            bytes,
            unflushed: BTreeMap::new(),
            durable_end,
            ..Media::default()
        }
    }

    /// The same from an address on.
    pub fn copy_from(&self, at: u64) -> Media {
        let at = at.clamp(self.origin, self.end());
        Media {
            origin: at,
            bytes: self.bytes[self.range(at, usize::MAX / 2)].to_vec(),
            given_up: 0,
            unflushed: self
                .unflushed
                .range(at..)
                .map(|(at, old)| (*at, old.clone()))
                .collect(),
            durable_end: self.durable_end,
            flipped: self
                .flipped
                .iter()
                .filter(|(flipped, _)| *flipped >= at)
                .copied()
                .collect(),
        }
    }

    /// Everything from an address on; nothing when that was given up.
    pub fn into_bytes_from(mut self, at: u64) -> Vec<u8> {
        if at < self.origin {
            return Vec::new();
        }
        let range = self.range(at, usize::MAX / 2);
        self.bytes.drain(..range.start);
        self.bytes
    }

    /// Address of the first byte.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// Address behind the last byte.
    pub fn end(&self) -> u64 {
        self.origin + (self.bytes.len() - self.given_up) as u64
    }

    /// Address behind the last byte that is sure to survive.
    pub fn durable_end(&self) -> u64 {
        self.durable_end
    }

    fn range(&self, at: u64, length: usize) -> std::ops::Range<usize> {
        let from = at.clamp(self.origin, self.end()) - self.origin;
        let to = at.saturating_add(length as u64).clamp(self.origin, self.end()) - self.origin;
        self.given_up + from as usize..self.given_up + to as usize
    }

    /// What is there from `at`, at most `length` bytes; nothing when that was given up.
    pub fn read(&self, at: u64, length: usize) -> &[u8] {
        if at < self.origin {
            return &[];
        }
        &self.bytes[self.range(at, length)]
    }

    /// What a power cut could bring back of a sector.
    pub fn durable(&self, at: u64) -> &[u8] {
        match self.unflushed.get(&at) {
            Some(Some(durable)) => durable,
            Some(None) | None => self.read(at, SECTOR),
        }
    }

    /// Into the page cache; both numbers are multiples of a sector.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(
            at >= self.origin,
            "a write before the beginning at {}",
            self.origin
        );
        for sector in (at..at + bytes.len() as u64).step_by(SECTOR) {
            let durable = (sector < self.durable_end).then(|| self.read(sector, SECTOR).into());
            self.unflushed.entry(sector).or_insert(durable);
        }
        let end = at + bytes.len() as u64;
        if end > self.end() {
            self.bytes.resize(self.given_up + (end - self.origin) as usize, 0);
        }
        let place = self.range(at, bytes.len());
        self.bytes[place].copy_from_slice(bytes);
    }

    /// Makes it longer, durably.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.durable_end = self.durable_end.max(self.end());
    }

    /// Makes what is between two addresses zeroes, durably.
    pub fn clear(&mut self, from: u64, to: u64) {
        let place = self.range(from, to.saturating_sub(from) as usize);
        self.bytes[place].fill(0);
        self.unflushed.retain(|at, _| *at < from || *at >= to);
    }

    /// Everything written so far is durable.
    pub fn flush(&mut self) {
        self.unflushed.clear();
        self.durable_end = self.end();
    }

    /// Drops everything from `at` on, durably.
    pub fn cut(&mut self, at: u64) {
        let at = at.clamp(self.origin, self.end());
        self.bytes.truncate(self.given_up + (at - self.origin) as usize);
        self.unflushed.split_off(&at);
        self.durable_end = self.durable_end.min(at);
        self.flipped.retain(|(flipped, _)| *flipped < at);
    }

    /// Drops everything; what comes next is written at `at`.
    pub fn reset(&mut self, at: u64) {
        *self = Media {
            origin: at,
            durable_end: at,
            ..Media::default()
        };
    }

    /// Gives up what is before `at`.
    pub fn trim(&mut self, at: u64) {
        let at = at.clamp(self.origin, self.end());
        self.given_up += (at - self.origin) as usize;
        if self.given_up > self.bytes.len() / 2 {
            self.bytes.drain(..self.given_up);
            self.given_up = 0;
        }
        self.origin = at;
        self.unflushed = self.unflushed.split_off(&at);
        self.flipped.retain(|(flipped, _)| *flipped >= at);
    }

    /// Turns one bit, durably.
    pub fn flip(&mut self, at: u64, bit: u8) {
        self.turn(at, bit);
        self.flipped.push((at, bit));
    }

    /// Puts other contents where a sector is durable; false when that would change nothing or is not possible.
    pub fn spoil(&mut self, at: u64, wrong: &[u8]) -> bool {
        let right = self.read(at, SECTOR).to_vec();
        if right.len() != SECTOR || wrong.len() != SECTOR || right == wrong || !self.is_flushed(at) {
            return false;
        }
        for (byte, (right, wrong)) in right.iter().zip(wrong).enumerate() {
            (0..8u8)
                .filter(|bit| (right ^ wrong) >> bit & 1 == 1)
                .for_each(|bit| self.flip(at + byte as u64, bit));
        }
        true
    }

    /// Turns all bits back.
    pub fn repair(&mut self) {
        for (at, bit) in std::mem::take(&mut self.flipped) {
            self.turn(at, bit);
        }
    }

    /// Whether a bit is not as it was written.
    pub fn is_damaged(&self) -> bool {
        !self.flipped.is_empty()
    }

    /// Whether a sector would survive a power cut as it is.
    pub fn is_flushed(&self, at: u64) -> bool {
        !self.unflushed.contains_key(&at)
    }

    /// Turns one bit, durably, and forgets about it.
    pub fn turn(&mut self, at: u64, bit: u8) {
        let place = self.range(at, 1);
        self.bytes[place].iter_mut().for_each(|byte| *byte ^= 1 << bit);
    }

    /// Every sector that was not flushed is kept or lost by itself; what is left is durable.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let kept_percent = [0, 10, 50, 90, 100][rng.below(5) as usize];
        let mut end = self.durable_end;
        for (sector, durable) in std::mem::take(&mut self.unflushed) {
            if rng.chance(kept_percent) {
                end = end.max((sector + SECTOR as u64).min(self.end()));
                continue;
            }
            let place = self.range(sector, SECTOR);
            match durable {
                Some(durable) => self.bytes[place].copy_from_slice(&durable),
                None => self.bytes[place].fill(0),
            }
        }
        // The length of a file may survive although its contents did not.
        let end = if rng.chance(30) {
            rng.between(end / 512, self.end() / 512) * 512
        } else {
            end
        };
        self.bytes
            .truncate(self.given_up + (end.max(self.origin) - self.origin) as usize);
        self.durable_end = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(fill: u8) -> Vec<u8> {
        vec![fill; SECTOR]
    }

    #[test]
    fn a_flushed_sector_survives_every_power_cut() {
        for seed in 0..200 {
            let mut media = Media::default();
            media.write(0, &sector(1));
            media.flush();
            media.write(512, &sector(2));
            media.power_cut(&mut Rng::new(seed));
            assert_eq!(media.read(0, 512), sector(1));
            assert!(media.end() == 512 || [sector(0), sector(2)].contains(&media.read(512, 512).to_vec()));
        }
    }

    #[test]
    fn an_unflushed_overwrite_is_old_or_new_and_both_happen() {
        let mut seen = [false; 3];
        for seed in 0..200 {
            let mut media = Media::with(sector(1));
            media.write(0, &sector(2));
            media.power_cut(&mut Rng::new(seed));
            seen[usize::from(media.read(0, 1)[0])] = true;
            assert_eq!(media.end(), 512);
        }
        assert_eq!(seen, [false, true, true]);
    }

    #[test]
    fn an_unflushed_tail_tears_at_any_sector() {
        let mut holes = 0;
        for seed in 0..200 {
            let mut media = Media::default();
            for i in 0..8 {
                media.write(i * 512, &sector(i as u8 + 1));
            }
            media.power_cut(&mut Rng::new(seed));
            let first = media.read(0, 4096).chunks(512).map(|s| s[0]).collect::<Vec<_>>();
            assert!(
                first
                    .iter()
                    .enumerate()
                    .all(|(i, s)| *s == 0 || usize::from(*s) == i + 1)
            );
            holes += usize::from(first.windows(2).any(|pair| pair[0] == 0 && pair[1] != 0));
        }
        assert!(holes > 20, "later sectors survive earlier ones: {holes}");
    }

    #[test]
    fn a_log_is_cut_trimmed_and_begun_anew() {
        let mut log = Media::default();
        for i in 0..4 {
            log.write(i * 512, &sector(i as u8));
        }
        log.trim(1024);
        assert_eq!(log.read(0, 512), b"");
        assert_eq!(log.read(1024, 4096).len(), 1024);
        log.cut(1536);
        assert_eq!(log.end(), 1536);
        log.reset(9 * 512);
        assert_eq!((log.end(), log.durable_end()), (9 * 512, 9 * 512));
    }
}
