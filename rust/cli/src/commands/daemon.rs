//! `daemon`: the daemon in the foreground. `start` also runs it, in a separate session.

use crate::{
    context::{Context, this_program},
    logging,
    machine_flags::MachineFlags,
    runtime::block_on_threads,
};
use clap::Args;
use dvn_config::{HostFacts, Key};
use dvn_daemon::RunOptions;
use dvn_host::{descriptors::Inheritance, machine_dir::StateDir};
use dvn_types::{Kind, Report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Flags of `daemon`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix daemon --bundle ./guest --cores 4
  darwin-vz-nix daemon --api-listen 127.0.0.1:31180")]
pub struct Daemon {
    #[arg(long, value_name = Key::ApiListen.placeholder(), help = Key::ApiListen.help())]
    pub api_listen: Option<String>,
    #[command(flatten)]
    pub machine: MachineFlags,
    /// Leave the terminal's session; print the reason of a failure as JSON on stdout
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl Daemon {
    /// Runs the daemon until it is stopped.
    pub fn run(self, context: &Context, inheritance: Inheritance) -> Result<(), Report> {
        let hangs_up = !inheritance.ignores_hangup;
        inheritance.shed();
        let settings = context.settings()?;
        let options = RunOptions {
            search_path: context.search_path.clone(),
            program: this_program()?,
            flags: context.daemon_flags(),
            nix_environment: context.nix_environment.clone(),
            host: HostFacts::gather(),
            shown: context.config.shown(&HostFacts::gather())?,
            hangs_up,
            detached: self.detached,
        };
        if self.detached {
            detach()?;
        }
        allow_many_connections();
        let log = StateDir::open(&settings.state_dir)?.daemon_log();
        logging::for_the_daemon(context, &log, !self.detached)?;
        let outcome = block_on_threads(dvn_daemon::Daemon::run(settings, options))?;
        if let Err(report) = &outcome {
            tracing::error!(target: logging::END, "{}", report.message);
        }
        outcome
    }
}

/// Raises the limit of open files: each connection takes a few, and launchd's limit for a service is 256. 10,240 is the
/// most that macOS grants by default. If it is refused, the limit stays unchanged.
fn allow_many_connections() {
    const ENOUGH: u64 = 10_240;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < ENOUGH) {
        let current = Some(limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH)));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// Starts a new session, so that neither the terminal's signals nor Nix end the daemon: Nix ends the session of a
/// program that it calls. Also leaves the working directory, which would keep its volume from being unmounted.
fn detach() -> Result<(), Report> {
    // Fails if this process leads a process group already, which is sufficient.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")
        .map_err(|error| Report::new(Kind::Host, format!("cannot change to the directory /: {error}")))
}
