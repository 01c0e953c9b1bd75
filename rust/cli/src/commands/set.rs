//! `set` and `rename`: changes of a machine that does not run.

use crate::{context::Context, launch, output};
use clap::{ArgAction, Args};
use dvn_config::Size;
use dvn_types::{Kind, MachineName, Report, wire::SetRequest};

/// Flags of `set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix set web --cores 2 --disk-size 100G")]
pub struct Set {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Virtual processors
    #[arg(long, visible_alias = "cpu", value_name = "N")]
    cores: Option<u32>,
    /// Memory, such as 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of its disk, such as 100G; a disk can grow, not shrink
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Size of its display: 1920x1080, with px or pt if it has a unit
    #[arg(long, value_name = "SIZE")]
    display: Option<String>,
    /// Let the guest's resolution follow the size of a window
    #[arg(long, overrides_with = "no_display_refit")]
    display_refit: bool,
    /// Let the guest keep its resolution
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "display_refit")]
    no_display_refit: bool,
    /// Give it a new random MAC address
    #[arg(long)]
    random_mac: bool,
    /// Print the machine as JSON
    #[arg(long)]
    pub json: bool,
}

impl Set {
    /// Returns when all is changed.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let request = SetRequest {
            cores: self.cores,
            memory: self.memory.map(|size| size.0),
            disk_size: self.disk_size.map(|size| size.0),
            display: self.display,
            display_refit: self.display_refit.then_some(true).or(self.no_display_refit.then_some(false)),
            random_mac: self.random_mac,
        };
        if request == SetRequest::default() {
            return Err(Report::new(Kind::Config, "there is nothing to change")
                .hint("give a flag, such as --cores 2; `darwin-vz-nix set --help` lists them"));
        }
        let client = launch::ensure(context).await?;
        let changed = client.set(&self.name, &request).await?;
        match self.json {
            true => output::print_json(&changed),
            false => output::print(&format!("{} is changed\n", self.name)),
        }
    }
}

/// Flags of `rename`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix rename web web-old")]
pub struct Rename {
    /// Machine, which must not run
    #[arg(value_name = "OLD")]
    old_name: MachineName,
    /// Its new name
    #[arg(value_name = "NEW")]
    new_name: MachineName,
    /// Print the machine as JSON
    #[arg(long)]
    pub json: bool,
}

impl Rename {
    /// Returns when it has the new name.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let client = launch::ensure(context).await?;
        let renamed = client.rename(&self.old_name, self.new_name.clone()).await?;
        match self.json {
            true => output::print_json(&renamed),
            false => output::print(&format!("{} is now {}\n", self.old_name, self.new_name)),
        }
    }
}
