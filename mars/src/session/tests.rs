//! Does a guest ever notice?

mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Epoch, NodeId, SectorRange, Tick};
use proptest::prelude::*;

use super::*;
use crate::event::DiskError;
use world::{Step, World, step};

const SECTORS: u64 = 6;
const NODES: usize = 3;

fn node(index: usize) -> NodeId {
    NodeId::new(&format!("n{index}")).unwrap()
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).unwrap()
}

fn data(value: u64, sectors: u64) -> Bytes {
    let sector: Vec<u8> = value.to_le_bytes().iter().copied().cycle().take(512).collect();
    Bytes::from(sector.repeat(usize::try_from(sectors).unwrap()))
}

fn value_of(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_guest_never_notices(steps in proptest::collection::vec(step(), 1..400)) {
        let mut world = World::new();
        world.tell(Input::Timer);
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.step(Step::Read { start: 0, count: SECTORS });
        world.settle();
        world.step(Step::Flush);
        world.settle();
        prop_assert_eq!(world.session.status().copies_bytes, 0);
        prop_assert_eq!(world.session.status().waiting_requests, 0);
        // A flush was answered: now memory may go, and everything must still be there.
        let seen = world.primary.now();
        world.primary.volatile.clear();
        prop_assert_eq!(&seen, &world.primary.durable);
        world.step(Step::Read { start: 0, count: SECTORS });
        world.settle();
    }

    #[test]
    fn copies_are_what_was_written(
        writes in proptest::collection::vec((0..60u64, 1..20u64, 0..4u8, any::<bool>()), 1..60),
    ) {
        let mut copies = Copies::default();
        let mut want: BTreeMap<u64, (u8, u64)> = BTreeMap::new();
        let epoch = Epoch { term: 1, start: 1 };
        for (stamp, (start, count, kind, kept)) in (1u64..).zip(writes) {
            let r = range(start, count);
            let request = match kind {
                0 => GuestRequest::Discard { range: r, fua: false },
                1 => GuestRequest::WriteZeroes { range: r, fua: false, unmap: true },
                _ => GuestRequest::Write { range: r, data: data(stamp, count), fua: false },
            };
            copies.answered(&request, stamp, epoch, kept);
            for sector in start..start + count {
                if kept { want.insert(sector, (kind.min(2), stamp)); } else { want.remove(&sector); }
            }
            let mut have = BTreeMap::new();
            for request in copies.unknown_to(Epoch::NONE) {
                let r = request.range().unwrap();
                for sector in r.start.0..r.end().0 {
                    let at = usize::try_from((sector - r.start.0) * 512).unwrap();
                    let is = match &request {
                        GuestRequest::Discard { .. } => 0,
                        GuestRequest::WriteZeroes { .. } => 1,
                        GuestRequest::Write { data, .. } => {
                            prop_assert_eq!(data.len() as u64, r.len_bytes());
                            prop_assert_eq!(want.get(&sector).map(|w| w.1), Some(value_of(&data[at..])));
                            2
                        }
                        other => panic!("{other:?}"),
                    };
                    prop_assert!(have.insert(sector, is).is_none(), "pieces overlap");
                }
            }
            let kinds: BTreeMap<u64, u8> = want.iter().map(|(s, (k, _))| (*s, *k)).collect();
            prop_assert_eq!(&have, &kinds);
        }
        copies.flushed(u64::MAX);
        prop_assert_eq!(copies.bytes(), 0);
    }
}

/// A session of `n0` that is served by `n1` in epoch 1.1, and what it asked for so far.
fn served_by(index: usize) -> (Session, u64) {
    let mut session = Session::new(Tick(0), node(0), (0..NODES).map(node).collect(), COPIES_BYTES_MAX);
    let generation = connect_of(&mut session).0;
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: Some(node(index)),
        },
    );
    if index == 0 {
        session.handle(Tick(5_000), Input::Timer);
        while let Some((generation, n, _)) = poll_connect(&mut session) {
            if n == node(0) {
                session.handle(
                    Tick(0),
                    Input::Connected {
                        generation,
                        epoch: Epoch { term: 1, start: 1 },
                    },
                );
                return (session, generation);
            }
            session.handle(
                Tick(5_000),
                Input::Disconnected {
                    generation,
                    hint: Some(node(0)),
                },
            );
        }
    }
    let (mut generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(index));
    let epoch = Epoch { term: 1, start: 1 };
    session.handle(Tick(0), Input::Connected { generation, epoch });
    // Nobody else knows of a newer primary.
    while session.status().primary.is_none() {
        let (next, to, _) = connect_of(&mut session);
        generation = next;
        let input = match to == node(index) {
            true => Input::Connected { generation, epoch },
            false => Input::Disconnected {
                generation,
                hint: None,
            },
        };
        session.handle(Tick(0), input);
    }
    (session, generation)
}

