//! Blocks signals in a guest's processes that are meant for the daemon.
//!
//! When a service is stopped, a session ends or the computer shuts down, SIGTERM is sent to every process, not only to
//! the daemon. QEMU would end at once, and the guest's disk would be unclean before the daemon could press the power
//! button. A blocked signal stays blocked through `exec`. The daemon ends its processes by SIGKILL, which cannot be
//! blocked.

#![allow(unsafe_code)]

use std::{marker::PhantomData, mem, ptr};

/// The signals that end a program by default.
const ENDS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// While it lives, [`ENDS`] are blocked in this thread, and in processes that it starts.
pub struct Shield {
    before: libc::sigset_t,
    /// Not `Send`: the mask belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Shield {
    /// Blocks the signals. Those that arrive meanwhile are delivered when the shield is dropped.
    pub fn raise() -> Shield {
        // SAFETY: sets of signals are plain data; the call below makes the one empty and fills the other.
        let (mut ends, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (mem::zeroed(), mem::zeroed()) };
        // SAFETY: both sets are ours and valid for the calls.
        unsafe {
            libc::sigemptyset(&mut ends);
            for signal in ENDS {
                libc::sigaddset(&mut ends, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &ends, &mut before);
        }
        Shield { before, _thread: PhantomData }
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        // SAFETY: the set is the one that this thread had before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
