//! `status`: the machines as a table, or everything as JSON; once, or on each change.

use crate::{
    commands::list,
    context::Context,
    output::{self, milliseconds, short},
    words,
};
use clap::Args;
use comfy_table::{Table, presets};
use dvn_client::Client;
use dvn_config::Size;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{BootTimeline, Connections, DaemonStatus, MachineStatus, Role, State, StoreSharing, Vm},
};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Flags of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix status --watch
  darwin-vz-nix status --json | jq -r '.machines[].state'")]
pub struct Status {
    /// Print everything as JSON; with --watch one line for each change
    #[arg(long)]
    pub json: bool,
    /// Show the status again on each change, until interrupted
    #[arg(long)]
    watch: bool,
    /// Show the connections to the machines instead
    #[arg(long, conflicts_with = "watch")]
    connections: bool,
}

/// The status of one machine; `None` if the daemon does not have it.
pub async fn of(client: &Client, machine: &MachineName) -> Result<Option<MachineStatus>, Report> {
    Ok(client.status().await?.machines.into_iter().find(|status| status.name == *machine))
}

/// Prints the status of one machine as JSON; one of the library as `get` does.
pub async fn print_one(client: &Client, machine: &MachineName) -> Result<(), Report> {
    match of(client, machine).await? {
        Some(status) => output::print_json(&status),
        None => output::print_json(&client.machine(machine).await?),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Everything {
    #[serde(flatten)]
    status: DaemonStatus,
    /// The machines of the library that run, are suspended, or should be.
    library: Vec<Vm>,
}

/// The number of refused paths to show.
const REFUSED: usize = 3;

/// On a terminal the durations are refreshed at this interval.
const REFRESH: Duration = Duration::from_secs(5);
/// Elsewhere only changes are printed; this is the time limit of a request for one.
const POLL: Duration = Duration::from_secs(60);

impl Status {
    /// Prints the status of all machines, or of the given one.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let client = context.client();
        if self.connections {
            return self.connections(context, client.connections().await?);
        }
        let terminal = output::can_redraw(&std::io::stdout());
        let mut status = client.status().await?;
        let mut shown = None;
        loop {
            let generation = status.generation;
            if terminal || shown != Some(generation) {
                let library = library(&client).await?;
                self.show(context, Everything { status, library }, self.watch && terminal)?;
                shown = Some(generation);
            }
            if !self.watch {
                return Ok(());
            }
            status = client.status_after(generation, if terminal { REFRESH } else { POLL }).await?;
        }
    }

    fn connections(&self, context: &Context, mut shown: Connections) -> Result<(), Report> {
        if let Some(name) = &context.global.machine {
            shown.connections.retain(|connection| connection.machine == *name);
        }
        if self.json {
            return output::print_json(&shown);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["CONNECTION", "MACHINE", "DOOR", "FOR", "SENT", "RECEIVED"]);
        for connection in &shown.connections {
            table.add_row([
                connection.connection.to_string(),
                connection.machine.to_string(),
                connection.door.clone(),
                short(unix_now().saturating_sub(Duration::from_millis(connection.since_unix_ms))),
                format!("{} B", connection.sent),
                format!("{} B", connection.received),
            ]);
        }
        output::print(&lines(&mut table))
    }

    fn show(&self, context: &Context, mut all: Everything, in_place: bool) -> Result<(), Report> {
        if let Some(name) = &context.global.machine {
            all.status.machines.retain(|machine| machine.name == *name);
            all.library.retain(|vm| vm.name == *name);
            if all.status.machines.is_empty() && all.library.is_empty() {
                return Err(Report::new(Kind::NotFound, format!("the daemon has no machine {name}"))
                    .hint("`darwin-vz-nix status` without --machine shows its machines"));
            }
        }
        match (self.json, self.watch) {
            (true, false) => output::print_json(&all),
            (true, true) => {
                let line =
                    serde_json::to_string(&all).map_err(|error| Report::new(Kind::Internal, error.to_string()))?;
                output::print(&format!("{line}\n"))
            }
            (false, _) => {
                // Move the cursor home and clear below it, which redraws without flicker.
                let clear = if in_place { "\x1b[H\x1b[J" } else { "" };
                output::print(&format!("{clear}{}", table(&all.status, &all.library, unix_now())))
            }
        }
    }
}

/// The machines of the library that are more than files: all but those that were stopped in order.
async fn library(client: &Client) -> Result<Vec<Vm>, Report> {
    let of_interest = |vm: &Vm| match &vm.state {
        State::Stopped { .. } => vm.waits_for.is_some(),
        _ => true,
    };
    match client.machines(false).await {
        Ok(list) => Ok(list.machines.into_iter().filter(|vm| vm.role == Role::Library && of_interest(vm)).collect()),
        // A daemon of an older release has no library.
        Err(report) if report.kind == Kind::NotFound => Ok(Vec::new()),
        Err(report) => Err(report),
    }
}

/// The table, and below it notes.
pub fn table(status: &DaemonStatus, library: &[Vm], unix_now: Duration) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "MACHINE",
        "STATE",
        "FOR",
        "USERS",
        "IDLE STOP",
        "LISTEN",
        "CORES",
        "MEMORY",
        "DISK",
        "LAST BOOT",
    ]);
    for machine in &status.machines {
        table.add_row(row(machine, unix_now));
    }
    for vm in library {
        table.add_row(list::status_row(vm, unix_now));
    }
    let mut text = lines(&mut table);
    for machine in &status.machines {
        text.push_str(&note(machine));
        if let Some(generations) = &machine.generations {
            text.push_str(&crate::commands::generations::note(&machine.name, generations, unix_now));
        }
        text.push_str(&store(machine));
    }
    text.extend(library.iter().map(list::note));
    text
}

