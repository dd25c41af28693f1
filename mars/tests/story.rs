//! Does the engine do what its story says, when nothing goes wrong? Perfect disks and links, step by step.
//!
//! Faults belong to the simulator; here each test reads as one paragraph of the documentation.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use mars::{
    Answer, Birth, BlockExtent, Command, CommandError, CommandId, Config, DiskError, Effect, Engine, Event,
    GuestError, GuestRequest, LinkId, Message, Meta, Notice, Reply, RequestTag, Status, Switch, VolumeData,
};
use model::{Epoch, Lsn, NodeId, ReplicaState, Role, SectorRange, SnapshotName, Tick, VolumeId, VolumeSize};

const SIZE: u64 = 1 << 20;
const FIRST: Epoch = Epoch { term: 1, start: 1 };

struct Host {
    engine: Engine,
    config: Config,
    log: Vec<u8>,
    disk: Vec<u8>,
    meta: Option<Meta>,
    tracks: BTreeMap<NodeId, Bytes>,
    inbox: VecDeque<Event>,
    /// How long its disk can be.
    room_bytes: usize,
    snapshots: BTreeMap<SnapshotName, Vec<u8>>,
}

/// Every host of one volume, with disks that answer at once and links that neither lose nor wait.
struct World {
    now: Tick,
    hosts: BTreeMap<String, Host>,
    links: BTreeMap<LinkId, (String, String)>,
    next: u64,
    replies: BTreeMap<RequestTag, Result<Reply, GuestError>>,
    answers: BTreeMap<CommandId, Result<Answer, CommandError>>,
    notices: Vec<(String, Notice)>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).unwrap()
}

impl World {
    fn new(primary: &str, secondaries: &[&str]) -> World {
        let mut world = World {
            now: Tick(0),
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            next: 0,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
        };
        let members: Vec<&str> = [primary].iter().chain(secondaries).copied().collect();
        world.add(primary, &members, Birth::Primary { epoch: FIRST });
        for secondary in secondaries {
            world.add(secondary, &members, Birth::Secondary);
        }
        world
    }

    fn add(&mut self, name: &str, members: &[&str], birth: Birth) {
        let config = Config {
            volume: VolumeId(1),
            node: node(name),
            size: VolumeSize::new(SIZE).unwrap(),
            members: members.iter().map(|name| node(name)).collect(),
            shadow_bytes_max: 1 << 20,
            log_bytes_max: 8 << 20,
        };
        let engine = Engine::create(self.now, config.clone(), birth);
        let (log, disk) = (Vec::new(), vec![0; SIZE as usize]);
        let host = Host {
            engine,
            config,
            log,
            disk,
            meta: None,
            tracks: BTreeMap::new(),
            inbox: VecDeque::new(),
            room_bytes: 1 << 30,
            snapshots: BTreeMap::new(),
        };
        self.hosts.insert(name.to_owned(), host);
    }

