//! How long, how far, how often? Units as types with only the operators that make sense.

use std::fmt;

/// Bytes in one sector; every guest request is aligned to it.
pub const SECTOR_BYTES: u64 = 512;

/// A volume's size is a multiple of this, so that every door can announce 4096-byte blocks.
pub const VOLUME_ALIGN_BYTES: u64 = 4096;

/// A quantity of data in bytes; displays with binary units (`1.5 GiB`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in UNITS {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        if (value - value.round()).abs() < 0.05 {
            write!(f, "{value:.0} {unit}")
        } else {
            write!(f, "{value:.1} {unit}")
        }
    }
}

/// A position on a volume, in 512-byte sectors from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorOffset(pub u64);

/// A length on a volume, in 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorCount(pub u64);

impl SectorOffset {
    /// The position as bytes from the start of the volume.
    pub fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

impl SectorCount {
    /// The length in bytes.
    pub fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

/// A half-open stretch of a volume: `start .. start + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SectorRange {
    /// First sector.
    pub start: SectorOffset,
    /// Number of sectors.
    pub count: SectorCount,
}

impl SectorRange {
    /// The range of `count` sectors that begins at sector `start`; `None` when its end would overflow.
    pub fn new(start: u64, count: u64) -> Option<SectorRange> {
        let range = SectorRange {
            start: SectorOffset(start),
            count: SectorCount(count),
        };
        start.checked_add(count)?.checked_mul(SECTOR_BYTES)?;
        Some(range)
    }

    /// The range covering `length` bytes from byte `offset`; `None` when either is no multiple of 512 or the end overflows.
    pub fn from_bytes(offset: u64, length: u64) -> Option<SectorRange> {
        if !offset.is_multiple_of(SECTOR_BYTES) || !length.is_multiple_of(SECTOR_BYTES) {
            return None;
        }
        SectorRange::new(offset / SECTOR_BYTES, length / SECTOR_BYTES)
    }

    /// First sector behind the range.
    pub fn end(self) -> SectorOffset {
        SectorOffset(self.start.0 + self.count.0)
    }

    /// Length in bytes.
    pub fn len_bytes(self) -> u64 {
        self.count.bytes()
    }

    /// Whether the range holds no sector.
    pub fn is_empty(self) -> bool {
        self.count.0 == 0
    }

    /// Whether the two ranges share a sector.
    pub fn overlaps(self, other: SectorRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The sectors that both ranges hold.
    pub fn intersection(self, other: SectorRange) -> Option<SectorRange> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| SectorRange {
            start,
            count: SectorCount(end.0 - start.0),
        })
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}..{}", self.start.0, self.end().0)
    }
}

/// A position in a volume's log, in bytes since the log began; never reused within one history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on.
    pub fn advance(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }

    /// Bytes of log from `earlier` to here; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who may write: every primary term has its own number, and every start of the primary within a term too.
///
/// `term` grows when the primary role is granted to a node (hand-over, takeover); a term belongs to one node alone.
/// `start` grows when the owner of the term restarts, so the bytes it lost at a power cut are told apart from
/// those it writes afterwards. Ordered by term, then start. `Epoch::NONE` is before any primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Number of the primary term, from 1.
    pub term: u32,
    /// Number of the owner's start within its term, from 1.
    pub start: u32,
}

/// Terms that hand-overs may count through between one takeover and the next.
const TERMS_PER_TAKEOVER: u32 = 1 << 16;

impl Epoch {
    /// Before any primary has written.
    pub const NONE: Epoch = Epoch { term: 0, start: 0 };

    /// The first epoch of the next takeover. Takeovers have terms of their own, the multiples of 65,536: whoever hands them
    /// out may not see how often the role was handed over meanwhile, and must not give out a term that is taken.
    pub fn next_takeover(self) -> Epoch {
        Epoch {
            term: (self.takeovers() + 1) * TERMS_PER_TAKEOVER,
            start: 1,
        }
    }

    /// Takeovers up to this epoch: two epochs with the same number are joined by hand-overs and restarts alone.
    pub fn takeovers(self) -> u32 {
        self.term / TERMS_PER_TAKEOVER
    }

    /// Whether this is the first epoch of a takeover.
    pub fn is_takeover(self) -> bool {
        self.term > 0 && self.term.is_multiple_of(TERMS_PER_TAKEOVER) && self.start == 1
    }

    /// The first epoch of the next term.
    pub fn next_term(self) -> Epoch {
        Epoch {
            term: self.term + 1,
            start: 1,
        }
    }

    /// The same term after a restart of its owner.
    pub fn next_start(self) -> Epoch {
        Epoch {
            term: self.term,
            start: self.start + 1,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.start)
    }
}

/// Microseconds of a monotonic clock that the caller owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The moment `micros` microseconds later.
    pub fn after_micros(self, micros: u64) -> Tick {
        Tick(self.0 + micros)
    }

    /// The moment `millis` milliseconds later.
    pub fn after_millis(self, millis: u64) -> Tick {
        self.after_micros(millis * 1000)
    }

    /// Microseconds from `earlier` to here; zero when `earlier` is not earlier.
    pub fn micros_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A volume's size in bytes: positive, a multiple of 4096, at most 1 EiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeSize(u64);

