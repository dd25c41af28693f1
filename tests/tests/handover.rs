//! What does a guest notice when the primary moves? No error, no lost connection, short pauses; a hundred times.

use std::time::Duration;

use tests::{Cluster, array, steady_writer, stop, text, until, wait_for_answers};

const MIB: u64 = 1 << 20;
const MOVES: usize = 100;

#[test]
fn guests_stay_connected_while_the_primary_moves_a_hundred_times() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    cluster.create("web", "64M", &["a", "b"]);
    // One guest where the primary is half of the time, one where no replica is.
    let near = steady_writer(&cluster.attach("web", "a"), 0, 32 * MIB, 2000.0);
    let far = steady_writer(&cluster.attach("web", "c"), 32 * MIB, 32 * MIB, 2000.0);
    let mut pauses = [Vec::new(), Vec::new()];
    for number in 0..MOVES {
        for guest in [&near, &far] {
            wait_for_answers(guest, 20);
            guest.take_longest_pause();
        }
        let to = ["b", "a"][number % 2];
        until("the other replica follows again", || {
            let shown = cluster.volume("web");
            let states = array(&shown["replicas"]).iter().map(|row| text(&row["state"]));
            states
                .into_iter()
                .all(|state| ["uptodate", "behind"].contains(&state))
                .then_some(())
        });
        let job = cluster.ok("a", &["volume", "primary", "web", to]);
        assert_eq!(job["state"], "done", "move {number}: {job:#}");
        for (guest, pauses) in [&near, &far].into_iter().zip(&mut pauses) {
            wait_for_answers(guest, 20);
            pauses.push(guest.take_longest_pause());
        }
    }
    for (guest, pauses) in ["a", "c"].iter().zip(&mut pauses) {
        pauses.sort();
        let at = |part: usize| pauses[(pauses.len() * part / 100).min(pauses.len() - 1)];
        let [median, p99, max] =
            [at(50), at(99), at(100)].map(|pause: Duration| pause.as_secs_f64() * 1000.0);
        println!(
            "longest pause per move at the door on {guest}: median {median:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
        );
    }
    for guest in [near, far] {
        assert_eq!(stop(guest).reconnects, 0);
    }
    let shown = cluster.volume("web");
    assert_eq!(shown["primary"], "a", "{shown:#}");
    assert!(
        shown["epoch"].as_u64() > Some(MOVES as u64),
        "every move has its epoch: {shown:#}"
    );
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