/// The guest's use of the host's store, if there is something to report.
fn store(machine: &MachineStatus) -> String {
    let (name, store) = (&machine.name, &machine.store);
    let size = output::measured_size;
    let mut text = match &store.sharing {
        StoreSharing::Off => return String::new(),
        StoreSharing::Left { why } => format!("{name}: the host's store is not shared until the next boot: {why}\n"),
        StoreSharing::On if store.shared_paths == 0 => String::new(),
        StoreSharing::On => format!(
            "{name}: {} paths of the host's store used in place ({}); clients have sent {}\n",
            store.shared_paths,
            size(store.shared_bytes),
            size(store.copied_bytes),
        ),
    };
    for refused in store.refused.iter().take(REFUSED) {
        text.push_str(&format!("{name}: copied, not shared: {}: {}\n", refused.path, refused.why));
    }
    if let Some(more @ 1..) = store.refused.len().checked_sub(REFUSED) {
        text.push_str(&format!("{name}: and {more} more; `darwin-vz-nix status --json` has them\n"));
    }
    text
}

/// The table as text, without surrounding blanks.
fn lines(table: &mut Table) -> String {
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn row(machine: &MachineStatus, unix_now: Duration) -> [String; 10] {
    let (users, idle) = match &machine.state {
        State::Running { leases, idle_stop_in_ms, .. } => (Some(*leases), *idle_stop_in_ms),
        State::Paused { leases, .. } => (Some(*leases), None),
        _ => (None, None),
    };
    let dash = || "-".to_owned();
    [
        machine.name.to_string(),
        words::state(&machine.state, machine.waits_for.is_some()).to_owned(),
        short(unix_now.saturating_sub(Duration::from_millis(machine.since_unix_ms))),
        users.map_or_else(dash, |users| users.to_string()),
        idle.map_or_else(dash, |ms| format!("in {}", short(Duration::from_millis(ms)))),
        if machine.listen.is_empty() { dash() } else { machine.listen.join(" ") },
        machine.cores.to_string(),
        Size(machine.memory).to_string(),
        Size(machine.disk_size).to_string(),
        machine
            .last_boot
            .as_ref()
            .and_then(|boot| boot.phases.last())
            .map_or_else(dash, |last| milliseconds(last.at_ms)),
    ]
}

fn note(machine: &MachineStatus) -> String {
    let name = &machine.name;
    if let Some(reason) = &machine.waits_for {
        return format!("{name}: waits for {reason}\n");
    }
    match &machine.state {
        State::Stopped { last_exit: Some(exit) } => match exit.as_str() {
            "powered-off" => String::new(),
            "killed" => format!("{name}: the last guest was killed\n"),
            crashed => format!("{name}: the last guest {crashed}\n"),
        },
        State::Running { builds: 1, .. } => format!("{name}: a build continues without a connection\n"),
        State::Running { builds, .. } if *builds > 1 => {
            format!("{name}: {builds} builds continue without a connection\n")
        }
        State::Failed { cause, attempts, retry_in_ms } => {
            let hints = words::hints(cause);
            let again = match retry_in_ms {
                0 => "the next connection tries again".to_owned(),
                ms => format!(
                    "connections are refused for {}, then the next one tries again",
                    short(Duration::from_millis(*ms))
                ),
            };
            let failed =
                if *attempts == 1 { "the boot failed".to_owned() } else { format!("{attempts} boots failed in a row") };
            format!("{name}: {failed}: {}\n{hints}  {again}; `darwin-vz-nix start` tries at once\n", cause.message)
        }
        State::Broken { cause } => format!("{name}: broken: {}\n{}", cause.message, words::hints(cause)),
        _ => String::new(),
    }
}

/// A boot's phases, one a line, with their durations.
pub fn timeline(boot: &BootTimeline) -> String {
    let width = boot.phases.iter().map(|phase| phase.name.chars().count()).max().unwrap_or(0);
    let mut before = 0;
    let mut text = String::new();
    for phase in &boot.phases {
        let (at, took) = (milliseconds(phase.at_ms), milliseconds(phase.at_ms.saturating_sub(before)));
        text.push_str(&format!("  {:width$}  {at:>9}  +{took}\n", phase.name));
        before = phase.at_ms;
    }
    text.push_str(&format!("  kernel {}, data disk {}\n", boot.kernel, boot.data_disk));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_types::wire::{RefusedPath, StoreStatus};
    use insta::assert_snapshot;

    fn machine(name: &str, state: State) -> MachineStatus {
        MachineStatus {
            name: name.parse().unwrap(),
            backend: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            state,
            waits_for: None,
            since_unix_ms: 1_000_000,
            boots: 1,
            listen: vec!["127.0.0.1:31122".to_owned()],
            cores: 4,
            memory: 8 << 30,
            disk_size: 100 << 30,
            last_boot: None,
            generations: None,
            store: StoreStatus::default(),
        }
    }

    #[test]
    fn the_store_is_shown_when_there_is_something_to_report() {
        let notes = |store| {
            let machine = MachineStatus { store, ..machine("a", State::Starting) };
            let status = DaemonStatus { generation: 1, version: String::new(), pid: 1, machines: vec![machine] };
            let text = table(&status, &[], Duration::from_secs(1_065));
            text.lines().skip(2).map(|line| format!("{line}\n")).collect::<String>()
        };
        let refused = |n: u32| RefusedPath { path: format!("/nix/store/{n}"), why: "a changed name".to_owned() };
        let on = StoreStatus { sharing: StoreSharing::On, ..StoreStatus::default() };
        assert_eq!(notes(StoreStatus { copied_bytes: 9, ..StoreStatus::default() }) + &notes(on.clone()), "");
        let used = StoreStatus { shared_paths: 7, shared_bytes: 3 << 20, copied_bytes: 1 << 10, ..on };
        let left = StoreStatus { sharing: StoreSharing::Left { why: "it hangs".to_owned() }, ..used.clone() };
        let some = StoreStatus { refused: (0..5).map(refused).collect(), ..used };
        assert_snapshot!(notes(some) + &notes(left), @r"
        a: 7 paths of the host's store used in place (3.0 MiB); clients have sent 1.0 KiB
        a: copied, not shared: /nix/store/0: a changed name
        a: copied, not shared: /nix/store/1: a changed name
        a: copied, not shared: /nix/store/2: a changed name
        a: and 2 more; `darwin-vz-nix status --json` has them
        a: the host's store is not shared until the next boot: it hangs
        ");
    }

    #[test]
    fn every_state_has_its_row() {
        let running = State::Running { leases: 2, idle_stop_in_ms: None, builds: 0 };
        let idle = State::Running { leases: 0, idle_stop_in_ms: Some(3_600_000), builds: 2 };
        let cause = Report::new(Kind::Boot, "the kernel panicked").hint("see `darwin-vz-nix logs --console`");
        let taken = Report::new(Kind::Busy, "another program has that port").hint("see which");
        let machines = vec![
            machine("a", State::Stopped { last_exit: Some("crashed: qemu died".to_owned()) }),
            machine("b", State::Starting),
            machine("c", running),
            machine("d", idle),
            machine("p", State::Paused { leases: 1, resuming: false }),
            machine("e", State::Stopping { restart: false }),
            machine("f", State::Stopping { restart: true }),
            machine("g", State::Failed { cause, attempts: 2, retry_in_ms: 30_000 }),
            MachineStatus {
                waits_for: Some("4 GiB of memory: a and b hold 12 of 14 GiB".to_owned()),
                ..machine("i", State::Stopped { last_exit: None })
            },
            MachineStatus { listen: vec![], ..machine("h", State::Broken { cause: taken }) },
        ];
        let status = DaemonStatus { generation: 1, version: String::new(), pid: 1, machines };
        assert_snapshot!(table(&status, &[], Duration::from_secs(1_065)), @r"
        MACHINE  STATE       FOR    USERS  IDLE STOP  LISTEN           CORES  MEMORY  DISK  LAST BOOT
        a        stopped     1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        b        starting    1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        c        running     1m 5s  2      -          127.0.0.1:31122  4      8G      100G  -
        d        running     1m 5s  0      in 1h 0m   127.0.0.1:31122  4      8G      100G  -
        p        paused      1m 5s  1      -          127.0.0.1:31122  4      8G      100G  -
        e        stopping    1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        f        restarting  1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        g        failed      1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        i        waiting     1m 5s  -      -          127.0.0.1:31122  4      8G      100G  -
        h        broken      1m 5s  -      -          -                4      8G      100G  -
        a: the last guest crashed: qemu died
        d: 2 builds continue without a connection
        g: 2 boots failed in a row: the kernel panicked
          hint: see `darwin-vz-nix logs --console`
          connections are refused for 30s, then the next one tries again; `darwin-vz-nix start` tries at once
        i: waits for 4 GiB of memory: a and b hold 12 of 14 GiB
        h: broken: another program has that port
          hint: see which
        ");
    }
}