fn poll_connect(session: &mut Session) -> Option<(u64, NodeId, Option<Epoch>)> {
    loop {
        match session.poll_output()? {
            Output::Connect {
                generation,
                node,
                at_least,
                ..
            } => return Some((generation, node, at_least)),
            Output::Disconnect { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn connect_of(session: &mut Session) -> (u64, NodeId, Option<Epoch>) {
    poll_connect(session).expect("a dial")
}

fn sends(session: &mut Session) -> Vec<(u64, GuestRequest)> {
    let mut out = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::Send { seq, request, .. } = output {
            out.push((seq, request));
        }
    }
    out
}

fn write(start: u64, value: u64) -> GuestRequest {
    GuestRequest::Write {
        range: range(start, 1),
        data: data(value, 1),
        fua: false,
    }
}

fn answered_write(session: &mut Session, generation: u64, tag: u64) {
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(tag),
            request: write(tag, tag),
        },
    );
    let seq = sends(session)[0].0;
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq,
            result: Ok(Reply::Done),
        },
    );
    assert_eq!(
        session.poll_output(),
        Some(Output::Complete {
            tag: RequestTag(tag),
            result: Ok(Reply::Done)
        })
    );
}

#[test]
fn an_announced_hand_over_sends_nothing_again() {
    let (mut session, generation) = served_by(1);
    answered_write(&mut session, generation, 1);
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(2),
            request: write(2, 2),
        },
    );
    let seq = sends(&mut session)[0].0;
    let granted = Epoch { term: 2, start: 1 };
    let result = Err(GuestError::NotPrimary {
        hint: Some(node(2)),
        granted: Some(granted),
    });
    session.handle(
        Tick(10),
        Input::Answer {
            generation,
            seq,
            result,
        },
    );
    let (generation, to, at_least) = connect_of(&mut session);
    assert_eq!((to, at_least), (node(2), Some(granted)));
    session.handle(
        Tick(50),
        Input::Connected {
            generation,
            epoch: granted,
        },
    );
    let sent = sends(&mut session);
    assert_eq!(sent, vec![(seq, write(2, 2))]);
    session.handle(
        Tick(70),
        Input::Answer {
            generation,
            seq,
            result: Ok(Reply::Done),
        },
    );
    assert_eq!(session.status().pause_micros_max, 70);
    assert!(session.status().copies_bytes > 0);
}

#[test]
fn a_grant_further_on_says_nothing_about_what_was_lost() {
    let (mut session, generation) = served_by(1);
    answered_write(&mut session, generation, 1);
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(2),
            request: GuestRequest::Flush,
        },
    );
    let seq = sends(&mut session)[0].0;
    let granted = Epoch { term: 3, start: 1 };
    let result = Err(GuestError::NotPrimary {
        hint: Some(node(2)),
        granted: Some(granted),
    });
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq,
            result,
        },
    );
    let generation = connect_of(&mut session).0;
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: granted,
        },
    );
    assert_eq!(sends(&mut session)[0].1, write(1, 1));
}

#[test]
fn any_other_epoch_sends_what_was_not_flushed_first() {
    let (mut session, generation) = served_by(1);
    answered_write(&mut session, generation, 1);
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(2),
            request: GuestRequest::Flush,
        },
    );
    let flush = sends(&mut session)[0].0;
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: None,
        },
    );
    session.handle(Tick(5_000), Input::Timer);
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(1), "the last primary is tried first");
    session.handle(
        Tick(5_000),
        Input::Connected {
            generation,
            epoch: Epoch { term: 1, start: 2 },
        },
    );
    let sent = sends(&mut session);
    assert_eq!(sent.len(), 1, "the flush waits");
    assert_eq!(sent[0].1, write(1, 1));
    session.handle(
        Tick(5_000),
        Input::Answer {
            generation,
            seq: sent[0].0,
            result: Ok(Reply::Done),
        },
    );
    assert_eq!(sends(&mut session), vec![(flush, GuestRequest::Flush)]);
}

#[test]
fn a_copy_that_cannot_be_written_again_fails_the_next_flush() {
    let (mut session, generation) = served_by(1);
    answered_write(&mut session, generation, 1);
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: Some(node(1)),
        },
    );
    let (generation, ..) = connect_of(&mut session);
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: Epoch { term: 1, start: 2 },
        },
    );
    let seq = sends(&mut session)[0].0;
    let error = GuestError::Disk(DiskError {
        operation: "write".into(),
        reason: "no".into(),
    });
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq,
            result: Err(error.clone()),
        },
    );
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(9),
            request: GuestRequest::Flush,
        },
    );
    let seq = sends(&mut session)[0].0;
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq,
            result: Ok(Reply::Done),
        },
    );
    assert_eq!(
        session.poll_output(),
        Some(Output::Complete {
            tag: RequestTag(9),
            result: Err(error)
        })
    );
}

