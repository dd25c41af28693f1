//! How does a test wait for something that it can only ask for?

use std::thread;
use std::time::{Duration, Instant};

use super::PAUSE;

/// After this time a test has failed; generous, because machines that test are busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer; panics with `what` after [`LIMIT`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(PAUSE);
    }
}
