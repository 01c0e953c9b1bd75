//! `destroy`: deletes a machine's disk, console, keys and generations. A running daemon does it; otherwise this program
//! does, under the state lock.

use crate::{context::Context, output, progress};
use clap::Args;
use dvn_host::machine_dir::StateDir;
use dvn_types::{Kind, MachineName, Report, wire::DestroyRequest};
use std::io::{self, IsTerminal, Write};

/// Flags of `destroy`.
#[derive(Debug, Args)]
#[command(after_help = "\
A machine that the configuration declares is recreated: its address stays, and the next connection
boots it with an empty disk and new keys. Any other machine is removed.

Examples:
  darwin-vz-nix destroy --keep-keys --keep-generations   # a new, empty disk
  darwin-vz-nix destroy --yes                            # everything, without asking")]
pub struct Destroy {
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    /// Keep the keys, so that the configuration of hosts stays valid
    #[arg(long)]
    keep_keys: bool,
    /// Keep the guest systems built from the recipe
    #[arg(long)]
    keep_generations: bool,
}

impl Destroy {
    /// Asks for confirmation, and deletes.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.machine()?;
        if !self.yes && !self.confirmed(&machine)? {
            return output::print("nothing was deleted\n");
        }
        let client = context.client();
        let deleting = client.destroy(&machine, self.request());
        match progress::with_notice(format!("{machine}: stopping and deleting"), deleting).await {
            Err(report) if report.kind == Kind::NotRunning => self.without_a_daemon(context, &machine)?,
            outcome => outcome?,
        }
        output::print(&format!("{machine} is deleted\n"))
    }

    fn request(&self) -> DestroyRequest {
        DestroyRequest { keep_keys: self.keep_keys, keep_generations: self.keep_generations }
    }

    fn confirmed(&self, machine: &MachineName) -> Result<bool, Report> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let report = Report::new(
                Kind::Config,
                format!("{machine} is not deleted: there is no terminal to ask for confirmation"),
            );
            return Err(report.hint("confirm with --yes"));
        }
        let what = match (self.keep_keys, self.keep_generations) {
            (true, true) => "its disk",
            (true, false) => "its disk and its generations",
            (false, true) => "its disk and its keys",
            (false, false) => "its disk, its keys and its generations",
        };
        eprint!("Delete {machine} with {what}? [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        let failed = |error| Report::new(Kind::Host, format!("cannot read the answer: {error}"));
        io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn without_a_daemon(&self, context: &Context, machine: &MachineName) -> Result<(), Report> {
        if !context.state_dir().is_dir() {
            return Ok(());
        }
        let dir = StateDir::open(&context.state_dir())?;
        let _lock = dir.lock()?;
        dir.machine(machine).destroy(self.request().into())
    }
}
