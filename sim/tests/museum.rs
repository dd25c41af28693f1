//! Are published bugs of others found within seconds? A sample; `make museum` looks for all of them.

use std::time::Duration;

use mars::museum::Mutant;
use sim::visit;

#[test]
fn a_sample_of_the_museum_is_found_at_once() {
    let sample = [
        Mutant::DiscardDropped,
        Mutant::WrittenBackUnlogged,
        Mutant::TouchedUnrecorded,
        Mutant::WrittenBackUnflushed,
        Mutant::SyncSkipped,
        Mutant::ResyncCleared,
        Mutant::TrimIgnoresPeers,
        Mutant::AckedUnflushed,
        Mutant::ReplayUncommitted,
        Mutant::StaleRead,
        Mutant::HoleOverData,
        Mutant::UptodateUnseen,
    ];
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let exhibits = visit(&sample, jobs, Duration::from_secs(20), |_| {});
    assert_eq!(exhibits.len(), sample.len());
    for exhibit in exhibits {
        assert!(exhibit.is_found(), "a hole in the checkers: {exhibit}");
    }
}
