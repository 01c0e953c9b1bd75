//! Whether the guest is shutting down. Services are not restarted then.

use std::sync::atomic::{AtomicBool, Ordering};

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Marks the shutdown as begun; false if it was already.
pub fn begin() -> bool {
    !BEGUN.swap(true, Ordering::AcqRel)
}

/// Whether the shutdown has begun.
pub fn begun() -> bool {
    BEGUN.load(Ordering::Acquire)
}
