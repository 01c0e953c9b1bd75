//! Code shared by the targets.
//!
//! A target receives bytes as an attacker would send them, processes them as the program does, and compares the result
//! with the promises of that reader, so it finds more than panics. Its first lines say what its bytes are and what it
//! promises. If a module of the program stands alone, the target includes its file with `#[path]`: nothing in the
//! program is public for the sake of fuzzing.

use dvn_types::Report;
use std::{sync::OnceLock, time::Duration};
use tokio::{runtime::Builder, time::timeout};

/// Separates the parts of an input: no UTF-8 text contains it.
pub const BETWEEN: u8 = 0xff;

/// A secret that no input contains by accident.
pub const SECRET: &str = "hush-2f1d9c6b04e8";

/// The part with that number, or nothing.
pub fn part(data: &[u8], number: usize) -> &[u8] {
    data.split(|byte| *byte == BETWEEN).nth(number).unwrap_or_default()
}

/// Runs code that waits only for clocks and in-memory pipes. The clock jumps ahead whenever all tasks wait, so a
/// timeout costs nothing, and an endless wait is found.
pub fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(ends(future))
}

/// Runs code that also uses sockets.
pub fn in_real_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async { timeout(Duration::from_secs(20), future).await.expect("it ends") })
}

async fn ends<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(24 * 3600), future).await.expect("it ends")
}

/// The promises of every error: it says what happened, and contains no secret.
pub fn assert_informative(report: &Report) {
    assert!(!report.message.trim().is_empty(), "an error without a message: {report:?}");
    assert!(!format!("{report:?}").contains(SECRET), "an error contains the secret: {report:?}");
}

/// A directory shared by all inputs of this process. It is below `TMPDIR`, which tests/tools/fuzz.sh empties.
pub fn scratch() -> &'static std::path::Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a directory")).path()
}
