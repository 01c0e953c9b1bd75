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
    MachineName, Report,
    wire::{StartRequest, State},
};

/// Flags of `start`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix start
  darwin-vz-nix start web
  darwin-vz-nix start --cores 8 --memory 16G")]
pub struct Start {
    /// Machine, of the library or not [default: that of --machine]
    #[arg(value_name = "NAME")]
    name: Option<MachineName>,
    #[command(flatten)]
    sizes: SizeFlags,
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Start {
    /// Returns when the machine runs.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.named_or_chosen(self.name.as_ref())?;
        let request = self.request()?;
        let client = launch::ensure(context).await?;
        let before = match (status::of(&client, &machine).await?, &self.name) {
            // Of the library, or of nothing: then this says so.
            (None, Some(_)) => Some(client.machine(&machine).await?.state),
            (status, _) => status.map(|status| status.state),
        };
        progress::during(&client, &machine, client.start(&machine, &request)).await?;
        if self.json {
            return status::print_one(&client, &machine).await;
        }
        let after = status::of(&client, &machine).await?;
        match before {
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
