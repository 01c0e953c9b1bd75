//! Signals that want the run to end.

use std::thread;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Has this called at each SIGINT and SIGTERM, by a thread of its own; they do nothing else any more.
pub fn on_signal(called: impl Fn() + Send + 'static) {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let [mut interrupt, mut terminate] = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).unwrap())
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                called();
            }
        });
    });
}
