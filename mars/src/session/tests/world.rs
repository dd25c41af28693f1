//! What can happen to a guest's volume? Primaries that crash, forget, hand over and are cut off, in one small world.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::{Epoch, SectorRange, Tick};
use proptest::prelude::*;

use super::super::*;
use super::{NODES, SECTORS, data, node, range, value_of};

/// One thing that happens; indices are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        start: u64,
        count: u64,
        fua: bool,
    },
    Read {
        start: u64,
        count: u64,
    },
    Flush,
    /// The network brings requests to the primary.
    Deliver {
        count: usize,
    },
    /// The primary does one of the requests that it has.
    Execute {
        index: usize,
    },
    /// One of its answers arrives.
    Answer {
        index: usize,
    },
    /// A dial ends.
    Dialled,
    /// Time passes until there is a connection.
    Reconnect,
    CutLink,
    /// The primary's process is killed: its page cache stays.
    Kill,
    /// The primary's host loses power; some part of what it did last survives.
    PowerCut {
        survives: usize,
    },
    /// Power is cut and another node, which has everything that was flushed, takes over.
    Takeover {
        to: usize,
        survives: usize,
    },
    HandOver {
        to: usize,
        durable: bool,
    },
    Wait {
        millis: u64,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let place = (0..SECTORS, 1..=4u64).prop_map(|(start, count)| (start, count.min(SECTORS - start)));
    prop_oneof![
        6 => (place.clone(), proptest::bool::weighted(0.2))
            .prop_map(|((start, count), fua)| Step::Write { start, count, fua }),
        6 => place.prop_map(|(start, count)| Step::Read { start, count }),
        2 => Just(Step::Flush),
        8 => (1..4usize).prop_map(|count| Step::Deliver { count }),
        10 => any::<usize>().prop_map(|index| Step::Execute { index }),
        10 => any::<usize>().prop_map(|index| Step::Answer { index }),
        2 => Just(Step::Dialled),
        5 => Just(Step::Reconnect),
        1 => Just(Step::CutLink),
        1 => Just(Step::Kill),
        1 => any::<usize>().prop_map(|survives| Step::PowerCut { survives }),
        1 => (0..NODES, any::<usize>()).prop_map(|(to, survives)| Step::Takeover { to, survives }),
        1 => (0..NODES, any::<bool>()).prop_map(|(to, durable)| Step::HandOver { to, durable }),
        3 => (1..20u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// A volume's contents as one value per sector.
pub(super) type Contents = Vec<u64>;

/// The one primary of the world.
pub(super) struct Primary {
    node: usize,
    epoch: Epoch,
    pub(super) durable: Contents,
    /// What was done since the last flush, oldest first.
    pub(super) volatile: Vec<(SectorRange, u64)>,
}

impl Primary {
    fn contents(&self, mutations: usize) -> Contents {
        let mut contents = self.durable.clone();
        for (range, value) in &self.volatile[..mutations] {
            for sector in range.start.0..range.end().0 {
                contents[usize::try_from(sector).unwrap()] = *value;
            }
        }
        contents
    }

    pub(super) fn now(&self) -> Contents {
        self.contents(self.volatile.len())
    }

    fn lose_power(&mut self, survives: usize) {
        self.durable = self.contents(survives % (self.volatile.len() + 1));
        self.volatile.clear();
    }

    fn flush(&mut self) {
        self.durable = self.now();
        self.volatile.clear();
    }

    fn execute(&mut self, request: &GuestRequest) -> Reply {
        match request {
            GuestRequest::Read { range } => {
                let contents = self.now();
                let sectors =
                    usize::try_from(range.start.0).unwrap()..usize::try_from(range.end().0).unwrap();
                let bytes: Vec<u8> = contents[sectors].iter().flat_map(|v| data(*v, 1)).collect();
                Reply::Data(Bytes::from(bytes))
            }
            GuestRequest::Write { range, data, fua } => self.mutate(*range, value_of(data), *fua),
            GuestRequest::Discard { range, fua } | GuestRequest::WriteZeroes { range, fua, .. } => {
                self.mutate(*range, 0, *fua)
            }
            GuestRequest::Flush => {
                self.flush();
                Reply::Done
            }
            GuestRequest::BlockStatus { .. } => Reply::Extents(Vec::new()),
        }
    }

    fn mutate(&mut self, range: SectorRange, value: u64, fua: bool) -> Reply {
        self.volatile.push((range, value));
        if fua {
            // Only the write itself is promised, but a log makes everything before it durable too.
            self.flush();
        }
        Reply::Done
    }
}

/// What guests know of one sector: which values they may still see.
#[derive(Default)]
struct Sector {
    /// Values by the write that made them: when asked for, when answered.
    writes: BTreeMap<u64, (u64, Option<u64>)>,
    /// Values that were seen to be replaced, and when.
    dead: BTreeMap<u64, u64>,
    /// Values seen, and when the first read that saw them was answered.
    seen: BTreeMap<u64, u64>,
}

impl Sector {
    /// Nothing answered before `asked` was written after `value`.
    fn check_not_replaced(&self, value: u64, asked: u64) {
        let (_, done) = *self.writes.get(&value).expect("a value that was never written");
        for (other, (begun, ended)) in &self.writes {
            let replaced = done.is_some_and(|d| d < *begun) && ended.is_some_and(|e| e < asked);
            assert!(!replaced, "{value} is there though {other} was written after it");
        }
    }

    /// A read that lasted from `asked` to `answered` saw `value`.
    fn check(&mut self, value: u64, asked: u64, answered: u64) {
        self.check_not_replaced(value, asked);
        assert!(
            self.dead.get(&value).is_none_or(|at| *at > asked),
            "{value} has come back"
        );
        for (other, at) in &self.seen {
            if *other != value && *at < asked {
                self.dead.entry(*other).or_insert(answered);
            }
        }
        self.seen.entry(value).or_insert(answered);
    }
}

struct Asked {
    request: GuestRequest,
    value: u64,
    at: u64,
}

pub(super) struct World {
    pub(super) session: Session,
    now: Tick,
    clock: u64,
    pub(super) primary: Primary,
    /// The dial under way.
    dialling: Option<(u64, usize)>,
    /// The session's connection: its generation, and whose epoch it was accepted in.
    link: Option<(u64, usize, Epoch)>,
    /// The newest generation that each node has let in.
    accepted: BTreeMap<usize, u64>,
    /// What each node granted last.
    granted: BTreeMap<usize, Epoch>,
    wire: Vec<(u64, GuestRequest)>,
    /// With the generation and epoch of the connection that brought them.
    queue: Vec<(u64, Epoch, u64, GuestRequest)>,
    answers: Vec<(u64, u64, Result<Reply, GuestError>)>,
    open: BTreeMap<u64, Asked>,
    sectors: Vec<Sector>,
    next: u64,
    completed: usize,
}

impl World {
    pub(super) fn new() -> World {
        let members = (0..NODES).map(node).collect();
        let session = Session::new(Tick(0), node(0), members, 4 * 512);
        let mut sectors: Vec<Sector> = (0..SECTORS).map(|_| Sector::default()).collect();
        for sector in &mut sectors {
            sector.writes.insert(0, (0, Some(0)));
        }
        let epoch = Epoch { term: 1, start: 1 };
        let durable = vec![0; usize::try_from(SECTORS).unwrap()];
        World {
            session,
            now: Tick(0),
            clock: 1,
            primary: Primary {
                node: 1,
                epoch,
                durable,
                volatile: Vec::new(),
            },
            dialling: None,
            link: None,
            accepted: BTreeMap::new(),
            granted: BTreeMap::new(),
            wire: Vec::new(),
            queue: Vec::new(),
            answers: Vec::new(),
            open: BTreeMap::new(),
            sectors,
            next: 1,
            completed: 0,
        }
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.session.handle(self.now, input);
        let mut writing = BTreeSet::new();
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect {
                    generation, node: to, ..
                } => {
                    assert!(
                        self.dialling.is_none() && self.link.is_none(),
                        "two connections at a time"
                    );
                    let index = (0..NODES).find(|i| node(*i) == to).unwrap();
                    self.dialling = Some((generation, index));
                }
                Output::Disconnect { generation } => {
                    assert!(self.link.is_none_or(|(g, ..)| g == generation));
                    self.abandon_link();
                    self.dialling = None;
                }
                Output::Send {
                    generation,
                    seq,
                    request,
                } => {
                    assert_eq!(
                        self.link.map(|(g, ..)| g),
                        Some(generation),
                        "sent on no connection"
                    );
                    assert!(writing.insert(seq), "sent twice at once");
                    self.wire.push((seq, request));
                }
                Output::Complete { tag, result } => self.complete(tag, result),
                Output::Forget { tag } => panic!("{tag:?} is forgotten while the guest is there"),
            }
        }
    }

    fn ask(&mut self, request: GuestRequest, value: u64) {
        let tag = self.next;
        self.next += 1;
        self.clock += 1;
        let at = self.clock;
        if is_mutation(&request) {
            for sector in Self::indices(request.range().unwrap()) {
                self.sectors[sector].writes.insert(value, (at, None));
            }
        }
        self.open.insert(
            tag,
            Asked {
                request: request.clone(),
                value,
                at,
            },
        );
        self.tell(Input::Guest {
            tag: RequestTag(tag),
            request,
        });
    }

    fn indices(range: SectorRange) -> std::ops::Range<usize> {
        usize::try_from(range.start.0).unwrap()..usize::try_from(range.end().0).unwrap()
    }

    fn complete(&mut self, tag: RequestTag, result: Result<Reply, GuestError>) {
        self.clock += 1;
        self.completed += 1;
        let asked = self.open.remove(&tag.0).expect("answered twice");
        let reply = result.expect("the guest saw an error");
        match (&asked.request, reply) {
            (GuestRequest::Read { range }, Reply::Data(bytes)) => {
                for (index, sector) in Self::indices(*range).zip(bytes.chunks(512)) {
                    self.sectors[index].check(value_of(sector), asked.at, self.clock);
                }
            }
            (GuestRequest::Flush, Reply::Done) => {
                for (sector, value) in self.sectors.iter().zip(&self.primary.durable) {
                    sector.check_not_replaced(*value, asked.at);
                }
            }
            (request, Reply::Done) if is_mutation(request) => {
                for index in Self::indices(request.range().unwrap()) {
                    let write = self.sectors[index].writes.get_mut(&asked.value).unwrap();
                    write.1 = Some(self.clock);
                }
            }
            (request, reply) => panic!("{reply:?} is no answer to {request:?}"),
        }
    }

    fn drop_link(&mut self) {
        if let Some((generation, ..)) = self.link {
            self.abandon_link();
            self.tell(Input::Disconnected {
                generation,
                hint: None,
            });
        }
    }

    /// Nobody listens any more, but what was sent may still arrive and be done.
    fn abandon_link(&mut self) {
        self.answers.clear();
        if let Some((generation, _, epoch)) = self.link.take() {
            let late = self.wire.drain(..).map(|(seq, r)| (generation, epoch, seq, r));
            self.queue.extend(late);
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            // Discards and zeroes would all write the value 0, which could not be told apart: only data here.
            Step::Write { start, count, fua } => {
                let value = self.next;
                let range = range(start, count);
                self.ask(
                    GuestRequest::Write {
                        range,
                        data: data(value, count),
                        fua,
                    },
                    value,
                );
            }
            Step::Read { start, count } => self.ask(
                GuestRequest::Read {
                    range: range(start, count),
                },
                0,
            ),
            Step::Flush => self.ask(GuestRequest::Flush, 0),
            Step::Deliver { count } => {
                let Some((generation, _, epoch)) = self.link else {
                    return;
                };
                let count = count.min(self.wire.len());
                let arrived = self
                    .wire
                    .drain(..count)
                    .map(|(seq, r)| (generation, epoch, seq, r));
                self.queue.extend(arrived);
            }
            Step::Execute { index } => self.execute(index),
            Step::Answer { index } => {
                if self.answers.is_empty() {
                    return;
                }
                let (generation, seq, result) = self.answers.remove(index % self.answers.len());
                self.tell(Input::Answer {
                    generation,
                    seq,
                    result,
                });
            }
            Step::Dialled => self.dialled(),
            Step::Reconnect => {
                for _ in 0..20 {
                    if self.link.is_none() {
                        self.step(Step::Dialled);
                        self.step(Step::Wait { millis: 10 });
                    }
                }
            }
            Step::CutLink => self.drop_link(),
            Step::Kill => {
                if self.primary.node != 0 {
                    self.queue.clear();
                    self.primary.epoch = self.primary.epoch.next_start();
                    self.drop_link();
                }
            }
            Step::PowerCut { survives } => {
                if self.primary.node != 0 {
                    self.queue.clear();
                    self.primary.lose_power(survives);
                    self.primary.epoch = self.primary.epoch.next_start();
                    self.drop_link();
                }
            }
            Step::Takeover { to, survives } => {
                if self.primary.node != 0 && to != self.primary.node {
                    self.queue.clear();
                    self.primary.lose_power(survives);
                    self.primary.epoch = self.primary.epoch.next_term();
                    self.primary.node = to;
                    self.drop_link();
                }
            }
            Step::HandOver { to, durable } => self.hand_over(to, durable),
            Step::Wait { millis } => {
                self.now = self.now.after_millis(millis);
                if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.tell(Input::Timer);
                }
            }
        }
    }

    fn execute(&mut self, index: usize) {
        if self.queue.is_empty() {
            return;
        }
        let (generation, epoch, seq, request) = self.queue.remove(index % self.queue.len());
        let newest = self.accepted.get(&self.primary.node);
        if newest.is_some_and(|newest| generation < *newest) {
            return;
        }
        let result = if epoch == self.primary.epoch {
            Ok(self.primary.execute(&request))
        } else {
            let at = self.link.map(|(_, at, _)| at);
            let granted = at.and_then(|at| self.granted.get(&at).copied());
            Err(GuestError::NotPrimary {
                hint: Some(node(self.primary.node)),
                granted,
            })
        };
        if self.link.is_some_and(|(g, ..)| g == generation) {
            self.answers.push((generation, seq, result));
        }
    }

    fn dialled(&mut self) {
        let Some((generation, index)) = self.dialling.take() else {
            return;
        };
        if index == self.primary.node {
            self.link = Some((generation, index, self.primary.epoch));
            self.accepted.insert(index, generation);
            self.tell(Input::Connected {
                generation,
                epoch: self.primary.epoch,
            });
        } else {
            let hint = (index == 2).then(|| node(self.primary.node));
            self.tell(Input::Disconnected { generation, hint });
        }
    }

    fn hand_over(&mut self, to: usize, durable: bool) {
        if to == self.primary.node {
            return;
        }
        if durable || self.primary.node == 0 {
            self.primary.flush();
        }
        let granted = self.primary.epoch.next_term();
        let refused = GuestError::NotPrimary {
            hint: Some(node(to)),
            granted: Some(granted),
        };
        for (generation, _, seq, _) in std::mem::take(&mut self.queue) {
            if self.link.is_some_and(|(g, ..)| g == generation) {
                self.answers.push((generation, seq, Err(refused.clone())));
            }
        }
        self.granted.insert(self.primary.node, granted);
        self.primary.node = to;
        self.primary.epoch = granted;
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.open.is_empty() {
                return;
            }
            self.step(Step::Dialled);
            self.step(Step::Deliver { count: usize::MAX });
            self.step(Step::Execute { index: 0 });
            self.step(Step::Answer { index: 0 });
            self.step(Step::Wait { millis: 1 });
        }
        panic!(
            "{} requests are never answered: {:?}",
            self.open.len(),
            self.session
        );
    }
}
