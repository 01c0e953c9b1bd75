//! Machines as Tart prints them: its fields, units and words.

use dvn_types::{
    unix_ms,
    wire::{GuestOs, State, Vm},
};
use serde::Serialize;

/// A gigabyte of Tart's: decimal.
pub const GB: u64 = 1_000_000_000;

/// A row of `list`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    pub source: &'static str,
    pub name: String,
    /// In GB, as the guest sees it.
    pub disk: u64,
    /// In GB, as it is on disk.
    pub size: u64,
    /// When it was last used, by ISO 8601.
    pub accessed: String,
    pub running: bool,
    pub state: &'static str,
}

/// The answer of `get`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Got {
    #[serde(rename = "OS")]
    pub os: &'static str,
    #[serde(rename = "CPU")]
    pub cpu: u32,
    /// In MiB.
    #[serde(rename = "Memory")]
    pub memory: u64,
    /// In GB, as the guest sees it.
    #[serde(rename = "Disk")]
    pub disk: u64,
    #[serde(rename = "DiskFormat")]
    pub disk_format: String,
    /// In GB with three decimals, as it is on disk.
    #[serde(rename = "Size")]
    pub size: String,
    #[serde(rename = "Display")]
    pub display: String,
    #[serde(rename = "Running")]
    pub running: bool,
    #[serde(rename = "State")]
    pub state: &'static str,
}

/// Tart's word for a state.
pub fn state(state: &State) -> &'static str {
    match state {
        State::Suspended => "suspended",
        State::Stopped { .. } | State::Failed { .. } | State::Broken { .. } => "stopped",
        State::Starting
        | State::Running { .. }
        | State::Paused { .. }
        | State::Stopping { .. }
        | State::Elsewhere { .. } => "running",
    }
}

/// Whether a machine runs, as Tart counts.
pub fn runs(vm: &Vm) -> bool {
    state(&vm.state) == "running"
}

/// The bytes of a machine's disk on the host.
fn allocated(vm: &Vm) -> u64 {
    vm.space.map_or(0, |space| space.own + space.shared)
}

/// A machine in `list`; none for one whose files cannot be read, which Tart leaves out, too.
pub fn listed(vm: &Vm) -> Option<Listed> {
    let hardware = vm.hardware.as_ref()?;
    let accessed = hardware.started_unix_ms.or(hardware.created_unix_ms).unwrap_or(0);
    Some(Listed {
        source: "local",
        name: vm.name.to_string(),
        disk: hardware.disk_size / GB,
        size: allocated(vm) / GB,
        accessed: iso_8601(accessed),
        running: runs(vm),
        state: state(&vm.state),
    })
}

/// A machine in `get`.
pub fn got(vm: &Vm) -> Option<Got> {
    let hardware = vm.hardware.as_ref()?;
    Some(Got {
        os: match hardware.os {
            GuestOs::Darwin => "darwin",
            GuestOs::Linux => "linux",
        },
        cpu: hardware.cores,
        memory: hardware.memory >> 20,
        disk: hardware.disk_size / GB,
        disk_format: hardware.disk_format.clone(),
        size: format!("{:.3}", allocated(vm) as f64 / GB as f64),
        display: hardware.display.clone().unwrap_or_default(),
        running: runs(vm),
        state: state(&vm.state),
    })
}

/// A time in milliseconds since 1970, with a precision of seconds.
fn iso_8601(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms)).to_string()
}

/// How long ago a time was, in words.
pub fn ago(then_unix_ms: u64) -> String {
    let seconds = unix_ms().saturating_sub(then_unix_ms) / 1000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// A table as Tart prints it: columns as wide as their longest entry, one space between.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join(" ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use dvn_types::{
        Arch,
        wire::{DiskSpace, Hardware, Role},
    };
    use serde_json::json;

    fn vm(state: State) -> Vm {
        Vm {
            name: "sonoma base".parse().unwrap(),
            role: Role::Library,
            state,
            waits_for: None,
            hardware: Some(Hardware {
                os: GuestOs::Linux,
                arch: Arch::Aarch64,
                cores: 4,
                memory: 4 << 30,
                disk_size: 50 * GB,
                disk_format: "raw".into(),
                display: Some("1024x768px".into()),
                mac_address: None,
                medium: None,
                created_unix_ms: Some(1_700_000_000_000),
                started_unix_ms: None,
                directory: None,
            }),
            space: Some(DiskSpace { own: 2_345_678_901, shared: 1 }),
        }
    }

    #[test]
    fn machines_have_tarts_fields_in_tarts_units() {
        let running = vm(State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 });
        assert_eq!(
            serde_json::to_value(listed(&running).unwrap()).unwrap(),
            json!({"Source": "local", "Name": "sonoma base", "Disk": 50, "Size": 2, "Accessed": "2023-11-14T22:13:20Z",
                "Running": true, "State": "running"})
        );
        assert_eq!(
            serde_json::to_value(got(&vm(State::Suspended)).unwrap()).unwrap(),
            json!({"OS": "linux", "CPU": 4, "Memory": 4096, "Disk": 50, "DiskFormat": "raw", "Size": "2.346",
                "Display": "1024x768px", "Running": false, "State": "suspended"})
        );
        assert_eq!(listed(&Vm { hardware: None, ..running }), None);
    }

    #[test]
    fn columns_are_as_wide_as_their_entries() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["Name", "State"]), row(&["a long name", "x"]), row(&["ü", ""])];
        assert_eq!(table(&rows), "Name        State\na long name x\nü\n");
    }
}
