//! What does a guest's driver find out before its first request? Features, and the configuration space of virtio-blk.
//!
//! ```text
//!  0 capacity u64, sectors            8 size_max u32                  12 seg_max u32
//! 16 geometry (none)                 20 blk_size u32                  24 physical_block_exp u8 | alignment_offset u8
//! 26 min_io_size u16, blocks         28 opt_io_size u32, blocks       32 writeback u8 | unused u8
//! 34 num_queues u16                  36 max_discard_sectors u32       40 max_discard_seg u32
//! 44 discard_sector_alignment u32    48 max_write_zeroes_sectors u32  52 max_write_zeroes_seg u32
//! 56 write_zeroes_may_unmap u8, then zeroes
//! ```
//!
//! Little-endian; source: virtio 1.2, section 5.2.4. CONFIG_WCE is not offered: a guest that switched the write cache off
//! would have it on again, unasked, after a restart of marsd, since no front end tells us its choice a second time.
//! A guest that does not take FLUSH has every write durable before it is answered.

use model::VolumeSize;
use model::units::SECTOR_BYTES;

/// Queues that a front end may use; a thread each.
pub const QUEUES_MAX: u16 = 128;

/// Longest buffer of a request.
const SIZE_MAX: u32 = 256 << 10;

/// Buffers of a request: what fits into a queue of 128 entries, which is QEMU's, beside header and status.
const SEG_MAX: u32 = 126;

/// Longest read or write.
pub const REQUEST_BYTES_MAX: u64 = SIZE_MAX as u64 * SEG_MAX as u64;

/// Longest discard or write-zeroes, which are one record in the log however long.
const CLEAR_SECTORS_MAX: u32 = 4 << 20;

/// What is good to work with: the engine's own unit is a sector, disks' and guests' is this.
const PHYSICAL_BLOCK_BYTES: u64 = 4096;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
/// Of vhost: mark what is written in the dirty log.
const F_LOG_ALL: u64 = 1 << 26;
const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
/// Of vhost-user: there are protocol features.
const F_PROTOCOL: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;

/// Features that a front end chose, or may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// What is offered.
    pub fn offered(read_only: bool) -> Features {
        let always = F_SIZE_MAX
            | F_SEG_MAX
            | F_BLK_SIZE
            | F_FLUSH
            | F_TOPOLOGY
            | F_MQ
            | F_LOG_ALL
            | F_INDIRECT_DESC
            | F_EVENT_IDX
            | F_PROTOCOL
            | F_VERSION_1;
        Features(
            always
                | if read_only {
                    F_RO
                } else {
                    F_DISCARD | F_WRITE_ZEROES
                },
        )
    }

    fn has(self, feature: u64) -> bool {
        self.0 & feature != 0
    }

    /// Notifications are asked for by position.
    pub fn event_idx(self) -> bool {
        self.has(F_EVENT_IDX)
    }

    /// Somebody migrates the guest and must know what we write.
    pub fn log_all(self) -> bool {
        self.has(F_LOG_ALL)
    }

    /// Queues work only once they are enabled.
    pub fn protocol(self) -> bool {
        self.has(F_PROTOCOL)
    }

    /// The guest flushes when something is to be durable.
    pub fn flush(self) -> bool {
        self.has(F_FLUSH)
    }

    /// Whether all of them are offered.
    pub fn within(self, offered: Features) -> bool {
        self.0 & !offered.0 == 0
    }
}

/// Bytes `offset..offset + len` of the configuration space.
pub fn configuration(size: VolumeSize, offset: u32, len: u32) -> Vec<u8> {
    let mut space = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    let blocks = PHYSICAL_BLOCK_BYTES / SECTOR_BYTES;
    put(0, &(size.bytes() / SECTOR_BYTES).to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(SECTOR_BYTES as u32).to_le_bytes());
    put(24, &[blocks.trailing_zeros() as u8]);
    put(26, &(blocks as u16).to_le_bytes());
    put(32, &[1]);
    put(34, &QUEUES_MAX.to_le_bytes());
    for at in [36, 48] {
        put(at, &CLEAR_SECTORS_MAX.to_le_bytes());
        put(at + 4, &1u32.to_le_bytes());
    }
    put(44, &(blocks as u32).to_le_bytes());
    put(56, &[1]);
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let asked = space.iter().copied().skip(from).chain(std::iter::repeat(0));
    asked.take(len as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_as_long_as_asked_for() {
        let size = VolumeSize::new(1 << 30).unwrap();
        let whole = configuration(size, 0, 60);
        assert_eq!(whole[..8], (1u64 << 21).to_le_bytes());
        assert_eq!(whole[24], 3);
        assert_eq!(configuration(size, 0, 100)[..60], whole);
        assert_eq!(configuration(size, 34, 2), QUEUES_MAX.to_le_bytes());
        assert_eq!(configuration(size, 59, 3), [0; 3]);
        assert_eq!(configuration(size, u32::MAX, 1), [0]);
    }

    #[test]
    fn a_door_for_reading_offers_no_clearing() {
        let (both, one) = (Features::offered(false), Features::offered(true));
        assert!(both.has(F_DISCARD) && !both.has(F_RO));
        assert!(one.has(F_RO) && !one.has(F_DISCARD | F_WRITE_ZEROES));
        assert!(!Features(1 << 34).within(both) && both.within(both));
    }
}
