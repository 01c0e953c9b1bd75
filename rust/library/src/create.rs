//! New machines: an empty one, and the clone of another.

use crate::{
    config::VmConfig,
    copy::{self, Progress},
    library::{Files, Library, Machine},
    record::{Origin, Record},
    staging::{Appeared, Staged, step},
};
use dvn_host::files::{state_error, write_atomic};
use dvn_types::{Kind, MacAddress, MachineName, Report};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

/// What a new machine is made from.
#[derive(Clone, Debug)]
pub struct NewMachine {
    /// What it is made of.
    pub config: VmConfig,
    /// Where it comes from.
    pub origin: Origin,
    /// The length of its disk in bytes: a multiple of 512, at least one.
    pub disk_size: u64,
}

impl Library {
    /// Makes a machine with an empty disk. Never replaces one; nothing is left behind on an error. The first boot makes its
    /// variable store.
    pub fn create(&self, name: &MachineName, new: &NewMachine) -> Result<Machine, Report> {
        if new.disk_size == 0 || !new.disk_size.is_multiple_of(512) {
            return Err(Report::new(
                Kind::Config,
                format!("a disk cannot have {} bytes: it is made of sectors of 512", new.disk_size),
            ));
        }
        self.make(name, |files| {
            let disk = files.disk();
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&disk);
            let made = made.and_then(|file| file.set_len(new.disk_size).and_then(|()| file.sync_all()));
            made.map_err(|e| state_error(&disk, "cannot make", &e))?;
            step();
            Ok((new.config.clone(), Record::new(new.origin.clone())))
        })
    }

    /// Makes a machine that is a copy of another, with an identity of its own. The two share the blocks of their disks where the
    /// file system can.
    ///
    /// A clone of a suspended machine is suspended too, and keeps the MAC address and the machine identifier: the saved memory
    /// fits only these. Any other clone gets a new MAC address where the original's is in the library, which it is.
    pub fn clone_machine(
        &self,
        from: &MachineName,
        name: &MachineName,
        progress: &dyn Progress,
    ) -> Result<Machine, Report> {
        self.make(name, |files| {
            // Until its files are copied the original neither starts nor changes.
            let (original, _lock) = self.run(from).map_err(|report| match report.kind {
                Kind::Busy => Report { message: format!("cannot clone {from}: {}", report.message), ..report },
                _ => report,
            })?;
            copy::file(&original.files.disk(), &files.disk(), progress)?;
            step();
            if original.record.has_started() {
                copy::file(&original.files.nvram(), &files.nvram(), progress)?;
            }
            step();
            let suspended = original.files.saved_state().exists();
            let mut config = original.config;
            let mut record = Record::new(Origin::Clone { of: from.to_string() });
            match suspended {
                true => {
                    copy::file(&original.files.saved_state(), &files.saved_state(), progress)?;
                    step();
                    let facts = original.files.saved_facts();
                    if facts.exists() {
                        copy::file(&facts, &files.saved_facts(), progress)?;
                    }
                    step();
                    record.machine_identifier = original.record.machine_identifier;
                    record.medium = original.record.medium;
                }
                false => config.mac_address = MacAddress::random(),
            }
            Ok((config, record))
        })
    }

    /// Fills a staged directory, and has it appear.
    fn make(
        &self,
        name: &MachineName,
        fill: impl FnOnce(&Files) -> Result<(VmConfig, Record), Report>,
    ) -> Result<Machine, Report> {
        let place = self.files(name);
        if place.dir().symlink_metadata().is_ok() {
            return Err(Library::taken(name));
        }
        let staged = Staged::new(&self.staging)?;
        let files = Files::of(staged.path());
        let (config, record) = fill(&files)?;
        write_atomic(&files.record(), &record.text()?, 0o600)?;
        step();
        write_atomic(&files.config(), &config.text()?, 0o600)?;
        step();
        let dir = File::open(staged.path()).and_then(|dir| dir.sync_all());
        dir.map_err(|e| state_error(staged.path(), "cannot sync", &e))?;
        staged.appear(place.dir()).map_err(|why| match why {
            Appeared::Taken => Library::taken(name),
            Appeared::Failed(report) => report,
        })?;
        self.machine(name)
    }
}