    /// The process dies and comes back; page cache and links do what they do.
    fn restart(&mut self, name: &str) {
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, ends)| ends.0 == name || ends.1 == name)
            .map(|(id, _)| *id)
            .collect();
        for link in gone {
            self.drop_link(link);
        }
        let host = self.hosts.get_mut(name).unwrap();
        host.inbox.clear();
        host.engine = Engine::open(self.now, host.config.clone(), host.meta.clone().unwrap());
    }

    /// The host is gone, and with it everything it had.
    fn stop(&mut self, name: &str) {
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, ends)| ends.0 == name || ends.1 == name)
            .map(|(id, _)| *id)
            .collect();
        for link in gone {
            self.drop_link(link);
        }
        self.hosts.remove(name);
    }

    fn drop_link(&mut self, link: LinkId) {
        let (a, b) = self.links.remove(&link).unwrap();
        for (at, other) in [(&a, &b), (&b, &a)] {
            let event = Event::LinkDown {
                link: Some(link),
                peer: node(other),
            };
            if let Some(host) = self.hosts.get_mut(at) {
                host.inbox.push_back(event);
            }
        }
    }

    /// Runs until nothing happens for `millis` of virtual time.
    fn run(&mut self, millis: u64) {
        let until = self.now.after_millis(millis);
        loop {
            let names: Vec<String> = self.hosts.keys().cloned().collect();
            let mut idle = true;
            for name in &names {
                let host = self.hosts.get_mut(name).unwrap();
                while let Some(event) = host.inbox.pop_front() {
                    host.engine.handle(self.now, event);
                    idle = false;
                }
                while let Some(effect) = self.hosts.get_mut(name).unwrap().engine.poll_effect() {
                    self.perform(name, effect);
                    idle = false;
                }
            }
            if !idle {
                continue;
            }
            let due = self
                .hosts
                .values()
                .filter_map(|host| host.engine.poll_timeout())
                .min();
            match due {
                Some(due) if due <= until => {
                    assert!(due >= self.now.min(due));
                    self.now = self.now.max(due).after_micros(1);
                    for host in self.hosts.values_mut() {
                        host.inbox.push_back(Event::Timer);
                    }
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
    }

    fn perform(&mut self, name: &str, effect: Effect) {
        let host = self.hosts.get_mut(name).unwrap();
        match effect {
            Effect::AppendLog { at, bytes } => {
                let at = at.0 as usize;
                host.log.resize(at.max(host.log.len()), 0);
                host.log.truncate(at);
                host.log.extend_from_slice(&bytes);
                host.inbox.push_back(Event::LogWritten {
                    up_to: Lsn(host.log.len() as u64),
                });
            }
            Effect::FlushLog { up_to } => host.inbox.push_back(Event::LogFlushed { up_to }),
            Effect::ReadLog { id, at, bytes_max } => {
                let from = (at.0 as usize).min(host.log.len());
                let to = (from + bytes_max).min(host.log.len());
                let bytes = Bytes::copy_from_slice(&host.log[from..to]);
                host.inbox.push_back(Event::LogRead { id, bytes });
            }
            Effect::ResetLog { id, at, .. } => {
                host.log.resize(at.0 as usize, 0);
                host.inbox.push_back(Event::LogReset { id });
            }
            Effect::TrimLog { .. } | Effect::AskRoom { .. } => {}
            Effect::ReadVolume { id, range } => {
                let bytes = &host.disk[range.start.bytes() as usize..range.end().bytes() as usize];
                let data = VolumeData::Data(Bytes::copy_from_slice(bytes));
                host.inbox.push_back(Event::VolumeRead { id, data });
            }
            Effect::VolumeStatus { id, range } => {
                let extents = vec![BlockExtent { range, data: true }];
                host.inbox.push_back(Event::VolumeStatus { id, extents });
            }
            Effect::WriteVolume { id, range, data } => {
                let mut flat = BytesMut::new();
                data.iter().for_each(|piece| flat.extend_from_slice(piece));
                flat.resize(range.len_bytes() as usize, 0);
                host.disk[range.start.bytes() as usize..range.end().bytes() as usize].copy_from_slice(&flat);
                host.inbox.push_back(Event::VolumeWritten { id });
            }
            Effect::FlushVolume { id } => host.inbox.push_back(Event::VolumeFlushed { id }),
            Effect::GrowVolume { id, from, to } => {
                let (from, to) = (from.bytes() as usize, to.bytes() as usize);
                let result = if to > host.room_bytes {
                    Err(DiskError {
                        operation: "grow".to_owned(),
                        reason: "no space left on device".to_owned(),
                    })
                } else {
                    host.disk.resize(to.max(host.disk.len()), 0xEE);
                    host.disk[from..to].fill(0);
                    Ok(())
                };
                host.inbox.push_back(Event::VolumeGrown { id, result });
            }
            Effect::TakeSnapshot { id, name, size, .. } => {
                let contents = host.disk[..size.bytes() as usize].to_vec();
                host.snapshots.insert(name, contents);
                host.inbox.push_back(Event::SnapshotTaken { id, result: Ok(()) });
            }
            Effect::DropSnapshot { id, name, .. } => {
                host.snapshots.remove(&name);
                host.inbox
                    .push_back(Event::SnapshotDropped { id, result: Ok(()) });
            }
            Effect::SaveMeta { generation, meta } => {
                host.meta = Some(Meta::decode(meta.encode()).unwrap());
                host.inbox.push_back(Event::MetaSaved { generation });
            }
            Effect::SaveTrack { id, peer, track } => {
                match track {
                    Some(track) => host.tracks.insert(peer, track),
                    None => host.tracks.remove(&peer),
                };
                host.inbox.push_back(Event::TrackSaved { id, kept: true });
            }
            Effect::LoadTracks { id } => {
                let tracks = host.tracks.clone().into_iter().collect();
                host.inbox.push_back(Event::TracksLoaded { id, tracks });
            }
            Effect::Dial { peer } => {
                let other = peer.as_str().to_owned();
                if !self.hosts.contains_key(&other) {
                    let event = Event::LinkDown { link: None, peer };
                    return self.hosts.get_mut(name).unwrap().inbox.push_back(event);
                }
                self.next += 1;
                let link = LinkId(self.next);
                self.links.insert(link, (name.to_owned(), other.clone()));
                let (up, accepted) = (
                    Event::LinkUp {
                        link,
                        peer,
                        dialled: true,
                    },
                    Event::LinkUp {
                        link,
                        peer: node(name),
                        dialled: false,
                    },
                );
                self.hosts.get_mut(name).unwrap().inbox.push_back(up);
                self.hosts.get_mut(&other).unwrap().inbox.push_back(accepted);
            }
            Effect::Send { link, message } => {
                let Some((a, b)) = self.links.get(&link) else {
                    return;
                };
                let other = if a == name { b.clone() } else { a.clone() };
                let message = Message::decode(message.encode().freeze()).unwrap();
                self.hosts
                    .get_mut(&other)
                    .unwrap()
                    .inbox
                    .push_back(Event::Message { link, message });
            }
            Effect::Close { link } => {
                if let Some((a, b)) = self.links.remove(&link) {
                    let other = if a == name { b } else { a };
                    let event = Event::LinkDown {
                        link: Some(link),
                        peer: node(name),
                    };
                    self.hosts.get_mut(&other).unwrap().inbox.push_back(event);
                }
            }
            Effect::Complete { tag, result } => {
                assert!(self.replies.insert(tag, result).is_none(), "answered twice");
            }
            Effect::Answer { id, result } => {
                assert!(self.answers.insert(id, result).is_none(), "answered twice");
            }
            Effect::Notice(notice) => self.notices.push((name.to_owned(), *notice)),
        }
    }

    fn ask(&mut self, name: &str, request: GuestRequest) -> Result<Reply, GuestError> {
        self.next += 1;
        let tag = RequestTag(self.next);
        self.hosts
            .get_mut(name)
            .unwrap()
            .inbox
            .push_back(Event::Guest { tag, request });
        self.run(200);
        self.replies.remove(&tag).expect("answered in time")
    }

    fn command_later(&mut self, name: &str, command: Command) -> CommandId {
        self.next += 1;
        let id = CommandId(self.next);
        let inbox = &mut self.hosts.get_mut(name).unwrap().inbox;
        inbox.push_back(Event::Command { id, command });
        id
    }

    fn command(&mut self, name: &str, command: Command) -> Result<Answer, CommandError> {
        let id = self.command_later(name, command);
        self.run(500);
        self.answers.remove(&id).expect("answered in time")
    }

    fn write(&mut self, name: &str, start: u64, count: u64, fill: u8) {
        let data = Bytes::from(vec![fill; (count * 512) as usize]);
        assert_eq!(
            self.ask(
                name,
                GuestRequest::Write {
                    range: range(start, count),
                    data,
                    fua: false
                }
            ),
            Ok(Reply::Done)
        );
    }

    fn read(&mut self, name: &str, start: u64, count: u64) -> Vec<u8> {
        match self.ask(
            name,
            GuestRequest::Read {
                range: range(start, count),
            },
        ) {
            Ok(Reply::Data(data)) => data.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn status(&self, name: &str) -> Status {
        self.hosts[name].engine.status(self.now)
    }

    fn checksum(&mut self, name: &str) -> u128 {
        match self.command(name, Command::Checksum) {
            Ok(Answer::Checksum { digest, from, to }) => {
                assert_eq!(from, to);
                digest
            }
            other => panic!("{other:?}"),
        }
    }

    fn hand_over(&mut self, from: &str, to: &str) -> Result<Answer, CommandError> {
        self.command(
            from,
            Command::HandOver {
                to: node(to),
                gate_micros_max: 1_000_000,
            },
        )
    }
}

#[test]
fn a_lone_primary_serves_and_recovers() {
    let mut world = World::new("a", &[]);
    world.run(10);
    world.write("a", 3, 5, 7);
    world.write("a", 4, 1, 8);
    assert_eq!(
        world.ask(
            "a",
            GuestRequest::Discard {
                range: range(7, 1),
                fua: true
            }
        ),
        Ok(Reply::Done)
    );
    let want = [[7; 512], [8; 512], [7; 512], [7; 512], [0; 512]].concat();
    assert_eq!(world.read("a", 3, 5), want);
    world.restart("a");
    assert_eq!(world.read("a", 3, 5), want);
    assert_eq!(world.status("a").epoch, Epoch { term: 1, start: 2 });
    world.run(1000);
    assert_eq!(&world.hosts["a"].disk[3 * 512..8 * 512], &want[..]);
}

#[test]
fn a_replica_is_synced_then_follows() {
    let mut world = World::new("a", &["b"]);
    world.write("a", 0, 8, 1);
    world.run(1000);
    assert_eq!(world.status("b").state, ReplicaState::Uptodate);
    world.write("a", 100, 300, 2);
    world.run(1000);
    assert_eq!(world.hosts["a"].disk, world.hosts["b"].disk);
    assert_eq!(world.checksum("a"), world.checksum("b"));
    let status = world.status("a");
    assert_eq!(
        (status.peers[0].state, status.peers[0].lag_bytes),
        (ReplicaState::Uptodate, 0)
    );
    let refused = world.ask("b", GuestRequest::Flush);
    assert_eq!(
        refused,
        Err(GuestError::NotPrimary {
            hint: Some(node("a")),
            granted: None
        })
    );
}

#[test]
fn a_trim_gives_back_what_is_too_little_to_be_given_back_by_itself() {
    let mut world = World::new("a", &["b"]);
    world.write("a", 0, 8, 1);
    world.run(2000);
    assert!(world.status("a").log_bytes > 0);
    assert_eq!(world.command("a", Command::TrimLog), Ok(Answer::Done));
    assert_eq!(world.status("a").log_bytes, 0);
    // A replica keeps what its source may need, until it hears that nobody does.
    world.write("a", 0, 8, 2);
    world.run(2000);
    assert_eq!(world.command("b", Command::TrimLog), Ok(Answer::Done));
    let kept = world.status("b").log_bytes;
    assert!(0 < kept && kept <= world.status("a").log_bytes, "{kept}");
    world.restart("b");
    world.restart("a");
    world.write("a", 100, 8, 3);
    world.run(2000);
    assert_eq!(world.checksum("a"), world.checksum("b"));
}

/// A partial copy is durable before the log that it replaces is dropped: a crash may come in between.
#[test]
fn a_log_that_ends_before_it_begins_is_dropped_whole() {
    let mut world = World::new("a", &["b"]);
    world.write("a", 0, 8, 1);
    world.run(2000);
    let host = &world.hosts["b"];
    let mut meta = host.meta.clone().unwrap();
    let mut begins = meta.committed;
    begins.lsn = Lsn(1 << 20);
    (meta.written_back, meta.committed) = (begins, begins);
    (meta.trimmed, meta.touched) = (begins.lsn, begins.lsn);
    let mut engine = Engine::open(world.now, host.config.clone(), meta);
    loop {
        match engine.poll_effect() {
            Some(Effect::ReadLog { id, .. }) => {
                let bytes = Bytes::new();
                engine.handle(world.now, Event::LogRead { id, bytes });
            }
            Some(Effect::ResetLog { at, keep, .. }) => {
                return assert_eq!(
                    (at, keep),
                    (begins.lsn, false),
                    "what lies there is of another history"
                );
            }
            Some(_) => {}
            None => panic!("the log is left as it is"),
        }
    }
}

#[test]
fn a_join_copies_only_what_differs() {
    let mut world = World::new("a", &[]);
    world.write("a", 0, 256, 1);
    world.write("a", 1024, 128, 2);
    world.run(1000);
    world.add("b", &["a", "b"], Birth::Secondary);
    // One of the two 64-KiB extents at the front is already there.
    world.hosts.get_mut("b").unwrap().disk[..128 * 512].fill(1);
    assert_eq!(
        world.command(
            "a",
            Command::SetMembers {
                members: vec![node("a"), node("b")]
            }
        ),
        Ok(Answer::Done)
    );
    world.run(3000);
    assert_eq!(world.status("b").state, ReplicaState::Uptodate);
    assert_eq!(world.checksum("a"), world.checksum("b"));
    assert!(world.notices.contains(&(
        "b".to_owned(),
        Notice::SyncFinished {
            copied_bytes: 2 * 65536
        }
    )));
}

#[test]
fn the_primary_moves_round_and_round() {
    let mut world = World::new("a", &["b", "c"]);
    world.run(2000);
    let mut fill = 0;
    for round in 0..3u32 {
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
            fill += 1;
            world.write(from, u64::from(fill), 2, fill);
            let answer = world.hand_over(from, to).unwrap();
            assert!(
                matches!(answer, Answer::HandedOver { epoch, .. } if epoch.start == 1),
                "{round}: {answer:?}"
            );
            world.run(500);
            assert_eq!(world.status(to).role, Role::Primary);
            assert_eq!(world.status(from).role, Role::Secondary);
            assert_eq!(world.read(to, u64::from(fill), 2), vec![fill; 1024]);
            assert!(matches!(
                world.ask(from, GuestRequest::Flush),
                Err(GuestError::NotPrimary { .. })
            ));
        }
    }
    world.run(2000);
    let digest = world.checksum("a");
    assert_eq!((world.checksum("b"), world.checksum("c")), (digest, digest));
    let tip = world.status("a").tip;
    assert_eq!((world.status("b").tip, world.status("c").tip), (tip, tip));
}

#[test]
fn a_hand_over_is_refused_with_a_reason() {
    let mut world = World::new("a", &["b"]);
    assert!(matches!(
        world.hand_over("a", "z"),
        Err(CommandError::NotMember { .. })
    ));
    assert_eq!(world.hand_over("b", "a"), Err(CommandError::NotPrimary));
    world.run(1000);
    world.hosts.remove("b");
    let links: Vec<LinkId> = world.links.keys().copied().collect();
    for link in links {
        world.links.remove(&link);
        let event = Event::LinkDown {
            link: Some(link),
            peer: node("b"),
        };
        world.hosts.get_mut("a").unwrap().inbox.push_back(event);
    }
    assert!(matches!(
        world.hand_over("a", "b"),
        Err(CommandError::NotReady { .. })
    ));
    world.write("a", 0, 1, 1);
}

#[test]
fn a_replica_that_was_away_catches_up() {
    let mut world = World::new("a", &["b"]);
    world.run(1000);
    for round in 0..20 {
        world.write("a", round, 8, round as u8 + 1);
        world.restart("b");
    }
    world.restart("a");
    world.run(3000);
    assert_eq!(world.status("b").state, ReplicaState::Uptodate);
    assert_eq!(world.checksum("a"), world.checksum("b"));
}

#[test]
fn a_damaged_log_is_not_applied() {
    let mut world = World::new("a", &["b"]);
    world.run(1000);
    world.write("a", 0, 8, 1);
    world.run(1000);
    let host = world.hosts.get_mut("b").unwrap();
    let mut meta = host.meta.clone().unwrap();
    // As if the last write had not been written back when the host went down, and its log rotted meanwhile.
    let status = host.engine.status(Tick(0));
    meta.written_back = mars::Position {
        lsn: meta.lineage[0].from.lsn,
        digest: meta.lineage[0].from.digest,
    };
    meta.trimmed = meta.written_back.lsn;
    meta.touched = meta.touched.max(meta.written_back.lsn);
    assert!(meta.committed.lsn <= status.tip.lsn);
    let at = meta.committed.lsn.0 as usize - 100;
    host.log[at] ^= 1;
    host.disk.fill(0);
    host.meta = Some(meta);
    world.restart("b");
    world.run(2000);
    assert_eq!(world.status("b").state, ReplicaState::DefectiveLog);
    assert_eq!(&world.hosts["b"].disk[..4096], &[0; 4096]);
}

#[test]
fn a_replica_takes_over_from_a_primary_that_is_gone() {
    let mut world = World::new("a", &["b", "c"]);
    world.run(2000);
    world.write("a", 0, 8, 1);
    world.run(500);
    world.stop("a");
    let heard = world.status("b").epoch;
    let refused = world.command(
        "b",
        Command::TakeOver {
            epoch: heard.next_term(),
        },
    );
    assert!(
        matches!(refused, Err(CommandError::OldEpoch { .. })),
        "a hand-over's term could be somebody's: {refused:?}"
    );
    let epoch = heard.next_takeover();
    let tip = world.status("b").tip;
    let answer = world.command("b", Command::TakeOver { epoch });
    assert_eq!(answer, Ok(Answer::TookOver { epoch, from: tip }));
    assert_eq!(
        world.command("b", Command::TakeOver { epoch }),
        Ok(Answer::Done),
        "asked again"
    );
    assert_eq!(world.read("b", 0, 8), vec![1; 8 * 512]);
    world.write("b", 8, 8, 2);
    world.run(1000);
    assert_eq!(world.status("c").state, ReplicaState::Uptodate);
    assert_eq!(world.status("c").epoch, epoch);
    assert_eq!(world.checksum("b"), world.checksum("c"));
    let from_itself = world.command(
        "b",
        Command::TakeOver {
            epoch: epoch.next_takeover(),
        },
    );
    assert!(
        matches!(from_itself, Ok(Answer::TookOver { .. })),
        "{from_itself:?}"
    );
    world.write("b", 16, 8, 3);
    world.run(1000);
    assert_eq!(world.checksum("b"), world.checksum("c"));
}

#[test]
fn a_replica_that_copies_does_not_take_over() {
    let mut world = World::new("a", &["b"]);
    world.stop("a");
    world.run(1000);
    let epoch = Epoch::NONE.next_takeover();
    match world.command("b", Command::TakeOver { epoch }) {
        Err(CommandError::NotReady { reason, .. }) => assert!(reason.contains("full sync"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.status("b").role, Role::Secondary);
}

#[test]
fn a_primary_steps_down_for_nobody_and_a_caught_up_replica_goes_on() {
    let mut world = World::new("a", &["b"]);
    world.run(2000);
    world.write("a", 0, 8, 1);
    assert_eq!(world.command("a", Command::Secondary), Ok(Answer::Done));
    assert_eq!(
        world.command("a", Command::Secondary),
        Ok(Answer::Done),
        "already so"
    );
    assert_eq!(
        world.command("b", Command::Secondary),
        Ok(Answer::Done),
        "it never was"
    );
    for name in ["a", "b"] {
        let refused = world.ask(name, GuestRequest::Flush);
        assert!(
            matches!(refused, Err(GuestError::NotPrimary { granted: None, .. })),
            "{refused:?}"
        );
    }
    let reason = world.status("a").reason.unwrap_or_default();
    assert!(reason.contains("stepped down"), "{reason}");
    world.restart("a");
    world.run(1000);
    assert_eq!(world.status("a").role, Role::Secondary, "it stays so");
    assert_eq!(
        world.status("b").tip,
        world.status("a").tip,
        "nothing is missing anywhere"
    );
    let epoch = world.status("a").epoch.next_takeover();
    assert!(world.command("b", Command::TakeOver { epoch }).is_ok());
    assert_eq!(world.read("b", 0, 8), vec![1; 8 * 512]);
    world.run(2000);
    assert_eq!(world.status("a").state, ReplicaState::Uptodate);
    assert_eq!(world.checksum("a"), world.checksum("b"));
}

#[test]
fn a_grant_that_was_lost_with_its_successor_is_not_the_end() {
    let mut world = World::new("a", &["b", "c"]);
    world.run(2000);
    world.write("a", 0, 8, 1);
    world.run(500);
    let hand_over = Command::HandOver {
        to: node("b"),
        gate_micros_max: 1_000_000,
    };
    assert!(world.command("a", hand_over).is_ok());
    // Its disk dies before it has served anybody.
    world.stop("b");
    world.run(2000);
    assert_eq!(world.status("a").role, Role::Secondary);
    let epoch = world.status("a").epoch.next_takeover();
    assert!(world.command("a", Command::TakeOver { epoch }).is_ok());
    world.write("a", 8, 8, 2);
    world.add("b", &["a", "b", "c"], Birth::Secondary);
    world.run(5000);
    for name in ["b", "c"] {
        assert_eq!(world.status(name).state, ReplicaState::Uptodate, "{name}");
        assert_eq!(world.checksum(name), world.checksum("a"), "{name}");
    }
}

#[test]
fn an_operator_vouches_for_a_disk_and_the_status_says_so() {
    let mut world = World::new("a", &[]);
    world.write("a", 0, 256, 1);
    world.run(1000);
    world.add("b", &["a", "b"], Birth::Secondary);
    let disk = world.hosts["a"].disk.clone();
    world.hosts.get_mut("b").unwrap().disk = disk;
    assert!(matches!(
        world.command("b", Command::FakeSync),
        Err(CommandError::Refused { .. })
    ));
    let sync_off = Command::Switch {
        switch: Switch::Sync,
        paused: true,
    };
    assert_eq!(world.command("b", sync_off.clone()), Ok(Answer::Done));
    assert_eq!(world.command("b", sync_off), Ok(Answer::Done), "asked twice");
    let members = vec![node("a"), node("b")];
    assert_eq!(
        world.command("a", Command::SetMembers { members }),
        Ok(Answer::Done)
    );
    world.run(3000);
    assert_eq!(world.status("b").state, ReplicaState::Paused);
    assert!(matches!(
        world.hand_over("a", "b"),
        Err(CommandError::NotReady { .. })
    ));
    assert_eq!(world.command("b", Command::FakeSync), Ok(Answer::Done));
    world.write("a", 10, 1, 2);
    world.run(1000);
    world.restart("b");
    world.run(2000);
    let status = world.status("b");
    assert_eq!((status.state, status.faked), (ReplicaState::Uptodate, true));
    assert_eq!(world.checksum("a"), world.checksum("b"));
    assert!(matches!(world.hand_over("a", "b"), Ok(Answer::HandedOver { .. })));
}

fn grow(to: u64) -> Command {
    let to = VolumeSize::new(to).unwrap();
    Command::Grow { to }
}

fn new_part(world: &mut World) -> Result<Reply, GuestError> {
    let data = Bytes::from(vec![9; 512]);
    let range = range(SIZE / 512, 1);
    let fua = false;
    world.ask("a", GuestRequest::Write { range, data, fua })
}

#[test]
fn a_volume_grows_under_its_guests_and_on_every_replica() {
    let mut world = World::new("a", &["b"]);
    world.write("a", 0, 8, 1);
    world.run(1000);
    assert_eq!(new_part(&mut world), Err(GuestError::OutOfBounds));
    assert_eq!(world.command("b", grow(2 * SIZE)), Err(CommandError::NotPrimary));
    let refused = world.command("a", grow(SIZE - 4096));
    assert!(matches!(refused, Err(CommandError::Refused { reason }) if reason.contains("does not shrink")));
    assert_eq!(world.command("a", grow(2 * SIZE)), Ok(Answer::Done));
    assert_eq!(world.command("a", grow(2 * SIZE)), Ok(Answer::Done));
    assert_eq!(new_part(&mut world), Ok(Reply::Done));
    assert_eq!(
        world.read("a", SIZE / 512 + 1, 8),
        vec![0; 4096],
        "new space is clear"
    );
    world.run(1000);
    for name in ["a", "b"] {
        assert_eq!(world.status(name).size.bytes(), 2 * SIZE);
        assert_eq!(world.hosts[name].meta.as_ref().unwrap().size.bytes(), 2 * SIZE);
    }
    assert_eq!(world.hosts["a"].disk, world.hosts["b"].disk);
    assert_eq!(world.checksum("a"), world.checksum("b"));
    // Their configuration still says what the volume was made with.
    world.restart("a");
    world.restart("b");
    world.run(1000);
    assert_eq!(world.read("a", SIZE / 512, 1), vec![9; 512]);
    assert!(world.hand_over("a", "b").is_ok());
    assert_eq!(world.read("b", SIZE / 512, 1), vec![9; 512]);
}

#[test]
fn a_growth_is_refused_where_the_primary_has_no_room_and_waits_where_a_replica_has_none() {
    let mut world = World::new("a", &["b"]);
    world.run(1000);
    world.hosts.get_mut("a").unwrap().room_bytes = SIZE as usize;
    let refused = world.command("a", grow(2 * SIZE));
    assert!(matches!(refused, Err(CommandError::Failed { reason }) if reason.contains("no space left")));
    assert_eq!(new_part(&mut world), Err(GuestError::OutOfBounds));
    world.hosts.get_mut("a").unwrap().room_bytes = 4 * SIZE as usize;
    world.hosts.get_mut("b").unwrap().room_bytes = SIZE as usize;
    assert_eq!(world.command("a", grow(2 * SIZE)), Ok(Answer::Done));
    assert_eq!(new_part(&mut world), Ok(Reply::Done));
    world.run(3000);
    let status = world.status("b");
    assert_eq!((status.state, status.size.bytes()), (ReplicaState::Behind, SIZE));
    assert!(status.reason.unwrap().contains("cannot grow"));
    assert_eq!(status.watermarks.committed(), status.watermarks.appended());
    assert_eq!(world.status("a").peers[0].state, ReplicaState::Behind);
    let told = |notice: &&(String, Notice)| matches!(notice.1, Notice::CannotGrow { .. });
    assert_eq!(world.notices.iter().filter(told).count(), 1);
    let gate_micros_max = 1_000_000;
    let asked = world.command_later(
        "a",
        Command::HandOver {
            to: node("b"),
            gate_micros_max,
        },
    );
    world.run(31_000);
    let refused = world.answers.remove(&asked).unwrap();
    assert!(
        matches!(refused, Err(CommandError::NotReady { reason, .. }) if reason.contains("has not grown"))
    );
    world.restart("b");
    world.run(3000);
    world.hosts.get_mut("b").unwrap().room_bytes = 4 * SIZE as usize;
    world.run(3000);
    assert_eq!(world.status("b").state, ReplicaState::Uptodate);
    assert_eq!(world.hosts["a"].disk, world.hosts["b"].disk);
}

#[test]
fn a_lone_replica_grows_without_a_log_and_remembers_it() {
    let mut world = World::new("a", &[]);
    world.run(10);
    world.write("a", 0, 8, 1);
    assert!(world.status("a").straight);
    assert_eq!(world.command("a", grow(3 * SIZE)), Ok(Answer::Done));
    assert_eq!(new_part(&mut world), Ok(Reply::Done));
    world.restart("a");
    world.run(10);
    assert_eq!(world.read("a", SIZE / 512, 1), vec![9; 512]);
    assert_eq!(world.status("a").size.bytes(), 3 * SIZE);
    // Who joins now was told another length when its disk was made.
    world.add("b", &["a", "b"], Birth::Secondary);
    let members = vec![node("a"), node("b")];
    assert_eq!(
        world.command("a", Command::SetMembers { members }),
        Ok(Answer::Done)
    );
    world.run(3000);
    assert_eq!(world.status("b").state, ReplicaState::Uptodate);
    assert_eq!(world.hosts["a"].disk, world.hosts["b"].disk);
}
