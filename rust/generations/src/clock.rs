//! Points in time as they are kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in milliseconds of Unix time.
pub(crate) fn unix_ms() -> u64 {
    unix_ms_after(Duration::ZERO)
}

/// That long from now, in milliseconds of Unix time.
pub(crate) fn unix_ms_after(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from((now + time).as_millis()).unwrap_or(u64::MAX)
}
