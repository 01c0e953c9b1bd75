//! `pause` and `resume`: stop and continue the guest's processors.

use crate::{
    commands::status,
    context::Context,
    output::{self, shell_word},
    progress,
};
use clap::Args;
use dvn_types::{MachineName, Report};

/// Flags of `pause`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix pause && darwin-vz-nix status
  darwin-vz-nix pause web")]
pub struct Pause {
    /// Machine, of the library or not [default: that of --machine]
    #[arg(value_name = "NAME")]
    name: Option<MachineName>,
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Pause {
    /// Returns when the guest is paused.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.named_or_chosen(self.name.as_ref())?);
        progress::with_notice(format!("{machine}: pausing"), client.pause(&machine)).await?;
        if self.json {
            return status::print_one(&client, &machine).await;
        }
        // A machine of the library has no doors, so no connection resumes it.
        let next = match status::of(&client, &machine).await? {
            Some(_) => "the next connection resumes it".to_owned(),
            None => format!("resume it with `darwin-vz-nix resume {}`", shell_word(machine.as_str())),
        };
        output::print(&format!("{machine} is paused; {next}\n"))
    }
}

/// Flags of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix resume
  darwin-vz-nix resume web")]
pub struct Resume {
    /// Machine, of the library or not [default: that of --machine]
    #[arg(value_name = "NAME")]
    name: Option<MachineName>,
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Resume {
    /// Returns when the guest answers again.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.named_or_chosen(self.name.as_ref())?);
        progress::during(&client, &machine, client.resume(&machine)).await?;
        match self.json {
            true => status::print_one(&client, &machine).await,
            false => output::print(&format!("{machine} is resumed\n")),
        }
    }
}
