//! `stop`: the machine, or the daemon with all of them.

use super::{context::Context, output, progress};
use crate::{api::types::StopRequest, error::Report};
use clap::Args;

/// Flags of `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Pull the plug instead of pressing the power button
    #[arg(long)]
    force: bool,
    /// Stop every machine and end the daemon
    #[arg(long, conflicts_with = "force")]
    daemon: bool,
}

impl Stop {
    /// Returns when the machine is off.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let client = context.client();
        if self.daemon {
            client.shut_down().await?;
            return output::print("the daemon ends\n");
        }
        let machine = context.machine()?;
        let request = StopRequest { force: self.force };
        progress::during(&client, &machine, client.stop(&machine, &request)).await?;
        output::print(&format!("{machine} is stopped\n"))
    }
}
