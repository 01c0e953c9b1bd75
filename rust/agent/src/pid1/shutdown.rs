//! The way down: every process ended, the data disk left clean, the power off. Taken once, from whatever thread comes first.

use super::{
    children,
    console::{say, since_kernel},
    disk, ending, nix,
};
use rustix::{
    process::Signal,
    system::{RebootCommand, reboot},
};
use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// PID 1 is another program, which ends the processes and powers off.
static OF_PID_1: AtomicBool = AtomicBool::new(false);

/// How long processes may take to end when asked. Short: nix-daemon's processes for its clients block SIGTERM.
const ASKED: Duration = Duration::from_millis(500);

/// How long they may take to end when killed.
const KILLED: Duration = Duration::from_secs(2);

/// At this signal systemd as PID 1 powers off: its SIGRTMIN+4. The first real-time signal is glibc's 34 for systemd; in this
/// program it may be another one.
const SIGNAL_TO_POWER_OFF: i32 = 34 + 4;

/// How long PID 1 may take after that signal to end this process.
const PID_1: Duration = Duration::from_secs(10);

/// Powers off cleanly. Never returns.
pub fn power_off() -> ! {
    if !ending::begin() {
        park();
    }
    say(format_args!("power-off {}", since_kernel()));
    if OF_PID_1.load(Ordering::Acquire) {
        ask_pid_1();
        say("PID 1 does not power off: powering off without it");
    }
    nix::let_go();
    if !children::end_all(Signal::TERM, ASKED) {
        children::end_all(Signal::KILL, KILLED);
    }
    disk::leave_clean();
    say(format_args!("off {}", since_kernel()));
    let why = reboot(RebootCommand::PowerOff);
    say(format_args!("power off: {why:?}"));
    park()
}

/// Has PID 1 end everything, this process included. Returns if it does not.
fn ask_pid_1() {
    match children::run(Command::new("systemctl").arg("poweroff")) {
        Ok(()) => park(),
        // It also fails where PID 1 is on its way down already: it has seen the same press of the button.
        Err(why) => say(format_args!("{why}; PID 1 gets the signal that means the same to it")),
    }
    // SAFETY: kill(2) takes two integers and touches no memory; rustix knows no real-time signals.
    let sent = unsafe { libc::kill(1, SIGNAL_TO_POWER_OFF) };
    if sent == 0 {
        thread::sleep(PID_1);
    }
}

/// Powers off as if the power had failed: nothing is written any more, and the data disk is not clean. Never returns.
pub fn pull_the_plug() -> ! {
    ending::begin();
    let why = reboot(RebootCommand::PowerOff);
    say(format_args!("power off: {why:?}"));
    park()
}

/// From now on, to power off is to ask PID 1 for it.
pub fn leave_it_to_pid_1() {
    OF_PID_1.store(true, Ordering::Release);
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

/// SIGTERM, and ctrl-alt-del (which the kernel turns into SIGINT for us), power off. Must be called before any other thread is
/// started, because threads inherit which signals are blocked. Children do not: std clears it for them.
pub fn catch_signals() {
    let _ = reboot(RebootCommand::CadOff);
    // SAFETY: `set` is a plain value that sigemptyset initialises; the calls touch nothing else.
    let set = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    crate::pid1::tasks::background("signals", move || {
        let mut signal = 0;
        // SAFETY: both pointers are to values that outlive the call.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        say(format_args!("signal {signal}"));
        power_off()
    });
}
