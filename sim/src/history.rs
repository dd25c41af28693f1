//! What is the true history of the volume? Every batch that a primary ever made, and the contents after each.
//!
//! The history is told from the appends of all members: a batch is *made* by whoever appends it first; appended by others
//! it is a copy. So nobody has to be asked who is primary, and a second writer in one epoch cannot hide.
//!
//! It is a tree: it forks where a primary restarts without its last batches, and where somebody takes over. A branch is a
//! path from the beginning to one end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mars::record::{Batch, Header, Record};
use mars::{Digest, Position};
use model::{Epoch, Lsn};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::stamp;

/// The end of a batch, on a branch.
#[derive(Clone, Copy, Debug)]
struct End {
    digest: Digest,
    epoch: Epoch,
    /// Whether it changes anything for guests.
    writes: bool,
}

/// One path through the tree.
#[derive(Clone, Debug)]
struct Branch {
    /// By the position behind each batch.
    chain: BTreeMap<u64, End>,
    /// For each sector its stamps, each with the end of the batch that brought it.
    sectors: Vec<Vec<(u64, u64)>>,
    /// How many sectors there are, each with the end of the batch that said so.
    sizes: Vec<(u64, usize)>,
}

impl Branch {
    fn end(&self) -> Position {
        let (lsn, end) = self.chain.last_key_value().expect("a branch has a beginning");
        Position {
            lsn: Lsn(*lsn),
            digest: end.digest,
        }
    }

    fn epoch(&self) -> Epoch {
        self.chain
            .last_key_value()
            .map_or(Epoch::NONE, |(_, end)| end.epoch)
    }

    fn holds(&self, position: Position) -> bool {
        self.chain
            .get(&position.lsn.0)
            .is_some_and(|end| end.digest == position.digest)
    }

    /// The same up to a position.
    fn up_to(&self, at: Lsn) -> Branch {
        let mut branch = self.clone();
        branch.chain.split_off(&(at.0 + 1));
        branch.sizes.retain(|(end, _)| *end <= at.0);
        branch.sectors.truncate(branch.size_at(at));
        for sector in &mut branch.sectors {
            while sector.last().is_some_and(|(end, _)| *end > at.0) {
                sector.pop();
            }
        }
        branch
    }

    fn size_at(&self, at: Lsn) -> usize {
        let later = self.sizes.partition_point(|(end, _)| *end <= at.0);
        self.sizes[later.max(1) - 1].1
    }

    fn apply(&mut self, record: &Record, end: Lsn) -> Result<bool, String> {
        if let Some((from, to)) = record.growth() {
            let (from, to) = (from.sectors().0 as usize, to.sectors().0 as usize);
            if from != self.sectors.len() || to <= from {
                let have = self.sectors.len();
                return Err(format!("grows from {from} sectors to {to}, but there are {have}"));
            }
            self.sectors.resize(to, vec![(end.0, 0)]);
            self.sizes.push((end.0, to));
            return Ok(true);
        }
        let Some((range, data)) = record.change() else {
            return Ok(false);
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
        Ok(true)
    }
}

/// A primary that went on without its last batches, or gave its role away (its last start).
#[derive(Clone, Copy, Debug)]
struct Restart {
    at: Lsn,
    epoch: Epoch,
}

/// Every batch that ever was.
#[derive(Debug)]
pub(crate) struct History {
    branches: Vec<Branch>,
    owners: BTreeMap<u32, usize>,
    /// By term: how far its owner has made it durable, and how far it was made.
    terms: BTreeMap<u32, (Lsn, Lsn)>,
    restarts: Vec<Restart>,
    ever: BTreeSet<(u64, u128)>,
    jumped: BTreeSet<(u64, u128)>,
    /// Whether somebody was told to take over: only then may histories part.
    pub forced: bool,
    /// Batches made.
    pub batches: u64,
    /// Times that a primary began to do without a log.
    pub jumps: u64,
    /// Times a primary lost the end of its log.
    /// Of these, compressed.
    pub compressed: u64,
    /// Times a primary lost the end of its log.
    pub cuts: u64,
    /// Times histories parted.
    pub forks: u64,
}

impl History {
    /// A volume that begins with these stamps.
    pub fn new(stamps: &[u64]) -> History {
        let beginning = End {
            digest: Digest::default(),
            epoch: Epoch::NONE,
            writes: false,
        };
        let branch = Branch {
            chain: BTreeMap::from([(0, beginning)]),
            sectors: stamps.iter().map(|stamp| vec![(0, *stamp)]).collect(),
            sizes: vec![(0, stamps.len())],
        };
        History {
            branches: vec![branch],
            owners: BTreeMap::new(),
            terms: BTreeMap::new(),
            restarts: Vec::new(),
            ever: BTreeSet::from([(0, 0)]),
            jumped: BTreeSet::new(),
            forced: false,
            batches: 0,
            compressed: 0,
            jumps: 0,
            cuts: 0,
            forks: 0,
        }
    }

