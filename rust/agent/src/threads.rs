//! Threads for connections and background work.

use crate::console::say;
use std::thread;

/// Starts a thread with a small stack, as there is one for each connection. A panic ends only that thread.
pub fn background(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(128 * 1024);
    if let Err(e) = thread.spawn(work) {
        say(format_args!("{name}: no thread: {e}"));
    }
}
