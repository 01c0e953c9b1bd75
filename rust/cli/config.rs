//! `config`: the settings that count, and where each comes from.

use super::{args::MachineFlags, context::Context, output};
use crate::{
    config::{HostFacts, Key},
    error::Report,
    spec::MachineName,
};
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// Flags of `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineFlags,
}

#[derive(Serialize)]
struct Value {
    value: String,
    origin: String,
}

/// The daemon's own settings, and every machine's.
#[derive(Serialize)]
struct Shown {
    daemon: BTreeMap<&'static str, Value>,
    machines: BTreeMap<MachineName, BTreeMap<&'static str, Value>>,
}

impl Config {
    /// Prints them, once they have passed the checks.
    pub fn run(self, context: &Context) -> Result<(), Report> {
        let machines = context.config.complete(&HostFacts::gather())?;
        let mut shown = Shown { daemon: BTreeMap::new(), machines: BTreeMap::new() };
        for (name, complete) in &machines {
            for (key, value, origin) in complete.rows() {
                let value = Value { value, origin: origin.to_string() };
                let place = if key.of_a_machine() {
                    shown.machines.entry(name.clone()).or_default()
                } else {
                    &mut shown.daemon
                };
                place.insert(key.name(), value);
            }
        }
        if let Some(name) = &context.global.machine {
            shown.machines.retain(|machine, _| machine == name);
        }
        if self.json { output::print_json(&shown) } else { output::print(&table(&shown)) }
    }
}

fn table(shown: &Shown) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["MACHINE", "SETTING", "VALUE", "FROM"]);
    let mut rows = |machine: &str, settings: &BTreeMap<&'static str, Value>| {
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
