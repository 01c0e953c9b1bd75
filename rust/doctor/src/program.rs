//! Programs of the host that supply facts. All are run read-only.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// Time limit for a program that only reads.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The output of a program that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Said {
    /// Whether it exited with 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The first line of its stderr, or else its exit code.
    pub fn complaint(&self) -> String {
        let first = self.stderr.lines().map(str::trim).find(|line| !line.is_empty());
        first.map_or_else(|| format!("it printed no error, {}", Ended(self.code)), str::to_owned)
    }
}

struct Ended(Option<i32>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => write!(f, "exit code {code}"),
            None => f.write_str("ended by a signal"),
        }
    }
}

/// A program with its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    timeout: Duration,
}

impl Program {
    /// The program at that path.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), args: Vec::new(), timeout: TIMEOUT }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Program {
        self.timeout = limit;
        self
    }

    /// The command, not started. Dropping its process kills it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end. The error is a sentence.
    pub async fn run(&self) -> Result<Said, String> {
        let name = self.path.display();
        match timeout(self.timeout, self.command().output()).await {
            Err(_) => Err(format!("{name} did not end within {:?}", self.timeout)),
            Ok(Err(error)) => Err(format!("{name} cannot be run: {error}")),
            Ok(Ok(output)) => Ok(Said {
                code: output.status.code(),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_says_is_kept_and_one_that_hangs_is_ended() {
        let said =
            Program::new("/bin/sh").args(["-c", "echo out; echo >&2; echo why >&2; exit 3"]).run().await.unwrap();
        assert_eq!((said.code, said.stdout.as_str(), said.complaint().as_str()), (Some(3), "out\n", "why"));
        let slow = Program::new("/bin/sh").args(["-c", "sleep 60"]).timeout(Duration::from_millis(50));
        assert!(slow.run().await.unwrap_err().contains("did not end"));
        assert!(Program::new("/nonexistent").run().await.unwrap_err().contains("cannot be run"));
    }
}
