use std::path::PathBuf;

use crossbeam_channel::Receiver;
use mars::Digest;

use super::*;
use crate::run::Input;

fn read(start: u64, count: u64) -> Job {
    Job::Read {
        id: IoId(start),
        range: SectorRange::new(start, count).unwrap(),
    }
}

fn write(start: u64, count: u64) -> Job {
    Job::Write {
        id: IoId(1000 + start),
        range: SectorRange::new(start, count).unwrap(),
        data: Vec::new(),
    }
}

fn taken(queue: &mut Queue) -> Option<(u64, bool)> {
    queue.take().map(|job| {
        job.reach()
            .map(|(range, writes)| (range.start.0, writes))
            .unwrap()
    })
}

#[test]
fn overlapping_operations_keep_their_order_and_others_do_not_wait() {
    let mut queue = Queue::default();
    queue
        .waiting
        .extend([write(0, 8), read(4, 8), write(8, 8), read(100, 1), read(0, 1)]);
    assert_eq!(taken(&mut queue), Some((0, true)));
    // read(4) waits for write(0); write(8) waits for read(4) although that has not begun.
    assert_eq!(taken(&mut queue), Some((100, false)));
    assert_eq!(taken(&mut queue), None);
    queue.done(write(0, 8).reach().unwrap());
    assert_eq!(taken(&mut queue), Some((4, false)));
    assert_eq!(taken(&mut queue), Some((0, false)));
    assert_eq!(taken(&mut queue), None);
    queue.done(read(4, 8).reach().unwrap());
    assert_eq!(taken(&mut queue), Some((8, true)));
}

#[test]
fn reads_of_one_place_run_together() {
    let mut queue = Queue::default();
    queue.waiting.extend([read(0, 8), read(0, 8), write(0, 1)]);
    assert_eq!(taken(&mut queue), Some((0, false)));
    assert_eq!(taken(&mut queue), Some((0, false)));
    assert_eq!(taken(&mut queue), None);
}

const MIB: u64 = 1 << 20;

/// A disk of several batches of a copy, with something in every page.
struct Store {
    home: tempfile::TempDir,
    contents: Vec<u8>,
}

impl Store {
    fn new() -> Store {
        let home = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..48 * MIB).map(|at| (at / 4096) as u8 | 1).collect();
        std::fs::write(home.path().join("disk"), &contents).unwrap();
        Store { home, contents }
    }

    fn disk(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    fn open(&self) -> (Workers, Receiver<Input>) {
        let (inbox, answers) = Inbox::new();
        let log = Arc::new(Log::open(&self.home.path().join("log")).unwrap());
        let volume = Volume::open(&self.disk(), size()).unwrap();
        let snapshots = Snapshots::beside(&self.disk());
        let workers = Workers::start(log, "log".to_owned(), volume, snapshots, inbox).unwrap();
        (workers, answers)
    }

    /// Asks for a write, and knows what it does.
    fn write(&mut self, workers: &Workers, id: u64, start: u64, length: u64) {
        let byte = id as u8 & 0xfe;
        let range = SectorRange::from_bytes(start, length).unwrap();
        let data = vec![Bytes::from(vec![byte; length as usize])];
        self.contents[start as usize..(start + length) as usize].fill(byte);
        workers.ask(Job::Write {
            id: IoId(id),
            range,
            data,
        });
    }
}

fn size() -> VolumeSize {
    VolumeSize::new(48 * MIB).unwrap()
}

fn snapshot() -> (SnapshotName, Position) {
    let (lsn, digest) = (Lsn(512), Digest(7));
    (SnapshotName::new("a").unwrap(), Position { lsn, digest })
}

fn take() -> Job {
    let (name, at) = snapshot();
    let (id, size) = (IoId(0), size());
    Job::TakeSnapshot { id, name, at, size }
}

fn drop_it() -> Job {
    let (name, at) = snapshot();
    Job::DropSnapshot {
        id: IoId(1),
        name,
        at,
    }
}

fn answer(answers: &Receiver<Input>) -> Event {
    match answers.recv().unwrap() {
        Input::Event(event) => event,
        _ => panic!("disks send events only"),
    }
}

#[test]
fn what_is_written_while_a_snapshot_is_copied_is_not_in_it_over_stops_too() {
    let mut store = Store::new();
    let old = store.contents.clone();
    let mut id = 10;
    // Here and there, in no order, small and large; some of it again and again.
    let mut write_some = |store: &mut Store, workers: &Workers| {
        for _ in 0..200 {
            id += 1;
            let length = [4096, 512, 65536, 4096, 1 << 20][(id % 5) as usize];
            let start = id * 7_919_616 % (48 * MIB - length) / 512 * 512;
            store.write(workers, id, start, length);
        }
    };
    for _ in 0..3 {
        let (workers, answers) = store.open();
        workers.ask(take());
        write_some(&mut store, &workers);
        drop(workers);
        let written = answers.try_iter();
        let written = written.filter(|input| matches!(input, Input::Event(Event::VolumeWritten { .. })));
        assert_eq!(
            written.count(),
            200,
            "what was asked is carried out before a stop"
        );
        assert!(std::fs::read(store.disk()).unwrap() == store.contents);
    }
    let (workers, answers) = store.open();
    workers.ask(take());
    write_some(&mut store, &workers);
    let taken = loop {
        if let Event::SnapshotTaken { result, .. } = answer(&answers) {
            break result;
        }
    };
    taken.unwrap();
    drop(workers);
    let (name, at) = snapshot();
    let kept = Snapshots::beside(&store.disk()).path(&name, at);
    assert!(std::fs::read(kept).unwrap() == old);
    assert!(std::fs::read(store.disk()).unwrap() == store.contents);
}

#[test]
fn after_a_refusal_changes_wait_until_the_snapshot_is_dropped_or_the_disk_is_stopped() {
    let mut store = Store::new();
    let (name, _) = snapshot();
    let obstacle = store.home.path().join("disk.snapshots").join(format!(".{name}"));
    std::fs::create_dir_all(&obstacle).unwrap();
    for stops in [false, true] {
        let before = store.contents.clone();
        let (workers, answers) = store.open();
        workers.ask(take());
        store.write(&workers, 11, MIB, 4096);
        let refused = answer(&answers);
        assert!(
            matches!(&refused, Event::SnapshotTaken { result: Err(_), .. }),
            "{refused:?}"
        );
        assert_eq!(workers.shared.lock().waiting.len(), 1, "the write waits");
        if stops {
            store.contents = before;
        } else {
            workers.ask(drop_it());
            let done = [answer(&answers), answer(&answers)];
            assert!(
                done.iter()
                    .any(|event| matches!(event, Event::VolumeWritten { .. }))
            );
        }
        drop(workers);
        assert!(std::fs::read(store.disk()).unwrap() == store.contents);
    }
}
