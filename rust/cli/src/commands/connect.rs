//! `connect`: stdin and stdout joined to a service of the guest. Nix calls it as the remote program of the direct door, ssh as
//! its proxy command.
//!
//! ```text
//! stdin  ──▶ thread ──▶ socket ──▶ daemon ──▶ guest       end of stdin: the guest sees the end of its input
//! stdout ◀── main   ◀── socket ◀── daemon ◀── guest       end of the guest's output: this program ends
//! ```
//!
//! Both copies block in the kernel: there is nothing to poll, and a byte waits for nothing but its own turn.

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

/// Bytes copied at once; a pipe holds half of it.
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
    /// What Nix adds to a remote program's command line, such as --stdio; ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// A service as the command line has it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    /// The running nix-daemon
    Nix,
    /// sshd
    Ssh,
}

impl Connect {
    /// Ends when the guest has nothing more to say. A failure is one line, which Nix and ssh pass on.
    pub fn run(self, global: Global) -> ExitCode {
        match self.join(global) {
            Ok(()) => ExitCode::SUCCESS,
            Err(report) => {
                let hints: String = report.hints.iter().map(|hint| format!("; {hint}")).collect();
                let line = format!("darwin-vz-nix: {}{hints}", report.message).replace('\n', " ");
                let _ = writeln!(io::stderr(), "{line}");
                ExitCode::from(report.kind.exit_code())
            }
        }
    }

    fn join(self, global: Global) -> Result<(), Report> {
        let environment = Environment::read()?;
        let given = (environment.given_state_dir(&global), environment.given_machine(&global)?);
        // Nix's daemon calls this as another user, whose configuration says nothing about this daemon.
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
        // Not `io::stdout()`, which holds bytes back until a line is whole.
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(broken)?);
        stdout.write_all(&early).map_err(left)?;
        let to_guest = socket.try_clone().map_err(broken)?;
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || send(stdin, &to_guest)).map_err(broken)?;
        receive(&socket, &mut stdout)
        // The other thread may wait for a stdin that nobody closes; it ends with the process.
    }
}

/// Until stdin ends; then the guest is told. If the guest stops listening first, its own end will tell.
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

/// Until the guest's output ends.
fn receive(mut guest: &UnixStream, stdout: &mut File) -> Result<(), Report> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match guest.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
            Ok(0) => return Ok(()),
            Ok(length) => stdout.write_all(&buffer[..length]).map_err(left)?,
        }
    }
}

fn broken(error: io::Error) -> Report {
    Report::new(Kind::Guest, format!("the connection to the guest broke: {error}")).hint("see `darwin-vz-nix status`")
}

fn left(error: io::Error) -> Report {
    Report::new(Kind::Guest, format!("the caller stopped listening: {error}"))
}
