//! What time is it, in the form that people and JSON get to see?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, as RFC 3339 in UTC.
pub fn now() -> String {
    format(SystemTime::now())
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs())
}

/// A moment given in seconds since 1970, as RFC 3339 in UTC.
pub fn from_unix_seconds(seconds: u64) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .map_or_else(|| "never".to_owned(), format)
}

fn format(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
