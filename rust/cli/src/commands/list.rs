//! `list` and `get`: the machines, those of the library and the builders, and what they are made of.

use crate::{
    context::Context,
    launch,
    output::{self, chosen_size, measured_size, short},
    words,
};
use clap::Args;
use comfy_table::{Table, presets};
use dvn_types::{
    MachineName, Report,
    wire::{GuestOs, Hardware, State, Vm},
};
use std::time::Duration;

/// Flags of `list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix list --space
  darwin-vz-nix list --quiet")]
pub struct List {
    /// Also show the space that each disk takes: its own, which a deletion frees, and shared with copies
    #[arg(long)]
    space: bool,
    /// Print only the names, one a line
    #[arg(short, long, conflicts_with_all = ["space", "json"])]
    quiet: bool,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

impl List {
    /// Prints them.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let list = launch::ensure(context).await?.machines(self.space).await?;
        match (self.json, self.quiet) {
            (true, _) => output::print_json(&list),
            (_, true) => output::print(&list.machines.iter().map(|vm| format!("{}\n", vm.name)).collect::<String>()),
            _ => output::print(&table(&list.machines, self.space)),
        }
    }
}

/// Flags of `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix get web
  darwin-vz-nix get web --json | jq .hardware.macAddress")]
pub struct Get {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

impl Get {
    /// Prints it.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let vm = launch::ensure(context).await?.machine(&self.name).await?;
        match self.json {
            true => output::print_json(&vm),
            false => output::print(&description(&vm)),
        }
    }
}

/// The table, and below it what is wrong with some.
fn table(machines: &[Vm], space: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let mut header = vec!["NAME", "STATE", "CORES", "MEMORY", "DISK"];
    header.extend(["OWN", "SHARED"].into_iter().filter(|_| space));
    table.set_header(header);
    for vm in machines {
        let dash = || "-".to_owned();
        let of = |what: fn(&Hardware) -> String| vm.hardware.as_ref().map_or_else(dash, what);
        let mut row = vec![
            vm.name.to_string(),
            words::state(&vm.state, vm.waits_for.is_some()).to_owned(),
            of(|hardware| hardware.cores.to_string()),
            of(|hardware| chosen_size(hardware.memory)),
            of(|hardware| chosen_size(hardware.disk_size)),
        ];
        if space {
            row.push(vm.space.map_or_else(dash, |space| measured_size(space.own)));
            row.push(vm.space.map_or_else(dash, |space| measured_size(space.shared)));
        }
        table.add_row(row);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    text.extend(machines.iter().map(note));
    text
}

/// What `status` shows of a machine of the library, in its columns.
pub fn status_row(vm: &Vm, unix_now: Duration) -> [String; 10] {
    let dash = || "-".to_owned();
    let runs = matches!(vm.state, State::Running { .. } | State::Paused { .. });
    let started = vm.hardware.as_ref().and_then(|hardware| hardware.started_unix_ms).filter(|_| runs);
    let of = |what: fn(&Hardware) -> String| vm.hardware.as_ref().map_or_else(dash, what);
    [
        vm.name.to_string(),
        words::state(&vm.state, vm.waits_for.is_some()).to_owned(),
        started.map_or_else(dash, |started| short(unix_now.saturating_sub(Duration::from_millis(started)))),
        dash(),
        dash(),
        dash(),
        of(|hardware| hardware.cores.to_string()),
        of(|hardware| chosen_size(hardware.memory)),
        of(|hardware| chosen_size(hardware.disk_size)),
        dash(),
    ]
}

/// A line about a machine that needs one.
pub fn note(vm: &Vm) -> String {
    let name = &vm.name;
    match (&vm.waits_for, &vm.state) {
        (Some(reason), _) => format!("{name}: waits for {reason}\n"),
        (_, State::Broken { cause }) => format!("{name}: broken: {}\n{}", cause.message, words::hints(cause)),
        (_, State::Failed { cause, .. }) => {
            format!("{name}: the boot failed: {}\n{}", cause.message, words::hints(cause))
        }
        (_, State::Elsewhere { pid }) => format!("{name}: runs in process {pid}, which is not this daemon\n"),
        (_, State::Stopped { last_exit: Some(exit) }) if exit.starts_with("crashed") => {
            format!("{name}: the last guest {exit}\n")
        }
        _ => String::new(),
    }
}

/// All about a machine, a fact on each line.
fn description(vm: &Vm) -> String {
    let mut facts = vec![
        ("name", Some(vm.name.to_string())),
        ("state", Some(words::state(&vm.state, vm.waits_for.is_some()).to_owned())),
    ];
    if let Some(hardware) = &vm.hardware {
        let system = match hardware.os {
            GuestOs::Darwin => "macOS",
            GuestOs::Linux => "Linux",
        };
        let space = vm.space.map_or_else(String::new, |space| {
            format!(", takes {} of its own and {} shared", measured_size(space.own), measured_size(space.shared))
        });
        let medium = hardware.medium.as_ref().map(|path| format!("{path}, until the guest has powered itself off"));
        facts.extend([
            ("system", Some(format!("{system}, {}", hardware.arch))),
            ("cores", Some(hardware.cores.to_string())),
            ("memory", Some(chosen_size(hardware.memory))),
            ("disk", Some(format!("{} ({}){space}", chosen_size(hardware.disk_size), hardware.disk_format))),
            ("display", hardware.display.clone()),
            ("MAC", hardware.mac_address.clone()),
            ("installer", medium),
            ("created", hardware.created_unix_ms.map(output::time)),
            ("started", hardware.started_unix_ms.map(output::time)),
            ("directory", hardware.directory.clone()),
        ]);
    }
    let line = |(name, fact): (&str, Option<String>)| fact.map(|fact| format!("{:<11}{fact}\n", format!("{name}:")));
    let mut text: String = facts.into_iter().filter_map(line).collect();
    text.push_str(&note(vm));
    text
}
