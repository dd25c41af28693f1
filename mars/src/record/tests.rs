//! Do batches read back, and is everything else refused?

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const VOLUME: VolumeId = VolumeId(7);
const FIRST: Epoch = Epoch { term: 1, start: 1 };

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(start, count).expect("small")
}

fn sample() -> (Vec<Record>, Bytes, Position) {
    let records = vec![
        Record::Epoch {
            writer: NodeId::new("h1").expect("valid"),
        },
        Record::Write {
            range: range(3, 2),
            data: Bytes::from(vec![9; 1024]),
        },
        Record::Discard { range: range(100, 8) },
        Record::Zeroes {
            range: range(0, 1),
            unmap: true,
        },
        Record::Barrier { range: range(8, 4) },
        Record::Verified {
            began: Verified {
                from: Lsn(512),
                unix_seconds: 1_800_000_000,
            },
            nodes: vec![
                NodeId::new("h1").expect("valid"),
                NodeId::new("h2").expect("valid"),
            ],
        },
    ];
    let mut builder = BatchBuilder::default();
    records.iter().for_each(|r| builder.push(r));
    let (bytes, end) = builder.seal(VOLUME, FIRST, Position::default(), Lsn(0), 77, false);
    assert!(builder.is_empty());
    (records, bytes, end)
}

#[test]
fn a_batch_reads_back() {
    let (records, bytes, end) = sample();
    let batch = Batch::decode_next(&bytes, VOLUME, Position::default(), Epoch::NONE).expect("whole");
    assert_eq!(batch.records, records);
    assert_eq!(batch.end, end);
    assert_eq!(batch.header.written_unix_micros, 77);
    assert_eq!(bytes.len() % BATCH_ALIGN_BYTES, 0);
}

#[test]
fn every_flipped_bit_is_found() {
    let (_, bytes, _) = sample();
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x10;
        let read = Batch::decode_next(&Bytes::from(flipped), VOLUME, Position::default(), Epoch::NONE);
        assert!(read.is_err(), "byte {at}");
    }
}

#[test]
fn a_shortened_batch_is_incomplete_not_bad() {
    let (_, bytes, _) = sample();
    for length in 0..bytes.len() {
        let cut = bytes.slice(..length);
        assert!(
            matches!(Batch::decode(&cut), Err(BatchError::Incomplete { .. })),
            "{length}"
        );
    }
}

#[test]
fn a_batch_of_another_place_is_refused() {
    let (_, bytes, end) = sample();
    assert!(Batch::decode_next(&bytes, VolumeId(8), Position::default(), Epoch::NONE).is_err());
    assert!(Batch::decode_next(&bytes, VOLUME, end, Epoch::NONE).is_err());
    let late = Epoch { term: 2, start: 1 };
    assert!(Batch::decode_next(&bytes, VOLUME, Position::default(), late).is_err());
}

fn sealed(records: &[Record], compressed: bool) -> (Bytes, Position) {
    let mut builder = BatchBuilder::default();
    records.iter().for_each(|r| builder.push(r));
    builder.seal(VOLUME, FIRST, Position::default(), Lsn(0), 77, compressed)
}

fn plain_bytes(batch: &Bytes) -> u32 {
    Header::decode(batch).unwrap().plain_bytes
}

#[test]
fn what_compresses_is_stored_shorter_and_what_does_not_as_it_is() {
    let write = |data: Vec<u8>| Record::Write {
        range: range(0, data.len() as u64 / 512),
        data: data.into(),
    };
    let text = write(
        b"all work and no play "
            .iter()
            .copied()
            .cycle()
            .take(8192)
            .collect(),
    );
    let (short, _) = sealed(std::slice::from_ref(&text), true);
    assert_eq!((short.len(), plain_bytes(&short)), (512, 16 + 8192));
    assert_eq!(
        Batch::decode(&short).unwrap().records,
        std::slice::from_ref(&text)
    );
    assert_eq!(plain_bytes(&sealed(&[text], false).0), 0, "not asked for");
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    });
    let noise = write(noise.take(8192).collect());
    let (stored, end) = sealed(std::slice::from_ref(&noise), true);
    assert_eq!((plain_bytes(&stored), end), (0, sealed(&[noise], false).1));
}