#[test]
fn copies_stay_within_twice_the_budget() {
    let (mut session, generation) = served_by(1);
    session.copies_bytes_max = 2000;
    for tag in 1..=4 {
        answered_write(&mut session, generation, tag);
    }
    let flush = sends(&mut session);
    assert_eq!(
        flush.iter().map(|(_, r)| r.clone()).collect::<Vec<_>>(),
        vec![GuestRequest::Flush]
    );
    for tag in 5..=7 {
        answered_write(&mut session, generation, tag);
    }
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(8),
            request: write(8, 8),
        },
    );
    assert!(sends(&mut session).is_empty(), "held back");
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq: flush[0].0,
            result: Ok(Reply::Done),
        },
    );
    let sent: Vec<_> = sends(&mut session).into_iter().map(|(_, r)| r).collect();
    assert_eq!(sent, vec![write(8, 8)]);
}

#[test]
fn a_local_primary_needs_no_copies() {
    let (mut session, generation) = served_by(0);
    answered_write(&mut session, generation, 1);
    assert_eq!(session.status().copies_bytes, 0);
}

#[test]
fn a_deposed_primary_is_not_believed() {
    let (mut session, generation) = served_by(1);
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(1),
            request: write(1, 1),
        },
    );
    let seq = sends(&mut session)[0].0;
    let granted = Some(Epoch { term: 2, start: 1 });
    let result = Err(GuestError::NotPrimary {
        hint: Some(node(2)),
        granted,
    });
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq,
            result,
        },
    );
    let (generation, ..) = connect_of(&mut session);
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: Epoch { term: 1, start: 1 },
        },
    );
    assert_eq!(session.poll_output(), Some(Output::Disconnect { generation }));
    assert!(sends(&mut session).is_empty());
}

#[test]
fn guests_that_leave_are_flushed_and_forgotten() {
    let (mut session, generation) = served_by(1);
    answered_write(&mut session, generation, 1);
    session.handle(Tick(0), Input::Guests { present: false });
    let flush = sends(&mut session);
    assert_eq!(flush[0].1, GuestRequest::Flush);
    let result = Ok(Reply::Done);
    session.handle(
        Tick(0),
        Input::Answer {
            generation,
            seq: flush[0].0,
            result,
        },
    );
    assert_eq!(session.status().copies_bytes, 0);

    // A primary that is lost before it could flush must not be told later what they had written.
    session.handle(Tick(0), Input::Guests { present: true });
    answered_write(&mut session, generation, 2);
    session.handle(
        Tick(0),
        Input::Guest {
            tag: RequestTag(3),
            request: write(3, 3),
        },
    );
    session.handle(Tick(0), Input::Guests { present: false });
    sends(&mut session);
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: Some(node(1)),
        },
    );
    assert_eq!(session.poll_output(), Some(Output::Forget { tag: RequestTag(3) }));
    let generation = connect_of(&mut session).0;
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: Epoch { term: 1, start: 2 },
        },
    );
    assert!(sends(&mut session).is_empty());
    assert_eq!(session.status().waiting_requests, 0);
}

/// A session of a host without a replica, which has found a primary first: what it does then.
fn found_first(epoch: Epoch) -> (Session, u64) {
    let members = (0..NODES).map(node).collect();
    let mut session = Session::new(Tick(0), node(NODES), members, COPIES_BYTES_MAX);
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(0));
    session.handle(Tick(0), Input::Connected { generation, epoch });
    let generation = connect_of(&mut session).0;
    assert_eq!(session.status().primary, None, "the others are asked first");
    (session, generation)
}

#[test]
fn a_new_session_believes_the_newest_primary_that_it_can_find() {
    let (old, new) = (
        Epoch { term: 1, start: 1 },
        Epoch {
            term: 65_536,
            start: 1,
        },
    );
    let (mut session, generation) = found_first(old);
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: new,
        },
    );
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(2));
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: None,
        },
    );
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(1));
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: new,
        },
    );
    assert_eq!(session.status().primary, Some((node(1), new)));
}

#[test]
fn a_new_session_is_not_served_where_somebody_knows_better() {
    let (old, new) = (
        Epoch { term: 1, start: 1 },
        Epoch {
            term: 65_536,
            start: 1,
        },
    );
    let (mut session, generation) = found_first(old);
    session.handle(Tick(0), Input::Heard { epoch: new });
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: None,
        },
    );
    let generation = connect_of(&mut session).0;
    session.handle(
        Tick(0),
        Input::Disconnected {
            generation,
            hint: None,
        },
    );
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(0));
    session.handle(
        Tick(0),
        Input::Connected {
            generation,
            epoch: old,
        },
    );
    assert_eq!(session.status().primary, None);
}

#[test]
fn a_new_session_waits_for_nobody_for_long() {
    let old = Epoch { term: 1, start: 1 };
    let (mut session, _) = found_first(old);
    assert_eq!(session.poll_timeout(), Some(Tick(ASK_MICROS_MAX)));
    session.handle(Tick(ASK_MICROS_MAX), Input::Timer);
    let (generation, to, _) = connect_of(&mut session);
    assert_eq!(to, node(0));
    let now = Tick(ASK_MICROS_MAX + 1);
    session.handle(
        now,
        Input::Connected {
            generation,
            epoch: old,
        },
    );
    assert_eq!(session.status().primary, Some((node(0), old)));
}
