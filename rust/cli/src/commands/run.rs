//! `run`: boots a machine of the library and stays attached to its console until its guest ends.
//!
//! ```text
//! check ▸ boot ▸ follow the console ──▶ the guest ends ▸ the console's rest ▸ exit code
//!           └──────── an interrupt: the power button; a second one: by force
//! ```
//!
//! The daemon runs the guest: with `--detach`, or if this program is killed, the guest continues.

use crate::{
    commands::logs::Printer,
    context::Context,
    devices::{Directory, Disk, Ports},
    launch,
    output::{self, notice, shell_word},
    progress,
    readiness::{self, WaitFor},
};
use clap::Args;
use dvn_client::Client;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{ExtraDisk, Role, RunRequest, SharedDirectory, State, StopRequest},
};
use std::{
    io::{self, IsTerminal, stdout},
    pin::pin,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

/// Time limit of a request that waits for the next change.
const POLL: Duration = Duration::from_secs(60);

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix run web --expose 8080:80 --dir src:./src:ro
  darwin-vz-nix run web --detach --wait-for agent")]
pub struct Run {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Without a screen, keyboard and pointer
    #[arg(long)]
    no_graphics: bool,
    /// Attach an image as a further disk; :ro forbids writing
    #[arg(long, value_name = "PATH[:ro]")]
    disk: Vec<Disk>,
    /// Share a directory, under NAME as its tag; :ro forbids writing
    #[arg(long, value_name = "[NAME:]PATH[:ro]")]
    dir: Vec<Directory>,
    /// Let a port of this computer's loopback address lead to the guest's
    #[arg(long, value_name = "HOST:GUEST")]
    expose: Vec<Ports>,
    /// Return when it runs
    #[arg(long)]
    detach: bool,
    /// Wait until it has this: agent, ip (an address) or port:N
    #[arg(long, value_name = "WHAT", requires = "detach")]
    wait_for: Option<WaitFor>,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait_for", default_value_t = 300)]
    timeout: u32,
}

impl Run {
    /// Returns when the guest has ended; with `--detach`, when it runs.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let request = self.request(context)?;
        let client = launch::ensure(context).await?;
        demand_at_rest(&client, &self.name).await?;
        if !self.detach {
            return attached(&client, &self.name, &request).await;
        }
        progress::during(&client, &self.name, client.run(&self.name, &request)).await?;
        if let Some(what) = self.wait_for {
            readiness::wait(&client, &self.name, what, Duration::from_secs(self.timeout.into())).await?;
        }
        output::print(&format!("{} runs\n", self.name))
    }

    fn request(&self, context: &Context) -> Result<RunRequest, Report> {
        let disk = |disk: &Disk| Ok(ExtraDisk { path: context.absolute(&disk.path)?, read_only: disk.read_only });
        let share = |dir: &Directory| {
            Ok(SharedDirectory { tag: dir.tag.clone(), path: context.absolute(&dir.path)?, read_only: dir.read_only })
        };
        let request = RunRequest {
            no_graphics: self.no_graphics,
            disks: self.disk.iter().map(disk).collect::<Result<_, Report>>()?,
            shares: self.dir.iter().map(share).collect::<Result<_, Report>>()?,
            expose: self.expose.iter().map(|ports| ports.0).collect(),
        };
        let twice = |share: &SharedDirectory| request.shares.iter().filter(|other| other.tag == share.tag).count() > 1;
        match request.shares.iter().find(|share| twice(share)) {
            Some(share) => Err(Report::new(Kind::Config, format!("two directories have the tag {}", share.tag))
                .hint("give each a name of its own: --dir NAME:PATH")),
            None => Ok(request),
        }
    }
}

/// A machine that runs keeps the devices that it has, so what is asked for now would be ignored.
async fn demand_at_rest(client: &Client, name: &MachineName) -> Result<(), Report> {
    let vm = client.machine(name).await?;
    let word = shell_word(name.as_str());
    if vm.role == Role::Builder {
        let report = Report::new(Kind::Config, format!("{name} is a builder, which the configuration declares"));
        return Err(report.hint(format!("start it: `darwin-vz-nix start {word}`")));
    }
    match vm.state {
        State::Starting | State::Running { .. } | State::Paused { .. } | State::Stopping { .. } => {
            Err(Report::new(Kind::Busy, format!("{name} runs already"))
                .hint(format!("follow its console: `darwin-vz-nix logs --console --follow {word}`"))
                .hint(format!("or stop it: `darwin-vz-nix stop {word}`")))
        }
        _ => Ok(()),
    }
}

