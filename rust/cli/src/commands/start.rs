//! `start`: starts the machine, and the daemon if none runs.

use crate::{
    commands::status::{self, timeline},
    context::Context,
    launch,
    machine_flags::SizeFlags,
    output, progress,
};
use clap::Args;
use dvn_config::{HostFacts, start_request};
use dvn_types::{
    Report,
    wire::{StartRequest, State},
};

/// Flags of `start`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix start
  darwin-vz-nix start --cores 8 --memory 16G")]
pub struct Start {
    #[command(flatten)]
    sizes: SizeFlags,
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Start {
    /// Returns when the machine runs.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.machine()?;
        let request = self.request()?;
        let client = launch::ensure(context).await?;
        let before = status::of(&client, &machine).await?;
        progress::during(&client, &machine, client.start(&machine, &request)).await?;
        let after = status::of(&client, &machine).await?;
        if self.json {
            return output::print_json(&after);
        }
        match before.map(|status| status.state) {
            Some(State::Running { .. }) => return output::print(&format!("{machine} runs already\n")),
            Some(State::Paused { .. }) => return output::print(&format!("{machine} is resumed\n")),
            _ => {}
        }
        match after.and_then(|status| status.last_boot) {
            Some(boot) => output::print(&format!("{machine} runs\n{}", timeline(&boot))),
            None => output::print(&format!("{machine} runs\n")),
        }
    }

    fn request(&self) -> Result<StartRequest, Report> {
        start_request(&self.sizes.flags(), &HostFacts::gather()).map(Into::into)
    }
}
