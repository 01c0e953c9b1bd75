//! Every file that the program itself keeps in a state directory, and what becomes of one that is no regular file.

use super::{MachineDir, api_token};
use crate::log_file;
use dvn_types::MachineName;
use std::path::{Path, PathBuf};

/// What another kind of file in its place does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is not replaced. The daemon says so and goes no further: what the file holds, or locks, can be had from nowhere
    /// else.
    Never,
    /// The file is made anew when it is needed.
    Anew,
}

/// How the daemon opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To read and write it.
    Write,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// See [`Replaced`].
    pub replaced: Replaced,
    /// See [`Access`].
    pub access: Access,
}

/// All of a daemon with this machine.
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
