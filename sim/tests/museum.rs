//! Are published bugs of others found within seconds, and told in a short story? A sample; `make museum` looks for all.

use std::time::Duration;

use mars::museum::{Mutant, let_loose};
use sim::{run_seed, run_shaped, shrink, visit};

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
        Mutant::TailNotCleared,
        Mutant::GrownBeforeLogged,
        Mutant::SnapshotTooEarly,
        Mutant::SnapshotNotRedone,
    ];
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let exhibits = visit(&sample, jobs, Duration::from_secs(20), |_| {});
    assert_eq!(exhibits.len(), sample.len());
    for exhibit in exhibits {
        assert!(exhibit.is_found(), "a hole in the checkers: {exhibit}");
    }
}

#[test]
fn a_failing_seed_shrinks_to_a_story_that_can_be_told_again() {
    let_loose(Some(Mutant::ResyncCleared));
    let fails = |seed: &u64| run_seed(*seed, 0).failure.is_some();
    let seed = (0..200).find(fails).expect("the mutant is found at once");
    let shrunk = shrink(seed).expect("it fails");
    let again = run_shaped(seed, &shrunk.shape, 0);
    let told: sim::Shape = shrunk.shape.to_string().parse().expect("a shape reads back");
    assert_eq!(again.failure, Some(shrunk.failure.clone()));
    assert_eq!(run_shaped(seed, &told, 0).digest, again.digest);
    assert!(shrunk.script.len() * 2 < shrunk.troubles_before, "{shrunk:#?}");
    assert_eq!(
        shrunk.script.len(),
        shrunk.shape.only.map_or(0, |only| only.len())
    );
    let_loose(None);
}
