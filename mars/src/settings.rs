//! What has an operator decided about a volume that its primary must know, whoever that is?
//!
//! Settings are decided at the primary, durable in its meta before they are announced, and travel with every stream and
//! with the grant of the role; so whoever becomes primary by a hand-over already lives by them. A replica takes what its
//! source says: the source speaks for the primary.

use model::Mode;

use crate::codec::{DecodeError, Reader, Writer, malformed};

/// How far the replicas may be behind before somebody is told.
///
/// The lag that counts is that of the replica that is needed last: the best one, or the r-th best where the mode waits for
/// r replicas. So one dead member of three hurts nobody, and the figure says what losing the primary would cost now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxLag {
    /// Age of the oldest write that is missing there, in milliseconds.
    pub millis: Option<u64>,
    /// Log that is missing there.
    pub bytes: Option<u64>,
    /// Whether guests' writes are slowed down to what the replica takes, as long as it is connected and too far behind.
    pub throttle: bool,
}

impl MaxLag {
    /// Whether there is a limit at all.
    pub fn is_set(&self) -> bool {
        self.millis.is_some() || self.bytes.is_some()
    }
}

/// How much of the network a volume may take.
///
/// The source heeds them, and they move with the role. One figure is for all replicas together: they take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Log sent to replicas, in bytes per second; without it, as fast as they take it.
    pub ship_bytes_per_second: Option<u64>,
    /// Contents sent in full syncs and repairs.
    pub sync_bytes_per_second: Option<u64>,
}

/// Slower than this nothing arrives in a lifetime.
pub const LIMIT_BYTES_MIN: u64 = 4096;

/// Everything that an operator has decided for the whole volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// When a flush is answered.
    pub mode: Mode,
    /// When a lag is alarming.
    pub max_lag: MaxLag,
    /// How much of the network the volume may take.
    pub limits: Limits,
    /// Whether batches are compressed where that makes them shorter.
    pub compressed: bool,
}

impl Settings {
    /// Shape: mode u8 (1 async, 2 near-sync, 3 sync), replicas u8, wait u32 in ms; lag limits as options of u64 (ms, bytes);
    /// throttle u8; limits of shipping and sync as options of u64; compressed u8.
    pub(crate) fn write(&self, w: &mut Writer) {
        let (kind, replicas, wait_millis_max) = match self.mode {
            Mode::Async => (1, 0, 0),
            Mode::NearSync {
                replicas,
                wait_millis_max,
            } => (2, replicas, wait_millis_max),
            Mode::Sync { replicas } => (3, replicas, 0),
        };
        w.u8(kind).u8(replicas).u32(wait_millis_max);
        for limit in [self.max_lag.millis, self.max_lag.bytes] {
            w.option(limit, |w, limit| {
                w.u64(limit);
            });
        }
        w.bool(self.max_lag.throttle);
        for limit in [
            self.limits.ship_bytes_per_second,
            self.limits.sync_bytes_per_second,
        ] {
            w.option(limit, |w, limit| {
                w.u64(limit);
            });
        }
        w.bool(self.compressed);
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Settings, DecodeError> {
        let (kind, replicas) = (r.u8("mode")?, r.u8("replicas")?);
        let wait_millis_max = r.u32("wait")?;
        let mode = match kind {
            1 => Mode::Async,
            2 => Mode::NearSync {
                replicas,
                wait_millis_max,
            },
            3 => Mode::Sync { replicas },
            other => return Err(malformed(format!("mode {other} is unknown"))),
        };
        Ok(Settings {
            mode,
            max_lag: MaxLag {
                millis: r.option("lag", |r| r.u64("lag in ms"))?,
                bytes: r.option("lag", |r| r.u64("lag in bytes"))?,
                throttle: r.bool("throttle")?,
            },
            limits: Limits {
                ship_bytes_per_second: r.option("ship limit", |r| r.u64("ship limit"))?,
                sync_bytes_per_second: r.option("sync limit", |r| r.u64("sync limit"))?,
            },
            compressed: r.bool("compressed")?,
        })
    }
}
