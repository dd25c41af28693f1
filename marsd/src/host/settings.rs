//! How do an operator's decisions read on the control socket, and how in the engine?

use api::control::{ModeSpec, VolumeLimits, VolumeSettings};
use mars::{Limits, MaxLag, Settings};
use model::Mode;

/// As the engine takes it; whether it fits the volume is for the engine to say.
pub(super) fn asked(settings: &VolumeSettings) -> (Mode, MaxLag) {
    let mode = match settings.mode {
        ModeSpec::Async => Mode::Async,
        ModeSpec::NearSync {
            replicas,
            wait_millis_max,
        } => Mode::NearSync {
            replicas,
            wait_millis_max,
        },
        ModeSpec::Sync { replicas } => Mode::Sync { replicas },
    };
    let max_lag = MaxLag {
        millis: settings.lag_millis_max,
        bytes: settings.lag_bytes_max,
        throttle: settings.throttle,
    };
    (mode, max_lag)
}

/// As people read it.
pub(super) fn shown(settings: &Settings) -> VolumeSettings {
    VolumeSettings {
        mode: match settings.mode {
            Mode::Async => ModeSpec::Async,
            Mode::NearSync {
                replicas,
                wait_millis_max,
            } => ModeSpec::NearSync {
                replicas,
                wait_millis_max,
            },
            Mode::Sync { replicas } => ModeSpec::Sync { replicas },
        },
        lag_millis_max: settings.max_lag.millis,
        lag_bytes_max: settings.max_lag.bytes,
        throttle: settings.max_lag.throttle,
    }
}

/// As the engine takes them.
pub(super) fn limits_asked(limits: &VolumeLimits) -> Limits {
    Limits {
        ship_bytes_per_second: limits.ship_bytes_per_second,
        sync_bytes_per_second: limits.sync_bytes_per_second,
    }
}

/// As people read them.
pub(super) fn limits_shown(limits: &Limits) -> VolumeLimits {
    VolumeLimits {
        ship_bytes_per_second: limits.ship_bytes_per_second,
        sync_bytes_per_second: limits.sync_bytes_per_second,
    }
}
