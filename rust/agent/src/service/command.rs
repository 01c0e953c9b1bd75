//! Starts a command: environment, user, working directory, terminal or pipes, a session of its own.

use super::{programs::PATH, users, users::User};
use crate::threads::background;
use dvn_protocol::service::{Exec, TtySize};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    fs::{Gid, Uid, fchown},
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, chdir, geteuid, ioctl_tiocsctty, kill_process_group,
        set_parent_process_death_signal, setsid, waitid,
    },
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    stdio::stdin,
    termios::{Winsize, tcsetwinsize},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use std::{
    ffi::CString,
    io::{self, PipeReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

/// How long a command may take to end after its client has gone, before it is killed.
const HANG_UP_TIMEOUT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A command that was started and not yet waited for.
pub struct Running {
    child: Child,
    /// The agent's ends of its input, output and error output. With a terminal, the first two are its master.
    pub input: Option<OwnedFd>,
    pub outputs: [Option<OwnedFd>; 2],
    pub on_terminal: bool,
    /// The client may send input.
    pub takes_input: bool,
}

/// Starts a command. An error is a sentence for the user.
pub fn start(exec: &Exec) -> Result<Running, String> {
    check(exec)?;
    let own = users::own();
    let wanted = exec.user.as_deref().map(users::find).transpose()?;
    // Only root can become another user, and root also takes that user's groups.
    let switch = wanted.as_ref().filter(|user| geteuid().is_root() || user.uid != own.uid);
    let user = wanted.as_ref().unwrap_or(&own);

    let mut command = Command::new(&exec.command);
    command.args(&exec.args).env_clear().envs(environment(exec, user)).envs(&exec.env);
    let wiring = if exec.detach {
        Wiring::none(&mut command)
    } else if let Some(size) = exec.tty {
        Wiring::terminal(&mut command, size, switch).map_err(|e| format!("a terminal cannot be opened: {e}"))?
    } else {
        Wiring::pipes(&mut command, exec.stdin, switch).map_err(|e| format!("pipes cannot be made: {e}"))?
    };
    let steps = Steps::new(exec, user, switch)?;
    let failed = steps.before_exec(&mut command).map_err(|e| format!("a pipe cannot be made: {e}"))?;
    let spawned = command.spawn();
    // It holds the command's ends of the pipes, and that of the terminal.
    drop(command);
    let child = spawned.map_err(|e| failed.explain(&e, exec, user))?;
    let Wiring { input, outputs } = wiring;
    Ok(Running { child, input, outputs, on_terminal: exec.tty.is_some(), takes_input: exec.stdin })
}

fn check(exec: &Exec) -> Result<(), String> {
    if exec.command.is_empty() {
        return Err("there is no command".to_owned());
    }
    if exec.detach && (exec.tty.is_some() || exec.stdin) {
        return Err("a detached command has neither a terminal nor input".to_owned());
    }
    if let Some(name) = exec.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(format!("{name:?} is not a valid name of an environment variable"));
    }
    match &exec.workdir {
        Some(relative) if !relative.starts_with('/') => {
            Err(format!("the working directory {relative:?} is not absolute"))
        }
        _ => Ok(()),
    }
}

fn environment(exec: &Exec, user: &User) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("PATH", PATH.to_owned()),
        ("HOME", user.home.clone()),
        ("USER", user.name.clone()),
        ("LOGNAME", user.name.clone()),
        ("SHELL", user.shell.clone()),
    ];
    if exec.tty.is_some() {
        variables.push(("TERM", "xterm".to_owned()));
    }
    variables
}

/// The agent's ends of what the command reads and writes.
struct Wiring {
    input: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

impl Wiring {
    fn none(command: &mut Command) -> Wiring {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Wiring { input: None, outputs: [None, None] }
    }

    fn pipes(command: &mut Command, stdin: bool, owner: Option<&User>) -> io::Result<Wiring> {
        let input = if stdin {
            let (theirs, ours) = io::pipe()?;
            give(&theirs, owner)?;
            command.stdin(theirs);
            Some(nonblocking(ours.into())?)
        } else {
            command.stdin(Stdio::null());
            None
        };
        let output = || -> io::Result<_> {
            let (ours, theirs) = io::pipe()?;
            give(&theirs, owner)?;
            Ok((Some(nonblocking(ours.into())?), theirs))
        };
        let ((stdout, theirs), (stderr, their_errors)) = (output()?, output()?);
        command.stdout(theirs).stderr(their_errors);
        Ok(Wiring { input, outputs: [stdout, stderr] })
    }

    fn terminal(command: &mut Command, size: TtySize, owner: Option<&User>) -> io::Result<Wiring> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let theirs = ioctl_tiocgptpeer(&master, flags)?;
        give(&theirs, owner)?;
        resize(&master, size)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        let master = nonblocking(master)?;
        Ok(Wiring { input: Some(master.try_clone()?), outputs: [Some(master), None] })
    }
}

