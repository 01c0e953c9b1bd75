//! `connect`: connects stdin and stdout to a service of the guest. Nix calls it as the remote program of the direct
//! door, ssh as its proxy command.
//!
//! ```text
//! stdin  ──▶ thread ──▶ socket ──▶ daemon ──▶ guest       end of stdin: the guest sees the end of its input
//! stdout ◀── main   ◀── socket ◀── daemon ◀── guest       end of the guest's output: this program ends
//! ```
//!
//! Both copies use blocking calls, without polling and without an async runtime in the path.

use crate::{
    context::{Context, Environment},
    global::Global,
    runtime::block_on,
};
use clap::{Args, ValueEnum};
use dvn_client::{Client, RawStream};
use dvn_types::{Kind, Report, Service};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

/// Bytes copied at once: twice the size of a pipe.
const BUFFER: usize = 128 * 1024;

/// Flags of `connect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nix build --builders 'ssh-ng://localhost?remote-program=/path/to/darwin-vz-nix-connect aarch64-linux'
  ssh -o ProxyCommand='darwin-vz-nix connect --service ssh' builder@darwin-vz-builder")]
pub struct Connect {
    /// Service of the guest
    #[arg(long, value_enum, default_value_t = Door::Nix)]
    service: Door,
    /// Arguments that Nix appends to a remote program's command line, such as --stdio; ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// A service, for the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    /// The running nix-daemon
    Nix,
    /// sshd
    Ssh,
}

impl Connect {
    /// Runs until the guest's output ends. Prints an error as one line, which Nix and ssh pass on.
    pub fn run(self, global: Global) -> ExitCode {
        match self.relay(global) {
            Ok(()) => ExitCode::SUCCESS,
            Err(report) => {
                let hints: String = report.hints.iter().map(|hint| format!("; {hint}")).collect();
                let line = format!("darwin-vz-nix: {}{hints}", report.message).replace('\n', " ");
                let _ = writeln!(io::stderr(), "{line}");
                ExitCode::from(report.kind.exit_code())
            }
        }
    }

    fn relay(self, global: Global) -> Result<(), Report> {
        let environment = Environment::read()?;
        let given = (environment.given_state_dir(&global), environment.given_machine(&global)?);
        // Nix's daemon may call this as another user, whose configuration does not apply to this daemon.
        let (client, machine) = match given {
            (Some(dir), Some(machine)) => (Client::new(&dir), machine),
            _ => {
                let context = Context::new(global, Vec::new())?;
                (context.client(), context.machine()?)
            }
        };
        let service = match self.service {
            Door::Nix => Service::Nix,
            Door::Ssh => Service::Ssh,
        };
        let (socket, early) = block_on(async {
            let RawStream { stream, early } = client.connect(&machine, service).await?;
            let socket = stream.into_std().and_then(|socket| socket.set_nonblocking(false).map(|()| socket));
            Ok::<_, Report>((socket.map_err(broken)?, early))
        })??;
        let stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(broken)?);
        // Not `io::stdout()`, which is line-buffered.
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(broken)?);
        stdout.write_all(&early).map_err(stdout_closed)?;
        let to_guest = socket.try_clone().map_err(broken)?;
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || send(stdin, &to_guest)).map_err(broken)?;
        receive(&socket, &mut stdout)
        // The other thread may still wait for stdin. It ends with the process.
    }
}

/// Copies stdin to the guest until stdin ends, then closes that direction. If the guest stops reading first, `receive`
/// sees the end of its output.
fn send(mut stdin: File, mut guest: &UnixStream) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(length) => {
                if guest.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = guest.shutdown(Shutdown::Write);
}

/// Copies the guest's output to stdout until it ends.
fn receive(mut guest: &UnixStream, stdout: &mut File) -> Result<(), Report> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match guest.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
            Ok(0) => return Ok(()),
            Ok(length) => stdout.write_all(&buffer[..length]).map_err(stdout_closed)?,
        }
    }
}

fn broken(error: io::Error) -> Report {
    Report::new(Kind::Guest, format!("the connection to the guest broke: {error}")).hint("see `darwin-vz-nix status`")
}

fn stdout_closed(error: io::Error) -> Report {
    Report::new(Kind::Guest, format!("the caller closed the output: {error}"))
}
