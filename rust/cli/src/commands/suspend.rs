//! `suspend`: saves a machine's memory and ends its guest.

use crate::{context::Context, output, progress};
use clap::Args;
use dvn_types::{MachineName, Report};

/// Flags of `suspend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix suspend web && darwin-vz-nix start web")]
pub struct Suspend {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Print the machine as JSON
    #[arg(long)]
    pub json: bool,
}

impl Suspend {
    /// Returns when it is saved.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, name) = (context.client(), self.name);
        progress::with_notice(format!("{name}: suspending"), client.suspend(&name)).await?;
        match self.json {
            true => output::print_json(&client.machine(&name).await?),
            false => output::print(&format!("{name} is suspended; the next start continues it\n")),
        }
    }
}
