//! Runs the programs of one build: logs their output, and ends a silent one.
//!
//! ```text
//!  nix ──▶ log, answer              nix store dump-path ──▶ bytes, counted ──▶ nix-store --restore
//!    └─ silent, and the guest                           ├─ silent             ├─ more than was announced
//!       does not build: ended                           └─ the host's volume is nearly full
//! ```
//!
//! Rules: every wait has a limit, since a build's lease keeps the guest running; no size from the guest is trusted.
//! Each program leads a process group, and the group ends with it: `nix` starts an `ssh` or a `connect` itself.

use super::{
    free_space,
    host_nix::{Failure, Nix},
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

/// Longest answer of a program, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Bytes of the result that are copied at once, after which the free space of the host's volume is checked. A chunk of
/// an archive becomes files of some tens of MiB at most, if all are tiny.
const CHUNK: usize = 128 << 10;
const LOOK_EVERY: u64 = 1 << 20;

/// Log lines that an error repeats.
const LOG_LINES: usize = 3;

/// One build.
pub(super) struct Job<'a> {
    pub(super) nix: &'a Nix,
    pub(super) programs: PathBuf,
    pub(super) home: &'a Path,
    pub(super) log: LogFile,
    /// The agent of the guest that builds.
    pub(super) agent: &'a dyn GuestAgent,
    /// Space to keep free on the host's volume, in bytes.
    pub(super) least_free: u64,
}

/// Why a step failed. The log has more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobError {
    /// A program failed.
    Failed(String),
    /// It was ended because it stalled or exceeded a limit.
    Ended(String),
}

impl JobError {
    pub(super) fn why(&self) -> &str {
        let (JobError::Failed(why) | JobError::Ended(why)) = self;
        why
    }
}

impl Job<'_> {
    /// Runs `nix`. Returns its output, trimmed.
    pub(super) async fn nix(&mut self, args: &[&str]) -> Result<String, JobError> {
        self.note(args);
        let mut nix = Running::start(self.command("nix", args))?;
        let (stdout, stderr) = (nix.0.stdout.take(), nix.0.stderr.take());
        let heard = Heard::new();
        let run = async {
            let (answer, ()) = tokio::join!(read(stdout, &heard), keep(stderr, &mut self.log, &heard));
            nix.ended("nix").await.map(|()| String::from_utf8_lossy(&answer).trim().to_owned())
        };
        let (agent, limit) = (self.agent, self.nix.time_limits.silence);
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = silence(&heard, limit, agent) => {
                Err(JobError::Ended(format!("nix printed nothing for {limit:?} while the guest built nothing, and was ended")))
            }
        };
        self.explained(outcome)
    }

    /// Connects the sending program to the unpacking one. Copies at most `announced` bytes.
    pub(super) async fn fetch(&mut self, path: &str, announced: Option<u64>, place: &Path) -> Result<(), JobError> {
        let args = ["store", "dump-path", "--store", &self.nix.address, path];
        self.note(&args);
        let dump = Running::start(self.command("nix", &args))?;
        let mut restore = self.command("nix-store", &["--restore", &place.to_string_lossy()]);
        restore.stdin(Stdio::piped()).stdout(Stdio::null());
        let restore = Running::start(restore)?;
        let limits = TransferLimits {
            announced,
            volume: free_space::volume_of(place),
            least_free: self.least_free,
            stall: self.nix.time_limits.stall,
        };
        let outcome = join(dump, restore, &limits, &mut self.log).await;
        self.explained(outcome)
    }

    /// The report of a failure, with the last lines of the log.
    pub(super) fn failure(&self, what: &str, error: &JobError) -> dvn_types::Report {
        let lines = log_file::last_lines(&self.nix.log, LOG_LINES).unwrap_or_default();
        let lines = if lines.is_empty() { error.why().to_owned() } else { lines.join(" / ") };
        dvn_types::Report::new(dvn_types::Kind::Bundle, format!("{what}: {lines}"))
            .hint("see the whole log: `darwin-vz-nix logs --build`")
    }

    /// The same, as a permanent failure if a program failed, or a temporary one if it was ended: that is not the
    /// recipe's fault.
    pub(super) fn of_the_recipe(&self, what: &str, error: &JobError) -> Failure {
        let report = self.failure(what, error);
        match error {
            JobError::Failed(_) => Failure::Permanent(report),
            JobError::Ended(_) => Failure::Temporary(report),
        }
    }

    fn explained<T>(&mut self, outcome: Result<T, JobError>) -> Result<T, JobError> {
        if let Err(JobError::Ended(why)) = &outcome {
            // A log that cannot be written does not prevent a build. The same applies below.
            let _ = writeln!(self.log, "error: {why}");
        }
        outcome
    }

    /// A program of Nix with a fixed environment: it reads no user's configuration and leaves nothing in a user's home.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().envs(self.nix.environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", &self.nix.search_path).env("HOME", self.home);
        if program == "nix" {
            command.args(["--extra-experimental-features", "nix-command"]);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A separate process group: only the daemon handles an interrupt from its terminal.
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn note(&mut self, args: &[&str]) {
        let _ = writeln!(self.log, "$ nix {}", args.join(" "));
    }
}