#[test]
fn every_flipped_bit_of_a_compressed_batch_is_found() {
    let zeroes = Record::Write {
        range: range(0, 64),
        data: vec![7; 64 * 512].into(),
    };
    let (bytes, _) = sealed(&[zeroes], true);
    assert!(plain_bytes(&bytes) > 0);
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x04;
        assert!(Batch::decode(&flipped.into()).is_err(), "byte {at}");
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let data = prop_oneof![
        any::<u8>().prop_map(|fill| vec![fill; 512]),
        prop::collection::vec(any::<u8>(), 512),
    ];
    let write =
        (0u64..1 << 40, prop::collection::vec(data, 1..20)).prop_map(|(start, sectors)| Record::Write {
            range: range(start, sectors.len() as u64),
            data: sectors.concat().into(),
        });
    let cleared = (0u64..1 << 40, 1u64..1 << 31, any::<bool>());
    let zeroes = cleared.prop_map(|(start, count, unmap)| Record::Zeroes {
        range: range(start, count),
        unmap,
    });
    prop_oneof![write, zeroes]
}

proptest! {
    #[test]
    fn batches_read_back_compressed_or_not(
        records in prop::collection::vec(any_record(), 1..20),
        compressed in any::<bool>(),
    ) {
        let (bytes, end) = sealed(&records, compressed);
        let batch = Batch::decode_next(&bytes, VOLUME, Position::default(), Epoch::NONE).unwrap();
        prop_assert_eq!(batch.records, records);
        prop_assert_eq!(batch.end, end);
    }

    /// Sums that fit do not make a payload honest: whatever it claims, decoding ends, with so much memory at most.
    #[test]
    fn a_payload_that_lies_is_refused_or_read_within_bounds(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        plain_bytes in prop_oneof![0u32..4000, any::<u32>()],
        record_count in 0u32..8,
    ) {
        let batch_bytes = (HEADER_BYTES + payload.len()).next_multiple_of(BATCH_ALIGN_BYTES);
        let header = Header {
            batch_bytes: batch_bytes as u32,
            epoch: FIRST,
            lsn: Lsn(0),
            committed: Lsn(0),
            record_count,
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c(&payload),
            plain_bytes,
            written_unix_micros: 0,
            previous: Digest::default(),
            volume: VOLUME,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(&payload);
        bytes.resize(batch_bytes, 0);
        if let Ok(batch) = Batch::decode(&bytes.into()) {
            prop_assert!(batch.records.len() <= record_count as usize);
        }
    }

    /// As above, with a block that once was honest.
    #[test]
    fn a_block_with_a_changed_byte_is_refused_or_read_within_bounds(
        records in prop::collection::vec(any_record(), 1..8),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let (bytes, _) = sealed(&records, true);
        let mut header = Header::decode(&bytes).unwrap();
        let mut bytes = bytes.to_vec();
        let payload = HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize;
        bytes[payload.start + at.index(payload.len())] = value;
        header.payload_crc = crc32c(&bytes[payload]);
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        if let Ok(batch) = Batch::decode(&bytes.into()) {
            prop_assert_eq!(batch.records.len(), records.len());
        }
    }
}

#[test]
fn a_growth_reads_back_alone_and_never_goes_back() {
    let size = |bytes| VolumeSize::new(bytes).unwrap();
    let sealed = |records: &[Record]| {
        let mut builder = BatchBuilder::default();
        records.iter().for_each(|record| builder.push(record));
        builder
            .seal(VOLUME, FIRST, Position::default(), Lsn(0), 0, false)
            .0
    };
    let grow = |from, to| Record::Grow {
        from: size(from),
        to: size(to),
    };
    let growth = grow(4096, 3 << 40);
    let batch = Batch::decode(&sealed(std::slice::from_ref(&growth))).unwrap();
    assert_eq!(batch.records, std::slice::from_ref(&growth));
    let (tail, data) = growth.change().unwrap();
    assert_eq!((tail.start.0, tail.end().bytes(), data), (8, 3 << 40, None));
    for bad in [
        vec![grow(8192, 8192)],
        vec![grow(8192, 4096)],
        vec![growth.clone(), growth.clone()],
        vec![Record::Discard { range: range(0, 1) }, growth],
    ] {
        assert!(Batch::decode(&sealed(&bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_snapshot_reads_back_alone() {
    let sealed = |records: &[Record]| {
        let mut builder = BatchBuilder::default();
        records.iter().for_each(|record| builder.push(record));
        builder
            .seal(VOLUME, FIRST, Position::default(), Lsn(0), 0, false)
            .0
    };
    let name = SnapshotName::new("before-upgrade").unwrap();
    let snapshot = Record::Snapshot { name: name.clone() };
    let batch = Batch::decode(&sealed(std::slice::from_ref(&snapshot))).unwrap();
    assert_eq!(batch.records[0].snapshot(), Some(&name));
    assert_eq!(batch.records[0].range(), None);
    for neighbour in [snapshot.clone(), Record::Discard { range: range(0, 1) }] {
        assert!(Batch::decode(&sealed(&[neighbour, snapshot.clone()])).is_err());
    }
}
