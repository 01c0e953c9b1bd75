//! What a process has from the one that started it and did not ask for: open descriptors, a signal mask, ignored signals.
//!
//! ```text
//!   main: take ── every descriptor above stderr is closed in children
//!     └─ run: shed ── … and here, but for what the service manager handed over; no signal is blocked
//! ```
//!
//! The rule that holds here: a lock, a pipe or a socket that a script holds ends with the script. Neither the daemon nor a
//! program that it or any other verb starts keeps it.

#![allow(unsafe_code)]

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::{
    fs, mem,
    ops::Range,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The first descriptor that is neither stdin nor stdout nor stderr, and the first that systemd hands over.
const FIRST: RawFd = 3;

/// Descriptors that are looked at where the system does not list those that are open.
const UNLISTED: Range<RawFd> = FIRST..1024;

/// What this process has from the one that started it.
#[derive(Debug)]
pub struct Inheritance {
    strays: Vec<RawFd>,
    /// The process was started so that it outlives its terminal, as `nohup` does.
    pub ignores_hangup: bool,
}

impl Inheritance {
    /// Call it first of all, while there is one thread and nothing is open but what was inherited.
    pub fn take() -> Inheritance {
        let handed_over = handed_over();
        let mut strays = Vec::new();
        for number in open_descriptors() {
            // SAFETY: nothing closes the descriptor during the call, for there is no other thread. If the number is that of a
            // directory's listing, which is closed by now, the call answers with an error.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            // What this process opened itself is closed in children anyway, and what is that cannot have been inherited.
            let Ok(flags) = fcntl_getfd(descriptor) else { continue };
            if !flags.contains(FdFlags::CLOEXEC) && fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC).is_ok() {
                strays.extend(Some(number).filter(|number| !handed_over.contains(number)));
            }
        }
        Inheritance { strays, ignores_hangup: is_ignored(libc::SIGHUP) }
    }

    /// Closes the descriptors that are of no use to a daemon, and unblocks every signal. Call it before there is a second thread.
    pub fn shed(self) {
        for number in self.strays {
            // SAFETY: it was open when this process began, and is not handed over by a service manager. Whatever this process
            // opened has another number, so that this is its only owner.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        unblock_signals();
        // A daemon in the background of a terminal may write to it: a stop would leave its guests without one who sees to them.
        for signal in [libc::SIGTTIN, libc::SIGTTOU] {
            // SAFETY: both are signals that can be ignored, and no handler is involved.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

/// What systemd hands over to this process, by its protocol.
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
    // SAFETY: all its fields are numbers, pointers that may be null and sets of bits.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to where it may.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &mut action) } == 0;
    known && action.sa_sigaction == libc::SIG_IGN
}

fn unblock_signals() {
    // SAFETY: a set of signals is plain data, which the next call makes empty.
    let mut none: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is ours; it is valid for both calls.
    unsafe {
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}
