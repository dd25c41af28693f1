//! How do messages travel, and how do connections end? In order or not at all; one end may notice much later.

use std::collections::{BTreeMap, BTreeSet};

use mars::LinkId;
use model::Tick;

use crate::rng::Rng;

/// A driver gives up a connection on which nothing was heard for so long.
pub(crate) const IDLE_MICROS: u64 = 10_000_000;

/// How one end sees a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has not been told yet.
    Pending,
    Up,
    Gone,
}

/// One end of a connection: which start of which node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub node: usize,
    pub boot: u32,
    pub stage: Stage,
    /// The wire towards this end delivers nothing before: order is kept.
    arrives: Tick,
    /// What this end sent has left by then.
    departs: Tick,
    /// When something last arrived here.
    pub heard: Tick,
}

/// A connection; the first end dialled.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub ends: [End; 2],
    /// Nothing arrives any more, though perhaps nobody knows.
    pub lost: bool,
    latency_micros: u64,
    bytes_per_milli: u64,
}

/// How good new connections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quality {
    /// One way, in microseconds: at least, and at most.
    pub latency_micros: (u64, u64),
    /// Bandwidth in bytes per millisecond: at least, and at most.
    pub bytes_per_milli: (u64, u64),
    /// Messages that need to be sent again by the network below, in percent: they are late, and all behind them.
    pub loss_percent: u64,
}

/// All connections, and who cannot reach whom.
#[derive(Debug)]
pub(crate) struct Network {
    pub links: BTreeMap<LinkId, Link>,
    next: u64,
    cut: BTreeSet<(usize, usize)>,
    pub quality: Quality,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    pub fn new(quality: Quality) -> Network {
        Network {
            links: BTreeMap::new(),
            next: 0,
            cut: BTreeSet::new(),
            quality,
        }
    }

