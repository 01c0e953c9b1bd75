//! The event loop of one verb.

use dvn_types::{Kind, Report};
use std::time::Duration;
use tokio::runtime::Builder;

/// How long what is still read or written may take once all else is done.
const LAST_READS: Duration = Duration::from_secs(2);

/// Threads that copy bytes for connections. A disk makes none of them wait ([`dvn_host::blocking`]), so that a few are enough.
const THREADS: usize = 2;

/// One thread is enough to ask and wait, and is there at once.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Report> {
    run(Builder::new_current_thread(), future)
}

/// For the daemon. At rest nothing wakes its threads.
pub fn block_on_threads<F: Future>(future: F) -> Result<F::Output, Report> {
    let mut threads = Builder::new_multi_thread();
    threads.worker_threads(THREADS).thread_name("worker");
    run(threads, future)
}

fn run<F: Future>(mut runtime: Builder, future: F) -> Result<F::Output, Report> {
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Report::new(Kind::Host, format!("no event loop can be made: {error}")))?;
    let output = runtime.block_on(future);
    // A file on a volume that hangs must not keep a process that is done: the read ends with the process.
    runtime.shutdown_timeout(LAST_READS);
    Ok(output)
}
