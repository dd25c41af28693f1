//! A file system that finds no room when it is asked to flush, and forgets what was written.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::run::Input;

struct Fixture {
    writer: LogWriter,
    log: Arc<Log>,
    inputs: Receiver<Input>,
    /// So many flushes more find no room.
    refusals: Arc<AtomicU32>,
    dir: tempfile::TempDir,
}

fn fixture(refused: u32) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(dir.path()).unwrap());
    let (inbox, inputs) = Inbox::new();
    let refusals = Arc::new(AtomicU32::new(refused));
    let (left, path) = (refusals.clone(), dir.path().to_owned());
    let sync = move |log: &Log, dirty: Dirty| {
        if left.load(Ordering::SeqCst) == 0 {
            return log.flush(dirty);
        }
        left.fetch_sub(1, Ordering::SeqCst);
        for file in std::fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            let length = std::fs::metadata(&file).unwrap().len() as usize;
            std::fs::write(&file, vec![0; length]).unwrap();
        }
        Err(io::ErrorKind::StorageFull.into())
    };
    let writer = LogWriter::start_with(log.clone(), "log".to_owned(), inbox, Box::new(sync)).unwrap();
    Fixture {
        writer,
        log,
        inputs,
        refusals,
        dir,
    }
}

impl Fixture {
    fn next(&self) -> Event {
        match self.inputs.recv_timeout(Duration::from_secs(20)).unwrap() {
            Input::Event(event) => event,
            _ => panic!("only events are expected"),
        }
    }
}

#[test]
fn what_a_flush_had_no_room_for_is_there_when_it_has() {
    // The first flush finds room: from then on everything that is not durable is known.
    let fixture = fixture(0);
    fixture.writer.append(Lsn(0), Bytes::from_static(&[1; 512]));
    fixture.writer.flush(Lsn(512));
    assert!(matches!(fixture.next(), Event::LogWritten { up_to: Lsn(512) }));
    assert!(matches!(fixture.next(), Event::LogFlushed { up_to: Lsn(512) }));
    fixture.refusals.store(2, Ordering::SeqCst);
    fixture.writer.append(Lsn(512), Bytes::from_static(&[2; 512]));
    fixture.writer.append(Lsn(1024), Bytes::from_static(&[3; 512]));
    fixture.writer.flush(Lsn(1536));
    let mut told = Vec::new();
    while !matches!(told.last(), Some(Event::LogFlushed { .. })) {
        told.push(fixture.next());
    }
    assert!(matches!(
        told.last(),
        Some(Event::LogFlushed { up_to: Lsn(1536) })
    ));
    let full = told.iter().filter(|event| matches!(event, Event::LogFlushFull));
    assert_eq!(full.count(), 1, "it is told once");
    let bytes = fixture.log.read(Lsn(512), 1024).unwrap();
    assert_eq!((bytes[0], bytes[511], bytes[512], bytes[1023]), (2, 2, 3, 3));
}

#[test]
fn what_is_cut_meanwhile_does_not_come_back_and_a_stop_waits_for_no_room() {
    let fixture = fixture(0);
    let reset = |id, at| fixture.writer.reset(IoId(id), Lsn(at), true);
    fixture.writer.append(Lsn(0), Bytes::from_static(&[1; 2048]));
    reset(1, 2048);
    assert!(matches!(fixture.next(), Event::LogWritten { .. }));
    assert!(matches!(fixture.next(), Event::LogReset { id: IoId(1) }));
    fixture.writer.append(Lsn(2048), Bytes::from_static(&[2; 1024]));
    fixture.refusals.store(1, Ordering::SeqCst);
    reset(2, 2560);
    assert!(matches!(fixture.next(), Event::LogWritten { .. }));
    assert!(matches!(fixture.next(), Event::LogFlushFull));
    assert!(matches!(fixture.next(), Event::LogReset { id: IoId(2) }));
    assert_eq!(fixture.log.read(Lsn(2048), 4096).unwrap(), vec![2; 512]);
    fixture.refusals.store(u32::MAX, Ordering::SeqCst);
    fixture.writer.append(Lsn(2560), Bytes::from_static(&[3; 512]));
    fixture.writer.flush(Lsn(3072));
    assert!(matches!(fixture.next(), Event::LogWritten { .. }));
    assert!(matches!(fixture.next(), Event::LogFlushFull));
    drop(fixture.writer);
    drop(fixture.dir);
}