/// Sets the size of a terminal, given its master.
pub fn resize(master: impl AsFd, size: TtySize) -> rustix::io::Result<()> {
    tcsetwinsize(master, Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Makes the command's user the owner, so that the command can open it again as `/dev/stdout`.
fn give(end: impl AsFd, owner: Option<&User>) -> rustix::io::Result<()> {
    match owner {
        Some(user) => fchown(end, Some(Uid::from_raw(user.uid)), None),
        None => Ok(()),
    }
}

fn nonblocking(end: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&end, true)?;
    Ok(end)
}

/// What the new process does before it becomes the program.
struct Steps {
    controlling_terminal: bool,
    /// User, primary group, all groups.
    identity: Option<(Uid, Gid, Vec<Gid>)>,
    /// The working directory; a home that is missing is replaced by `/`.
    directory: CString,
    is_home: bool,
    ends_with_agent: bool,
}

/// The steps that can fail, as the byte that reports it.
const SESSION: u8 = 1;
const TERMINAL: u8 = 2;
const USER: u8 = 3;
const DIRECTORY: u8 = 4;

impl Steps {
    fn new(exec: &Exec, user: &User, switch: Option<&User>) -> Result<Steps, String> {
        let directory = exec.workdir.as_ref().unwrap_or(&user.home);
        Ok(Steps {
            controlling_terminal: exec.tty.is_some(),
            identity: switch.map(|user| {
                let groups = user.groups.iter().copied().map(Gid::from_raw).collect();
                (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
            }),
            directory: CString::new(directory.as_str())
                .map_err(|_| format!("the working directory {directory:?} is not a path"))?,
            is_home: exec.workdir.is_none(),
            ends_with_agent: !exec.detach,
        })
    }

    fn before_exec(self, command: &mut Command) -> io::Result<Failure> {
        let (report, failed) = io::pipe()?;
        let run = move || {
            self.run().map_err(|(step, e)| {
                // Without the byte the message is only less exact.
                let _ = rustix::io::write(&failed, &[step]);
                io::Error::from(e)
            })
        };
        // SAFETY: the closure makes system calls only: it neither allocates nor takes a lock.
        unsafe { command.pre_exec(run) };
        Ok(Failure(report))
    }

    /// Runs in the new process, which has one thread and must not allocate.
    fn run(&self) -> Result<(), (u8, Errno)> {
        setsid().map_err(|e| (SESSION, e))?;
        if self.controlling_terminal {
            ioctl_tiocsctty(stdin()).map_err(|e| (TERMINAL, e))?;
        }
        if let Some((uid, gid, groups)) = &self.identity {
            set_thread_groups(groups)
                .and_then(|()| set_thread_gid(*gid))
                .and_then(|()| set_thread_uid(*uid))
                .map_err(|e| (USER, e))?;
        }
        match chdir(self.directory.as_c_str()) {
            Err(_) if self.is_home => chdir(c"/").map_err(|e| (DIRECTORY, e))?,
            entered => entered.map_err(|e| (DIRECTORY, e))?,
        }
        if self.ends_with_agent {
            // After the change of user, which resets it. The thread that starts the command also serves it.
            let _ = set_parent_process_death_signal(Some(Signal::HUP));
        }
        Ok(())
    }
}

/// Learns which step failed.
struct Failure(PipeReader);

impl Failure {
    /// Only after the command has failed, and was dropped.
    fn explain(mut self, error: &io::Error, exec: &Exec, user: &User) -> String {
        let mut step = [0];
        let _ = self.0.read(&mut step);
        let command = &exec.command;
        match (step[0], error.kind()) {
            (SESSION, _) => format!("the command gets no session: {error}"),
            (TERMINAL, _) => format!("the command gets no terminal: {error}"),
            (USER, _) => format!("the agent cannot run a command as user {:?}: {error}", user.name),
            (DIRECTORY, _) => {
                format!("the working directory {:?} cannot be entered: {error}", exec.workdir.as_deref().unwrap_or("/"))
            }
            (_, io::ErrorKind::NotFound) if !command.contains('/') => {
                format!("there is no program {command:?} in the guest's PATH")
            }
            (_, io::ErrorKind::NotFound) => {
                format!("there is no program {command:?} in the guest, or not its interpreter")
            }
            _ => format!("{command:?} cannot be started: {error}"),
        }
    }
}

impl Running {
    /// Its process number, and that of its session and process group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends its process group a signal. The number is its own until [`Running::wait`].
    pub fn signal(&self, signal: Signal) {
        // It fails if all of them have ended.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// A descriptor that is readable once the command has ended.
    pub fn end_watch(&self) -> io::Result<PipeReader> {
        let (ended, writer) = io::pipe()?;
        let pid = Pid::from_child(&self.child);
        thread::Builder::new().name("watch".to_owned()).stack_size(64 * 1024).spawn(move || {
            wait_for_end(pid);
            drop(writer);
        })?;
        Ok(ended)
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.input = None;
        self.child.wait()
    }

    /// Leaves a detached command alone. Its end is awaited, so that no dead process remains.
    pub fn leave(self) {
        background("detached", move || drop(self.wait()));
    }

    /// Ends it, as a terminal that is closed does; kills what is left after some seconds.
    pub fn end(mut self) {
        self.input = None;
        self.outputs = [None, None];
        self.signal(Signal::HUP);
        // A stopped process would not notice.
        self.signal(Signal::CONT);
        if let Ok(ended) = self.end_watch() {
            let mut watched = [PollFd::new(&ended, PollFlags::IN)];
            while poll(&mut watched, Some(&HANG_UP_TIMEOUT)) == Err(Errno::INTR) {}
        }
        self.signal(Signal::KILL);
        let _ = self.wait();
    }
}

/// Waits until a child has ended, and leaves it to be reaped.
fn wait_for_end(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
}
