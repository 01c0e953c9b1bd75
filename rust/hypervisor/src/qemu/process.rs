//! QEMU and its helpers as child processes. Each dies with the daemon, even by `kill -9`: [`parent`] starts it through
//! `setpriv --pdeathsig`, which makes the kernel kill it. [`kill_orphans`] ends any that survived, at the next boot.

use super::{parent, probe::Programs};
use crate::advice;
use dvn_types::{Kind, Report};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time::{Instant, timeout},
};

/// Time limit for a helper to open its socket.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// How many lines of each process's error output are kept, and the length limit of a line in bytes.
const KEPT_LINES: usize = 10;
const LONGEST_LINE: u64 = 1024;

/// Time limit to read the rest of an ended process's error output. A child of the process may keep the pipe open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A child process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// Reads the error output until it ends.
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `name` with `args`.
    pub fn start(programs: &Programs, name: &str, args: Vec<OsString>) -> Result<Process, Report> {
        let program = programs.find(name)?;
        let mut command = Command::new(programs.find("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args(args);
        // A separate process group: an interrupt at the daemon's terminal reaches only the daemon, which stops its
        // guests.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = parent::start(command)
            .map_err(|e| Report::new(Kind::Host, format!("cannot start {}: {e}", program.display())))?;
        let last_lines = Arc::default();
        let reader = child
            .stderr
            .take()
            .map(|stderr| tokio::spawn(read_lines(name.to_owned(), BufReader::new(stderr), Arc::clone(&last_lines))));
        Ok(Process { name: name.to_owned(), child, last_lines, reader })
    }

    /// Takes its standard output, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it has ended. Returns a sentence that says how.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        if let Some(reader) = &mut self.reader {
            let _ = timeout(DRAIN_TIMEOUT, reader).await;
            self.reader = None;
        }
        let how = match status {
            Ok(status) => describe(status),
            Err(e) => format!("was lost: {e}"),
        };
        self.said(&how)
    }

    /// How it ended, if it has ended with a failure.
    pub async fn failed(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        if status.success() { None } else { Some(self.ended().await) }
    }

    /// A sentence about the process, with the last lines of its error output.
    pub fn said(&self, what: &str) -> String {
        let words = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let words = words.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        format!("{} {what}{}{words}", self.name, if words.is_empty() { "" } else { ": " })
    }

    /// Waits until it has created its socket.
    pub async fn has_made(&mut self, socket: &Path) -> Result<(), Report> {
        let give_up = Instant::now() + SOCKET_TIMEOUT;
        while !socket.exists() {
            let failure = match self.child.try_wait() {
                Ok(None) if Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Ok(None) => self.said(&format!("did not create its socket within {SOCKET_TIMEOUT:?}")),
                _ => self.ended().await,
            };
            let report = Report::new(Kind::Host, format!("cannot prepare the VM: {failure}"));
            return Err(report.hint(advice::on(&failure)));
        }
        Ok(())
    }

    /// Stops or continues the process. Fails if it has ended.
    pub fn set_paused(&self, paused: bool) -> io::Result<()> {
        // There is an id, so the process is not reaped yet and the number cannot belong to another process.
        let pid =
            self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, if paused { Signal::STOP } else { Signal::CONT })?)
    }

    /// Its number, until it has ended.
    #[cfg(test)]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill().await;
    }
}

