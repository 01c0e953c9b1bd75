//! The event loop of one verb.

use dvn_types::{Kind, Report};
use std::time::Duration;

/// How long what is still read or written may take once all else is done.
const LAST_READS: Duration = Duration::from_secs(2);

/// One thread is enough to ask and wait, and is there at once.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::new(Kind::Host, format!("no event loop can be made: {error}")))?;
    let output = runtime.block_on(future);
    // A file on a volume that hangs must not keep a process that is done: the read ends with the process.
    runtime.shutdown_timeout(LAST_READS);
    Ok(output)
}
