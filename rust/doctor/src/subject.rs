//! What the checks are about: one machine on this computer, as the command line, the settings and the daemon describe it.

use super::program::Program;
use dvn_client::Client;
use dvn_config::MachineSettings;
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
    /// Where all state lives.
    pub state_dir: PathBuf,
    /// The machine's settings, or what is wrong with them.
    pub settings: Result<MachineSettings, Report>,
    /// Where the API is to answer on TCP, too.
    pub api_listen: Option<SocketAddr>,
    /// What the backend can do on this computer, or why there is none: its limits, whichever programs are installed.
    pub capabilities: Result<Capabilities, Report>,
    /// What runs its guests here, or why nothing does.
    pub backend: Result<BackendView, Report>,
    /// Who found that out.
    pub eyes: Eyes,
    /// The daemon of that state directory.
    pub client: Client,
    /// What it said, or why it did not.
    pub daemon: Result<DaemonStatus, Report>,
    /// This program, and the flags with which another process of it means the same machine.
    pub program: PathBuf,
    /// See `program`.
    pub flags: Vec<OsString>,
    /// Where programs are looked for, written as `PATH` is.
    pub search_path: OsString,
    /// The user of this process.
    pub user: u32,
    /// The running guest's last boot, or why there is none; `None` if nobody asked for deep checks.
    pub guest: Option<Result<BootTimeline, Report>>,
}

/// Who looked for the backend's programs: each has a search path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// The daemon, which is going to use them.
    Daemon,
    /// This command.
    Command,
}

/// Where a system keeps its programs, some of them not on everybody's `PATH`.
const SYSTEM: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// Where installations of Nix do.
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

    /// A program that is part of the system, whatever else has its name: shells of Nix have stand-ins for some.
    pub fn find_in_system(&self, name: &str) -> Option<Program> {
        let [first, more @ ..] = SYSTEM;
        search_path::find(name, OsStr::new(first), &more).map(Program::new)
    }

    /// A program of this computer, if it has it.
    pub fn find(&self, name: &str) -> Option<Program> {
        search_path::find(name, &self.search_path, &[&SYSTEM[..], &NIX[..]].concat()).map(Program::new)
    }

    /// This program, to do something with the same machine.
    pub fn this_program(&self) -> Program {
        Program::new(&self.program).args(&self.flags)
    }

    /// What the daemon says of the machine.
    pub fn status(&self) -> Option<&MachineStatus> {
        self.daemon.as_ref().ok()?.machines.iter().find(|status| status.name == self.machine)
    }
}

#[cfg(test)]
impl Subject {
    /// A machine of which nothing could be learned.
    pub fn unknown(state_dir: &std::path::Path) -> Subject {
        let unknown = || Report::new(dvn_types::Kind::Config, "nothing is known of it");
        Subject {
            machine: "builder".parse().unwrap(),
            state_dir: state_dir.to_owned(),
            settings: Err(unknown()),
            api_listen: None,
            capabilities: Err(unknown()),
            backend: Err(unknown()),
            eyes: Eyes::Command,
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
