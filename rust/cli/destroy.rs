//! `destroy`: a machine's disk, console and keys. The daemon does it where one runs; otherwise it is done under the state lock.

use super::{context::Context, output};
use crate::{
    error::{Kind, Report},
    machine_dir::StateDir,
    spec::MachineName,
};
use clap::Args;
use std::io::{self, IsTerminal, Write};

/// Flags of `destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Keep the keys, so that hosts which know the machine need not be told anew
    #[arg(long)]
    keep_keys: bool,
}

impl Destroy {
    /// Asks, and deletes.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.machine()?;
        if !self.yes && !self.confirmed(&machine)? {
            return output::print("nothing was deleted\n");
        }
        let client = context.client();
        match client.destroy(&machine, self.keep_keys).await {
            Err(report) if report.kind == Kind::NotRunning => self.without_a_daemon(context, &machine)?,
            outcome => outcome?,
        }
        output::print(&format!("{machine} is deleted\n"))
    }

    fn confirmed(&self, machine: &MachineName) -> Result<bool, Report> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let report = Report::new(Kind::Config, format!("{machine} is not deleted: nobody is there to be asked"));
            return Err(report.hint("say --yes"));
        }
        let what = if self.keep_keys { "its disk" } else { "its disk and its keys" };
        eprint!("Delete {machine} with {what}? [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        let failed = |error| Report::new(Kind::Host, format!("the answer cannot be read: {error}"));
        io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn without_a_daemon(&self, context: &Context, machine: &MachineName) -> Result<(), Report> {
        if !context.state_dir().is_dir() {
            return Ok(());
        }
        let dir = StateDir::open(&context.state_dir())?;
        let _lock = dir.lock()?;
        dir.machine(machine).destroy(self.keep_keys)
    }
}
