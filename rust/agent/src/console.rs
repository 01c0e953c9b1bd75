//! The agent's messages: one line each on the console, which the host shows when a boot fails.

use dvn_protocol::messages::BootPhase;
use rustix::time::{ClockId, clock_gettime};
use std::{
    fmt::Display,
    io::Write,
    sync::{Mutex, PoisonError},
};

/// Writes a line to the console. Never fails: there is no other place to report an error.
pub fn say(what: impl Display) {
    // A single write, so that lines of several threads do not mix.
    let line = format!("darwin-vz-agent: {what}\n");
    if cfg!(test) {
        return print!("{line}"); // which the test runner can capture
    }
    let _ = std::io::stdout().write_all(line.as_bytes());
    let _ = std::io::stdout().flush();
}

/// Milliseconds since the kernel started.
pub fn since_kernel() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// The boot phases passed so far.
#[derive(Default)]
pub struct Phases(Mutex<Vec<BootPhase>>);

impl Phases {
    /// The phases of a boot that another process of the agent began.
    pub fn after(passed: Vec<BootPhase>) -> Phases {
        Phases(Mutex::new(passed))
    }

    /// Records that the boot has reached this phase now.
    pub fn mark(&self, name: &str) {
        self.mark_at(name, since_kernel());
    }

    /// Records that the boot reached this phase at that time.
    pub fn mark_at(&self, name: &str, at_ms: u64) {
        say(format_args!("{name} {at_ms}"));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(BootPhase { name: name.to_owned(), at_ms });
    }

    /// All phases so far, in order.
    pub fn so_far(&self) -> Vec<BootPhase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
