//! How fast is something, and how fast may it be? A meter and a bucket, by the engine's clock alone.

use model::Tick;

/// A rate is told over about this long: long enough to be read, short enough to be true.
const METER_MICROS: u64 = 2_000_000;

/// A new figure at most so often.
const METER_STEP_MICROS: u64 = 100_000;

/// What a bucket holds when nobody has taken from it: a tenth of a second's worth.
const BURST_FRACTION: i128 = 10;

const SECOND_MICROS: i128 = 1_000_000;

/// Bytes per second, lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    since: Tick,
    bytes: u64,
    per_second: u64,
}

impl Meter {
    pub fn add(&mut self, now: Tick, bytes: u64) {
        if now.micros_since(self.since) >= METER_STEP_MICROS {
            self.per_second = self.per_second(now);
            self.since = now;
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    /// The older figure fades as the present one gets older.
    pub fn per_second(&self, now: Tick) -> u64 {
        let elapsed = now.micros_since(self.since);
        if elapsed < METER_STEP_MICROS {
            return self.per_second;
        }
        let fresh = u128::from(self.bytes) * SECOND_MICROS as u128 / u128::from(elapsed);
        let weight = u128::from(elapsed.min(METER_MICROS));
        let all = u128::from(METER_MICROS);
        ((fresh * weight + u128::from(self.per_second) * (all - weight)) / all) as u64
    }
}

/// Lets through so many bytes per second.
///
/// Whoever finds it not in debt may take as much as it likes at once, and the next one waits until the debt is paid: so a
/// piece need not be cut to fit, and the rate holds on average.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    per_second: Option<u64>,
    /// In millionths of a byte, so that no rounding adds up.
    level: i128,
    at: Tick,
}

impl Bucket {
    /// `None` lets everything through; a debt is forgiven when the rate changes.
    pub fn set(&mut self, now: Tick, per_second: Option<u64>) {
        if self.per_second != per_second {
            *self = Bucket {
                per_second,
                level: 0,
                at: now,
            };
        }
    }

    /// What it lets through; `None` is everything.
    pub fn per_second(&self) -> Option<u64> {
        self.per_second
    }

    fn level(&self, now: Tick) -> i128 {
        let Some(rate) = self.per_second.map(i128::from) else {
            return 0;
        };
        let filled = self.level + rate * i128::from(now.micros_since(self.at));
        filled.min(rate * SECOND_MICROS / BURST_FRACTION)
    }

    /// When somebody may take next; now, or later.
    pub fn ready_at(&self, now: Tick) -> Tick {
        let level = self.level(now);
        match self.per_second {
            Some(rate) if level < 0 => {
                let rate = i128::from(rate.max(1));
                now.after_micros(((-level + rate - 1) / rate) as u64)
            }
            _ => now,
        }
    }

    /// Whether somebody may take now.
    pub fn is_ready(&self, now: Tick) -> bool {
        self.per_second.is_none() || self.level(now) >= 0
    }

    /// Somebody takes.
    pub fn take(&mut self, now: Tick, bytes: u64) {
        if self.per_second.is_some() {
            self.level = self.level(now) - i128::from(bytes) * SECOND_MICROS;
            self.at = now;
        }
    }
}

/// What a source may send, to all its replicas together.
#[derive(Debug, Default)]
pub(crate) struct ShipLimit {
    /// Log.
    pub log: Bucket,
    /// Contents.
    pub sync: Bucket,
    /// Which replica is first this time: under a limit the first one would else get everything.
    pub turn: usize,
    /// When somebody may go on who was held back.
    pub due: Option<Tick>,
}

impl ShipLimit {
    /// Somebody has to wait for a bucket.
    pub fn wait(&mut self, until: Tick) {
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
    }
}

/// The largest piece to send at once, so that a slow rate does not come in bursts: a tenth of a second's worth.
pub(crate) fn piece_bytes(per_second: Option<u64>, most: u64) -> u64 {
    per_second.map_or(most, |rate| (rate / 10).clamp(4096, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes pieces as fast as the bucket lets it, for so long; returns the bytes taken.
    fn taken(bucket: &mut Bucket, from: Tick, micros: u64, piece: u64) -> u64 {
        let (mut now, mut sum) = (from, 0);
        while now < from.after_micros(micros) {
            assert!(bucket.is_ready(now));
            bucket.take(now, piece);
            sum += piece;
            now = bucket.ready_at(now).max(now.after_micros(1));
        }
        sum
    }

    #[test]
    fn a_rate_holds_on_average_for_pieces_of_any_length() {
        for rate in [1000, 77_777, 10_000_000] {
            for piece in [1, 4096, 512 << 10] {
                let mut bucket = Bucket::default();
                bucket.set(Tick(5), Some(rate));
                let (micros, span) = (100_000_000, 100);
                let sum = taken(&mut bucket, Tick(5), micros, piece);
                let allowed = rate * span;
                // One per microsecond is all that this test takes of the smallest piece.
                let low = allowed.min(micros * piece) * 99 / 100;
                assert!(
                    sum <= allowed + allowed / 100 + 2 * piece && sum >= low,
                    "{rate} {piece}: {sum} of {allowed}"
                );
            }
        }
    }

    #[test]
    fn without_a_rate_nobody_waits_and_a_new_rate_begins_without_debt() {
        let mut bucket = Bucket::default();
        bucket.take(Tick(1), u64::MAX);
        assert!(bucket.is_ready(Tick(1)));
        bucket.set(Tick(1), Some(1));
        bucket.take(Tick(1), 1 << 40);
        assert!(!bucket.is_ready(Tick(2)) && bucket.ready_at(Tick(2)) > Tick(1_000_000_000));
        bucket.set(Tick(3), Some(2));
        assert!(bucket.is_ready(Tick(3)));
    }

    #[test]
    fn a_meter_tells_the_rate_and_forgets_it() {
        let mut meter = Meter::default();
        let mut now = Tick(0);
        for _ in 0..1000 {
            now = now.after_micros(10_000);
            meter.add(now, 5000);
        }
        let rate = meter.per_second(now);
        assert!((480_000..=520_000).contains(&rate), "{rate}");
        assert!(meter.per_second(now.after_micros(4_000_000)) < 10_000);
    }
}
