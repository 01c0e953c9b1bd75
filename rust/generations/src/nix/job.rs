//! The programs of one build: what they print is kept, and one that falls silent is ended.
//!
//! ```text
//!  nix ──▶ log, answer              nix store dump-path ──▶ bytes, counted ──▶ nix-store --restore
//!    └─ silent: does the guest                         ├─ silent             ├─ more than was announced
//!       build? else ended                              └─ the host's volume is nearly full
//! ```
//!
//! The rules: nothing is waited for without a limit, since the lease of a build keeps the guest for as long; and nothing that
//! the guest says of a size is believed. Each program leads a process group, and the group ends with it: `nix` has an `ssh`
//! or a `connect` of its own.

use super::{
    host_nix::{Failure, Nix},
    room,
};
use bytesize::ByteSize;
use dvn_host::log_file::{self, LogFile};
use dvn_hypervisor::GuestAgent;
use futures_util::{FutureExt, future::FusedFuture};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io::Write,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep_until, timeout},
};

/// Longest answer that is read from a program, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Bytes of the result that are passed on at once, and after how many of them the host's volume is looked at: less than that
/// of an archive makes files of some tens of MiB at most, if they are all tiny.
const CHUNK: usize = 128 << 10;
const LOOK_EVERY: u64 = 1 << 20;

/// Lines of the log that an error repeats.
const LOG_LINES: usize = 3;

/// One build.
pub(super) struct Job<'a> {
    pub(super) nix: &'a Nix,
    pub(super) programs: PathBuf,
    pub(super) home: &'a Path,
    pub(super) log: LogFile,
    /// The agent of the guest that builds.
    pub(super) agent: &'a dyn GuestAgent,
    /// Room to leave on the host's volume, in bytes.
    pub(super) least_free: u64,
}

/// Why a step did not succeed. The log has more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A program failed.
    Failed(String),
    /// It was ended, because nothing moved or too much did.
    Ended(String),
}

impl Trouble {
    pub(super) fn why(&self) -> &str {
        let (Trouble::Failed(why) | Trouble::Ended(why)) = self;
        why
    }
}

impl Job<'_> {
    /// Runs `nix`; what it prints, trimmed.
    pub(super) async fn nix(&mut self, args: &[&str]) -> Result<String, Trouble> {
        self.note(args);
        let mut nix = Running::start(self.command("nix", args))?;
        let (stdout, stderr) = (nix.0.stdout.take(), nix.0.stderr.take());
        let heard = Heard::new();
        let run = async {
            let (answer, ()) = tokio::join!(read(stdout, &heard), keep(stderr, &mut self.log, &heard));
            nix.ended("nix").await.map(|()| String::from_utf8_lossy(&answer).trim().to_owned())
        };
        let (agent, limit) = (self.agent, self.nix.patience.silence);
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = silence(&heard, limit, agent) => {
                Err(Trouble::Ended(format!("nix printed nothing for {limit:?} while the guest built nothing, and was ended")))
            }
        };
        self.explained(outcome)
    }

    /// Joins the program that sends with the one that unpacks. No more than `announced` bytes are passed on.
    pub(super) async fn fetch(&mut self, path: &str, announced: Option<u64>, place: &Path) -> Result<(), Trouble> {
        let args = ["store", "dump-path", "--store", &self.nix.address, path];
        self.note(&args);
        let dump = Running::start(self.command("nix", &args))?;
        let mut restore = self.command("nix-store", &["--restore", &place.to_string_lossy()]);
        restore.stdin(Stdio::piped()).stdout(Stdio::null());
        let restore = Running::start(restore)?;
        let bounds = Bounds {
            announced,
            volume: room::volume_of(place),
            least_free: self.least_free,
            standstill: self.nix.patience.standstill,
        };
        let outcome = join(dump, restore, &bounds, &mut self.log).await;
        self.explained(outcome)
    }

    /// What the user is told of a failure: the last words of the log.
    pub(super) fn failure(&self, what: &str, trouble: &Trouble) -> dvn_types::Report {
        let lines = log_file::last_lines(&self.nix.log, LOG_LINES).unwrap_or_default();
        let lines = if lines.is_empty() { trouble.why().to_owned() } else { lines.join(" / ") };
        dvn_types::Report::new(dvn_types::Kind::Bundle, format!("{what}: {lines}"))
            .hint("see the whole log: `darwin-vz-nix logs --build`")
    }

    /// The same, as one that passes or doesn't: a recipe is not to blame for what was ended.
    pub(super) fn of_the_recipe(&self, what: &str, trouble: &Trouble) -> Failure {
        let report = self.failure(what, trouble);
        match trouble {
            Trouble::Failed(_) => Failure::Lasting(report),
            Trouble::Ended(_) => Failure::Passing(report),
        }
    }

    fn explained<T>(&mut self, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        if let Err(Trouble::Ended(why)) = &outcome {
            // A log that cannot be written is no reason not to build; the same goes below.
            let _ = writeln!(self.log, "error: {why}");
        }
        outcome
    }

    /// A program of Nix in an environment of its own: no configuration of some user's, and nothing left in their home.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().envs(self.nix.environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", &self.nix.search_path).env("HOME", self.home);
        if program == "nix" {
            command.args(["--extra-experimental-features", "nix-command"]);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: an interrupt at the daemon's terminal is the daemon's to handle.
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn note(&mut self, args: &[&str]) {
        let _ = writeln!(self.log, "$ nix {}", args.join(" "));
    }
}

