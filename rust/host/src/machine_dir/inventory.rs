//! Every file that the program itself keeps in a state directory, and what happens if something else is at its path.

use super::{MachineDir, api_token};
use crate::log_file;
use dvn_types::MachineName;
use std::path::{Path, PathBuf};

/// What happens if something other than a regular file is at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing is replaced: the daemon reports it and stops there. The file's contents, or its lock, cannot be
    /// recreated.
    Never,
    /// The file is recreated when it is needed.
    Anew,
}

/// How the daemon opens the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path; it need not exist.
    pub path: PathBuf,
    /// See [`Replaced`].
    pub replaced: Replaced,
    /// See [`Access`].
    pub access: Access,
}

/// All files of a daemon with this machine.
pub fn files(state_dir: &Path, machine: &MachineName) -> Vec<Entry> {
    let dir = MachineDir::of(state_dir, machine);
    let (generations, store) = (dir.generations(), dir.store_state());
    let daemon_log = state_dir.join("daemon.log");
    let needed = [
        (state_dir.join("lock"), Access::Write),
        (api_token(state_dir), Access::Read),
        (dir.user_key(), Access::Read),
        (dir.host_key(), Access::Read),
        (dir.data_disk(), Access::Write),
        (generations.join("ledger.json"), Access::Read),
    ];
    let derived = [
        (dir.user_public_key(), Access::Read),
        (dir.known_hosts(), Access::Read),
        (dir.connect_program(), Access::Read),
        (dir.root().join("mac"), Access::Read),
        (store.join("record"), Access::Read),
        (store.join("store-ledger"), Access::Write),
        (store.join("store-verdicts"), Access::Write),
        (log_file::older(&daemon_log), Access::Write),
        (daemon_log, Access::Write),
        (log_file::older(&dir.console_log()), Access::Write),
        (dir.console_log(), Access::Write),
        (log_file::older(&dir.build_log()), Access::Write),
        (dir.build_log(), Access::Write),
    ];
    let entry = |replaced| move |(path, access)| Entry { path, replaced, access };
    needed.into_iter().map(entry(Replaced::Never)).chain(derived.into_iter().map(entry(Replaced::Anew))).collect()
}
