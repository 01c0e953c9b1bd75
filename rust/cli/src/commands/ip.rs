//! `ip`: the addresses of a running machine.

use crate::{context::Context, output, progress};
use clap::Args;
use dvn_client::Client;
use dvn_types::{Kind, MachineName, Report, wire::Addresses};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Interval between two questions: a guest does not announce that it has an address.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `ip`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ssh admin@$(darwin-vz-nix ip web --wait 60)")]
pub struct Ip {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Wait this many seconds for an address, and for the machine to be started
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    wait: u32,
    /// Print all addresses as JSON
    #[arg(long)]
    pub json: bool,
}

impl Ip {
    /// Prints it.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, name) = (context.client(), self.name);
        let asking = addresses(&client, &name, Duration::from_secs(self.wait.into()));
        let found = progress::with_notice(format!("{name}: waiting for an address"), asking).await?;
        match (self.json, found.addresses.first()) {
            (true, _) => output::print_json(&found),
            (false, Some(address)) => output::print(&format!("{address}\n")),
            (false, None) => Err(Report::new(Kind::Guest, format!("{name} has no address"))),
        }
    }
}

/// The addresses, as soon as there are some. After `wait` the last error is the answer.
pub async fn addresses(client: &Client, name: &MachineName, wait: Duration) -> Result<Addresses, Report> {
    let give_up = Instant::now() + wait;
    loop {
        match client.addresses(name).await {
            // The guest has none yet, or the machine does not run yet.
            Err(report) if matches!(report.kind, Kind::Guest | Kind::Busy) && Instant::now() < give_up => {
                sleep(INTERVAL.min(give_up - Instant::now())).await;
            }
            answer => return answer,
        }
    }
}