/// A program and its process group, which is killed on drop.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Running, JobError> {
        let program = command.as_std().get_program().to_owned();
        let failed = |error| JobError::Failed(format!("{} cannot be started: {error}", Path::new(&program).display()));
        command.spawn().map(Running).map_err(failed)
    }

    async fn ended(&mut self, program: &str) -> Result<(), JobError> {
        let describe = |status: ExitStatus| JobError::Failed(format!("{program} ended with {status}"));
        match self.0.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(describe(status)),
            Err(error) => Err(JobError::Failed(format!("{program} cannot be waited for: {error}"))),
        }
    }

    /// Kills the whole group, unless the program is known to have ended: until then its number cannot be reused.
    fn end(&self) {
        let leader = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // Fails if it has just ended.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The time of the last output.
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

/// Resolves when there was no output for too long and the guest does not build, or does not answer.
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

/// Limits of a transfer.
struct TransferLimits {
    /// Announced size in bytes.
    announced: Option<u64>,
    /// A directory of the destination volume, and how many bytes must stay free there.
    volume: PathBuf,
    least_free: u64,
    /// How long it may stall.
    stall: Duration,
}

/// Copies the output of one program to the input of the other until both have ended.
async fn join(
    mut dump: Running,
    mut restore: Running,
    limits: &TransferLimits,
    log: &mut LogFile,
) -> Result<(), JobError> {
    let (from, to) = (dump.0.stdout.take(), restore.0.stdin.take());
    let (said, also) = (dump.0.stderr.take(), restore.0.stderr.take());
    let messages = async {
        // Reading them one after the other is safe: the second prints an error message at most, which fits into its
        // pipe.
        let heard = Heard::new();
        keep(said, log, &heard).await;
        keep(also, log, &heard).await;
    };
    // They are read during the copying, and after it for as long as the programs may take to end.
    let mut messages = pin!(messages.fuse());
    let passed = {
        let mut pass = pin!(async {
            match (from, to) {
                (Some(from), Some(to)) => pass(from, to, limits).await,
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
    let ended = timeout(limits.stall, ended).await;
    passed.map_err(JobError::Ended)?;
    match ended {
        // Both have ended: whichever failed first made the other fail.
        Ok((dumped, restored)) => dumped.and(restored),
        Err(_) => {
            Err(JobError::Ended(format!("all of it was sent, but the programs did not end within {:?}", limits.stall)))
        }
    }
}

/// Copies all bytes within these limits. A reader that has gone is not an error here: its own error follows.
async fn pass(mut from: ChildStdout, mut to: ChildStdin, limits: &TransferLimits) -> Result<(), String> {
    let limit = limits.stall;
    let show = |bytes| ByteSize(bytes).display().iec().to_string();
    let stalled = |_| format!("no byte of it was copied for {limit:?}");
    let (mut chunk, mut passed, mut look_at) = (vec![0; CHUNK], 0u64, 0);
    loop {
        let length = timeout(limit, from.read(&mut chunk)).await.map_err(stalled)?;
        let length = length.map_err(|error| format!("it cannot be read: {error}"))?;
        if length == 0 {
            return Ok(());
        }
        passed = passed.saturating_add(length as u64);
        if let Some(announced) = limits.announced.filter(|announced| passed > *announced) {
            return Err(format!("the guest announced {} and sends more", show(announced)));
        }
        if passed >= look_at {
            look_at = passed.saturating_add(LOOK_EVERY);
            let free = free_space::free(&limits.volume).map_err(|report| report.to_string())?;
            if free < limits.least_free {
                return Err(format!("{} has no more than {} free", limits.volume.display(), show(free)));
            }
        }
        if timeout(limit, to.write_all(&chunk[..length])).await.map_err(stalled)?.is_err() {
            return Ok(());
        }
    }
}

async fn read(stdout: Option<ChildStdout>, heard: &Heard) -> Vec<u8> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let Some(mut stdout) = stdout else { return answer };
    // Reads to the end, also beyond the limit: a program that cannot write would block.
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
