//! What can a guest or front end do that means harm? It is refused or dropped; nobody else notices anything.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bench::vhost::{FEATURES, Front, Guest, Op, RING, USER, code, descriptor, inflight, state, table};
use rand::RngCore;
use tests::Cluster;

use super::driver::{Driver, PATIENCE};

/// Long enough for anything that will come.
const SOON: Duration = Duration::from_millis(300);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A guest that has done one honest request.
fn connected(path: &Path) -> Guest {
    let mut guest = Guest::new(1, FEATURES).unwrap();
    guest.connect(path, PATIENCE).unwrap();
    assert_eq!(guest.call(&Op::Flush).unwrap().status, 0);
    guest
}

/// Descriptors from the ring's number 0 on, and what is at 0x4000 (a header, if it is one).
fn spoil(guest: &mut Guest, descriptors: &[Vec<u8>], header: &[u8]) {
    guest.memory().write_all_at(&descriptors.concat(), 0).unwrap();
    guest.memory().write_all_at(header, 0x4000).unwrap();
    guest.offer(0, 0).unwrap();
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Requests that have nowhere an answer could go, or no end: the queue stops, and no byte is written.
fn chains_without_sense(path: &Path) {
    let far = 1 << 40;
    let nonsense: Vec<Vec<Vec<u8>>> = vec![
        vec![descriptor(0x4000, 16, NEXT, 0)],
        vec![descriptor(0x4000, 16, NEXT, RING), descriptor(0, 1, 0, 0)],
        vec![descriptor(0x4000, 16, 0, 0)],
        vec![descriptor(far, 16, NEXT, 1), descriptor(0x5000, 1, WRITE, 0)],
        vec![
            descriptor(0x4000, 16, NEXT, 1),
            descriptor(u64::MAX, u32::MAX, WRITE, 0),
        ],
        vec![
            descriptor(0x4000, 1, WRITE | NEXT, 1),
            descriptor(0x5000, 16, 0, 0),
        ],
        vec![descriptor(0, 16, INDIRECT, 0)],
        vec![descriptor(0x4000, 15, INDIRECT, 0)],
        vec![descriptor(0x4000, 0, INDIRECT, 0)],
        vec![descriptor(far, 16, INDIRECT, 0)],
        vec![descriptor(u64::MAX - 15, 0xffff_fff0, INDIRECT, 0)],
        vec![descriptor(0x4000, 16, INDIRECT | NEXT, 0)],
    ];
    for descriptors in nonsense {
        let mut guest = connected(path);
        spoil(&mut guest, &descriptors, &header(0, 0));
        assert!(guest.answers(SOON).unwrap().is_empty(), "{descriptors:?}");
        // It may begin anew.
        guest.stop(0).unwrap();
    }
    for head in [RING, u16::MAX] {
        let mut guest = connected(path);
        guest.offer(0, head).unwrap();
        assert!(guest.answers(SOON).unwrap().is_empty());
    }
    let mut guest = connected(path);
    guest
        .memory()
        .write_all_at(&0x8000u16.to_le_bytes(), 0x1002)
        .unwrap();
    guest.offer(0, 0).unwrap();
    drop(guest.answers(SOON));
}

/// Requests that can be answered: with an error.
fn requests_without_sense(path: &Path) {
    let short = [descriptor(0x4000, 8, NEXT, 1), descriptor(0x5000, 1, WRITE, 0)];
    let odd = [
        descriptor(0x4000, 16, NEXT, 1),
        descriptor(0x10_0000, 511, WRITE | NEXT, 2),
        descriptor(0x5000, 1, WRITE, 0),
    ];
    let long: Vec<Vec<u8>> = (0..100)
        .map(|number: u16| match number {
            0 => descriptor(0x4000, 16, NEXT, 1),
            99 => descriptor(0x5000, 1, WRITE, 0),
            _ => descriptor(0x10_0000, 2 << 20, WRITE | NEXT, number + 1),
        })
        .collect();
    for (descriptors, kind) in [(&short[..], 0), (&odd[..], 0), (&long[..], 0), (&odd[..], 77)] {
        let mut guest = connected(path);
        guest.memory().write_all_at(&[0xff], 0x5000).unwrap();
        spoil(&mut guest, descriptors, &header(kind, 0));
        // Its head is one that the driver itself does not wait for.
        drop(guest.answers(PATIENCE));
        let mut status = [0xff];
        guest.memory().read_exact_at(&mut status, 0x5000).unwrap();
        assert_eq!(status[0], if kind == 77 { 2 } else { 1 });
    }
}

/// Messages that no front end sends: it is dropped.
fn messages_without_sense(path: &Path) {
    let begun = || -> io::Result<Front> {
        let mut front = Front::connect(path)?;
        front.ask_u64(code::GET_FEATURES)?;
        let protocol = front.ask_u64(code::GET_PROTOCOL_FEATURES)?;
        front.tell(code::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes(), &[])?;
        front.tell(code::SET_FEATURES, &FEATURES.to_le_bytes(), &[])?;
        Ok(front)
    };
    let memory = File::from(rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    memory.set_len(1 << 20).unwrap();
    let null = File::open("/dev/zero").unwrap();
    let (memory, null) = (memory.as_fd(), null.as_fd());
    let addresses = |index: u32| [state(index, 0), vec![0xf0; 32]].concat();
    let cases: Vec<(u32, Vec<u8>, Vec<_>)> = vec![
        (code::SET_MEM_TABLE, table(&[(0, 2 << 20, USER, 0)]), vec![memory]),
        (code::SET_MEM_TABLE, table(&[(0, 1 << 20, USER, 1)]), vec![memory]),
        (
            code::SET_MEM_TABLE,
            table(&[(u64::MAX, 1 << 20, USER, 0)]),
            vec![memory],
        ),
        (
            code::SET_MEM_TABLE,
            table(&[(0, u64::MAX, USER, 0)]),
            vec![memory],
        ),
        (code::SET_MEM_TABLE, table(&[(0, 4096, USER, 0)]), vec![null]),
        (code::SET_MEM_TABLE, table(&[(0, 4096, USER, 0)]), vec![]),
        (code::SET_MEM_TABLE, table(&[]), vec![]),
        (code::SET_FEATURES, u64::MAX.to_le_bytes().to_vec(), vec![]),
        (code::SET_VRING_NUM, state(0, 3), vec![]),
        (code::SET_VRING_NUM, state(0, 65536), vec![]),
        (code::SET_VRING_NUM, state(0, 0), vec![]),
        (code::SET_VRING_NUM, state(u32::MAX, 128), vec![]),
        (code::SET_VRING_BASE, state(0, 65536), vec![]),
        (code::SET_VRING_KICK, 0u64.to_le_bytes().to_vec(), vec![memory]),
        (code::SET_VRING_KICK, 255u64.to_le_bytes().to_vec(), vec![null]),
        (code::SET_VRING_CALL, 0u64.to_le_bytes().to_vec(), vec![null]),
        (code::SET_VRING_ADDR, addresses(u32::MAX), vec![]),
        (code::SET_INFLIGHT_FD, inflight(1 << 20, 128, 32768), vec![memory]),
        (code::SET_INFLIGHT_FD, inflight(0, 1, 128), vec![memory]),
        (code::SET_LOG_BASE, state(0xffff, 0xffff), vec![memory]),
        (code::SET_BACKEND_REQ_FD, vec![], vec![memory]),
        (code::SET_BACKEND_REQ_FD, vec![], vec![]),
        (code::SET_VRING_ENABLE, state(0, 7), vec![]),
        (999, vec![], vec![]),
    ];
    for (request, body, files) in cases {
        let mut front = begun().unwrap();
        front.say(request, &body, &files).unwrap();
        assert!(front.is_dropped(PATIENCE), "message {request} {body:?}");
    }
    let mut random = [0; 4096];
    for _ in 0..50 {
        rand::rng().fill_bytes(&mut random);
        let mut front = begun().unwrap();
        front.send(&random, &[]).unwrap();
        assert!(front.is_dropped(PATIENCE));
    }
    // Half a message, and gone.
    begun().unwrap().send(&random[..5], &[]).unwrap();
}

/// A queue whose rings are nowhere.
fn rings_without_memory(path: &Path) {
    let mut guest = connected(path);
    guest.stop(0).unwrap();
    let front = guest.front();
    let body = [state(0, 0), vec![0xf0; 32]].concat();
    front.say(code::SET_VRING_ADDR, &body, &[]).unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    // It may have been dropped before.
    let _late = front.say(code::SET_VRING_KICK, &0u64.to_le_bytes(), &[event.as_fd()]);
    assert!(front.is_dropped(PATIENCE));
}

/// Memory that is taken away while it is used.
fn memory_that_vanishes(path: &Path) {
    let mut guest = connected(path);
    for _ in 0..16 {
        let slot = guest.free(0).unwrap();
        guest
            .submit(
                slot,
                &Op::Read {
                    sector: 0,
                    count: 128,
                },
            )
            .unwrap();
    }
    guest.memory().set_len(0).unwrap();
    // Its own ring is gone for the guest too; it can only kick.
    drop(guest.offer(0, 0));
    std::thread::sleep(SOON);
}

#[test]
fn whatever_a_guest_sends_others_notice_nothing() {
    let cluster = Cluster::start(&["a"]);
    cluster.create("web", "8M", &["a"]);
    cluster.create("good", "8M", &["a"]);
    let path = cluster.attach_vhost("web", "a");
    let mut driver = Driver::new(cluster.attach_vhost("good", "a"), 2, 8 << 20);
    let attacks: [fn(&Path); 5] = [
        chains_without_sense,
        requests_without_sense,
        messages_without_sense,
        rings_without_memory,
        memory_that_vanishes,
    ];
    for attack in attacks {
        attack(&path);
        driver.work(100);
    }
    // Ends by chance: memory of noise, and every head in turn.
    for _ in 0..100 {
        let mut guest = Guest::new(1, FEATURES).unwrap();
        guest.connect(&path, PATIENCE).unwrap();
        let mut noise = vec![0; 0x4000];
        rand::rng().fill_bytes(&mut noise);
        guest.memory().write_all_at(&noise[..0x1000], 0).unwrap();
        for head in 0..RING {
            guest.offer(0, head).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(cluster.host("a").marsd().is_running());
    assert_eq!(
        connected(&path).call(&Op::Flush).unwrap().status,
        0,
        "the door serves on"
    );
    assert_eq!(driver.finish(), 1, "somebody else was disturbed");
    let log = cluster.host("a").marsd().log();
    assert!(log.contains("its guest broke the protocol"), "{log}");
}
