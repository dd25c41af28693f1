//! How long is a volume, as far as this host knows? One figure that doors, replica and operator share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::VolumeSize;

/// A volume's length; clones are the same figure. It only grows: a replica that has just started has not read yet, from its log,
/// how long its volume is, and no guest may be shown a shorter one meanwhile.
#[derive(Clone, Debug)]
pub struct Length(Arc<AtomicU64>);

impl Length {
    /// A volume that is so long.
    pub fn new(size: VolumeSize) -> Length {
        Length(Arc::new(AtomicU64::new(size.bytes())))
    }

    /// What it is now.
    pub fn now(&self) -> VolumeSize {
        let bytes = self.0.load(Ordering::Acquire);
        VolumeSize::new(bytes).expect("it was made of sizes only")
    }

    /// It is at least so long.
    pub fn raise(&self, size: VolumeSize) {
        self.0.fetch_max(size.bytes(), Ordering::AcqRel);
    }
}
