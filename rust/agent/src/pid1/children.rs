//! Child processes. PID 1 inherits every orphan of the system, so one thread reaps all processes and hands the statuses
//! of the agent's own children to the threads that wait for them.
//!
//! The rule: children are started only through this module. Starting and reaping exclude each other, so the reaper
//! takes no status before its child is registered, nor one that std itself waits for (an `exec` that failed).

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, Write},
    process::Command,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

static FAMILY: Mutex<Family> = Mutex::new(Family { awaited: BTreeMap::new(), childless: false, births: 0 });
static CHANGED: Condvar = Condvar::new();

struct Family {
    /// Children that a thread waits for, with their status once they have ended.
    awaited: BTreeMap<i32, Option<WaitStatus>>,
    /// The kernel reports no child, alive or dead.
    childless: bool,
    births: u64,
}

fn family() -> MutexGuard<'static, Family> {
    FAMILY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that a thread waits for.
pub struct Child(Pid);

/// Starts a program whose status is read with [`Child::wait`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut family = family();
    let pid = start(&mut family, command)?;
    family.awaited.insert(pid.as_raw_nonzero().get(), None);
    Ok(Child(pid))
}

/// Starts a program whose status is not needed.
pub fn spawn_detached(command: &mut Command) -> io::Result<Pid> {
    start(&mut family(), command)
}

fn start(family: &mut Family, command: &mut Command) -> io::Result<Pid> {
    let child = command.spawn()?;
    family.births += 1;
    family.childless = false;
    CHANGED.notify_all();
    Ok(Pid::from_child(&child))
}

impl Child {
    /// Waits until it has ended.
    pub fn wait(self) -> WaitStatus {
        let raw = self.0.as_raw_nonzero().get();
        let mut family = family();
        loop {
            if let Some(Some(status)) = family.awaited.get(&raw).copied() {
                family.awaited.remove(&raw);
                return status;
            }
            family = CHANGED.wait(family).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Runs a program to its end. An error says how it failed.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = spawn(command).map_err(|e| format!("{name} cannot be started: {e}"))?.wait();
    if status.exit_status() == Some(0) { Ok(()) } else { Err(format!("{name} {}", describe(status))) }
}

/// Runs a program to its end with this input, and returns its output. An error holds the last line of its stderr.
///
/// Input and output are files, so neither side can block on the other.
pub fn ask(command: &mut Command, input: &str) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut run = || -> io::Result<_> {
        let (mut stdin, mut stdout, mut stderr) = (unnamed_file()?, unnamed_file()?, unnamed_file()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let status = spawn(command)?.wait();
        Ok((status, content(&mut stdout)?, content(&mut stderr)?))
    };
    let (status, said, complained) = run().map_err(|e| format!("{name} cannot be run: {e}"))?;
    if status.exit_status() == Some(0) {
        return Ok(said);
    }
    let last = complained.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed no reason");
    Err(format!("{name} {}: {last}", describe(status)))
}

fn unnamed_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("ask", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

fn content(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How a child ended, as the end of a sentence that begins with its name.
pub fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The reaper's thread. Never ends.
pub fn reap() {
    loop {
        // Sleeps until a child has ended, and leaves it to be reaped under the lock.
        turn(|| waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(drop));
    }
}

/// Once `ask_kernel` returns, reaps the children that have ended; if the kernel reports none, sleeps until one starts.
fn turn(ask_kernel: impl FnOnce() -> rustix::io::Result<()>) {
    // Counted before asking the kernel: its answer does not cover a child that starts between the answer and the lock.
    let births = family().births;
    let ended = ask_kernel();
    let mut family = family();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if let Some(slot) = family.awaited.get_mut(&pid.as_raw_nonzero().get()) {
            *slot = Some(status);
        }
    }
    if ended == Err(Errno::CHILD) && family.births == births {
        family.childless = true;
    }
    CHANGED.notify_all();
    while family.childless && family.births == births {
        family = CHANGED.wait(family).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Sends a signal to every process except this one, and waits up to `timeout` for all of them to end.
pub fn end_all(signal: Signal, timeout: Duration) -> bool {
    // -1 addresses all processes. rustix cannot express it, as 1 is never the caller's target.
    // SAFETY: kill(2) takes two integers and touches no memory.
    unsafe { libc::kill(-1, signal.as_raw()) };
    let deadline = Instant::now() + timeout;
    let mut family = family();
    while !family.childless {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        family = CHANGED.wait_timeout(family, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread};

    /// The reaper takes every child, those of other tests too, so this test has a process of its own.
    #[test]
    fn a_child_that_starts_right_after_the_kernel_knew_of_none_is_reaped() {
        const ALONE: &str = "DVN_TEST_REAPER";
        if std::env::var_os(ALONE).is_none() {
            let name = concat!(module_path!(), "::a_child_that_starts_right_after_the_kernel_knew_of_none_is_reaped");
            let (_, name) = name.split_once("::").unwrap();
            let mut alone = Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let (started, child) = mpsc::channel();
        thread::spawn(move || {
            turn(|| {
                started.send(spawn(&mut Command::new("true")).unwrap()).unwrap();
                Err(Errno::CHILD)
            });
            reap();
        });
        let child = child.recv().unwrap();
        let (ended, status) = mpsc::channel();
        thread::spawn(move || ended.send(child.wait()));
        let status = status.recv_timeout(Duration::from_secs(60)).expect("its end was never reported");
        assert_eq!(status.exit_status(), Some(0));
    }
}
