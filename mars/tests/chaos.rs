//! Does the engine keep its promise in any order of events? Random interleavings of small worlds, with kills and power cuts.
//!
//! Not the simulator: no time models, no bandwidth; every step picks at random what happens next, which finds
//! orderings that delays hardly produce.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use mars::{
    Answer, Birth, BlockExtent, Command, CommandId, Config, Effect, Engine, Event, GuestError, GuestRequest,
    LinkId, Message, Meta, Reply, RequestTag, VolumeData,
};
use model::{Epoch, NodeId, ReplicaState, SectorRange, Tick, VolumeId, VolumeSize};

const SECTORS: u64 = 160;
const SECTOR: usize = 512;
const FIRST: Epoch = Epoch { term: 1, start: 1 };

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Bytes as the page cache has them and as a power cut leaves them.
#[derive(Clone, Default)]
struct Media {
    cached: Vec<u8>,
    durable: Vec<u8>,
}

impl Media {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.cached.len() < at + bytes.len() {
            self.cached.resize(at + bytes.len(), 0);
        }
        self.cached[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn flush(&mut self) {
        self.durable = self.cached.clone();
    }

    /// Every sector that was not flushed survives or not, by itself.
    fn power_cut(&mut self, rng: &mut Rng) {
        let longest = self.cached.len().max(self.durable.len());
        let mut after = Vec::new();
        let mut length = self.durable.len();
        for at in (0..longest).step_by(SECTOR) {
            let from = if rng.chance(50) {
                &self.cached
            } else {
                &self.durable
            };
            let end = (at + SECTOR).min(longest);
            after.extend((at..end).map(|i| from.get(i).copied().unwrap_or(0)));
            if from.len() >= end {
                length = length.max(end);
            }
        }
        after.truncate(length);
        self.cached = after.clone();
        self.durable = after;
    }
}

struct Host {
    config: Config,
    birth: Birth,
    engine: Option<Engine>,
    log: Media,
    disk: Media,
    meta: Option<Bytes>,
    tracks: BTreeMap<NodeId, Bytes>,
    log_queue: VecDeque<Effect>,
    disk_queue: VecDeque<Effect>,
    meta_queue: VecDeque<Effect>,
    inbox: Vec<Event>,
}

fn keep_track(tracks: &mut BTreeMap<NodeId, Bytes>, peer: NodeId, track: Option<Bytes>) {
    match track {
        Some(track) => tracks.insert(peer, track),
        None => tracks.remove(&peer),
    };
}

struct Wire {
    ends: [usize; 2],
    /// Messages towards each end.
    queues: [VecDeque<Message>; 2],
}

#[derive(Clone, Debug)]
struct Sector {
    /// Stamp of each version, 0 for zeroes.
    versions: Vec<u64>,
    acked: usize,
    flushed: usize,
    /// A guest that starts after a power cut may find any version from here to there.
    uncertain: Option<(usize, usize)>,
    writing: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    request: GuestRequest,
    /// For each sector: the version written, or the acked version when a read or flush was issued.
    marks: Vec<(u64, usize)>,
    host: Option<usize>,
    tag: RequestTag,
}

struct World {
    seed: u64,
    rng: Rng,
    now: Tick,
    hosts: Vec<Host>,
    wires: BTreeMap<LinkId, Wire>,
    next: u64,
    sectors: Vec<Sector>,
    asked: Vec<Asked>,
    attached: usize,
    stamp: u64,
    commands: u64,
    answered: u64,
    hand_overs: u64,
    trace: VecDeque<String>,
    calm: bool,
    /// How rare faults are: 1 in so many of the steps that may be one.
    quiet: u64,
}

fn node(index: usize) -> NodeId {
    NodeId::new(&format!("h{index}")).unwrap()
}

fn index(node: &NodeId) -> usize {
    node.as_str()[1..].parse().unwrap()
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let count = 2 + rng.below(2) as usize;
        let members: Vec<NodeId> = (0..count).map(node).collect();
        let small = rng.chance(30);
        let quiet = [1, 4, 12, 30][rng.below(4) as usize];
        let hosts = (0..count)
            .map(|i| {
                let config = Config {
                    volume: VolumeId(1),
                    node: node(i),
                    size: VolumeSize::new(SECTORS * 512).unwrap(),
                    members: members.clone(),
                    shadow_bytes_max: if small { 16 << 10 } else { 1 << 20 },
                    log_bytes_max: if small { 64 << 10 } else { 16 << 20 },
                };
                let birth = if i == 0 {
                    Birth::Primary { epoch: FIRST }
                } else {
                    Birth::Secondary
                };
                let engine = Some(Engine::create(Tick(0), config.clone(), birth));
                // A joining disk holds anything at all.
                let fill = if i == 0 { 0 } else { 0xEE };
                let bytes = vec![fill; (SECTORS * 512) as usize];
                let disk = Media {
                    cached: bytes.clone(),
                    durable: bytes,
                };
                Host {
                    config,
                    birth,
                    engine,
                    log: Media::default(),
                    disk,
                    meta: None,
                    tracks: BTreeMap::new(),
                    log_queue: VecDeque::new(),
                    disk_queue: VecDeque::new(),
                    meta_queue: VecDeque::new(),
                    inbox: Vec::new(),
                }
            })
            .collect();
        let sector = Sector {
            versions: vec![0],
            acked: 0,
            flushed: 0,
            uncertain: None,
            writing: false,
        };
        World {
            seed,
            rng,
            now: Tick(0),
            hosts,
            wires: BTreeMap::new(),
            next: 0,
            sectors: vec![sector; SECTORS as usize],
            asked: Vec::new(),
            attached: 0,
            stamp: 0,
            commands: 0,
            answered: 0,
            hand_overs: 0,
            trace: VecDeque::new(),
            calm: false,
            quiet,
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if std::env::var_os("CHAOS_TRACE").is_some() {
            let line = format!("{:>9} {}", self.now.0, text());
            self.trace.push_back(line);
            if self.trace.len() > 400 {
                self.trace.pop_front();
            }
        }
    }

    fn fail(&self, what: String) -> ! {
        for line in &self.trace {
            eprintln!("{line}");
        }
        panic!("seed {}: {what}", self.seed);
    }

    /// Feeds one event and takes all effects.
    fn feed(&mut self, host: usize, event: Event) {
        self.note(|| format!("h{host} <- {}", short(&event)));
        let now = self.now;
        let Some(engine) = &mut self.hosts[host].engine else {
            return;
        };
        engine.handle(now, event);
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        while let Some(effect) = self.hosts[host].engine.as_mut().and_then(Engine::poll_effect) {
            self.note(|| format!("h{host} -> {}", short(&effect)));
            self.take(host, effect);
        }
    }

    fn take(&mut self, at: usize, effect: Effect) {
        let host = &mut self.hosts[at];
        match effect {
            Effect::AppendLog { .. }
            | Effect::FlushLog { .. }
            | Effect::ReadLog { .. }
            | Effect::ResetLog { .. } => {
                host.log_queue.push_back(effect);
            }
            Effect::ReadVolume { .. }
            | Effect::WriteVolume { .. }
            | Effect::FlushVolume { .. }
            | Effect::GrowVolume { .. }
            | Effect::TakeSnapshot { .. }
            | Effect::DropSnapshot { .. }
            | Effect::VolumeStatus { .. } => host.disk_queue.push_back(effect),
            Effect::SaveMeta { .. } | Effect::SaveTrack { .. } | Effect::LoadTracks { .. } => {
                host.meta_queue.push_back(effect);
            }
            Effect::Answer {
                result: Ok(Answer::HandedOver { .. }),
                ..
            } => self.hand_overs += 1,
            Effect::TrimLog { .. } | Effect::Answer { .. } => {}
            Effect::AskRoom { id, .. } => host_push(host, Event::RoomTold { id, there_is: true }),
            Effect::Notice(_) => {}
            Effect::Dial { peer } => {
                let other = index(&peer);
                if self.hosts[other].engine.is_none() || (!self.calm && self.rng.chance(20)) {
                    host_push(&mut self.hosts[at], Event::LinkDown { link: None, peer });
                    return;
                }
                self.next += 1;
                let link = LinkId(self.next);
                self.wires.insert(
                    link,
                    Wire {
                        ends: [at, other],
                        queues: [VecDeque::new(), VecDeque::new()],
                    },
                );
                host_push(
                    &mut self.hosts[at],
                    Event::LinkUp {
                        link,
                        peer,
                        dialled: true,
                    },
                );
                host_push(
                    &mut self.hosts[other],
                    Event::LinkUp {
                        link,
                        peer: node(at),
                        dialled: false,
                    },
                );
            }
            Effect::Send { link, message } => {
                if let Some(wire) = self.wires.get_mut(&link) {
                    let to = usize::from(wire.ends[0] == at);
                    wire.queues[to].push_back(Message::decode(message.encode().freeze()).unwrap());
                }
            }
            Effect::Close { link } => {
                if let Some(wire) = self.wires.remove(&link) {
                    let other = if wire.ends[0] == at {
                        wire.ends[1]
                    } else {
                        wire.ends[0]
                    };
                    host_push(
                        &mut self.hosts[other],
                        Event::LinkDown {
                            link: Some(link),
                            peer: node(at),
                        },
                    );
                }
            }
            Effect::Complete { tag, result } => self.completed(at, tag, result),
        }
    }

    /// Performs the oldest operation of one queue.
    fn perform(&mut self, at: usize, effect: Effect) {
        let host = &mut self.hosts[at];
        let event = match effect {
            Effect::AppendLog { at, bytes } => {
                host.log.write(at.0 as usize, &bytes);
                Event::LogWritten {
                    up_to: at.advance(bytes.len() as u64),
                }
            }
            Effect::FlushLog { up_to } => {
                host.log.flush();
                Event::LogFlushed { up_to }
            }
            Effect::ReadLog { id, at, bytes_max } => {
                let from = (at.0 as usize).min(host.log.cached.len());
                let to = (from + bytes_max).min(host.log.cached.len());
                Event::LogRead {
                    id,
                    bytes: Bytes::copy_from_slice(&host.log.cached[from..to]),
                }
            }
            Effect::ResetLog { id, at, .. } => {
                host.log.cached.resize(at.0 as usize, 0);
                host.log.flush();
                Event::LogReset { id }
            }
            Effect::ReadVolume { id, range } => {
                let bytes = &host.disk.cached[range.start.bytes() as usize..range.end().bytes() as usize];
                Event::VolumeRead {
                    id,
                    data: VolumeData::Data(Bytes::copy_from_slice(bytes)),
                }
            }
            Effect::VolumeStatus { id, range } => Event::VolumeStatus {
                id,
                extents: vec![BlockExtent { range, data: true }],
            },
            Effect::WriteVolume { id, range, data } => {
                let mut flat = BytesMut::new();
                data.iter().for_each(|piece| flat.extend_from_slice(piece));
                flat.resize(range.len_bytes() as usize, 0);
                host.disk.write(range.start.bytes() as usize, &flat);
                Event::VolumeWritten { id }
            }
            Effect::FlushVolume { id } => {
                host.disk.flush();
                Event::VolumeFlushed { id }
            }
            Effect::SaveMeta { generation, meta } => {
                host.meta = Some(meta.encode());
                Event::MetaSaved { generation }
            }
            Effect::SaveTrack { id, peer, track } => {
                keep_track(&mut host.tracks, peer, track);
                Event::TrackSaved { id, kept: true }
            }
            Effect::LoadTracks { id } => {
                let tracks = host.tracks.clone().into_iter().collect();
                Event::TracksLoaded { id, tracks }
            }
            other => panic!("{other:?} is not a disk operation"),
        };
        host_push(host, event);
    }

    fn crash(&mut self, at: usize, power: bool) {
        self.note(|| format!("h{at} {}", if power { "POWER CUT" } else { "KILL" }));
        let rng = &mut self.rng;
        let host = &mut self.hosts[at];
        host.engine = None;
        host.inbox.clear();
        // Each queue had got some way, the next append perhaps half way.
        for queue in [&mut host.log_queue, &mut host.disk_queue, &mut host.meta_queue] {
            let done = rng.below(queue.len() as u64 + 1) as usize;
            let rest = queue.split_off(done);
            for effect in std::mem::take(queue) {
                match effect {
                    Effect::AppendLog { at, bytes } => host.log.write(at.0 as usize, &bytes),
                    Effect::WriteVolume { range, data, .. } => {
                        let mut flat = BytesMut::new();
                        data.iter().for_each(|piece| flat.extend_from_slice(piece));
                        flat.resize(range.len_bytes() as usize, 0);
                        host.disk.write(range.start.bytes() as usize, &flat);
                    }
                    Effect::SaveMeta { meta, .. } => host.meta = Some(meta.encode()),
                    Effect::SaveTrack { peer, track, .. } => keep_track(&mut host.tracks, peer, track),
                    Effect::ResetLog { at, .. } => {
                        host.log.cached.resize(at.0 as usize, 0);
                        host.log.flush();
                    }
                    Effect::FlushLog { .. } => host.log.flush(),
                    Effect::FlushVolume { .. } => host.disk.flush(),
                    _ => {}
                }
            }
            if let Some(Effect::AppendLog { at, bytes }) = rest.front() {
                let cut = rng.below(bytes.len() as u64 / 512 + 1) as usize * 512;
                host.log.write(at.0 as usize, &bytes[..cut]);
            }
        }
        if power {
            host.log.power_cut(rng);
            host.disk.power_cut(rng);
        }
        let gone: Vec<LinkId> = self
            .wires
            .iter()
            .filter(|(_, w)| w.ends.contains(&at))
            .map(|(l, _)| *l)
            .collect();
        for link in gone {
            self.cut(link, Some(at));
        }
        if power && self.attached == at {
            self.new_guest();
        } else {
            for asked in &mut self.asked {
                if asked.host == Some(at) {
                    asked.host = None;
                }
            }
        }
    }

    fn new_guest(&mut self) {
        self.asked.clear();
        for sector in &mut self.sectors {
            sector.writing = false;
            let low = sector
                .uncertain
                .map_or(sector.flushed, |(low, _)| low.max(sector.flushed));
            sector.acked = low;
            sector.uncertain = Some((low, sector.versions.len() - 1));
        }
    }

    fn start(&mut self, at: usize) {
        self.note(|| format!("h{at} START"));
        let now = self.now;
        let host = &mut self.hosts[at];
        let config = host.config.clone();
        host.engine = Some(match &host.meta {
            Some(slot) => Engine::open(now, config, Meta::decode(slot.clone()).unwrap()),
            None => Engine::create(now, config, host.birth),
        });
        self.drain(at);
    }

    fn cut(&mut self, link: LinkId, dead: Option<usize>) {
        let Some(wire) = self.wires.remove(&link) else {
            return;
        };
        for (i, end) in wire.ends.into_iter().enumerate() {
            if Some(end) != dead {
                let event = Event::LinkDown {
                    link: Some(link),
                    peer: node(wire.ends[1 - i]),
                };
                host_push(&mut self.hosts[end], event);
            }
        }
    }

    fn ask(&mut self) {
        let start = self.rng.below(SECTORS);
        let count = 1 + self.rng.below(8.min(SECTORS - start));
        let range = SectorRange::new(start, count).unwrap();
        let here = start as usize..(start + count) as usize;
        self.next += 1;
        let tag = RequestTag(self.next);
        let fua = self.rng.chance(20);
        let kind = self.rng.below(10);
        let (request, marks) = match kind {
            0..=4 if self.sectors[here.clone()].iter().any(|s| s.writing) => return,
            0..=4 => {
                let mut data = BytesMut::new();
                let mut marks = Vec::new();
                let zero = kind == 4;
                for (i, sector) in self.sectors[here.clone()].iter_mut().enumerate() {
                    self.stamp += 1;
                    let stamp = if zero { 0 } else { self.stamp };
                    sector.versions.push(stamp);
                    sector.writing = true;
                    marks.push((start + i as u64, sector.versions.len() - 1));
                    data.extend_from_slice(&stamp.to_le_bytes().repeat(SECTOR / 8));
                }
                let request = match zero {
                    true if fua => GuestRequest::Discard { range, fua },
                    true => GuestRequest::WriteZeroes {
                        range,
                        fua,
                        unmap: true,
                    },
                    false => GuestRequest::Write {
                        range,
                        data: data.freeze(),
                        fua,
                    },
                };
                (request, marks)
            }
            5 => {
                let marks = self
                    .sectors
                    .iter()
                    .enumerate()
                    .map(|(i, s)| (i as u64, s.acked))
                    .collect();
                (GuestRequest::Flush, marks)
            }
            _ => {
                let marks = here.map(|i| (i as u64, self.sectors[i].acked)).collect();
                (GuestRequest::Read { range }, marks)
            }
        };
        self.asked.push(Asked {
            request,
            marks,
            host: None,
            tag,
        });
    }

    /// Sends what is unanswered to where the guest thinks the primary is, in order.
    fn send_asked(&mut self) {
        let attached = self.attached;
        if self.hosts[attached].engine.is_none() {
            return;
        }
        let ready: Vec<(RequestTag, GuestRequest)> = self
            .asked
            .iter_mut()
            .filter(|asked| asked.host.is_none())
            .map(|asked| {
                asked.host = Some(attached);
                (asked.tag, asked.request.clone())
            })
            .collect();
        for (tag, request) in ready {
            host_push(&mut self.hosts[attached], Event::Guest { tag, request });
        }
    }

    fn completed(&mut self, host: usize, tag: RequestTag, result: Result<Reply, GuestError>) {
        let Some(position) = self
            .asked
            .iter()
            .position(|a| a.tag == tag && a.host == Some(host))
        else {
            return;
        };
        let reply = match result {
            Ok(reply) => reply,
            Err(GuestError::NotPrimary { hint, .. }) => {
                self.asked[position].host = None;
                // All that was sent to the old place comes back the same way.
                self.attached =
                    hint.map_or_else(|| self.rng.below(self.hosts.len() as u64) as usize, |h| index(&h));
                return;
            }
            Err(error) => self.fail(format!("guest got {error}")),
        };
        let asked = self.asked.remove(position);
        self.answered += 1;
        match (&asked.request, reply) {
            (GuestRequest::Read { range }, Reply::Data(data)) => self.check_read(*range, &asked.marks, &data),
            (GuestRequest::Flush, _) => {
                for (sector, version) in asked.marks {
                    let sector = &mut self.sectors[sector as usize];
                    if sector.uncertain.is_none() {
                        sector.flushed = sector.flushed.max(version);
                    }
                }
            }
            (request, _) => {
                let fua = matches!(
                    request,
                    GuestRequest::Write { fua: true, .. }
                        | GuestRequest::Discard { fua: true, .. }
                        | GuestRequest::WriteZeroes { fua: true, .. }
                );
                for (sector, version) in asked.marks {
                    let sector = &mut self.sectors[sector as usize];
                    sector.writing = false;
                    sector.acked = version;
                    sector.uncertain = None;
                    if fua {
                        sector.flushed = version;
                    }
                }
            }
        }
    }

    fn check_read(&mut self, range: SectorRange, marks: &[(u64, usize)], data: &[u8]) {
        for ((at, acked), got) in marks.iter().zip(data.chunks(SECTOR)) {
            let stamp = u64::from_le_bytes(got[..8].try_into().unwrap());
            if got.chunks(8).any(|c| c != stamp.to_le_bytes()) {
                self.fail(format!("sector {at} of {range} is torn"));
            }
            let sector = &self.sectors[*at as usize];
            let newest = sector.versions.len() - 1;
            let low = sector.uncertain.map_or(*acked, |(low, _)| low);
            if !sector.versions[low..=newest].contains(&stamp) {
                let when = sector.versions.iter().rposition(|v| *v == stamp);
                self.fail(format!(
                    "sector {at}: read version {when:?} (stamp {stamp}), allowed {low}..={newest}"
                ));
            }
            let unique = sector.versions.iter().filter(|v| **v == stamp).count() == 1;
            let when = sector.versions.iter().rposition(|v| *v == stamp).unwrap();
            let sector = &mut self.sectors[*at as usize];
            if unique && sector.uncertain.is_some() && !sector.writing {
                // What a guest has seen must stay.
                sector.uncertain = None;
                sector.versions.truncate(when + 1);
                sector.acked = when;
            }
        }
    }

    fn serving(&self) -> Vec<usize> {
        let serving = |host: &Host| host.engine.as_ref().is_some_and(|e| e.status(self.now).serving);
        (0..self.hosts.len())
            .filter(|i| serving(&self.hosts[*i]))
            .collect()
    }

    fn step(&mut self, faults: bool) {
        let count = self.hosts.len() as u64;
        let at = self.rng.below(count) as usize;
        match self.rng.below(100) {
            0..=24 if !self.hosts[at].inbox.is_empty() => {
                let event = self.hosts[at].inbox.remove(0);
                self.feed(at, event);
            }
            25..=44 if !self.hosts[at].log_queue.is_empty() && self.hosts[at].engine.is_some() => {
                let effect = self.hosts[at].log_queue.pop_front().unwrap();
                self.perform(at, effect);
            }
            45..=59 if !self.hosts[at].disk_queue.is_empty() && self.hosts[at].engine.is_some() => {
                let effect = self.hosts[at].disk_queue.pop_front().unwrap();
                self.perform(at, effect);
            }
            60..=67 if !self.hosts[at].meta_queue.is_empty() && self.hosts[at].engine.is_some() => {
                let effect = self.hosts[at].meta_queue.pop_front().unwrap();
                self.perform(at, effect);
            }
            68..=84 => {
                let links: Vec<LinkId> = self.wires.keys().copied().collect();
                if links.is_empty() {
                    return;
                }
                let link = links[self.rng.below(links.len() as u64) as usize];
                let to = self.rng.below(2) as usize;
                let wire = self.wires.get_mut(&link).unwrap();
                if let Some(message) = wire.queues[to].pop_front() {
                    let end = wire.ends[to];
                    host_push(&mut self.hosts[end], Event::Message { link, message });
                }
            }
            85..=90 => {
                if !self.calm && self.asked.len() < 12 {
                    self.ask();
                }
                self.send_asked();
            }
            91 if faults && self.rng.chance(30) => {
                // Asked of everybody: only the primary does anything, and then it moves often.
                self.commands += 1;
                let to = node(self.rng.below(count) as usize);
                for host in &mut self.hosts {
                    let command = Command::HandOver {
                        to: to.clone(),
                        gate_micros_max: 500_000,
                    };
                    host_push(
                        host,
                        Event::Command {
                            id: CommandId(self.commands),
                            command,
                        },
                    );
                }
            }
            91..=97 => {
                self.now = self.now.after_micros(self.rng.below(20_000));
                for i in 0..self.hosts.len() {
                    let due = self.hosts[i].engine.as_ref().and_then(Engine::poll_timeout);
                    if due.is_some_and(|due| due <= self.now) {
                        host_push(&mut self.hosts[i], Event::Timer);
                    }
                }
            }
            98..=99 if faults && self.rng.below(self.quiet) == 0 => match self.rng.below(4) {
                0 | 1 if self.hosts[at].engine.is_some() => self.crash(at, false),
                2 if self.hosts[at].engine.is_some() => self.crash(at, true),
                3 => {
                    let links: Vec<LinkId> = self.wires.keys().copied().collect();
                    if !links.is_empty() {
                        let link = links[self.rng.below(links.len() as u64) as usize];
                        self.cut(link, None);
                    }
                }
                _ => {}
            },
            // A dead host comes back soon, whatever the rate of faults.
            98..=99 if self.hosts[at].engine.is_none() => self.start(at),
            _ => {}
        }
        let serving = self.serving();
        if serving.len() > 1 {
            self.fail(format!("{serving:?} serve at the same time"));
        }
    }

    fn settled(&self) -> bool {
        self.asked.is_empty()
            && self.serving().len() == 1
            && self.hosts.iter().all(|host| {
                let status = host.engine.as_ref().unwrap().status(self.now);
                let marks = status.watermarks;
                status.state == ReplicaState::Uptodate
                    && marks.written_back() == marks.appended()
                    && status.shadow_bytes == 0
            })
            && self
                .hosts
                .iter()
                .map(|h| h.engine.as_ref().unwrap().status(self.now).tip)
                .all(|tip| tip == self.hosts[0].engine.as_ref().unwrap().status(self.now).tip)
    }

    fn run(&mut self) -> (u64, u64) {
        for i in 0..self.hosts.len() {
            self.drain(i);
        }
        let steps = 4000 + self.rng.below(30_000);
        for _ in 0..steps {
            self.step(true);
        }
        self.calm = true;
        for i in 0..self.hosts.len() {
            if self.hosts[i].engine.is_none() {
                self.start(i);
            }
        }
        let mut left = 10_000;
        while !self.settled() {
            left -= 1;
            if left == 0 {
                let states: Vec<String> = self
                    .hosts
                    .iter()
                    .map(|h| {
                        let s = h.engine.as_ref().unwrap().status(self.now);
                        format!(
                            "{:?} {:?} {:?} {:?} epoch {} {:?} waiting {}",
                            s.role, s.state, s.reason, s.watermarks, s.epoch, s.primary, s.waiting_requests
                        )
                    })
                    .collect();
                self.fail(format!(
                    "never at rest: asked {:?}\n{}",
                    self.asked.len(),
                    states.join("\n")
                ));
            }
            for _ in 0..50 {
                self.step(false);
            }
        }
        let first = &self.hosts[0];
        for (i, host) in self.hosts.iter().enumerate() {
            if let Some(at) =
                (0..host.disk.cached.len()).find(|at| host.disk.cached[*at] != first.disk.cached[*at])
            {
                self.fail(format!("h0 and h{i} differ at sector {}", at / SECTOR));
            }
        }
        for at in 0..SECTORS {
            let bytes = self.hosts[0].disk.cached[at as usize * SECTOR..][..SECTOR].to_vec();
            let marks = [(at, self.sectors[at as usize].acked)];
            self.check_read(SectorRange::new(at, 1).unwrap(), &marks, &bytes);
        }
        (self.answered, self.hand_overs)
    }
}

fn host_push(host: &mut Host, event: Event) {
    if host.engine.is_some() {
        host.inbox.push(event);
    }
}

fn short(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take(220).collect()
}

#[test]
fn any_order_of_events_keeps_the_promise() {
    let from: u64 = std::env::var("CHAOS_FROM").ok().map_or(0, |v| v.parse().unwrap());
    let count: u64 = std::env::var("CHAOS_SEEDS")
        .ok()
        .map_or(150, |v| v.parse().unwrap());
    let (mut answered, mut hand_overs) = (0, 0);
    for seed in from..from + count {
        let figures = World::new(seed).run();
        answered += figures.0;
        hand_overs += figures.1;
    }
    println!("{count} worlds: {answered} requests answered, {hand_overs} hand-overs");
    assert!(
        answered > count * 50 && hand_overs > count,
        "{answered} answered, {hand_overs} hand-overs: too quiet"
    );
}
