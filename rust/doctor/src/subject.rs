//! The subject of the checks: one machine on this computer, as the command line, the settings and the daemon describe
//! it.

use super::program::Program;
use dvn_client::Client;
use dvn_config::MachineConfig;
use dvn_host::{
    machine_dir::{self, MachineDir},
    search_path,
};
use dvn_hypervisor::Capabilities;
use dvn_types::{
    MachineName, Report,
    wire::{BackendView, BootTimeline, DaemonStatus, MachineStatus},
};
use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::PathBuf,
};

/// One machine on this computer.
pub struct Subject {
    /// The machine.
    pub machine: MachineName,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The machine's settings, or what is wrong with them.
    pub settings: Result<MachineConfig, Report>,
    /// The API's TCP address, if configured.
    pub api_listen: Option<SocketAddr>,
    /// What the backend can do on this computer, whichever programs are installed, or why there is none.
    pub capabilities: Result<Capabilities, Report>,
    /// The backend's state here, or why there is none.
    pub backend: Result<BackendView, Report>,
    /// The process that determined `backend`.
    pub observer: Observer,
    /// The daemon of that state directory.
    pub client: Client,
    /// The daemon's status, or why it gave none.
    pub daemon: Result<DaemonStatus, Report>,
    /// This program; with `flags`, another process of it addresses the same machine.
    pub program: PathBuf,
    /// See `program`.
    pub flags: Vec<OsString>,
    /// The search path for programs, in the form of `PATH`.
    pub search_path: OsString,
    /// The user of this process.
    pub user: u32,
    /// The running guest's last boot, or why there is none; `None` without deep checks.
    pub guest: Option<Result<BootTimeline, Report>>,
}

/// The process that looked for the backend's programs. Each has its own search path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observer {
    /// The daemon, which will run them.
    Daemon,
    /// This command.
    Command,
}

/// System directories, some of which are not on every user's `PATH`.
const SYSTEM: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// The same for Nix installations.
const NIX: [&str; 2] = ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"];

impl Subject {
    /// The machine's directory, which need not exist.
    pub fn dir(&self) -> MachineDir {
        MachineDir::of(&self.state_dir, &self.machine)
    }

    /// The file of the API's token, which need not exist.
    pub fn dir_token(&self) -> PathBuf {
        machine_dir::api_token(&self.state_dir)
    }

    /// A program of the operating system, even if another one on the search path has its name: Nix shells contain
    /// replacements for some.
    pub fn find_in_system(&self, name: &str) -> Option<Program> {
        let [first, more @ ..] = SYSTEM;
        search_path::find(name, OsStr::new(first), &more).map(Program::new)
    }

    /// A program on this computer, if it is installed.
    pub fn find(&self, name: &str) -> Option<Program> {
        search_path::find(name, &self.search_path, &[&SYSTEM[..], &NIX[..]].concat()).map(Program::new)
    }

    /// This program, with the flags that select the same machine.
    pub fn this_program(&self) -> Program {
        Program::new(&self.program).args(&self.flags)
    }

    /// The daemon's status of the machine.
    pub fn status(&self) -> Option<&MachineStatus> {
        self.daemon.as_ref().ok()?.machines.iter().find(|status| status.name == self.machine)
    }
}

#[cfg(test)]
impl Subject {
    /// A machine about which nothing is known.
    pub fn unknown(state_dir: &std::path::Path) -> Subject {
        let unknown = || Report::new(dvn_types::Kind::Config, "nothing is known about it");
        Subject {
            machine: "builder".parse().unwrap(),
            state_dir: state_dir.to_owned(),
            settings: Err(unknown()),
            api_listen: None,
            capabilities: Err(unknown()),
            backend: Err(unknown()),
            observer: Observer::Command,
            client: Client::new(state_dir),
            daemon: Err(unknown()),
            program: "/nonexistent".into(),
            flags: Vec::new(),
            search_path: "/usr/bin:/bin".into(),
            user: rustix::process::geteuid().as_raw(),
            guest: None,
        }
    }
}
