//! How long is a volume, as far as this host knows? One figure that doors, replica and operator share.

use std::sync::Arc;

use model::VolumeSize;
use tokio::sync::watch;

/// A volume's length; clones are the same figure. It only grows: a replica that has just started has not read yet, from its log,
/// how long its volume is, and no guest may be shown a shorter one meanwhile.
#[derive(Clone, Debug)]
pub struct Length(Arc<watch::Sender<VolumeSize>>);

impl Length {
    /// A volume that is so long.
    pub fn new(size: VolumeSize) -> Length {
        Length(Arc::new(watch::Sender::new(size)))
    }

    /// What it is now.
    pub fn now(&self) -> VolumeSize {
        *self.0.borrow()
    }

    /// It, and every change of it.
    pub fn watch(&self) -> watch::Receiver<VolumeSize> {
        self.0.subscribe()
    }

    /// It is at least so long.
    pub fn raise(&self, size: VolumeSize) {
        self.0.send_if_modified(|now| {
            let grows = size > *now;
            *now = size.max(*now);
            grows
        });
    }
}
