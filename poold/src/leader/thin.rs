//! What may a volume group promise, and when is so little of it left that somebody must be told?
//!
//! Disks are sparse: one takes what was written to it. A group may promise several times its size, if whoever added it said so. What was
//! promised is not there when it is wanted all at once: a replica whose group is full goes out of service until there is room.

use api::ApiError;
use model::Bytes;

use crate::catalog::records::VgRecord;

/// A group promises what it has, unless it was said otherwise.
pub const NO_OVERCOMMIT_PERCENT: u32 = 100;

/// More than a thousand times is a slip of the finger.
const OVERCOMMIT_PERCENT_MAX: u32 = 100_000;

/// With less than this part of its size left, a group that promises more than it has says so, and takes no new replica.
const LEFT_PERCENT_MIN: u64 = 10;

/// What a group may promise at all.
pub fn promise_bytes(vg: &VgRecord) -> u64 {
    let bytes = u128::from(vg.size_bytes) * u128::from(vg.overcommit_percent) / 100;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The wished part in percent. Errors: `usage` when it is less than all, or absurd.
pub fn checked_percent(wished: Option<u32>) -> Result<u32, ApiError> {
    let percent = wished.unwrap_or(NO_OVERCOMMIT_PERCENT);
    if (NO_OVERCOMMIT_PERCENT..=OVERCOMMIT_PERCENT_MAX).contains(&percent) {
        return Ok(percent);
    }
    let message = format!("a group cannot promise {percent} % of its size");
    let hint = "give `--overcommit` from 1 to 1000 times; `--size` says how much of a directory is used";
    Err(ApiError::usage(message).hint(hint))
}

/// What an operator should know who adds such a group.
pub fn warning(vg: &VgRecord) -> Option<String> {
    let promised = Bytes(promise_bytes(vg));
    (vg.overcommit_percent > NO_OVERCOMMIT_PERCENT).then(|| {
        format!(
            "disks of up to {promised} together are promised there: when {} are really taken, its replicas go out of service, \
             so watch `poolctl status`, which warns before",
            Bytes(vg.size_bytes)
        )
    })
}

/// Why a group that promises more than it has needs somebody's hand; `left_bytes` is what its disks can still take.
pub fn shortage(vg: &VgRecord, reserved_bytes: u64, used_bytes: u64, left_bytes: u64) -> Option<String> {
    let promised_bytes = reserved_bytes.saturating_sub(used_bytes);
    let is_thin = vg.overcommit_percent > NO_OVERCOMMIT_PERCENT && promised_bytes > left_bytes;
    let is_short = left_bytes < vg.size_bytes / 100 * LEFT_PERCENT_MIN;
    (is_thin && is_short).then(|| {
        format!(
            "{} left, and its disks may still take {}: make room, or migrate replicas away: \
             `poolctl migrate VOLUME --from {} --to NODE`",
            Bytes(left_bytes),
            Bytes(promised_bytes),
            vg.node
        )
    })
}

#[cfg(test)]
mod tests {
    use api::pool::{LvmLayout, VgKind};

    use super::*;

    fn group(overcommit_percent: u32) -> VgRecord {
        VgRecord {
            node: "a".to_owned(),
            name: "vg0".to_owned(),
            kind: VgKind::Directory,
            path: "/srv/vg0".to_owned(),
            layout: LvmLayout::default(),
            size_bytes: 1000,
            overcommit_percent,
        }
    }

    #[test]
    fn a_group_promises_as_often_as_was_said() {
        assert_eq!(promise_bytes(&group(100)), 1000);
        assert_eq!(promise_bytes(&group(250)), 2500);
        let huge = VgRecord {
            size_bytes: u64::MAX,
            ..group(100_000)
        };
        assert_eq!(promise_bytes(&huge), u64::MAX);
        assert_eq!(checked_percent(None).unwrap(), 100);
        assert_eq!(checked_percent(Some(100_000)).unwrap(), 100_000);
        for bad in [0, 99, 100_001] {
            assert!(checked_percent(Some(bad)).is_err(), "{bad}");
        }
        assert!(warning(&group(100)).is_none());
        assert!(warning(&group(101)).is_some());
    }

    #[test]
    fn a_group_that_cannot_keep_its_promises_says_so_in_time() {
        assert_eq!(shortage(&group(300), 2000, 950, 100), None);
        let said = shortage(&group(300), 2000, 950, 99).unwrap();
        assert!(said.contains("--from a"), "{said}");
        // What is reserved is there, or was never promised twice.
        assert_eq!(shortage(&group(300), 1000, 950, 50), None);
        assert_eq!(shortage(&group(100), 1000, 0, 10), None);
    }
}
