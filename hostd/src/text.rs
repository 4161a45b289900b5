//! Errors and times as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

pub use mote_monitor::error_chain as chain;

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
