//! A shell in the guest, through `darwin-vz-nix ssh`: the way that users take.
//!
//! It stays open over several commands: connecting takes longer than most of them, and the clock comparison is only as
//! precise as one answer's delay.

use super::subject::Subject;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

/// Marks the end of a command's output.
const MARK: &str = "darwin-vz-nix-doctor-mark";

/// ssh's own messages are discarded, as they would appear in the middle of the report.
const BROKEN: &str = "the connection through ssh failed; see why: `darwin-vz-nix ssh -- true`";

/// Default time limit, both for opening the shell and for a command.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// An open shell. Dropping it closes its connection.
pub struct Shell {
    _ssh: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// The output of a command in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// stdout and stderr, merged.
    pub text: String,
}

impl Shell {
    /// Opens a shell. Here and below, an error is a sentence.
    pub async fn open(subject: &Subject) -> Result<Shell, String> {
        let mut command = subject.this_program().args(["ssh", "--", "sh"]).command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ssh = command.spawn().map_err(|error| format!("ssh cannot be run: {error}"))?;
        let (Some(input), Some(output)) = (ssh.stdin.take(), ssh.stdout.take()) else {
            return Err("ssh has no input and output".to_owned());
        };
        let mut shell = Shell { _ssh: ssh, input, output: BufReader::new(output).lines() };
        // So that the time of the first answer does not include the connection's.
        shell.run(":", TIMEOUT).await?;
        Ok(shell)
    }

    /// Runs a command to its end.
    pub async fn run(&mut self, command: &str, limit: Duration) -> Result<Output, String> {
        let talk = async {
            // The command's stdin is empty, so that it cannot consume the next commands.
            let line = format!("{{ {command}\n}} </dev/null 2>&1; code=$?; echo; echo {MARK} $code\n");
            self.input.write_all(line.as_bytes()).await.map_err(|_| BROKEN)?;
            let mut lines = Vec::new();
            loop {
                let line = self.output.next_line().await.ok().flatten().ok_or(BROKEN)?;
                match line.strip_prefix(MARK) {
                    Some(code) => {
                        let code = code.trim().parse().map_err(|_| format!("the guest's shell answered {line:?}"))?;
                        return Ok(Output { code, text: lines.join("\n").trim().to_owned() });
                    }
                    None => lines.push(line),
                }
            }
        };
        timeout(limit, talk).await.unwrap_or_else(|_| Err(format!("the guest did not answer within {limit:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    /// A machine whose `ssh` runs this script.
    fn subject(dir: &Path, ssh: &str) -> Subject {
        let program = dir.join("program");
        fs::write(&program, format!("#!/bin/sh\n{ssh}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let flags = vec!["--machine".into(), "builder".into()];
        Subject { program, flags, ..Subject::unknown(dir) }
    }

    #[tokio::test]
    async fn commands_are_separated_with_their_codes_and_both_outputs() {
        let dir = tempfile::tempdir().unwrap();
        // The flags and `ssh --` come first.
        let mut shell = Shell::open(&subject(dir.path(), r#"shift 4; exec "$@""#)).await.unwrap();
        for (command, code, text) in [
            ("echo out; echo err >&2; (exit 3)", 3, "out\nerr"),
            ("printf 'no newline'", 0, "no newline"),
            ("cat", 0, ""),
            ("nonsense-that-is-no-program 2>/dev/null", 127, ""),
            ("true", 0, ""),
        ] {
            let output = shell.run(command, TIMEOUT).await.unwrap();
            assert_eq!(output, Output { code, text: text.to_owned() }, "{command}");
        }
        let slow = shell.run("sleep 60", Duration::from_millis(50)).await;
        assert!(slow.unwrap_err().contains("did not answer"));
    }

    #[tokio::test]
    async fn a_failed_connection_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let error = Shell::open(&subject(dir.path(), "exit 255")).await.err().unwrap();
        assert_eq!(error, BROKEN);
    }
}
