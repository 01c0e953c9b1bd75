//! Programs of the host that are asked for facts. All of them only look.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// A program that only looks has no reason to take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Said {
    /// It ended well.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The first line of its complaint, or else its exit code.
    pub fn complaint(&self) -> String {
        let first = self.stderr.lines().map(str::trim).find(|line| !line.is_empty());
        first.map_or_else(|| format!("it said nothing, {}", Ended(self.code)), str::to_owned)
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
    patience: Duration,
}

impl Program {
    /// The program at that path.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), args: Vec::new(), patience: PATIENCE }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Program {
        self.patience = patience;
        self
    }

    /// The command, not started: dropping its process ends it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end. The error is a sentence.
    pub async fn run(&self) -> Result<Said, String> {
        let name = self.path.display();
        match timeout(self.patience, self.command().output()).await {
            Err(_) => Err(format!("{name} did not end within {:?}", self.patience)),
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
        let slow = Program::new("/bin/sh").args(["-c", "sleep 60"]).patience(Duration::from_millis(50));
        assert!(slow.run().await.unwrap_err().contains("did not end"));
        assert!(Program::new("/nonexistent").run().await.unwrap_err().contains("cannot be run"));
    }
}