    /// The branch of the newest primary.
    fn newest(&self) -> &Branch {
        self.branches
            .iter()
            .max_by_key(|branch| branch.epoch())
            .expect("there is one")
    }

    fn branch_of(&self, position: Position) -> Option<&Branch> {
        self.branches.iter().rev().find(|branch| branch.holds(position))
    }

    /// Where the newest primary's ends.
    pub fn end(&self) -> Position {
        self.newest().end()
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
        let (at, epoch) = (header.lsn, header.epoch);
        let batch = Batch::decode(bytes).map_err(|e| format!("makes a bad batch at {at}: {e}"))?;
        let owner = *self.owners.entry(epoch.term).or_insert(node);
        if owner != node {
            return Err(format!(
                "writes in epoch {epoch}, which is h{owner}'s: two writers"
            ));
        }
        let branch = self.continued(at, header.previous, epoch)?;
        let begins = batch
            .records
            .iter()
            .any(|r| matches!(r, Record::Epoch { writer } if writer.as_str() == name));
        if epoch > self.branches[branch].epoch() && !begins {
            return Err(format!("begins epoch {epoch} at {at} without saying so"));
        }
        self.batches += 1;
        self.compressed += u64::from(header.plain_bytes > 0);
        self.ever.insert((end.lsn.0, end.digest.0));
        self.terms.entry(epoch.term).or_default().1 = end.lsn;
        let branch = &mut self.branches[branch];
        let mut writes = false;
        for record in &batch.records {
            writes |= branch.apply(record, end.lsn)?;
        }
        branch.chain.insert(
            end.lsn.0,
            End {
                digest: end.digest,
                epoch,
                writes,
            },
        );
        Ok(())
    }

    /// The branch that a new batch continues at its end; a new one where the tree forks.
    fn continued(&mut self, at: Lsn, previous: Digest, epoch: Epoch) -> Result<usize, String> {
        let from = Position {
            lsn: at,
            digest: previous,
        };
        let holding: Vec<usize> = (0..self.branches.len())
            .filter(|index| self.branches[*index].holds(from))
            .collect();
        let Some(last) = holding.last().copied() else {
            return Err(format!("makes a batch at {at} that continues no history"));
        };
        let before = self.branches[last].chain[&at.0].epoch;
        if before > epoch {
            return Err(format!("writes in epoch {epoch} behind a batch of {before}"));
        }
        let followers: Vec<Epoch> = holding
            .iter()
            .filter_map(|index| self.branches[*index].chain.range(at.0 + 1..).next())
            .map(|(_, end)| end.epoch)
            .collect();
        // It restarts without what it wrote there itself.
        let lost: Vec<&Epoch> = followers.iter().filter(|next| next.term == epoch.term).collect();
        if let Some(again) = lost.iter().find(|next| ***next >= epoch) {
            return Err(format!(
                "writes at {at} in epoch {epoch} after having written there in {again}"
            ));
        }
        if !lost.is_empty() {
            let committed = self.terms.get(&epoch.term).map_or(Lsn(0), |term| term.0);
            if at < committed {
                return Err(format!("continues at {at} although {committed} was durable"));
            }
            self.cuts += 1;
            self.restarts.push(Restart { at, epoch });
        }
        let given_up = |next: &Epoch| {
            let own = |restart: &&Restart| restart.epoch.term == next.term && restart.epoch > *next;
            self.restarts.iter().filter(own).any(|restart| restart.at <= at)
        };
        let others = followers.iter().filter(|next| next.term != epoch.term);
        if others.into_iter().any(|next| !given_up(next)) {
            if !self.forced {
                return Err(format!(
                    "continues at {at} in epoch {epoch} where another went on: two writers, and nobody was forced"
                ));
            }
            self.forks += 1;
        }
        let at_end = holding.iter().find(|index| self.branches[**index].end() == from);
        Ok(match at_end {
            Some(index) => *index,
            None => {
                let branch = self.branches[last].up_to(at);
                self.branches.push(branch);
                self.branches.len() - 1
            }
        })
    }

