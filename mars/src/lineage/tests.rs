//! Does the pure answer agree with what comparing every batch would say? Random histories that grow, restart, move and fork.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A batch of a made-up history: who wrote it, and something that tells it from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made {
    epoch: Epoch,
    name: u64,
}

/// What happens to one of the copies.
#[derive(Clone, Debug)]
enum Step {
    /// Its primary writes so many batches.
    Write { copy: usize, batches: u64 },
    /// It fetches so many batches from another whose history it begins.
    Fetch {
        copy: usize,
        from: usize,
        batches: usize,
    },
    /// Its primary restarts without its last batches.
    Restart { copy: usize, lost: usize },
    /// It takes over.
    TakeOver { copy: usize },
}

const COPIES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let copy = 0..COPIES;
    prop_oneof![
        3 => (copy.clone(), 1..4u64).prop_map(|(copy, batches)| Step::Write { copy, batches }),
        6 => (copy.clone(), copy.clone(), 1..8usize)
            .prop_map(|(copy, from, batches)| Step::Fetch { copy, from, batches }),
        1 => (copy.clone(), 0..3usize).prop_map(|(copy, lost)| Step::Restart { copy, lost }),
        1 => copy.prop_map(|copy| Step::TakeOver { copy }),
    ]
}

#[derive(Default)]
struct World {
    logs: [Vec<Made>; COPIES],
    /// The epoch of a copy that is primary.
    epochs: [Option<Epoch>; COPIES],
    names: u64,
    takeovers: Epoch,
    /// Batches that their own writer lost.
    lost: BTreeMap<u64, ()>,
}

impl World {
    fn add(&mut self, copy: usize, epoch: Epoch) {
        self.names += 1;
        let name = self.names;
        self.logs[copy].push(Made { epoch, name });
    }

    fn live(&mut self, step: Step) {
        match step {
            Step::Write { copy, batches } => {
                if let Some(epoch) = self.epochs[copy] {
                    (0..batches).for_each(|_| self.add(copy, epoch));
                }
            }
            Step::Fetch { copy, from, batches } => {
                let (ours, theirs) = (self.logs[copy].len(), &self.logs[from]);
                if self.epochs[copy].is_none() && theirs.starts_with(&self.logs[copy]) {
                    let more = theirs[ours..theirs.len().min(ours + batches)].to_vec();
                    self.logs[copy].extend(more);
                }
            }
            Step::Restart { copy, lost } => {
                if let Some(epoch) = self.epochs[copy] {
                    let kept = self.logs[copy].len().saturating_sub(lost).max(1);
                    // A writer never loses what another wrote: that was durable before it began.
                    let own = self.logs[copy]
                        .iter()
                        .position(|made| made.epoch.term == epoch.term);
                    let kept = kept.max(own.unwrap_or(0));
                    for made in self.logs[copy].split_off(kept) {
                        self.lost.insert(made.name, ());
                    }
                    self.epochs[copy] = Some(epoch.next_start());
                    self.add(copy, epoch.next_start());
                }
            }
            Step::TakeOver { copy } => {
                self.takeovers = self.takeovers.next_takeover();
                self.epochs[copy] = Some(self.takeovers);
                self.add(copy, self.takeovers);
            }
        }
    }

    fn position(log: &[Made]) -> Position {
        let digest = log.iter().fold(0u128, |digest, made| {
            xxhash_rust::xxh3::xxh3_128(&[digest.to_le_bytes(), u128::from(made.name).to_le_bytes()].concat())
        });
        Position {
            lsn: Lsn(log.len() as u64),
            digest: Digest(digest),
        }
    }

    fn history(&self, copy: usize) -> History {
        let log = &self.logs[copy];
        let mut lineage: Vec<Stretch> = Vec::new();
        for (i, made) in log.iter().enumerate() {
            if lineage.last().is_none_or(|last| last.epoch != made.epoch) {
                lineage.push(Stretch {
                    epoch: made.epoch,
                    writer: NodeId::new("h1").expect("valid"),
                    from: World::position(&log[..i]),
                });
            }
        }
        History {
            lineage,
            tip: World::position(log),
        }
    }

    fn common(&self, a: usize, b: usize) -> usize {
        let pairs = self.logs[a].iter().zip(&self.logs[b]);
        pairs.take_while(|(a, b)| a == b).count()
    }
}

proptest! {
    #[test]
    fn histories_part_where_their_batches_do(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::default();
        world.live(Step::TakeOver { copy: 0 });
        for step in steps {
            world.live(step);
        }
        for (a, b) in (0..COPIES).flat_map(|a| (0..COPIES).map(move |b| (a, b))) {
            let (ours, theirs) = (world.history(a), world.history(b));
            let common = world.common(a, b);
            let at = World::position(&world.logs[a][..common]);
            let want = if common == world.logs[a].len() {
                Relation::Behind
            } else if common == world.logs[b].len() {
                Relation::Ahead
            } else {
                Relation::Parted { at }
            };
            prop_assert_eq!(ours.relation_to(&theirs), want);
            if let Relation::Parted { at } = want && ours.tail_was_lost(&theirs, at) {
                let tail = &world.logs[a][common..];
                prop_assert!(tail.iter().all(|made| world.lost.contains_key(&made.name)));
            }
        }
    }

    #[test]
    fn what_is_forgotten_makes_strangers_not_wrong_answers(
        steps in prop::collection::vec(step(), 1..120),
        forgotten in 0..8usize,
    ) {
        let mut world = World::default();
        world.live(Step::TakeOver { copy: 0 });
        for step in steps {
            world.live(step);
        }
        for (a, b) in (0..COPIES).flat_map(|a| (0..COPIES).map(move |b| (a, b))) {
            let (whole, theirs) = (world.history(a), world.history(b));
            let mut ours = whole.clone();
            ours.lineage.drain(..forgotten.min(ours.lineage.len()));
            let relation = ours.relation_to(&theirs);
            prop_assert!(relation == Relation::Strangers || relation == whole.relation_to(&theirs));
        }
    }
}

#[test]
fn a_position_written_twice_in_one_epoch_is_a_parting_not_an_agreement() {
    let from = Position::default();
    let stretch = Stretch {
        epoch: Epoch { term: 1, start: 1 },
        writer: NodeId::new("h1").expect("valid"),
        from,
    };
    let ending = |digest| History {
        lineage: vec![stretch.clone()],
        tip: Position {
            lsn: Lsn(512),
            digest: Digest(digest),
        },
    };
    assert_eq!(ending(1).relation_to(&ending(2)), Relation::Parted { at: from });
}
