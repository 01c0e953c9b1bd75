//! `nix-config`: prints the configuration that a host needs to build on the machine. Changes nothing on the host.

use crate::{
    context::Context,
    output::{print, print_json},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use dvn_config::HostFacts;
use dvn_guest::{
    bundle::Bundle,
    ssh::{
        block::{Block, connect_timeout},
        keys::{Keys, host_alias},
    },
};
use dvn_host::{machine_dir::StateDir, quoting::for_ssh_config};
use dvn_types::{Arch, Kind, MachineName, Report};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Flags of `nix-config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix nix-config
  darwin-vz-nix nix-config --only builders | sudo tee -a /etc/nix/machines")]
pub struct NixConfig {
    /// How Nix reaches the guest: direct connects to its nix-daemon, ssh goes through its sshd
    #[arg(long, value_enum, default_value_t = Door::Direct)]
    door: Door,
    /// Print only one section, without comments, for scripts
    #[arg(long, value_enum, value_name = "SECTION")]
    only: Option<Section>,
    /// Print every section as JSON
    #[arg(long, conflicts_with = "only")]
    pub json: bool,
}

/// A way to the guest's nix-daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Door {
    /// `ssh-ng://localhost?remote-program=…`, without ssh
    Direct,
    /// `ssh-ng://…` through ssh
    Ssh,
}

/// A part of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// The line for /etc/nix/machines, or for builders in nix.conf
    Builders,
    /// The block for /etc/ssh/ssh_config
    Ssh,
    /// The line for /etc/ssh/ssh_known_hosts
    KnownHosts,
}

/// The sections in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    machine: &'a MachineName,
    builders: &'a str,
    ssh: &'a str,
    known_hosts: &'a str,
}

/// The guest, from its bundle. Only the daemon checks the bundle's full contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its architecture.
    pub arch: Arch,
    /// The user that builds.
    pub user: String,
}

const DEFAULT_USER: &str = "builder";

impl Guest {
    /// Reads the machine's bundle. Without one, assumes the host's architecture and the default user.
    pub fn of(context: &Context, machine: &MachineName) -> Result<Guest, Report> {
        let settings = context.settings()?;
        match settings.machines.get(machine).and_then(|machine| machine.builder.bundle.as_deref()) {
            Some(bundle) => {
                let bundle = Bundle::open(bundle, &[Arch::Aarch64, Arch::X86_64])?;
                Ok(Guest { arch: bundle.arch, user: bundle.ssh_user })
            }
            None => {
                let arch = HostFacts::gather().arch.ok_or_else(|| {
                    Report::new(Kind::Host, format!("guests for {} computers do not exist", std::env::consts::ARCH))
                        .hint("set bundle to one with an architecture that can be emulated")
                })?;
                Ok(Guest { arch, user: DEFAULT_USER.to_owned() })
            }
        }
    }
}

/// The data for all sections.
#[derive(Clone, Debug)]
pub struct Builder {
    /// The machine.
    pub machine: MachineName,
    /// Its guest.
    pub guest: Guest,
    /// The guest also runs x86_64 programs.
    pub rosetta: bool,
    /// The guest can run virtual machines.
    pub nested: bool,
    /// Processors, and also the number of concurrent builds.
    pub cores: u32,
    /// Address and port of the ssh door.
    pub listen: String,
    /// How long a connection may wait for the guest.
    pub connect_timeout: Duration,
    /// The store address of the direct door.
    pub direct_address: String,
    /// The private key for ssh to the guest.
    pub user_key: PathBuf,
    /// The file with the guest's host key.
    pub known_hosts: PathBuf,
}

impl Builder {
    /// Nix system names, comma-separated.
    fn systems(&self) -> String {
        let own = format!("{}-linux", self.guest.arch);
        if self.rosetta && self.guest.arch == Arch::Aarch64 { format!("{own},x86_64-linux") } else { own }
    }

    /// A line of Nix's `machines` file: address, systems, ssh key, jobs, speed, features, mandatory features, host key.
    pub fn line(&self, door: Door, host_key: &str) -> String {
        let (systems, jobs) = (self.systems(), self.cores);
        let features = if self.nested { "benchmark,big-parallel,kvm,nixos-test" } else { "benchmark,big-parallel" };
        match door {
            Door::Direct => {
                format!("{} {systems} - {jobs} 1 {features} - -", self.direct_address)
            }
            Door::Ssh => {
                let (user, host, key) = (&self.guest.user, host_alias(&self.machine), self.user_key.display());
                let host_key = STANDARD.encode(host_key);
                format!("ssh-ng://{user}@{host} {systems} {key} {jobs} 1 {features} - {host_key}")
            }
        }
    }

