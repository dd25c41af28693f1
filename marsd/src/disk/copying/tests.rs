use mars::{Digest, Position};
use model::{Lsn, SnapshotName};
use proptest::prelude::*;

use super::*;
use crate::disk::Snapshots;

/// Some extents, and a part of one.
const SIZE_BYTES: u64 = 40 * EXTENT_BYTES + 4096;

const SECTORS: u64 = SIZE_BYTES / 512;

fn size() -> VolumeSize {
    VolumeSize::new(SIZE_BYTES).unwrap()
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody wants to write these sectors; so many bytes of that value.
    Write(SectorRange, u8),
    /// A part of the rest is copied.
    GoOn,
    /// The process dies, and what it had in memory with it.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let somewhere = (0..SECTORS).prop_flat_map(|start| (Just(start), 1..=(SECTORS - start).min(600)));
    let step = prop_oneof![
        12 => (somewhere, any::<u8>()).prop_map(|((start, count), byte)| Step::Write(range(start, count), byte)),
        1 => Just(Step::GoOn),
        2 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_copy_is_the_old_version_and_the_volume_the_new_one(holes in any::<[bool; 41]>(), steps in steps()) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("disk");
        let disk = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        disk.set_len(SIZE_BYTES).unwrap();
        for (extent, _) in holes.iter().enumerate().filter(|(_, hole)| !**hole) {
            let start = extent as u64 * EXTENT_BYTES;
            let bytes = vec![extent as u8 + 1; EXTENT_BYTES.min(SIZE_BYTES - start) as usize];
            disk.write_all_at(&bytes, start).unwrap();
        }
        let old = std::fs::read(&path).unwrap();
        let mut new = old.clone();
        let (name, at) = (SnapshotName::new("a").unwrap(), Position { lsn: Lsn(512), digest: Digest(7) });
        let snapshots = Snapshots::beside(&path);
        let mut copying = snapshots.begin(&disk, &name, at, size()).unwrap();
        for step in steps {
            match (step, &mut copying) {
                (Step::Write(range, byte), copying) => {
                    if let Some(copying) = copying {
                        while !copying.saved().covers(range) {
                            let saved = copying.save(&disk, &[range]).unwrap();
                            prop_assert!(!saved.is_empty());
                        }
                    }
                    let bytes = vec![byte; range.len_bytes() as usize];
                    disk.write_all_at(&bytes, range.start.bytes()).unwrap();
                    let begin = range.start.bytes() as usize;
                    new[begin..begin + bytes.len()].copy_from_slice(&bytes);
                }
                (Step::GoOn, Some(copying)) => drop(copying.save(&disk, &[]).unwrap()),
                (Step::Crash, _) => copying = snapshots.begin(&disk, &name, at, size()).unwrap(),
                (Step::GoOn, None) => {}
            }
        }
        if let Some(copying) = &mut copying {
            while !copying.is_done() {
                copying.save(&disk, &[]).unwrap();
            }
            snapshots.finish(&name, at).unwrap();
        }
        // Asked once more, because nobody has remembered the answer.
        prop_assert!(snapshots.begin(&disk, &name, at, size()).unwrap().is_none());
        prop_assert!(std::fs::read(snapshots.path(&name, at)).unwrap() == old);
        prop_assert!(std::fs::read(&path).unwrap() == new);
        let left = std::fs::read_dir(home.path().join("disk.snapshots")).unwrap().count();
        prop_assert_eq!(left, 1);
    }
}

#[test]
fn a_map_says_what_may_change_and_nothing_behind_the_end_counts() {
    let mut saved = Saved::none(size());
    let per_extent = EXTENT_BYTES / 512;
    assert!(!saved.covers(range(0, 1)) && !saved.covers(range(SECTORS - 1, 1)));
    assert!(
        saved.covers(range(41 * per_extent, 100)),
        "what has grown is not copied"
    );
    saved.add(&(3..5));
    assert!(saved.covers(range(3 * per_extent, 2 * per_extent)));
    assert!(!saved.covers(range(3 * per_extent - 1, 2)) && !saved.covers(range(5 * per_extent - 1, 2)));
    assert_eq!((saved.next_missing(0), saved.next_missing(3)), (Some(0), Some(5)));
    saved.add(&(0..41));
    assert_eq!(saved.next_missing(0), None);
    assert!(saved.covers(range(0, SECTORS + 5000)));
}

#[test]
fn a_map_that_was_not_finished_counts_for_nothing() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, length| {
        let path = home.path().join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(length).unwrap();
        file
    };
    assert!(
        Copying::resume(file("a", SIZE_BYTES), file("b", 5), size())
            .unwrap()
            .is_none()
    );
    assert!(
        Copying::resume(file("c", 4096), file("d", 6), size())
            .unwrap()
            .is_none()
    );
    let mut whole = Copying::resume(file("e", SIZE_BYTES), file("f", 6), size())
        .unwrap()
        .unwrap();
    assert!(!whole.is_done());
}
