//! Changes of a machine that does not run: its configuration, its disk's size, its name, its end.

use crate::{
    config::DisplaySize,
    library::{Library, Machine, runs_in},
    staging::{Staged, step, sync_parent},
};
use dvn_host::{
    files::{state_error, write_atomic},
    regular_file,
};
use dvn_types::{Kind, MacAddress, MachineName, Report};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::fs::OpenOptions;

/// What is to become different. `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Virtual processors.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// The display.
    pub display: Option<DisplaySize>,
    /// Whether the guest's resolution follows the window.
    pub display_refit: Option<bool>,
    /// The length of the disk in bytes. It can grow, not shrink.
    pub disk_size: Option<u64>,
    /// A new random MAC address.
    pub new_mac: bool,
}

impl Library {
    /// Changes a stopped machine: all that was asked for, or nothing.
    pub fn change(&self, name: &MachineName, change: &Change) -> Result<Machine, Report> {
        let _changing = self.changing();
        let machine = self.machine(name)?;
        machine.demand_stopped("change")?;
        // Until the change is whole, no process starts the machine.
        let _lock = self.locks.run(&machine.files.config())?;
        let mut config = machine.config.clone();
        config.cpu_count = change.cores.unwrap_or(config.cpu_count);
        config.memory_size = change.memory.unwrap_or(config.memory_size);
        config.demand_enough()?;
        config.display = match (change.display, config.display) {
            // As long as no other unit is asked for, numbers keep theirs.
            (Some(new @ DisplaySize { unit: None, .. }), old) => DisplaySize { unit: old.unit, ..new },
            (Some(new), _) => new,
            (None, old) => old,
        };
        config.display_refit = change.display_refit.or(config.display_refit);
        if change.new_mac {
            let taken = self.mac_addresses()?;
            config.mac_address = std::iter::repeat_with(MacAddress::random)
                .find(|mac| !taken.contains(mac))
                .unwrap_or_else(MacAddress::random);
        }
        let text = config.text()?;
        if let Some(size) = change.disk_size {
            grow(&machine, size)?;
        }
        if config != machine.config {
            write_atomic(&machine.files.config(), &text, 0o600)?;
            step();
        }
        self.machine(name)
    }

    /// Gives a machine that does not run another name. Never replaces a machine.
    pub fn rename(&self, from: &MachineName, to: &MachineName) -> Result<(), Report> {
        let _changing = self.changing();
        let machine = self.machine(from)?;
        machine.demand_not_running("rename")?;
        let _lock = self.locks.run(&machine.files.config())?;
        let place = self.files(to);
        match renameat_with(CWD, machine.files.dir(), CWD, place.dir(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(Library::taken(to)),
            Err(e) => return Err(state_error(machine.files.dir(), "cannot rename", &e.into())),
        }
        step();
        sync_parent(place.dir())
    }

    /// Deletes a machine that does not run, suspended or broken ones too: its disk and all of its files.
    pub fn delete(&self, name: &MachineName) -> Result<(), Report> {
        let staged = {
            let _changing = self.changing();
            let files = self.files(name);
            let _lock = match self.machine(name) {
                Ok(machine) => {
                    machine.demand_not_running("delete")?;
                    Some(self.locks.run(&files.config())?)
                }
                Err(report) if report.kind == Kind::NotFound => return Err(report),
                // This is how to be rid of a broken machine, unless a process runs it: it may have been broken since.
                Err(report) => match self.locks.holder(&files.config()) {
                    Ok(Some(pid)) => return Err(runs_in("delete", name, pid)),
                    held => {
                        tracing::info!("deleting a broken machine: {report}; its lock: {held:?}");
                        None
                    }
                },
            };
            Staged::take(&self.staging, files.dir())?
        };
        // Its files are deleted here, which takes a while, and no other machine has to wait.
        drop(staged);
        Ok(())
    }
}

/// Makes a disk longer. The guest's partitions and file systems stay as they are.
fn grow(machine: &Machine, size: u64) -> Result<(), Report> {
    let disk = machine.files.disk();
    let fail = |e| state_error(&disk, "cannot resize", &e);
    let file = regular_file::open_as(&disk, OpenOptions::new().read(true).write(true)).map_err(fail)?;
    let now = file.metadata().map_err(fail)?.len();
    if size < now {
        return Err(Report::new(
            Kind::Config,
            format!(
                "the disk of {} has {now} bytes and cannot shrink to {size}: what is beyond would be lost",
                machine.name
            ),
        )
        .hint(format!("a disk can grow: ask for more than {now} bytes")));
    }
    if !size.is_multiple_of(512) {
        return Err(Report::new(
            Kind::Config,
            format!("a disk cannot have {size} bytes: it is made of sectors of 512"),
        ));
    }
    file.set_len(size).and_then(|()| file.sync_all()).map_err(fail)?;
    step();
    Ok(())
}
