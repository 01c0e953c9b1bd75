//! The hooks of `tests/virtualization-standin`, with which a test controls simulated machines. A process has one
//! stand-in, so tests take turns.

// Tests, though clippy does not see it behind `cfg(all(test, …))`.
#![allow(clippy::unwrap_used)]

use std::{
    os::fd::{FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

unsafe extern "C" {
    safe fn standin_imagine();
    safe fn standin_entitled(entitled: bool);
    safe fn standin_rosetta(availability: isize);
    safe fn standin_nested(supported: bool);
    safe fn standin_fail_next_start(code: isize);
    safe fn standin_mute(mute: bool);
    safe fn standin_guest(guest: extern "C" fn(u32, i32) -> bool);
    safe fn standin_guest_dials(port: u32) -> i32;
    safe fn standin_guest_ends(code: isize);
    safe fn standin_network_lost();
    safe fn standin_machines() -> isize;
    safe fn standin_connections() -> isize;
}

static TURN: Mutex<()> = Mutex::new(());
static DIALLED: Mutex<Vec<(u32, OwnedFd)>> = Mutex::new(Vec::new());

/// The only port on which a simulated guest listens.
pub const OPEN_PORT: u32 = 22;

/// Exclusive use of the stand-in, in its initial state.
pub struct StandIn {
    _turn: MutexGuard<'static, ()>,
}

impl StandIn {
    pub fn take() -> StandIn {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        standin_imagine();
        standin_guest(take_call);
        let stand_in = StandIn { _turn: turn };
        stand_in.reset();
        stand_in.must_be_empty();
        stand_in
    }

    fn reset(&self) {
        standin_entitled(true);
        standin_rosetta(0);
        standin_nested(false);
        standin_fail_next_start(0);
        standin_mute(false);
        DIALLED.lock().unwrap().clear();
    }

    pub fn without_the_right(&self) {
        standin_entitled(false);
    }
    /// Apple's numbers: 0 not supported, 1 not installed, 2 installed.
    pub fn rosetta(&self, availability: isize) {
        standin_rosetta(availability);
    }
    /// The processor lets guests run virtual machines.
    pub fn nested(&self) {
        standin_nested(true);
    }
    pub fn fail_next_start(&self, code: isize) {
        standin_fail_next_start(code);
    }
    /// From now on requests are not answered.
    pub fn mute(&self) {
        standin_mute(true);
    }
    /// The latest machine's guest connects to the host.
    pub fn guest_dials(&self, port: u32) -> Option<UnixStream> {
        let descriptor = standin_guest_dials(port);
        // SAFETY: the stand-in gives up its ownership of the guest's end of a new connection; -1 is none.
        (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) }.into())
    }
    /// The guest's end of the latest connection from the host.
    pub fn dialled(&self) -> Option<UnixStream> {
        DIALLED.lock().unwrap().pop().map(|(_, descriptor)| descriptor.into())
    }
    /// Ends the latest machine's guest: 0 powers it off, another code is an error.
    pub fn guest_ends(&self, code: isize) {
        standin_guest_ends(code);
    }
    pub fn network_lost(&self) {
        standin_network_lost();
    }
    pub fn machines(&self) -> isize {
        machines()
    }
    pub fn connections(&self) -> isize {
        standin_connections()
    }

    /// Waits until no object of the framework is alive. Objects are released on another thread.
    pub fn must_be_empty(&self) {
        let give_up = Instant::now() + Duration::from_secs(5);
        while (standin_machines(), standin_connections()) != (0, 0) {
            assert!(
                Instant::now() < give_up,
                "left over: {} machines, {} connections",
                standin_machines(),
                standin_connections()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The machines that exist.
pub fn machines() -> isize {
    standin_machines()
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.reset();
        if !std::thread::panicking() {
            self.must_be_empty();
        }
    }
}

extern "C" fn take_call(port: u32, descriptor: i32) -> bool {
    // SAFETY: the stand-in gives up its ownership of this end.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    if port == OPEN_PORT {
        DIALLED.lock().unwrap_or_else(PoisonError::into_inner).push((port, descriptor));
    }
    port == OPEN_PORT
}