/// Largest volume: keeps every byte offset and log estimate far from overflow.
pub const VOLUME_BYTES_MAX: u64 = 1 << 60;

impl VolumeSize {
    /// Checks a size that came from outside.
    pub fn new(bytes: u64) -> Result<VolumeSize, SizeError> {
        if bytes == 0 {
            return Err(SizeError::Zero);
        }
        if bytes > VOLUME_BYTES_MAX {
            return Err(SizeError::TooLarge { bytes });
        }
        if !bytes.is_multiple_of(VOLUME_ALIGN_BYTES) {
            return Err(SizeError::Unaligned {
                bytes,
                next: bytes.next_multiple_of(VOLUME_ALIGN_BYTES),
            });
        }
        Ok(VolumeSize(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The size in sectors.
    pub fn sectors(self) -> SectorCount {
        SectorCount(self.0 / SECTOR_BYTES)
    }

    /// The whole volume as a range.
    pub fn range(self) -> SectorRange {
        SectorRange {
            start: SectorOffset(0),
            count: self.sectors(),
        }
    }

    /// What a volume of this size gets when it grows to `larger`; empty when that is no larger.
    pub fn tail_up_to(self, larger: VolumeSize) -> SectorRange {
        SectorRange {
            start: self.range().end(),
            count: SectorCount(larger.0.saturating_sub(self.0) / SECTOR_BYTES),
        }
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

/// Why a size is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a known unit.
    #[error(
        "`{text}` is not a size; write plain bytes or a number with K, M, G, T (powers of 1024), as in 10G, 512MiB, 1.5T"
    )]
    Syntax {
        /// What was given.
        text: String,
    },
    /// Nothing to store on.
    #[error("a volume cannot have 0 bytes")]
    Zero,
    /// Above [`VOLUME_BYTES_MAX`].
    #[error("{bytes} bytes is more than a volume can have (1 EiB)")]
    TooLarge {
        /// What was given.
        bytes: u64,
    },
    /// No multiple of 4096.
    #[error("{bytes} bytes is no multiple of 4096; the next size that is: {next}")]
    Unaligned {
        /// What was given.
        bytes: u64,
        /// The next multiple of 4096.
        next: u64,
    },
}

/// Reads `10G`, `512MiB`, `1.5T`, `4096`, case-insensitively; K, M, G, T, P are powers of 1024 as in LVM.
///
/// Fractions are exact to the byte or refused, so `1.5T` works and `0.3K` does not.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let syntax = || SizeError::Syntax {
        text: text.to_owned(),
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let shift: u32 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        _ => return Err(syntax()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return Err(syntax());
    }
    let whole: u128 = whole.parse().map_err(|_| syntax())?;
    let scale: u128 = 10u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| syntax())?
    };
    if whole > u128::from(u64::MAX) {
        return Err(SizeError::TooLarge { bytes: u64::MAX });
    }
    let scaled = (whole * scale + fraction) << shift;
    if !scaled.is_multiple_of(scale) {
        return Err(syntax());
    }
    u64::try_from(scaled / scale).map_err(|_| SizeError::TooLarge { bytes: u64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_lvm_reads_them() {
        let check = |text: &str, want: Option<u64>| assert_eq!(parse_size(text).ok(), want, "{text}");
        check("4096", Some(4096));
        check("10G", Some(10 << 30));
        check("512MiB", Some(512 << 20));
        check("512mib", Some(512 << 20));
        check("1.5T", Some(3 << 39));
        check("0", Some(0));
        check("0.3K", None);
        check("", None);
        check("G", None);
        check("-1", None);
        check("1.", None);
        check("1e9", None);
        check("10GB", None);
        check("99999999999999999999T", None);
        check("16777216P", None);
    }

    #[test]
    fn a_size_is_positive_and_aligned() {
        assert_eq!(VolumeSize::new(0), Err(SizeError::Zero));
        assert_eq!(
            VolumeSize::new(5000),
            Err(SizeError::Unaligned {
                bytes: 5000,
                next: 8192
            })
        );
        assert!(matches!(
            VolumeSize::new(1 << 61),
            Err(SizeError::TooLarge { .. })
        ));
        assert_eq!(
            VolumeSize::new(8192).map(|s| s.range().count),
            Ok(SectorCount(16))
        );
    }

    #[test]
    fn ranges_intersect_and_refuse_overflow() {
        assert_eq!(SectorRange::new(u64::MAX, 1), None);
        assert_eq!(SectorRange::from_bytes(511, 512), None);
        let (a, b) = (SectorRange::new(0, 8), SectorRange::new(7, 8));
        let (a, b) = (a.expect("small"), b.expect("small"));
        assert_eq!(a.intersection(b), SectorRange::new(7, 1));
        assert!(a.overlaps(b));
    }

    #[test]
    fn bytes_read_as_people_write_them() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Bytes(1 << 20).to_string(), "1 MiB");
    }
}
