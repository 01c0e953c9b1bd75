//! `stop`: stops a machine, or the daemon with all its machines.

use crate::{commands::status, context::Context, output, progress, words};
use clap::Args;
use dvn_types::{MachineName, Report, wire::StopRequest};

/// Flags of `stop`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix stop
  darwin-vz-nix stop web
  darwin-vz-nix stop --daemon")]
pub struct Stop {
    /// Machine, of the library or not [default: that of --machine]
    #[arg(value_name = "NAME", conflicts_with = "daemon")]
    name: Option<MachineName>,
    /// Force the guest off instead of pressing the power button
    #[arg(long)]
    force: bool,
    /// Stop every machine and end the daemon
    #[arg(long, conflicts_with_all = ["force", "json"])]
    daemon: bool,
    /// Print the machine's status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Stop {
    /// Returns when the machine is off.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let client = context.client();
        if self.daemon {
            progress::with_notice("stopping the daemon and its machines", client.shut_down()).await?;
            return output::print("the daemon is stopping\n");
        }
        let machine = context.named_or_chosen(self.name.as_ref())?;
        let request = StopRequest { force: self.force };
        let how = progress::during(&client, &machine, client.stop(&machine, &request)).await?;
        match self.json {
            true => status::print_one(&client, &machine).await,
            false => output::print(&format!("{machine} is stopped{}\n", words::stopped(&how, self.force))),
        }
    }
}
