#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use proptest::prelude::*;

const SECTORS: u64 = 24;

#[derive(Clone, Debug)]
enum Step {
    Write { start: u64, count: u64, fill: u8 },
    Zero { start: u64, count: u64 },
    Freeze,
    WrittenBack,
    Read { start: u64, count: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = (0..SECTORS - 1).prop_flat_map(|start| (Just(start), 1..=SECTORS - start));
    let step = prop_oneof![
        4 => (place.clone(), 1..=255u8).prop_map(|((start, count), fill)| Step::Write { start, count, fill }),
        1 => place.clone().prop_map(|(start, count)| Step::Zero { start, count }),
        1 => Just(Step::Freeze),
        1 => Just(Step::WrittenBack),
        4 => place.prop_map(|(start, count)| Step::Read { start, count }),
    ];
    prop::collection::vec(step, 1..60)
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).unwrap()
}

fn lay(disk: &mut [u8], range: SectorRange, data: &VolumeData) {
    let place = &mut disk[range.start.bytes() as usize..range.end().bytes() as usize];
    match data {
        VolumeData::Zeroes => place.fill(0),
        VolumeData::Data(data) => place.copy_from_slice(data),
    }
}

proptest! {
    /// The shadow over a disk that lags behind always equals a plain byte array.
    #[test]
    fn shadow_over_disk_is_a_byte_array(steps in steps()) {
        let size = (SECTORS * SECTOR_BYTES) as usize;
        let (mut model, mut disk, mut shadow) = (vec![0u8; size], vec![0u8; size], Shadow::default());
        for step in steps {
            match step {
                Step::Write { start, count, fill } => {
                    let range = range(start, count);
                    let data = VolumeData::Data(Bytes::from(vec![fill; range.len_bytes() as usize]));
                    lay(&mut model, range, &data);
                    shadow.active.insert(range, data);
                }
                Step::Zero { start, count } => {
                    lay(&mut model, range(start, count), &VolumeData::Zeroes);
                    shadow.active.insert(range(start, count), VolumeData::Zeroes);
                }
                Step::Freeze => {
                    if shadow.frozen.is_empty() {
                        shadow.freeze();
                    }
                }
                Step::WrittenBack => {
                    for (range, data) in shadow.frozen.iter() {
                        lay(&mut disk, range, data);
                    }
                    shadow.drop_frozen();
                }
                Step::Read { start, count } => {
                    let range = range(start, count);
                    let bytes = |r: SectorRange, from: &[u8]| from[r.start.bytes() as usize..r.end().bytes() as usize].to_vec();
                    let overlay = shadow.overlay(range);
                    let missing = overlay.missing();
                    let below = missing.map_or(VolumeData::Zeroes, |m| VolumeData::Data(Bytes::from(bytes(m, &disk))));
                    let got = to_bytes(overlay.compose(below), range);
                    prop_assert_eq!(&got[..], &bytes(range, &model)[..]);
                }
            }
            let cost: u64 = [&shadow.active, &shadow.frozen].iter().flat_map(|g| g.pieces.values()).map(Piece::cost).sum();
            prop_assert_eq!(cost, shadow.bytes());
        }
    }
}

#[test]
fn block_status_is_laid_over_the_disks() {
    let mut shadow = Shadow::default();
    shadow
        .active
        .insert(range(4, 4), VolumeData::Data(Bytes::from(vec![1; 2048])));
    shadow.active.insert(range(12, 2), VolumeData::Zeroes);
    let overlay = shadow.overlay(range(0, 16));
    assert_eq!(overlay.missing(), Some(range(0, 16)));
    let disk = [
        BlockExtent {
            range: range(0, 10),
            data: false,
        },
        BlockExtent {
            range: range(10, 6),
            data: true,
        },
    ];
    let got: Vec<_> = overlay
        .compose_status(&disk)
        .iter()
        .map(|e| (e.range.start.0, e.range.count.0, e.data))
        .collect();
    assert_eq!(
        got,
        [
            (0, 4, false),
            (4, 4, true),
            (8, 2, false),
            (10, 2, true),
            (12, 2, false),
            (14, 2, true)
        ]
    );
}