    /// Whether a new connection can be made.
    pub fn reaches(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&pair(a, b))
    }

    /// No new connections, and nothing arrives on the old ones, which are returned.
    pub fn cut(&mut self, a: usize, b: usize) -> Vec<LinkId> {
        self.cut.insert(pair(a, b));
        let mut lost = Vec::new();
        for (id, link) in &mut self.links {
            if pair(link.ends[0].node, link.ends[1].node) == pair(a, b) && !link.lost {
                link.lost = true;
                lost.push(*id);
            }
        }
        lost
    }

    /// New connections can be made again.
    pub fn heal(&mut self, a: usize, b: usize) {
        self.cut.remove(&pair(a, b));
    }

    pub fn heal_all(&mut self) {
        self.cut.clear();
    }

    /// A connection that both ends will hear of at these times.
    pub fn connect(&mut self, now: Tick, ends: [(usize, u32); 2], rng: &mut Rng) -> (LinkId, [Tick; 2]) {
        let (low, high) = self.quality.latency_micros;
        let latency_micros = rng.spread(low, high);
        let (low, high) = self.quality.bytes_per_milli;
        let bytes_per_milli = rng.spread(low, high);
        let ends = ends.map(|(node, boot)| End {
            node,
            boot,
            stage: Stage::Pending,
            arrives: now.after_micros(rng.spread(10, 2 * latency_micros + 1000)),
            departs: now,
            heard: now,
        });
        let id = LinkId(self.next);
        self.next += 1;
        let told = [ends[0].arrives, ends[1].arrives];
        self.links.insert(
            id,
            Link {
                ends,
                lost: false,
                latency_micros,
                bytes_per_milli,
            },
        );
        (id, told)
    }

    /// Puts a message on the wire from one end; when it arrives if nothing happens, or `None` when that end has no such
    /// connection.
    pub fn send(&mut self, id: LinkId, from: usize, bytes: usize, now: Tick, rng: &mut Rng) -> Option<Tick> {
        let link = self.links.get_mut(&id)?;
        if link.ends[from].stage != Stage::Up {
            return None;
        }
        let wire_micros = bytes as u64 * 1000 / link.bytes_per_milli;
        let departs = link.ends[from].departs.max(now).after_micros(wire_micros + 1);
        link.ends[from].departs = departs;
        let jitter = if rng.chance(self.quality.loss_percent) {
            rng.spread(200_000, 1_600_000)
        } else if rng.chance(2) {
            rng.spread(1, 50_000)
        } else {
            rng.below(link.latency_micros / 4 + 2)
        };
        let to = &mut link.ends[1 - from];
        to.arrives = to.arrives.max(departs.after_micros(link.latency_micros + jitter));
        Some(to.arrives)
    }

    /// Which end of a connection a node's start is.
    pub fn end_of(&self, id: LinkId, node: usize, boot: u32) -> Option<usize> {
        let ends = &self.links.get(&id)?.ends;
        ends.iter().position(|end| end.node == node && end.boot == boot)
    }

    /// Whether a node's start is connected to anybody, as far as it knows.
    pub fn has_link(&self, node: usize, boot: u32) -> bool {
        let is = |end: &End| (end.node, end.boot) == (node, boot) && end.stage == Stage::Up;
        self.links.values().any(|link| link.ends.iter().any(is))
    }

    /// Everything of a node's start.
    pub fn links_of(&self, node: usize, boot: u32) -> Vec<LinkId> {
        let has = |link: &Link| link.ends.iter().any(|end| end.node == node && end.boot == boot);
        self.links
            .iter()
            .filter(|(_, link)| has(link))
            .map(|(id, _)| *id)
            .collect()
    }

    /// One end is gone; returns when the other hears of it, if it still has to.
    pub fn leave(&mut self, id: LinkId, end: usize, now: Tick, abrupt: bool, rng: &mut Rng) -> Option<Tick> {
        let link = self.links.get_mut(&id)?;
        link.ends[end].stage = Stage::Gone;
        if link.ends[1 - end].stage == Stage::Gone {
            self.links.remove(&id);
            return None;
        }
        let latency_micros = link.latency_micros;
        Some(if link.lost {
            now.after_micros(IDLE_MICROS + rng.below(1_000_000))
        } else if abrupt {
            // A reset overtakes what is on its way.
            link.lost = true;
            now.after_micros(latency_micros)
        } else {
            link.ends[1 - end]
                .arrives
                .max(now.after_micros(latency_micros))
                .after_micros(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUALITY: Quality = Quality {
        latency_micros: (100, 100),
        bytes_per_milli: (1000, 1000),
        loss_percent: 0,
    };

    fn connected() -> (Network, LinkId, Rng) {
        let mut rng = Rng::new(3);
        let mut network = Network::new(QUALITY);
        let (id, _) = network.connect(Tick(0), [(0, 1), (1, 1)], &mut rng);
        for end in &mut network.links.get_mut(&id).expect("just made").ends {
            end.stage = Stage::Up;
        }
        (network, id, rng)
    }

    #[test]
    fn messages_keep_their_order_and_take_their_time() {
        let (mut network, id, mut rng) = connected();
        let mut last = Tick(0);
        for _ in 0..1000 {
            let arrives = network.send(id, 0, 5000, Tick(0), &mut rng).expect("up");
            assert!(arrives >= last && arrives >= Tick(100));
            last = arrives;
        }
        assert!(
            last >= Tick(5_000_000),
            "1000 × 5000 bytes at 1000 bytes per millisecond"
        );
    }

    #[test]
    fn a_cut_pair_cannot_connect_until_healed() {
        let (mut network, id, _) = connected();
        assert_eq!(network.cut(1, 0), [id]);
        assert!(network.cut(0, 1).is_empty() && !network.reaches(0, 1) && network.reaches(0, 2));
        network.heal(0, 1);
        assert!(network.reaches(1, 0));
    }

    #[test]
    fn the_other_end_hears_of_a_close_after_what_was_sent_before() {
        let (mut network, id, mut rng) = connected();
        let arrives = network.send(id, 0, 50_000, Tick(0), &mut rng).expect("up");
        let heard = network
            .leave(id, 0, Tick(1), false, &mut rng)
            .expect("the other end is up");
        assert!(heard > arrives);
        assert_eq!(network.leave(id, 1, heard, false, &mut rng), None);
        assert!(network.links.is_empty());
    }
}
