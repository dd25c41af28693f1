//! H: does damage stop where it is, and say so without shouting?

use std::fs;
use std::time::Duration;

use bench::verify::{Found, SECTOR_BYTES, judge};
use tests::spoil::{files, flip_bits, log_end};
use tests::{text, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, stop};

/// Bytes at the end of the replica's log that are damaged.
const TAIL_BYTES: u64 = 64 << 10;

/// How long a step that fails is repeated, twice a second.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// What a wish that cannot be met may fill of the logs meanwhile.
const LINES_MAX: usize = 20;

/// A log whose end was fetched but not replayed, and then damaged; where the damage begins, and who wrote what lies there.
fn damaged() -> (Pair, u64, u64) {
    let pair = Pair::new();
    pair.cluster.expect_in_logs("the log is damaged");
    let writer = pair.writer();
    pair.ok(&["volume", "pause", NAME, "replay", "--node", S]);
    wait_for_answers(&writer, 1000);
    let seed = stop(writer).seed;
    let end = until("the log is fetched", || {
        let end = |node: &str| pair.replica(node)["appended"].as_u64();
        end(S).filter(|here| Some(*here) == end(P))
    });
    let log = log_end(&pair.cluster, pair.cluster.host(S), NAME);
    // The log is shorter than a segment, so positions are those in the file.
    flip_bits(&log, end - TAIL_BYTES, end, 512);
    (pair, end - TAIL_BYTES, seed)
}

#[test]
fn h4_a_destroyed_end_of_the_log_stops_replay_before_it_and_reaches_no_disk() {
    let (pair, damage, seed) = damaged();
    pair.ok(&["volume", "resume", NAME, "replay", "--node", S]);
    until("the damage is found", || {
        (pair.state(S) == "defective-log").then_some(())
    });
    let row = pair.replica(S);
    let replayed = row["written_back"].as_u64().expect("a position");
    assert!(replayed <= damage, "{row:#}");
    assert!(!text(&row["reason"]).is_empty(), "{row:#}");
    // Whatever was replayed is whole: zeroes of before, or what the writer wrote there.
    let id = text(&pair.cluster.volume(NAME)["id"]).to_owned();
    let disks = files(&pair.cluster.host(S).vg_dir(), &|name| name.starts_with(&id));
    let disk = fs::read(disks.first().expect("S has a disk")).expect("it can be read");
    assert_eq!(disk.len() as u64, SIZE_BYTES);
    for (sector, bytes) in disk.chunks_exact(SECTOR_BYTES as usize).enumerate() {
        let found = judge(bytes, seed, sector as u64);
        assert!(
            matches!(found, Found::Zeroes | Found::Data { .. }),
            "sector {sector} is {found}"
        );
    }
    // The others do not notice, and the replica begins anew.
    stop(pair.writer());
    pair.ok(&["volume", "invalidate", NAME, S]);
    pair.assert_equal();
}

#[test]
fn a12_errors_that_repeat_themselves_do_not_flood_the_logs() {
    let (pair, ..) = damaged();
    let resume = ["volume", "resume", NAME, "replay", "--node", S];
    pair.ok(&resume);
    until("the damage is found", || {
        (pair.state(S) == "defective-log").then_some(())
    });
    pair.ok(&resume);
    let host = pair.cluster.host(S);
    let lines = || {
        let of = |log: String| log.lines().count();
        of(host.marsd().log()) + of(host.poold().log())
    };
    // A wish that cannot be met yet: the replica has failed, and is told again and again.
    let before = lines();
    pair.ok(&["volume", "pause", NAME, "replay", "--node", S]);
    std::thread::sleep(TOLD_FOR);
    let said = lines() - before;
    assert!(said <= LINES_MAX, "{said} lines: {}", host.marsd().log());
    pair.ok(&["volume", "invalidate", NAME, S, "--no-wait"]);
    pair.ok(&resume);
    pair.assert_equal();
}