    /// Contents change without a log from here on, by a primary in `epoch`; the next log continues `to`.
    pub fn jumped(&mut self, to: Position, by: Epoch) -> Result<(), String> {
        if self.holds(to) {
            return Ok(());
        }
        let is_before = |(lsn, end): (&u64, &End)| {
            let (lsn, digest) = (Lsn(*lsn), end.digest);
            mars::jump(Position { lsn, digest }, by) == to
        };
        let mut branches = self.branches.iter().enumerate().rev();
        let found = branches.find_map(|(index, branch)| {
            let (lsn, end) = branch
                .chain
                .range(..to.lsn.0)
                .next_back()
                .filter(|p| is_before(*p))?;
            Some((index, Lsn(*lsn), end.epoch.max(by)))
        });
        // Who jumps behind a takeover has written nothing else in its epoch yet.
        let Some((index, at, epoch)) = found else {
            return Err(format!("goes on without a log at {}, behind nothing", to.lsn));
        };
        let mut branch = self.branches[index].up_to(at);
        let digest = to.digest;
        let writes = true;
        branch.chain.insert(
            to.lsn.0,
            End {
                digest,
                epoch,
                writes,
            },
        );
        match self.branches[index].end().lsn == at {
            true => self.branches[index] = branch,
            false => {
                // Without the last batches of an earlier start.
                self.restarts.push(Restart { at, epoch: by });
                self.branches.push(branch);
            }
        }
        self.ever.insert((to.lsn.0, to.digest.0));
        self.jumped.insert((to.lsn.0, to.digest.0));
        let (committed, made) = self.terms.entry(epoch.term).or_default();
        (*committed, *made) = ((*committed).max(to.lsn), (*made).max(to.lsn));
        self.jumps += 1;
        Ok(())
    }

    /// The volume is longer, without a log.
    pub fn grown_straight(&mut self, at: Position, sectors: usize) {
        for branch in self.branches.iter_mut().filter(|branch| branch.holds(at)) {
            if branch.size_at(at.lsn) < sectors {
                let place = branch.sizes.partition_point(|(end, _)| *end <= at.lsn.0);
                branch.sizes.insert(place, (at.lsn.0, sectors));
                let length = branch.sectors.len().max(sectors);
                branch.sectors.resize(length, vec![(at.lsn.0, 0)]);
            }
        }
    }

    /// Whether contents change at a position without a log: then it names no version.
    pub fn is_jump(&self, at: Position) -> bool {
        at == Position::default() || self.jumped.contains(&(at.lsn.0, at.digest.0))
    }

    /// How many sectors the volume has at a position on the tree.
    pub fn size_at(&self, position: Position) -> usize {
        self.branch_of(position)
            .map_or(0, |branch| branch.size_at(position.lsn))
    }

    /// What changed without a log has become the version at `at`.
    pub fn settled(&mut self, at: Position, stamps: &[u64]) {
        for branch in self.branches.iter_mut().filter(|branch| branch.holds(at)) {
            for (sector, stamp) in branch.sectors.iter_mut().zip(stamps) {
                let place = sector.partition_point(|(end, _)| *end <= at.lsn.0);
                match sector[..place].last_mut() {
                    Some(last) if last.0 == at.lsn.0 => last.1 = *stamp,
                    _ => sector.insert(place, (at.lsn.0, *stamp)),
                }
            }
        }
    }

    /// A node gives the role away at the end of its history: what it lost behind that, nobody goes on from.
    pub fn granted(&mut self, node: usize, at: Lsn, to: Epoch) -> Result<(), String> {
        let owned = self.owners.iter().filter(|(_, owner)| **owner == node);
        let Some(term) = owned.map(|(term, _)| *term).filter(|term| *term < to.term).max() else {
            return Ok(());
        };
        let epoch = Epoch {
            term,
            start: u32::MAX,
        };
        if self.restarts.iter().any(|known| known.epoch == epoch) {
            return Ok(());
        }
        let (committed, made) = self.terms.entry(term).or_default();
        if at < *committed {
            return Err(format!(
                "grants its role at {at} although {committed} was durable"
            ));
        }
        *made = (*made).min(at);
        self.restarts.push(Restart { at, epoch });
        Ok(())
    }

    /// A node's log is durable up to here.
    pub fn flushed(&mut self, node: usize, up_to: Lsn) {
        for (term, _) in self.owners.iter().filter(|(_, owner)| **owner == node) {
            let (committed, made) = self.terms.entry(*term).or_default();
            *committed = (*committed).max(up_to.min(*made));
        }
    }

    /// Whether a position is on the tree.
    pub fn holds(&self, position: Position) -> bool {
        self.branch_of(position).is_some()
    }

    /// Whether no primary can lose what is before a position: its own writer has it durably, or somebody went on from it, who
    /// made it durable before.
    pub fn is_safe(&self, position: Position) -> bool {
        let Some(branch) = self.branch_of(position) else {
            return false;
        };
        let epoch = branch.chain[&position.lsn.0].epoch;
        let committed = self.terms.get(&epoch.term).map_or(Lsn(0), |term| term.0);
        let holding = self.branches.iter().filter(|branch| branch.holds(position));
        position.lsn <= committed || holding.into_iter().any(|branch| branch.epoch().term > epoch.term)
    }

