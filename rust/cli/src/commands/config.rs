//! `config`: the effective settings, and where each comes from.

use crate::{context::Context, machine_flags::MachineFlags, output};
use clap::Args;
use comfy_table::{Table, presets};
use dvn_config::{HostFacts, Key};
use dvn_types::{
    Report,
    wire::{ConfigView, SettingView},
};
use std::collections::BTreeMap;

/// Flags of `config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix config
  darwin-vz-nix config --daemon --json")]
pub struct Config {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Show the running daemon's settings, which may be older
    #[arg(long)]
    daemon: bool,
    #[command(flatten)]
    pub machine: MachineFlags,
}

impl Config {
    /// Checks and prints them.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let mut shown = match self.daemon {
            true => context.client().config().await?,
            false => context.config.shown(&HostFacts::gather())?,
        };
        if let Some(name) = &context.global.machine {
            shown.machines.retain(|machine, _| machine == name);
        }
        if self.json { output::print_json(&shown) } else { output::print(&table(&shown)) }
    }
}

fn table(shown: &ConfigView) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["MACHINE", "SETTING", "VALUE", "FROM"]);
    let mut rows = |machine: &str, settings: &BTreeMap<String, SettingView>| {
        for key in Key::ALL {
            if let Some(found) = settings.get(key.name()) {
                table.add_row([machine, key.name(), &found.value, &found.origin]);
            }
        }
    };
    rows("-", &shown.daemon);
    for (name, settings) in &shown.machines {
        rows(name.as_str(), settings);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
