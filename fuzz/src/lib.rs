//! What the targets have in common.
//!
//! A target is given bytes as a stranger would send them, does with them what the program does, and holds what comes of it
//! against the promises of that place: so it finds not only panics. Each says in its first lines what its bytes are and what
//! it promises. Where a module of the program stands alone, the target takes its file in with `#[path]`: nothing of the
//! program is public for being fuzzed.

use dvn_types::Report;
use std::{sync::OnceLock, time::Duration};
use tokio::{runtime::Builder, time::timeout};

/// Stands between the parts of an input: no UTF-8 text has it.
pub const BETWEEN: u8 = 0xff;

/// A secret that no input holds by accident.
pub const SECRET: &str = "hush-2f1d9c6b04e8";

/// The part of that number, or nothing.
pub fn part(data: &[u8], number: usize) -> &[u8] {
    data.split(|byte| *byte == BETWEEN).nth(number).unwrap_or_default()
}

/// Runs something that only waits for clocks and pipes in memory. Its clock jumps ahead whenever all of it waits, so a
/// time-out costs nothing, and what waits for ever is found.
pub fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(ends(future))
}

/// Runs something that has sockets, too.
pub fn in_real_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async { timeout(Duration::from_secs(20), future).await.expect("it ends") })
}

async fn ends<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(24 * 3600), future).await.expect("it ends")
}

/// What every error owes its reader: what happened, in words, and no secret.
pub fn assert_told(report: &Report) {
    assert!(!report.message.trim().is_empty(), "an error without words: {report:?}");
    assert!(!format!("{report:?}").contains(SECRET), "an error tells the secret: {report:?}");
}

/// A directory for all inputs of this process. It is made below `TMPDIR`, which tests/tools/fuzz.sh empties.
pub fn scratch() -> &'static std::path::Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a directory")).path()
}
