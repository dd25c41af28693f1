use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    log: Log,
}

fn log() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    Fixture { dir, log }
}

impl Fixture {
    fn append(&self, at: u64, bytes: &[u8]) {
        let mut dirty = Dirty::default();
        self.log.write(Lsn(at), bytes, &mut dirty).unwrap();
        self.log.flush(dirty).unwrap();
    }

    fn read(&self, at: u64, bytes_max: usize) -> Bytes {
        self.log.read(Lsn(at), bytes_max).unwrap()
    }

    fn segments(&self) -> Vec<u64> {
        self.log.list()
    }
}

#[test]
fn an_append_may_span_segments_and_is_found_after_a_restart() {
    let fixture = log();
    let at = SEGMENT_BYTES - 3;
    fixture.append(0, b"x");
    fixture.append(at, b"abcdef");
    assert_eq!(fixture.segments(), [0, SEGMENT_BYTES]);
    let again = Log::open(fixture.dir.path()).unwrap();
    assert_eq!(again.read(Lsn(at), 6).unwrap(), "abcdef");
    assert_eq!(again.read(Lsn(at + 2), 2).unwrap(), "cd");
}

#[test]
fn a_read_behind_the_end_is_short() {
    let fixture = log();
    assert_eq!(fixture.read(0, 10), "");
    fixture.append(0, b"abc");
    assert_eq!(fixture.read(0, 10), "abc");
    assert_eq!(fixture.read(1, 2), "bc");
    assert_eq!(fixture.read(3, 10), "");
    assert_eq!(fixture.read(9 * SEGMENT_BYTES, 10), "");
}

#[test]
fn a_read_does_not_jump_over_a_gap() {
    let fixture = log();
    fixture.append(0, b"abc");
    fixture.append(SEGMENT_BYTES, b"def");
    assert_eq!(fixture.read(0, SEGMENT_BYTES as usize + 3), "abc");
}

#[test]
fn truncate_keeps_the_beginning_and_nothing_else() {
    let check = |at: u64, segments: &[u64]| {
        let fixture = log();
        fixture.append(0, b"x");
        fixture.append(SEGMENT_BYTES - 2, b"abcd");
        fixture.append(2 * SEGMENT_BYTES, b"x");
        fixture.log.truncate(Lsn(at), &mut Dirty::default()).unwrap();
        assert_eq!(fixture.segments(), segments);
        let kept = at.saturating_sub(SEGMENT_BYTES - 2).min(4) as usize;
        assert_eq!(fixture.read(SEGMENT_BYTES - 2, 10), &b"abcd"[..kept]);
        fixture.append(at, b"new");
        assert_eq!(fixture.read(at, 10), "new");
    };
    check(SEGMENT_BYTES - 1, &[0]);
    check(SEGMENT_BYTES, &[0]);
    check(SEGMENT_BYTES + 1, &[0, SEGMENT_BYTES]);
    check(SEGMENT_BYTES + 2, &[0, SEGMENT_BYTES]);
}

#[test]
fn a_log_begins_anew_anywhere() {
    let fixture = log();
    fixture.append(0, b"old");
    fixture.log.clear().unwrap();
    assert_eq!(fixture.segments(), [0; 0]);
    let at = 5 * SEGMENT_BYTES + 7;
    fixture.append(at, b"new");
    assert_eq!(fixture.segments(), [at]);
    assert_eq!(fixture.read(at, 10), "new");
}

#[test]
fn trim_gives_back_whole_segments_only() {
    let fixture = log();
    for segment in 0..3 {
        fixture.append(segment * SEGMENT_BYTES, b"x");
    }
    fixture.log.trim(Lsn(2 * SEGMENT_BYTES - 1)).unwrap();
    assert_eq!(fixture.segments(), [SEGMENT_BYTES, 2 * SEGMENT_BYTES]);
    fixture.log.trim(Lsn(2 * SEGMENT_BYTES)).unwrap();
    assert_eq!(fixture.segments(), [2 * SEGMENT_BYTES]);
    assert_eq!(fixture.read(SEGMENT_BYTES, 1), "");
}

#[test]
fn a_rotation_lets_what_came_before_be_given_back() {
    let fixture = log();
    fixture.append(0, b"abc");
    let rotate = || {
        let mut dirty = Dirty::default();
        let at = fixture.log.rotate(&mut dirty).unwrap();
        fixture.log.flush(dirty).unwrap();
        at
    };
    assert_eq!(rotate(), Lsn(3));
    assert_eq!(rotate(), Lsn(3), "an empty segment is new enough");
    assert_eq!(fixture.segments(), [0, 3]);
    fixture.append(3, b"def");
    assert_eq!(rotate(), Lsn(6));
    assert_eq!(fixture.read(1, 10), "bcdef");
    let again = Log::open(fixture.dir.path()).unwrap();
    assert_eq!(again.read(Lsn(1), 4).unwrap(), "bcde");
    assert_eq!(again.files().unwrap().count, 3);
    fixture.log.trim(Lsn(5)).unwrap();
    assert_eq!(fixture.segments(), [3, 6]);
    fixture.log.trim(Lsn(6)).unwrap();
    assert_eq!(fixture.segments(), [6]);
    fixture.append(6, b"ghi");
    assert_eq!(fixture.read(6, 10), "ghi");
}

#[test]
fn an_end_that_is_cut_goes_with_the_segments_behind_it() {
    let fixture = log();
    fixture.append(0, b"abcdef");
    fixture.log.rotate(&mut Dirty::default()).unwrap();
    fixture.append(6, b"ghi");
    fixture.log.truncate(Lsn(4), &mut Dirty::default()).unwrap();
    assert_eq!(fixture.segments(), [0]);
    fixture.append(4, b"xyz!");
    assert_eq!(fixture.read(0, 10), "abcdxyz!");
}

#[test]
fn an_end_that_was_lost_before_a_rotation_is_written_again() {
    let fixture = log();
    fixture.append(0, b"abcdef");
    fixture.log.rotate(&mut Dirty::default()).unwrap();
    let first = fixture.dir.path().join("log-0000000000000000");
    File::options()
        .write(true)
        .open(first)
        .unwrap()
        .set_len(4)
        .unwrap();
    assert_eq!(fixture.read(0, 10), "abcd");
    fixture.append(4, b"EFGH");
    assert_eq!(fixture.segments(), [0, 6]);
    assert_eq!(fixture.read(0, 10), "abcdEFGH");
}

#[test]
fn foreign_files_are_left_alone() {
    let fixture = log();
    std::fs::write(fixture.dir.path().join("log-1"), b"x").unwrap();
    std::fs::write(fixture.dir.path().join("notes"), b"x").unwrap();
    fixture.append(0, b"x");
    fixture.log.clear().unwrap();
    assert!(fixture.dir.path().join("log-1").exists() && fixture.dir.path().join("notes").exists());
}

#[test]
fn more_segments_than_are_kept_open() {
    let fixture = log();
    for segment in 0..2 * OPEN_MAX as u64 {
        fixture.append(segment * SEGMENT_BYTES, b"x");
    }
    let open = fixture.log.segments().values().flatten().count();
    assert!((1..=OPEN_MAX).contains(&open), "{open}");
    assert_eq!(fixture.read(0, 1), "x");
}
