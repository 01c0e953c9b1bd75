//! Signals that end the run.

use std::thread;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Calls this in a separate thread at each SIGINT and SIGTERM, which have no other effect any more.
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