    /// The block for ssh's configuration.
    pub fn ssh_block(&self) -> String {
        let path = |path: &Path| for_ssh_config(path.as_os_str()).to_string_lossy().into_owned();
        Block {
            alias: &host_alias(&self.machine),
            listen: &self.listen,
            user: &self.guest.user,
            key: &path(&self.user_key),
            known_hosts: &path(&self.known_hosts),
            connect_timeout: self.connect_timeout,
        }
        .text()
    }
}

impl NixConfig {
    /// Prints the sections asked for.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.machine()?;
        let settings = context.settings()?;
        let config = settings
            .machines
            .get(&machine)
            .ok_or_else(|| Report::new(Kind::NotFound, format!("there is no machine {machine}")))?;
        let dir = StateDir::open(&context.state_dir())?.make_machine(&machine)?;
        // The keys must exist before the first boot, since hosts are configured before they build.
        let keys = Keys::ensure(&dir, &machine)?;
        // A running daemon knows its actual port; otherwise the configured one will be used.
        let running = context.client().status().await.ok();
        let listening = running.and_then(|status| {
            status.machines.into_iter().find(|found| found.name == machine)?.listen.into_iter().next()
        });
        let builder = Builder {
            machine: machine.clone(),
            guest: Guest::of(context, &machine)?,
            rosetta: config.builder.rosetta,
            nested: config.hardware.nested,
            cores: config.hardware.cores,
            listen: listening.unwrap_or_else(|| config.builder.listen.to_string()),
            connect_timeout: connect_timeout(&config.lifecycle),
            direct_address: dir.direct_address(),
            user_key: dir.user_key(),
            known_hosts: dir.known_hosts(),
        };
        let known_hosts = keys.known_hosts_line(&machine);
        let line = format!("{}\n", builder.line(self.door, &keys.host_public));
        let intro = "# Append to /etc/nix/machines, and add to /etc/nix/nix.conf:\n\
                     #   builders = @/etc/nix/machines\n\
                     #   builders-use-substitutes = true\n";
        if self.json {
            let ssh = builder.ssh_block();
            return print_json(&Shown { machine: &machine, builders: &line, ssh: &ssh, known_hosts: &known_hosts });
        }
        match (self.only, self.door) {
            (Some(Section::Builders), _) => print(&line),
            (Some(Section::Ssh), _) => print(&builder.ssh_block()),
            (Some(Section::KnownHosts), _) => print(&known_hosts),
            (None, Door::Direct) => print(&format!("{intro}{line}")),
            (None, Door::Ssh) => print(&format!(
                "{intro}{line}\n# Append to /etc/ssh/ssh_config, which Nix's daemon reads:\n{}\n\
                 # Append to /etc/ssh/ssh_known_hosts, so that other tools know the machine:\n{known_hosts}",
                builder.ssh_block(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    fn builder() -> Builder {
        Builder {
            machine: "ci".parse().unwrap(),
            guest: Guest { arch: Arch::Aarch64, user: "builder".to_owned() },
            rosetta: true,
            nested: false,
            cores: 4,
            listen: "[::1]:31123".to_owned(),
            connect_timeout: Duration::from_secs(390),
            direct_address: "ssh-ng://localhost?remote-program=/state%20dir/connect".into(),
            user_key: "/state/id_ed25519".into(),
            known_hosts: "/state/known_hosts".into(),
        }
    }

    #[test]
    fn lines_and_blocks() {
        assert_snapshot!(builder().line(Door::Direct, "ssh-ed25519 AAAA"), @"ssh-ng://localhost?remote-program=/state%20dir/connect aarch64-linux,x86_64-linux - 4 1 benchmark,big-parallel - -");
        assert_snapshot!(builder().line(Door::Ssh, "ssh-ed25519 AAAA"), @"ssh-ng://builder@darwin-vz-ci aarch64-linux,x86_64-linux /state/id_ed25519 4 1 benchmark,big-parallel - c3NoLWVkMjU1MTkgQUFBQQ==");
        let block = builder().ssh_block();
        assert_snapshot!(block.lines().take(9).collect::<Vec<_>>().join("\n"), @r#"
        Host darwin-vz-ci
          HostName ::1
          Port 31123
          User builder
          IdentityFile "/state/id_ed25519"
          UserKnownHostsFile "/state/known_hosts"
          HostKeyAlias darwin-vz-ci
          BindAddress ::1
          ConnectTimeout 390
        "#);
        for line in ["IdentitiesOnly yes", "StrictHostKeyChecking yes"] {
            assert!(block.lines().any(|found| found.trim() == line), "{block}");
        }
        let x86 = Builder { guest: Guest { arch: Arch::X86_64, ..builder().guest }, ..builder() };
        assert_eq!(x86.systems(), "x86_64-linux");
    }
}
