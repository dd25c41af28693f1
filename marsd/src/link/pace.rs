//! How much may leave this host for its peers? Buckets that all links of a host, and those to one peer, draw from.
//!
//! Who takes from a bucket waits for its moment: bytes are laid one behind the other on a line of time that moves on at the rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::NodeId;

/// What may be taken at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second; 0: as much as goes.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes_per_second: u64,
    /// Everything that was taken has left by then.
    free_at: Option<Instant>,
}

impl Bucket {
    fn set(&self, bytes_per_second: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bytes_per_second != bytes_per_second {
            *state = State {
                bytes_per_second,
                free_at: None,
            };
        }
    }

    /// How long whoever takes so many bytes at `now` has to wait before they leave.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let begin = state.free_at.map_or(now, |free_at| free_at.max(now));
        let takes = Duration::from_secs_f64(bytes as f64 / state.bytes_per_second as f64);
        state.free_at = Some(begin + takes);
        begin.saturating_duration_since(now).saturating_sub(BURST)
    }
}

/// All buckets of a host.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    host: Arc<Bucket>,
    peers: Mutex<BTreeMap<NodeId, Arc<Bucket>>>,
}

impl Pace {
    /// From now on no more than this, all together and to each peer.
    pub fn set(&self, host: Option<u64>, by_peer: &BTreeMap<NodeId, u64>) {
        self.host.set(host.unwrap_or(0));
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in by_peer.keys() {
            peers.entry(peer.clone()).or_default();
        }
        for (peer, bucket) in &*peers {
            bucket.set(by_peer.get(peer).copied().unwrap_or(0));
        }
    }

    /// What a link to `peer` draws from.
    pub fn of(&self, peer: &NodeId) -> [Arc<Bucket>; 2] {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        [self.host.clone(), peers.entry(peer.clone()).or_default().clone()]
    }
}

/// Waits until so many bytes may leave.
pub(crate) async fn wait(buckets: &[Arc<Bucket>], bytes: u64) {
    let now = Instant::now();
    let longest = buckets.iter().map(|bucket| bucket.take(bytes, now)).max();
    match longest {
        Some(longest) if !longest.is_zero() => tokio::time::sleep(longest).await,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_leaves_at_the_rate() {
        let bucket = Bucket::default();
        let now = Instant::now();
        let millis = |bytes| bucket.take(bytes, now).as_millis();
        assert_eq!(millis(1 << 30), 0, "no limit");
        bucket.set(1_000_000);
        assert_eq!((millis(500_000), millis(500_000), millis(1)), (0, 400, 900));
        bucket.set(0);
        assert_eq!(millis(1 << 30), 0);
    }

    #[test]
    fn a_peer_has_its_own() {
        let node = |name| NodeId::new(name).expect("valid");
        let pace = Pace::default();
        let [_, before] = pace.of(&node("b"));
        pace.set(None, &[(node("b"), 1_000)].into());
        let now = Instant::now();
        before.take(1_000, now);
        assert!(
            before.take(1, now) > Duration::ZERO,
            "links that are there are limited too"
        );
        let [host, other] = pace.of(&node("c"));
        other.take(1 << 30, now);
        assert_eq!(host.take(1, now) + other.take(1, now), Duration::ZERO);
    }
}