/// Boots it, and follows its console to the end of its guest.
async fn attached(client: &Client, name: &MachineName, request: &RunRequest) -> Result<(), Report> {
    let mut stops = Stops::watch(client, name)?;
    let booted = {
        let mut boot = pin!(progress::during(client, name, client.run(name, request)));
        loop {
            tokio::select! {
                outcome = &mut boot => break outcome,
                () = stops.interrupted() => stops.ask(),
            }
        }
    };
    match booted {
        // The stop that was asked for ended the boot.
        Err(_) if stops.asked > 0 => return stops.finish().await,
        booted => booted?,
    }
    let mut console = client.console(name, true, None).await?;
    let mut printer = Printer::new(stdout().is_terminal());
    let (mut printed, mut follows) = (0, true);
    let end = {
        let mut end = pin!(until_it_ends(client, name));
        loop {
            tokio::select! {
                biased;
                () = stops.interrupted() => stops.ask(),
                chunk = console.chunk(), if follows => match chunk? {
                    Some(chunk) => {
                        printed += chunk.len();
                        output::print_bytes(&printer.form(chunk.into()))?;
                    }
                    // The daemon ends.
                    None => follows = false,
                },
                end = &mut end => break end?,
            }
        }
    };
    drop(console);
    print_rest(client, name, printed, &mut printer).await?;
    outcome(name, end)
}

/// The state of a machine once its guest has ended.
async fn until_it_ends(client: &Client, name: &MachineName) -> Result<State, Report> {
    // Before the state, so that no change between the two is missed.
    let mut generation = client.status().await?.generation;
    loop {
        match client.machine(name).await?.state {
            State::Starting | State::Running { .. } | State::Paused { .. } | State::Stopping { .. } => {}
            state => return Ok(state),
        }
        generation = client.status_after(generation, POLL).await?.generation;
    }
}

/// Prints what the guest wrote last, which the daemon had not sent yet.
async fn print_rest(client: &Client, name: &MachineName, printed: usize, printer: &mut Printer) -> Result<(), Report> {
    let mut console = client.console(name, false, None).await?;
    let mut skip = printed;
    while let Some(chunk) = console.chunk().await? {
        let known = skip.min(chunk.len());
        skip -= known;
        output::print_bytes(&printer.form(chunk[known..].to_vec()))?;
    }
    Ok(())
}

/// Whether that end is an error.
fn outcome(name: &MachineName, end: State) -> Result<(), Report> {
    match end {
        State::Stopped { last_exit } => match last_exit.as_deref() {
            None | Some("powered-off") => notice(&format!("{name} has powered itself off")),
            Some("killed") => notice(&format!("{name} was forced off")),
            Some(crashed) => {
                let see = format!("darwin-vz-nix logs --console {}", shell_word(name.as_str()));
                return Err(Report::new(Kind::Guest, format!("{name} {crashed}"))
                    .hint(format!("see its console: `{see}`, and the daemon's log: `darwin-vz-nix logs`")));
            }
        },
        State::Suspended => notice(&format!("{name} is suspended; the next start continues it")),
        State::Failed { cause, .. } | State::Broken { cause } => return Err(cause),
        other => return Err(Report::new(Kind::Busy, format!("{name} is {}", crate::words::state(&other, false)))),
    }
    Ok(())
}

/// Signals that end this program, and the stops of the machine that they ask for.
struct Stops<'a> {
    client: &'a Client,
    name: &'a MachineName,
    asked: u32,
    requests: JoinSet<Result<(), Report>>,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl<'a> Stops<'a> {
    fn watch(client: &'a Client, name: &'a MachineName) -> Result<Stops<'a>, Report> {
        let failed = |error: io::Error| Report::new(Kind::Internal, format!("cannot wait for signals: {error}"));
        let watch = |kind: SignalKind| signal(kind).map_err(failed);
        Ok(Stops {
            client,
            name,
            asked: 0,
            requests: JoinSet::new(),
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. A stop that failed is reported meanwhile.
    async fn interrupted(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => return,
                Some(stopped) = self.requests.join_next() => {
                    if let Ok(Err(report)) = stopped {
                        output::fail(&report, false);
                    }
                }
            }
        }
    }

    /// Asks for a stop; from the second time on, by force.
    fn ask(&mut self) {
        self.asked += 1;
        let force = self.asked > 1;
        notice(&match force {
            false => format!("{}: stopping; a second interrupt forces it off", self.name),
            true => format!("{}: forcing it off", self.name),
        });
        let (client, name) = (self.client.clone(), self.name.clone());
        self.requests.spawn(async move { client.stop(&name, &StopRequest { force }).await.map(drop) });
    }

    /// Waits until all stops that were asked for are done.
    async fn finish(mut self) -> Result<(), Report> {
        while let Some(stopped) = self.requests.join_next().await {
            stopped.unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}
