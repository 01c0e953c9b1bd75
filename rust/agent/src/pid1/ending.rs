//! Whether the guest is on its way down: then services are not started again.

use std::sync::atomic::{AtomicBool, Ordering};

static BEGUN: AtomicBool = AtomicBool::new(false);

/// From now on it is; false if it was already.
pub fn begin() -> bool {
    !BEGUN.swap(true, Ordering::AcqRel)
}

/// Whether it is.
pub fn begun() -> bool {
    BEGUN.load(Ordering::Acquire)
}
