//! What is the true history of the volume? Every batch that a primary ever made, and the contents after each.
//!
//! The history is told from the appends of all members: a batch is *made* by whoever appends it first; appended by others
//! it is a copy. So nobody has to be asked who is primary, and a second writer in one epoch cannot hide.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mars::record::{Batch, Header, Record};
use mars::{Digest, Position};
use model::{Epoch, Lsn};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::stamp;

/// The chain that counts, and every batch that ever was.
#[derive(Debug)]
pub(crate) struct History {
    /// End of each batch that counts.
    chain: BTreeMap<u64, Digest>,
    /// End of the chain.
    end: Position,
    /// Durable at its primary: the chain is never cut before.
    committed: Lsn,
    epoch: Epoch,
    owners: BTreeMap<Epoch, usize>,
    writer: Option<usize>,
    ever: BTreeSet<(u64, u128)>,
    /// For each sector its stamps, each with the end of the batch that brought it.
    sectors: Vec<Vec<(u64, u64)>>,
    /// Batches made.
    pub batches: u64,
    /// Times the chain was cut back because a primary lost its end.
    pub cuts: u64,
}

impl History {
    /// A volume that begins with these stamps.
    pub fn new(stamps: &[u64]) -> History {
        History {
            chain: BTreeMap::from([(0, Digest::default())]),
            end: Position::default(),
            committed: Lsn(0),
            epoch: Epoch::NONE,
            owners: BTreeMap::new(),
            writer: None,
            ever: BTreeSet::from([(0, 0)]),
            sectors: stamps.iter().map(|stamp| vec![(0, *stamp)]).collect(),
            batches: 0,
            cuts: 0,
        }
    }

    /// Where it ends.
    pub fn end(&self) -> Position {
        self.end
    }

    /// What no primary may lose any more.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// A node appends to its log.
    pub fn appended(&mut self, node: usize, name: &str, at: Lsn, bytes: &Bytes) -> Result<(), String> {
        let mut rest = bytes.clone();
        let mut at = at;
        while !rest.is_empty() {
            let header =
                Header::decode(&rest).map_err(|e| format!("appends what is no batch at {at}: {e}"))?;
            let total = header.batch_bytes as usize;
            if rest.len() < total || header.lsn != at {
                return Err(format!(
                    "appends at {at} a batch of {total} bytes that says {}",
                    header.lsn
                ));
            }
            let batch = rest.split_to(total);
            let end = Position {
                lsn: at.advance(total as u64),
                digest: Digest(xxh3_128(&batch)),
            };
            if !self.ever.contains(&(end.lsn.0, end.digest.0)) {
                self.made(node, name, &header, &batch, end)?;
            }
            at = end.lsn;
        }
        Ok(())
    }

    fn made(
        &mut self,
        node: usize,
        name: &str,
        header: &Header,
        bytes: &Bytes,
        end: Position,
    ) -> Result<(), String> {
        let at = header.lsn;
        if self.chain.get(&at.0) != Some(&header.previous) {
            return Err(format!(
                "makes a batch at {at} that continues no history; the end is {}",
                self.end.lsn
            ));
        }
        if header.epoch < self.epoch {
            return Err(format!(
                "writes in epoch {} after somebody wrote in {}",
                header.epoch, self.epoch
            ));
        }
        let batch = Batch::decode(bytes).map_err(|e| format!("makes a bad batch at {at}: {e}"))?;
        let begins = batch
            .records
            .iter()
            .any(|r| matches!(r, Record::Epoch { writer } if writer.as_str() == name));
        let owner = *self.owners.entry(header.epoch).or_insert(node);
        if owner != node {
            return Err(format!(
                "writes in epoch {}, which is h{owner}'s: two writers",
                header.epoch
            ));
        }
        if header.epoch > self.epoch && !begins {
            return Err(format!("begins epoch {} at {at} without saying so", header.epoch));
        }
        if at < self.end.lsn {
            if at < self.committed {
                return Err(format!(
                    "continues at {at} although {} was durable",
                    self.committed
                ));
            }
            self.cut(at, header.previous);
        }
        self.epoch = header.epoch;
        self.writer = Some(node);
        self.batches += 1;
        self.chain.insert(end.lsn.0, end.digest);
        self.ever.insert((end.lsn.0, end.digest.0));
        self.end = end;
        for record in &batch.records {
            self.apply(record, end.lsn)?;
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record, end: Lsn) -> Result<(), String> {
        let Some((range, data)) = record.change() else {
            return Ok(());
        };
        for (i, sector) in (range.start.0..range.end().0).enumerate() {
            let stamp = match data {
                None => 0,
                Some(data) => stamp::of(&data[i * 512..(i + 1) * 512])
                    .ok_or(format!("logs a mixture for sector {sector}"))?,
            };
            let place = self
                .sectors
                .get_mut(sector as usize)
                .ok_or(format!("logs sector {sector}, beyond the end"))?;
            match place.last_mut() {
                Some(last) if last.0 == end.0 => last.1 = stamp,
                _ => place.push((end.0, stamp)),
            }
        }
        Ok(())
    }

    fn cut(&mut self, at: Lsn, digest: Digest) {
        self.cuts += 1;
        self.chain.split_off(&(at.0 + 1));
        self.end = Position { lsn: at, digest };
        for sector in &mut self.sectors {
            while sector.last().is_some_and(|(end, _)| *end > at.0) {
                sector.pop();
            }
        }
    }

    /// A node's log is durable up to here.
    pub fn flushed(&mut self, node: usize, up_to: Lsn) {
        if self.writer == Some(node) && up_to <= self.end.lsn {
            self.committed = self.committed.max(up_to);
        }
    }

    /// Whether a position is on the chain.
    pub fn holds(&self, position: Position) -> bool {
        self.chain.get(&position.lsn.0) == Some(&position.digest)
    }

    /// The last batch that ends at or before `lsn`: where it begins and ends, and its digest.
    pub fn batch_before(&self, lsn: Lsn) -> Option<(u64, u64, Digest)> {
        let (end, digest) = self.chain.range(..=lsn.0).next_back()?;
        let (begin, _) = self.chain.range(..*end).next_back()?;
        Some((*begin, *end, *digest))
    }

    /// Where the batch ends that brought this stamp to a sector, if it is there still.
    pub fn end_of(&self, sector: usize, stamp: u64) -> Option<Lsn> {
        let versions = self.sectors.get(sector)?.iter();
        versions
            .rev()
            .find(|(_, s)| *s == stamp)
            .map(|(end, _)| Lsn(*end))
    }

    /// The stamp of a sector in the version at `lsn`.
    pub fn stamp_at(&self, sector: usize, lsn: Lsn) -> u64 {
        let versions = &self.sectors[sector];
        let later = versions.partition_point(|(end, _)| *end <= lsn.0);
        versions[later.max(1) - 1].1
    }

    /// xxh3-128 of the version at `lsn`.
    pub fn digest_at(&self, lsn: Lsn) -> u128 {
        let mut hasher = Xxh3::new();
        (0..self.sectors.len()).for_each(|sector| hasher.update(&stamp::sector(self.stamp_at(sector, lsn))));
        hasher.digest128()
    }
}
