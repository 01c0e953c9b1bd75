//! `pause` and `resume`: stop and continue the guest's processors.

use crate::{commands::status, context::Context, output, progress};
use clap::Args;
use dvn_types::Report;

/// Flags of `pause`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix pause && darwin-vz-nix status")]
pub struct Pause {
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Pause {
    /// Returns when the guest is paused.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.machine()?);
        progress::with_notice(format!("{machine}: pausing"), client.pause(&machine)).await?;
        match self.json {
            true => output::print_json(&status::of(&client, &machine).await?),
            false => output::print(&format!("{machine} is paused; the next connection resumes it\n")),
        }
    }
}

/// Flags of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix resume")]
pub struct Resume {
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Resume {
    /// Returns when the guest answers again.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.machine()?);
        progress::during(&client, &machine, client.resume(&machine)).await?;
        match self.json {
            true => output::print_json(&status::of(&client, &machine).await?),
            false => output::print(&format!("{machine} is resumed\n")),
        }
    }
}
