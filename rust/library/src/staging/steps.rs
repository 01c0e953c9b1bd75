//! Crash tests: each operation calls [`reached`] after each change that it makes on disk, and a test has the process die there.

use std::sync::atomic::{AtomicU32, Ordering};

static REACHED: AtomicU32 = AtomicU32::new(0);

/// Ends the process at the step whose number is in `LIBRARY_DIES_AT`, without cleaning anything up.
pub fn reached() {
    if let Some(at) = std::env::var("LIBRARY_DIES_AT").ok().and_then(|at| at.parse::<u32>().ok())
        && REACHED.fetch_add(1, Ordering::Relaxed) == at
    {
        std::process::abort();
    }
}
