//! The shutdown: ends all processes, leaves the data disk clean, powers off. It runs once, in the first thread that
//! starts it.

use super::{children, disk, ending, nix};
use crate::console::{say, since_kernel};
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

/// How long processes may take to end after SIGTERM. Short: nix-daemon's processes for its clients block it.
const TERM_TIMEOUT: Duration = Duration::from_millis(500);

/// How long they may take to end after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The signal at which systemd as PID 1 powers off: its SIGRTMIN+4. systemd's first real-time signal is glibc's 34;
/// this program's may differ.
const SIGNAL_TO_POWER_OFF: i32 = 34 + 4;

/// How long PID 1 may take after that signal to end this process.
const PID_1_TIMEOUT: Duration = Duration::from_secs(10);

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
    if !children::end_all(Signal::TERM, TERM_TIMEOUT) {
        children::end_all(Signal::KILL, KILL_TIMEOUT);
    }
    disk::leave_clean();
    say(format_args!("off {}", since_kernel()));
    let why = reboot(RebootCommand::PowerOff);
    say(format_args!("power off: {why:?}"));
    park()
}

/// Asks PID 1 to end all processes, this one included. Returns if it does not.
fn ask_pid_1() {
    match children::run(Command::new("systemctl").arg("poweroff")) {
        Ok(()) => park(),
        // This also fails if PID 1 is shutting down already, after the same press of the button.
        Err(why) => say(format_args!("{why}; sending PID 1 the equivalent signal")),
    }
    // SAFETY: kill(2) takes two integers and touches no memory; rustix does not support real-time signals.
    let sent = unsafe { libc::kill(1, SIGNAL_TO_POWER_OFF) };
    if sent == 0 {
        thread::sleep(PID_1_TIMEOUT);
    }
}

/// Powers off as if the power had failed: nothing more is written, and the data disk is not clean. Never returns.
pub fn pull_the_plug() -> ! {
    ending::begin();
    let why = reboot(RebootCommand::PowerOff);
    say(format_args!("power off: {why:?}"));
    park()
}

/// Makes later shutdowns ask PID 1.
pub fn leave_it_to_pid_1() {
    OF_PID_1.store(true, Ordering::Release);
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

/// Makes SIGTERM and ctrl-alt-del (which the kernel turns into SIGINT for PID 1) power off. Call it before any other
/// thread starts, because threads inherit the blocked signals. Children do not: std clears them.
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
    crate::threads::background("signals", move || {
        let mut signal = 0;
        // SAFETY: both pointers are to values that outlive the call.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        say(format_args!("signal {signal}"));
        power_off()
    });
}
