//! The async runtime of a verb.

use dvn_types::{Kind, Report};
use std::time::Duration;
use tokio::runtime::Builder;

/// Time limit for blocking file operations when the runtime ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Worker threads, which copy bytes for connections. Disk operations run elsewhere ([`dvn_host::blocking`]), so a few
/// are enough.
const THREADS: usize = 2;

/// For commands: one thread, which starts fastest.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Report> {
    run(Builder::new_current_thread(), future)
}

/// For the daemon, and for `exec`, whose output may block: several threads. Nothing wakes them while they are idle.
pub fn block_on_threads<F: Future>(future: F) -> Result<F::Output, Report> {
    let mut threads = Builder::new_multi_thread();
    threads.worker_threads(THREADS).thread_name("worker");
    run(threads, future)
}

fn run<F: Future>(mut runtime: Builder, future: F) -> Result<F::Output, Report> {
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Report::new(Kind::Host, format!("cannot create the async runtime: {error}")))?;
    let output = runtime.block_on(future);
    // A file operation on a volume that hangs must not keep the process from ending.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(output)
}
