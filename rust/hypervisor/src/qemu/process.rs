//! QEMU and its helpers as child processes. Each dies with the daemon, even by `kill -9`: it is started through
//! `setpriv --pdeathsig`, which asks the kernel for that, by [`parent`]. What such a death misses, [`kill_orphans`] finds at the next boot.

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

/// How long a helper may take to open its socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines of its error output that are kept of each process, and the longest of them in bytes.
const KEPT_LINES: usize = 10;
const LONGEST_LINE: u64 = 1024;

/// How long the last words of a process that has ended may take to be read. They are in a pipe, which a child of the process
/// may keep open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A child of ours, killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// Reads them; ends with them.
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `name` with `args`.
    pub fn start(programs: &Programs, name: &str, args: Vec<OsString>) -> Result<Process, Report> {
        let program = programs.find(name)?;
        let mut command = Command::new(programs.find("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args(args);
        // Its own group: an interrupt at the daemon's terminal is the daemon's to handle, guest by guest.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = parent::start(command)
            .map_err(|e| Report::new(Kind::Host, format!("cannot start {}: {e}", program.display())))?;
        let last_words = Arc::default();
        let listener = child
            .stderr
            .take()
            .map(|stderr| tokio::spawn(listen(name.to_owned(), BufReader::new(stderr), Arc::clone(&last_words))));
        Ok(Process { name: name.to_owned(), child, last_words, listener })
    }

    /// Its standard output, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Resolves when it has ended, with a sentence that says how.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        if let Some(listener) = &mut self.listener {
            let _ = timeout(LAST_WORDS, listener).await;
            self.listener = None;
        }
        let how = match status {
            Ok(status) => describe(status),
            Err(e) => format!("was lost: {e}"),
        };
        self.said(&how)
    }

    /// How it has ended, if it has and did not end well.
    pub async fn failed(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        if status.success() { None } else { Some(self.ended().await) }
    }

    /// A sentence of it, with what it said last.
    pub fn said(&self, what: &str) -> String {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = words.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        format!("{} {what}{}{words}", self.name, if words.is_empty() { "" } else { ": " })
    }

    /// Waits until it has made its socket.
    pub async fn has_made(&mut self, socket: &Path) -> Result<(), Report> {
        let give_up = Instant::now() + PATIENCE;
        while !socket.exists() {
            let failure = match self.child.try_wait() {
                Ok(None) if Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Ok(None) => self.said(&format!("made no socket within {PATIENCE:?}")),
                _ => self.ended().await,
            };
            let report = Report::new(Kind::Host, format!("cannot prepare the VM: {failure}"));
            return Err(report.hint(advice::on(&failure)));
        }
        Ok(())
    }

    /// Halts the process, or has it go on. One that has ended is an error.
    pub fn stand_still(&self, still: bool) -> io::Result<()> {
        // The process is not reaped yet, or there would be no id; so the number is nobody else's.
        let pid =
            self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, if still { Signal::STOP } else { Signal::CONT })?)
    }

    /// Ends it, now.
    pub async fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill().await;
    }
}

async fn listen(name: String, mut stderr: impl AsyncBufReadExt + Unpin, last_words: Arc<Mutex<VecDeque<String>>>) {
    let mut line = Vec::new();
    while (&mut stderr).take(LONGEST_LINE).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        // It may repeat what a guest named.
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        tracing::debug!(program = name, "{text}");
        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Kills processes that an earlier daemon left behind: programs of these names whose command line names a file in
/// `runtime_dir`. The caller holds the state lock, so nothing of that kind can be in use.
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
            // Gone in the meantime is as good.
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
    async fn its_end_is_told_with_its_last_words() {
        assert_eq!(sh("echo no disk >&2; exit 3").ended().await, "sh ended with exit code 3: no disk");
        assert_eq!(sh("kill -9 $$").ended().await, "sh was killed by signal 9");
    }

    #[tokio::test]
    async fn last_words_are_heard_to_their_end_and_not_for_ever() {
        let ended =
            sh("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo word $n >&2; done; echo >&2; exit 1").ended().await;
        assert!(ended.contains("word 12") && ended.contains("word 4;") && !ended.contains("word 2;"), "{ended}");
        // A child of its own keeps the pipe open.
        assert_eq!(sh("sleep 60 & echo bye >&2").ended().await, "sh ended with exit code 0: bye");
        let mut fine = sh("exit 0");
        fine.ended().await;
        assert_eq!(fine.failed().await, None);
        let mut failed = sh("echo no >&2; exit 1");
        failed.ended().await;
        assert_eq!(failed.failed().await.unwrap(), "sh ended with exit code 1: no");
    }

    #[tokio::test]
    async fn what_asks_the_daemon_to_end_does_nothing_to_its_processes() {
        let blocked = |status: &str| {
            let status = fs::read_to_string(status).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            u64::from_str_radix(&mask, 16).unwrap()
        };
        let before = blocked("/proc/thread-self/status");
        let mut process = sh("echo up; exec sleep 60");
        let mut out = BufReader::new(process.stdout().unwrap());
        out.read_line(&mut String::new()).await.unwrap();
        assert_eq!(blocked("/proc/thread-self/status"), before, "ours hears them");
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
