//! `exec`: runs a command in a machine by its agent, as if it ran here: input, output, signals, terminal and exit code.

use crate::{
    agent_call::{Connection, call, unexpected},
    context::Context,
    exec_session::{Ended, carry},
    output,
    raw_terminal::{self, RawTerminal},
};
use clap::Args;
use dvn_client::Client;
use dvn_protocol::service::{Call, Exec as Request, Frame, Reply};
use dvn_types::{Kind, MachineName, Report};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, stderr, stdin, stdout},
    os::fd::AsFd,
    process::ExitCode,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

/// Bytes of stdin that are sent at once.
const BUFFER: usize = 32 * 1024;

/// Frames that may wait to be sent.
const QUEUE: usize = 8;

/// After this many interrupts the command is abandoned.
const PATIENCE: u32 = 3;

/// Numbers of signals, the same in every kernel that guests have.
const HUP: u8 = 1;
const INT: u8 = 2;
const QUIT: u8 = 3;
const TERM: u8 = 15;

/// Flags of `exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix exec -it -u admin web bash
  tar c src | darwin-vz-nix exec -i -w /srv web tar x")]
pub struct Exec {
    /// Forward stdin
    #[arg(short, long)]
    interactive: bool,
    /// Run it on a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, by name or number [default: the agent's, which is root]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory [default: the user's home]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Print the number of its process in the guest, and do not wait for it
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give a name and a value, such as LANG=C".to_owned()),
    }
}

impl Exec {
    /// Returns the exit code when the command has ended.
    pub async fn run(self, context: &Context) -> Result<ExitCode, Report> {
        self.perform(&context.client(), context.terminal.as_deref()).await.map(ExitCode::from)
    }

    async fn perform(self, client: &Client, terminal: Option<&str>) -> Result<u8, Report> {
        let (name, interactive, tty) = (self.name.clone(), self.interactive, self.tty);
        let request = self.request(terminal);
        let detach = request.detach;
        let (reply, connection) = call(client, &name, &Call::Exec(request)).await?;
        let Reply::Started { pid } = reply else { return Err(unexpected(&reply)) };
        if detach {
            output::print(&format!("{pid}\n"))?;
            return Ok(0);
        }
        Ok(session(connection, interactive, tty).await?.exit_code())
    }

    fn request(self, terminal: Option<&str>) -> Request {
        let mut env: BTreeMap<String, String> = self.env.into_iter().collect();
        if let Some(terminal) = terminal.filter(|_| self.tty) {
            env.entry("TERM".to_owned()).or_insert_with(|| terminal.to_owned());
        }
        let mut words = self.command.into_iter();
        Request {
            // clap demands it.
            command: words.next().unwrap_or_default(),
            args: words.collect(),
            env,
            workdir: self.workdir,
            user: self.user,
            tty: self.tty.then(raw_terminal::size),
            stdin: self.interactive,
            detach: self.detach,
        }
    }
}

/// Runs a command of Tart's command line. Returns its exit code when it has ended.
pub async fn attached(
    client: &Client,
    name: &MachineName,
    command: Vec<String>,
    (interactive, tty): (bool, bool),
    terminal: Option<&str>,
) -> Result<u8, Report> {
    let (user, workdir, env, detach) = Default::default();
    let exec = Exec { interactive, tty, user, workdir, env, detach, name: name.clone(), command };
    exec.perform(client, terminal).await
}

/// The time from the command's start to its end.
async fn session(connection: Connection, interactive: bool, tty: bool) -> Result<Ended, Report> {
    let (frames, receiver) = mpsc::channel(QUEUE);
    let (give_up, given_up) = oneshot::channel();
    let signals = Signals::watch()?;
    // Restored on every way out of here.
    let _raw = if interactive && tty { RawTerminal::enter()? } else { None };
    let forwarding = tokio::spawn(signals.forward(frames.clone(), tty, give_up));
    if interactive {
        forward_stdin(frames)?;
    }
    let (mut stdout, mut stderr) = (stdout(), stderr());
    let ended = tokio::select! {
        ended = carry(connection, receiver, &mut stdout, &mut stderr) => ended,
        // The sender is dropped only with the task, which ends after this.
        Ok(signal) = given_up => Ok(Ended::Killed(signal)),
    };
    forwarding.abort();
    ended
}

