//! Keeps from a guest's processes the signals that are meant for the daemon.
//!
//! A service manager that stops a service, a session that ends and a computer that shuts down send SIGTERM to every process there is,
//! not to the daemon alone. QEMU would end at once, and the guest's disk would be unclean before the daemon could press the power
//! button. A signal that is blocked stays so through `exec`; what ends a process of ours is SIGKILL, which nothing blocks.

#![allow(unsafe_code)]

use std::{marker::PhantomData, mem, ptr};

/// What asks a program to end.
const ENDS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// While it lives, what this thread starts hears none of [`ENDS`].
pub struct Shield {
    before: libc::sigset_t,
    /// The mask is the thread's.
    _thread: PhantomData<*const ()>,
}

impl Shield {
    /// From now on. What comes meanwhile is heard afterwards.
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