    /// The end of what a node wrote last.
    pub fn end_of_writer(&self, node: usize) -> Position {
        let wrote = |end: &End| self.owners.get(&end.epoch.term) == Some(&node);
        let last = |branch: &Branch| {
            let (lsn, end) = branch.chain.iter().rev().find(|(_, end)| wrote(end))?;
            let (lsn, digest) = (Lsn(*lsn), end.digest);
            Some((end.epoch, lsn, Position { lsn, digest }))
        };
        let newest = self
            .branches
            .iter()
            .filter_map(last)
            .max_by_key(|(epoch, lsn, _)| (*epoch, *lsn));
        newest.map_or(Position::default(), |(_, _, end)| end)
    }

    /// The batch that ends at a position: where it begins.
    pub fn begin_of_batch(&self, end: Position) -> Option<u64> {
        let branch = self.branch_of(end)?;
        branch.chain.range(..end.lsn.0).next_back().map(|(lsn, _)| *lsn)
    }

    /// Where the batches end that brought this stamp to a sector, as far as they are there still: what is sent twice is written twice.
    pub fn ends_of(&self, sector: usize, stamp: u64) -> Vec<Position> {
        let branches = self.branches.iter().rev();
        let mut found = branches.map(|branch| {
            let versions = branch.sectors.get(sector).into_iter().flatten();
            let ends = versions.filter(|(_, s)| *s == stamp);
            let position = |(lsn, _): &(u64, u64)| {
                Some(Position {
                    lsn: Lsn(*lsn),
                    digest: branch.chain.get(lsn)?.digest,
                })
            };
            ends.filter_map(position).collect::<Vec<_>>()
        });
        found.find(|ends| !ends.is_empty()).unwrap_or_default()
    }

    /// The last position that the histories up to two positions have in common.
    pub fn parting(&self, one: Position, other: Position) -> Option<Position> {
        let (one_branch, other_branch) = (self.branch_of(one)?, self.branch_of(other)?);
        let last = one.lsn.min(other.lsn).0;
        let (lsn, end) = one_branch.chain.range(..=last).rev().find(|(lsn, end)| {
            other_branch
                .chain
                .get(lsn)
                .is_some_and(|e| e.digest == end.digest)
        })?;
        Some(Position {
            lsn: Lsn(*lsn),
            digest: end.digest,
        })
    }

    /// What of the history up to `end` may not be dropped behind `at`: writes that their own writer has not lost.
    pub fn precious(&self, end: Position, at: Lsn) -> Option<Lsn> {
        let branch = self.branch_of(end)?;
        let mut begin = at.0;
        for (lsn, end) in branch.chain.range(at.0 + 1..=end.lsn.0) {
            let lost = |restart: &Restart| {
                restart.epoch.term == end.epoch.term && restart.epoch > end.epoch && restart.at.0 <= begin
            };
            if end.writes && !self.restarts.iter().any(lost) {
                return Some(Lsn(*lsn));
            }
            begin = *lsn;
        }
        None
    }

    /// The version at a position: the stamp of each sector. All zeroes where the position is not on the tree.
    pub fn version_at(&self, position: Position) -> impl Fn(usize) -> u64 + '_ {
        let branch = self.branch_of(position);
        move |sector| {
            let versions = branch.and_then(|branch| branch.sectors.get(sector));
            let versions = versions.map_or(&[][..], Vec::as_slice);
            let later = versions.partition_point(|(end, _)| *end <= position.lsn.0);
            versions.get(later.max(1) - 1).map_or(0, |(_, stamp)| *stamp)
        }
    }

    /// The stamps that a sector got behind a position, on the newest branch of so many takeovers.
    pub fn stamps_behind(&self, sector: usize, at: Lsn, takeovers: u32) -> Vec<u64> {
        let branches = self.branches.iter();
        let newest = branches
            .filter(|branch| branch.epoch().takeovers() == takeovers)
            .max_by_key(|branch| branch.epoch());
        let versions = newest.and_then(|branch| branch.sectors.get(sector));
        let versions = versions.map_or(&[][..], Vec::as_slice);
        let behind = versions.iter().filter(|(end, _)| *end > at.0);
        behind.map(|(_, stamp)| *stamp).collect()
    }

    /// Whether a digest is xxh3-128 of a version at `lsn`.
    pub fn had_digest(&self, lsn: Lsn, digest: u128) -> bool {
        let at = |branch: &Branch| {
            let end = branch.chain.get(&lsn.0)?;
            Some(Position {
                lsn,
                digest: end.digest,
            })
        };
        let places: Vec<Position> = self.branches.iter().filter_map(at).collect();
        places.into_iter().any(|position| {
            let mut hasher = Xxh3::new();
            let version = self.version_at(position);
            for sector in 0..self.size_at(position) {
                hasher.update(&stamp::sector(version(sector)));
            }
            hasher.digest128() == digest
        })
    }
}