/// Sends stdin until it ends, in a thread that ends with the process: a read from a terminal cannot be cancelled.
fn forward_stdin(frames: mpsc::Sender<Vec<u8>>) -> Result<(), Report> {
    let failed = |error: io::Error| Report::new(Kind::Host, format!("cannot read stdin: {error}"));
    let mut stdin = File::from(stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let copy = move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match stdin.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
                Ok(length) => length,
            };
            // An empty frame is the end of the input.
            let sent = frames.blocking_send(Frame::Stdin(&buffer[..length]).to_bytes());
            if sent.is_err() || length == 0 {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(copy).map(drop).map_err(failed)
}

/// The signals that belong to the command, and those of the terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
    resized: Signal,
}

impl Signals {
    fn watch() -> Result<Signals, Report> {
        let watch = |kind: SignalKind| {
            signal(kind).map_err(|error| Report::new(Kind::Internal, format!("cannot wait for signals: {error}")))
        };
        Ok(Signals {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            quit: watch(SignalKind::quit())?,
            hangup: watch(SignalKind::hangup())?,
            resized: watch(SignalKind::window_change())?,
        })
    }

    /// Sends each to the command. Gives up after a hangup, and after some interrupts that did not end it.
    async fn forward(mut self, frames: mpsc::Sender<Vec<u8>>, tty: bool, give_up: oneshot::Sender<u8>) {
        let mut sent = 0;
        loop {
            let signal = tokio::select! {
                _ = self.interrupt.recv() => INT,
                _ = self.terminate.recv() => TERM,
                _ = self.quit.recv() => QUIT,
                _ = self.hangup.recv() => HUP,
                _ = self.resized.recv() => {
                    if tty && frames.send(Frame::Resize(raw_terminal::size()).to_bytes()).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            sent += 1;
            if signal == HUP || sent >= PATIENCE {
                // Received unless the command has ended meanwhile.
                let _ = give_up.send(signal);
                return;
            }
            // A full queue must not keep the next signal from being counted.
            let _ = frames.try_send(Frame::Signal(signal).to_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Cli;
    use clap::Parser;

    fn request(words: &[&str]) -> Request {
        let cli = Cli::try_parse_from(["darwin-vz-nix", "exec"].iter().chain(words)).unwrap();
        let crate::grammar::Verb::Exec(exec) = cli.verb else { panic!("another verb") };
        exec.request(Some("xterm"))
    }

    #[test]
    fn flags_are_before_the_machine_and_all_after_it_is_the_commands() {
        let plain = request(&["My VM", "ls", "-l", "--json", "--", "-v"]);
        let words = ["-l", "--json", "--", "-v"].map(str::to_owned).to_vec();
        assert_eq!(plain, Request { command: "ls".into(), args: words, ..Request::default() });
        assert_eq!(request(&["vm", "--", "ls", "-l"]), request(&["vm", "ls", "-l"]));
        let all = request(&["-i", "-u", "7", "-w", "/tmp", "-e", "A=b=c", "--env", "B=", "vm", "id"]);
        let env = [("A".into(), "b=c".into()), ("B".into(), String::new())].into();
        let (user, workdir) = (Some("7".into()), Some("/tmp".into()));
        assert_eq!(all, Request { command: "id".into(), env, user, workdir, stdin: true, ..Request::default() });
        assert!(request(&["-d", "vm", "id"]).detach);
    }

    #[test]
    fn a_terminal_has_a_size_and_a_kind() {
        let on_a_terminal = request(&["-it", "vm", "top"]);
        assert!(on_a_terminal.tty.is_some() && on_a_terminal.stdin);
        assert_eq!(on_a_terminal.env["TERM"], "xterm");
        assert_eq!(request(&["-t", "-e", "TERM=dumb", "vm", "top"]).env["TERM"], "dumb");
        assert!(request(&["-i", "vm", "cat"]).env.is_empty());
    }
}