/// A program and its process group, which ends with this.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Running, Trouble> {
        let program = command.as_std().get_program().to_owned();
        let failed = |error| Trouble::Failed(format!("{} cannot be started: {error}", Path::new(&program).display()));
        command.spawn().map(Running).map_err(failed)
    }

    async fn ended(&mut self, program: &str) -> Result<(), Trouble> {
        let describe = |status: ExitStatus| Trouble::Failed(format!("{program} ended with {status}"));
        match self.0.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(describe(status)),
            Err(error) => Err(Trouble::Failed(format!("{program} was lost: {error}"))),
        }
    }

    /// Ends the whole group, if the program has not been heard to end: until then its number is nobody else's.
    fn end(&self) {
        let leader = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // Fails where it has just ended.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// When something was last heard.
struct Heard(Mutex<Instant>);

impl Heard {
    fn new() -> Heard {
        Heard(Mutex::new(Instant::now()))
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when nothing has been heard for too long and the guest builds nothing, or does not say.
async fn silence(heard: &Heard, limit: Duration, agent: &dyn GuestAgent) {
    loop {
        let last = heard.last();
        sleep_until(last + limit).await;
        if heard.last() == last {
            match agent.builds().await {
                Ok(1..) => heard.now(),
                _ => return,
            }
        }
    }
}

/// What a transfer must keep to.
struct Bounds {
    /// Bytes that it is said to have.
    announced: Option<u64>,
    /// A directory of the volume that it goes to, and what must stay free there, in bytes.
    volume: PathBuf,
    least_free: u64,
    /// How long it may not move.
    standstill: Duration,
}

/// Passes on what one program prints to the other until both have ended.
async fn join(mut dump: Running, mut restore: Running, bounds: &Bounds, log: &mut LogFile) -> Result<(), Trouble> {
    let (from, to) = (dump.0.stdout.take(), restore.0.stdin.take());
    let (said, also) = (dump.0.stderr.take(), restore.0.stderr.take());
    let messages = async {
        // One after the other is safe: what the second says meanwhile is an error message at most, and fits into its pipe.
        let heard = Heard::new();
        keep(said, log, &heard).await;
        keep(also, log, &heard).await;
    };
    // They are read while bytes pass, and after that for as long as the programs may take to end.
    let mut messages = pin!(messages.fuse());
    let passed = {
        let mut pass = pin!(async {
            match (from, to) {
                (Some(from), Some(to)) => pass(from, to, bounds).await,
                _ => Err("the programs have no pipes".to_owned()),
            }
        });
        loop {
            tokio::select! {
                passed = &mut pass => break passed,
                () = &mut messages => {}
            }
        }
    };
    if passed.is_err() {
        dump.end();
        restore.end();
    }
    let ended = async {
        if !messages.is_terminated() {
            messages.await;
        }
        (dump.ended("nix").await, restore.ended("nix-store").await)
    };
    let ended = timeout(bounds.standstill, ended).await;
    passed.map_err(Trouble::Ended)?;
    match ended {
        // Both are heard: whichever failed first made the other fail.
        Ok((dumped, restored)) => dumped.and(restored),
        Err(_) => Err(Trouble::Ended(format!("it was sent, and did not end within {:?}", bounds.standstill))),
    }
}

/// Passes bytes on to the end, within these bounds. That the reader has gone is no error here: it says itself why.
async fn pass(mut from: ChildStdout, mut to: ChildStdin, bounds: &Bounds) -> Result<(), String> {
    let limit = bounds.standstill;
    let show = |bytes| ByteSize(bytes).display().iec().to_string();
    let stands = |_| format!("nothing of it has moved for {limit:?}");
    let (mut chunk, mut passed, mut look_at) = (vec![0; CHUNK], 0u64, 0);
    loop {
        let length = timeout(limit, from.read(&mut chunk)).await.map_err(stands)?;
        let length = length.map_err(|error| format!("it cannot be read: {error}"))?;
        if length == 0 {
            return Ok(());
        }
        passed = passed.saturating_add(length as u64);
        if let Some(announced) = bounds.announced.filter(|announced| passed > *announced) {
            return Err(format!("the guest announced {} and sends more", show(announced)));
        }
        if passed >= look_at {
            look_at = passed.saturating_add(LOOK_EVERY);
            let free = room::free(&bounds.volume).map_err(|report| report.to_string())?;
            if free < bounds.least_free {
                return Err(format!("{} has no more than {} free", bounds.volume.display(), show(free)));
            }
        }
        if timeout(limit, to.write_all(&chunk[..length])).await.map_err(stands)?.is_err() {
            return Ok(());
        }
    }
}

async fn read(stdout: Option<ChildStdout>, heard: &Heard) -> Vec<u8> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let Some(mut stdout) = stdout else { return answer };
    // To the end, also where it is too long: a program that cannot write waits.
    while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
        heard.now();
        answer.extend_from_slice(&buffer[..length.min(MAX_ANSWER.saturating_sub(answer.len()))]);
    }
    answer
}

async fn keep(stderr: Option<impl AsyncRead + Unpin>, log: &mut LogFile, heard: &Heard) {
    let mut buffer = [0; 4096];
    let Some(mut stderr) = stderr else { return };
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        heard.now();
        let _ = log.write_all(&buffer[..length]);
    }
}
