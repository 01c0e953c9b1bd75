//! `pause` and `resume`: the guest stands still, and goes on.

use super::{context::Context, output, progress};
use crate::error::Report;
use clap::Args;

/// Flags of `pause`.
#[derive(Debug, Args)]
pub struct Pause {}

impl Pause {
    /// Returns when the guest stands still.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.machine()?);
        client.pause(&machine).await?;
        output::print(&format!("{machine} is paused; the next connection has it go on\n"))
    }
}

/// Flags of `resume`.
#[derive(Debug, Args)]
pub struct Resume {}

impl Resume {
    /// Returns when the guest answers again.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.machine()?);
        progress::during(&client, &machine, client.resume(&machine)).await?;
        output::print(&format!("{machine} goes on\n"))
    }
}
