//! Undoes what a process inherits without asking for it: open descriptors, a signal mask, ignored signals.
//!
//! ```text
//!   main: take ── marks every descriptor above stderr close-on-exec
//!     └─ run: shed ── closes them here too, except those from the service manager; unblocks all signals
//! ```
//!
//! Rule: a lock, a pipe or a socket that a script holds ends with the script. Neither the daemon nor a program that any
//! verb starts keeps it open.

#![allow(unsafe_code)]

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::{
    fs, mem,
    ops::Range,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The first descriptor after stdin, stdout and stderr, and the first that systemd hands over.
const FIRST: RawFd = 3;

/// Descriptors that are checked if the system cannot list the open ones.
const UNLISTED: Range<RawFd> = FIRST..1024;

/// What this process inherited.
#[derive(Debug)]
pub struct Inheritance {
    strays: Vec<RawFd>,
    /// SIGHUP is ignored: the process was started to outlive its terminal, as by `nohup`.
    pub ignores_hangup: bool,
}

impl Inheritance {
    /// Call it first in `main`, while there is one thread and only inherited descriptors are open.
    pub fn take() -> Inheritance {
        let handed_over = handed_over();
        let mut strays = Vec::new();
        for number in open_descriptors() {
            // SAFETY: nothing closes the descriptor during the call, since there is no other thread. If it is the
            // number of a directory listing that is closed by now, the call returns an error.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            // Descriptors that this process opened are close-on-exec, and an inherited one cannot have that flag.
            let Ok(flags) = fcntl_getfd(descriptor) else { continue };
            if !flags.contains(FdFlags::CLOEXEC) && fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC).is_ok() {
                strays.extend(Some(number).filter(|number| !handed_over.contains(number)));
            }
        }
        Inheritance { strays, ignores_hangup: is_ignored(libc::SIGHUP) }
    }

    /// Closes the descriptors that a daemon does not need, and unblocks every signal. Call it before a second thread
    /// exists.
    pub fn shed(self) {
        for number in self.strays {
            // SAFETY: it was open when this process began, and does not come from a service manager. Descriptors that
            // this process opened have other numbers, so this is its only owner.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        unblock_signals();
        // A daemon in the background of a terminal may write to it: stopping the daemon would leave its guests
        // unattended.
        for signal in [libc::SIGTTIN, libc::SIGTTOU] {
            // SAFETY: both are signals that can be ignored, and no handler is involved.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

/// The descriptors that systemd hands over, by its protocol.
fn handed_over() -> Range<RawFd> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| ours).and_then(|count| RawFd::try_from(count).ok());
    FIRST..FIRST.saturating_add(count.unwrap_or(0))
}

fn open_descriptors() -> Vec<RawFd> {
    let listed = ["/proc/self/fd", "/dev/fd"].iter().find_map(|dir| fs::read_dir(dir).ok());
    let Some(listed) = listed else { return UNLISTED.collect() };
    let numbers = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| *number >= FIRST).collect()
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all fields are numbers, nullable pointers and bit sets.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to a valid place.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &mut action) } == 0;
    known && action.sa_sigaction == libc::SIG_IGN
}

fn unblock_signals() {
    // SAFETY: a signal set is plain data, and the next call empties it.
    let mut none: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is a local variable, valid for both calls.
    unsafe {
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}