async fn read_lines(name: String, mut stderr: impl AsyncBufReadExt + Unpin, last_lines: Arc<Mutex<VecDeque<String>>>) {
    let mut line = Vec::new();
    while (&mut stderr).take(LONGEST_LINE).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        // A line may contain names that the guest chose.
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        tracing::debug!(program = name, "{text}");
        let mut words = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == KEPT_LINES {
            words.pop_front();
        }
        words.extend(Some(text).filter(|text| !text.is_empty()));
        drop(words);
        line.clear();
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Kills processes that an earlier daemon left behind: programs with these names whose command line contains a file in
/// `runtime_dir`. The caller holds the state lock, so none of them can be in use.
pub fn kill_orphans(runtime_dir: &Path, names: &[&str]) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let Some(prefix) = runtime_dir.to_str().map(|dir| format!("{dir}/")) else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(command) = fs::read(process.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command);
        let program = command.split('\0').next().and_then(|p| p.rsplit('/').next()).unwrap_or_default();
        if names.contains(&program)
            && command.contains(&prefix)
            && let Some(pid) = Pid::from_raw(pid)
        {
            tracing::warn!(program, pid = pid.as_raw_nonzero().get(), "killing a process that an earlier daemon left");
            // It may have ended in the meantime.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        Programs::new("/bin:/usr/bin".as_ref())
    }

    fn sh(script: &str) -> Process {
        Process::start(&programs(), "sh", vec!["-c".into(), script.into()]).unwrap()
    }

    #[tokio::test]
    async fn its_end_is_reported_with_its_last_lines() {
        assert_eq!(sh("echo no disk >&2; exit 3").ended().await, "sh ended with exit code 3: no disk");
        assert_eq!(sh("kill -9 $$").ended().await, "sh was killed by signal 9");
    }

    #[tokio::test]
    async fn error_output_is_read_to_its_end_but_not_for_ever() {
        let ended =
            sh("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo word $n >&2; done; echo >&2; exit 1").ended().await;
        assert!(ended.contains("word 12") && ended.contains("word 4;") && !ended.contains("word 2;"), "{ended}");
        // A grandchild keeps the pipe open.
        assert_eq!(sh("sleep 60 & echo bye >&2").ended().await, "sh ended with exit code 0: bye");
        let mut fine = sh("exit 0");
        fine.ended().await;
        assert_eq!(fine.failed().await, None);
        let mut failed = sh("echo no >&2; exit 1");
        failed.ended().await;
        assert_eq!(failed.failed().await.unwrap(), "sh ended with exit code 1: no");
    }

    #[tokio::test]
    async fn processes_block_the_signals_that_end_the_daemon() {
        let blocked = |status: &str| {
            let status = fs::read_to_string(status).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            u64::from_str_radix(&mask, 16).unwrap()
        };
        let before = blocked("/proc/thread-self/status");
        let mut process = sh("echo up; exec sleep 60");
        let mut out = BufReader::new(process.stdout().unwrap());
        out.read_line(&mut String::new()).await.unwrap();
        assert_eq!(blocked("/proc/thread-self/status"), before, "this thread receives them");
        let pid = process.child.id().unwrap();
        let ends = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
        for signal in ends {
            assert_ne!(blocked(&format!("/proc/{pid}/status")) & 1 << (signal.as_raw() - 1), 0, "{signal:?}");
        }
        process.kill().await;
        assert_eq!(process.ended().await, "sh was killed by signal 9");
    }

    #[tokio::test]
    async fn a_helper_that_dies_before_its_socket_is_an_error_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("s");
        let error = sh("echo bad option >&2; exit 2").has_made(&socket).await.unwrap_err();
        assert!(error.message.contains("bad option") && !error.hints.is_empty(), "{error:?}");
        sh(&format!("touch {}; sleep 9", socket.display())).has_made(&socket).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_process_outlives_the_thread_that_asked_for_it() {
        let runtime = tokio::runtime::Handle::current();
        let asks = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut process = sh("echo started; sleep 1; exit 3");
                let mut said = BufReader::new(process.stdout().unwrap());
                said.read_line(&mut String::new()).await.unwrap();
                process
            })
        });
        let mut process = tokio::task::spawn_blocking(|| asks.join().unwrap()).await.unwrap();
        assert_eq!(process.ended().await, "sh ended with exit code 3");
    }

    #[tokio::test]
    async fn only_our_orphans_are_killed() {
        let tmp = tempfile::tempdir().unwrap();
        let ours = tmp.path().join("run/vsock");
        let args = |file: &Path| vec!["-c".into(), "sleep 60; true".into(), file.as_os_str().to_owned()];
        let mut orphan = Process::start(&programs(), "sh", args(&ours)).unwrap();
        let mut other = Process::start(&programs(), "sh", args(&tmp.path().join("running/vsock"))).unwrap();
        let both_run = tokio::time::Instant::now() + Duration::from_secs(5);
        let is_sh = |p: &Process| {
            let line = fs::read(format!("/proc/{}/cmdline", p.child.id().unwrap())).unwrap();
            !line.starts_with(b"/usr/bin/setpriv") && !line.starts_with(b"/bin/setpriv") && !line.is_empty()
        };
        while !(is_sh(&orphan) && is_sh(&other)) {
            assert!(tokio::time::Instant::now() < both_run);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kill_orphans(&tmp.path().join("run"), &["qemu", "sh"]);
        assert_eq!(orphan.ended().await, "sh was killed by signal 9");
        assert!(other.child.try_wait().unwrap().is_none());
    }
}
