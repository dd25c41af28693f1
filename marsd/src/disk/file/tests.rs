use crossbeam_channel::Receiver;

use super::*;
use crate::run::Input;

const SIZE_BYTES: u64 = 1 << 20;

struct Fixture {
    dir: tempfile::TempDir,
    disk: FileDisk,
    inputs: Receiver<Input>,
}

fn places(dir: &std::path::Path) -> Places {
    Places {
        log: dir.join("log"),
        meta: dir.join("meta"),
        disk: dir.join("disk"),
    }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("disk"))
        .unwrap()
        .set_len(SIZE_BYTES)
        .unwrap();
    let (inbox, inputs) = Inbox::new();
    let size = VolumeSize::new(SIZE_BYTES).unwrap();
    let (disk, meta) = FileDisk::open(&places(dir.path()), size, &inbox).unwrap();
    assert_eq!(meta, None);
    Fixture { dir, disk, inputs }
}

fn event(inputs: &Receiver<Input>) -> Event {
    match inputs.recv().unwrap() {
        Input::Event(event) => event,
        _ => panic!("disks send events only"),
    }
}

#[test]
fn appends_are_answered_up_to_the_last_and_flushes_after_them() {
    let Fixture {
        mut disk,
        inputs,
        dir,
    } = fixture();
    for at in 0..100u64 {
        disk.append_log(Lsn(at * 3), Bytes::from_static(b"abc"));
    }
    disk.flush_log(Lsn(300));
    let mut written = Lsn(0);
    let flushed = loop {
        match event(&inputs) {
            Event::LogWritten { up_to } => {
                assert!(up_to > written);
                written = up_to;
            }
            Event::LogFlushed { up_to } => break up_to,
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!((written, flushed), (Lsn(300), Lsn(300)));
    disk.read_log(IoId(1), Lsn(298), 10);
    let Event::LogRead { id: IoId(1), bytes } = event(&inputs) else {
        panic!("the read is answered")
    };
    assert_eq!(bytes, "bc");
    disk.reset_log(IoId(2), Lsn(2), true);
    assert!(matches!(event(&inputs), Event::LogReset { id: IoId(2) }));
    disk.read_log(IoId(3), Lsn(0), 10);
    assert!(matches!(event(&inputs), Event::LogRead { bytes, .. } if bytes == "ab"));
    drop((disk, dir));
}

#[test]
fn a_failed_operation_names_itself_its_file_and_the_reason() {
    let Fixture {
        mut disk,
        inputs,
        dir,
    } = fixture();
    std::fs::File::options()
        .write(true)
        .open(dir.path().join("disk"))
        .unwrap()
        .set_len(0)
        .unwrap();
    disk.read_volume(IoId(1), SectorRange::new(0, 8).unwrap());
    let Event::DiskFailed { error } = event(&inputs) else {
        panic!("the disk is empty")
    };
    assert!(
        error.operation.contains("read sectors 0..8 of ") && error.operation.ends_with("/disk"),
        "{error}"
    );
    assert_eq!(error.reason, "the disk has become shorter");
}

#[test]
fn dropping_carries_out_what_was_asked() {
    let Fixture {
        mut disk,
        inputs,
        dir,
    } = fixture();
    let range = SectorRange::new(0, 1).unwrap();
    for n in 0..200u8 {
        disk.write_volume(IoId(n.into()), range, vec![Bytes::from(vec![n; 512])]);
    }
    drop(disk);
    let answered = inputs.try_iter().count();
    assert_eq!(answered, 200);
    // They overlap, so the last one asked for is the one that stays.
    assert_eq!(std::fs::read(dir.path().join("disk")).unwrap()[..512], [199; 512]);
}
