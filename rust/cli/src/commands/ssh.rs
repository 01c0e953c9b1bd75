//! `ssh`: runs the system's ssh with the guest's address and host key. This program is its proxy command, so a
//! connection would start a stopped machine. Still the machine is started before ssh, which would show neither the
//! progress of a boot nor more than one line of an error.

use crate::{
    context::{Context, this_program},
    launch, progress,
    runtime::block_on,
};
use clap::Args;
use dvn_guest::ssh::keys::host_alias;
use dvn_host::{
    machine_dir::StateDir,
    quoting::{for_ssh_command, for_ssh_config},
};
use dvn_types::{Kind, Report, wire::StartRequest};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

/// Flags of `ssh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix ssh
  darwin-vz-nix ssh -- uname -a")]
pub struct Ssh {
    /// A command to run in the guest, instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Ssh {
    /// Replaces this process with ssh. Returns only if that fails.
    pub fn run(self, context: &Context) -> Result<(), Report> {
        let machine = context.machine()?;
        // ssh reads the key and known_hosts before it runs its proxy command. A running daemon has created them.
        block_on(async {
            let client = launch::ensure(context).await?;
            progress::during(&client, &machine, client.start(&machine, &StartRequest::default())).await
        })??;
        let dir = StateDir::open(&context.state_dir())?.machine(&machine);
        let guest = crate::commands::nix_config::Guest::of(context, &machine)?;
        let proxy = proxy_command(&this_program()?, &context.state_dir(), machine.as_str())?;
        let error = Command::new("ssh")
            .args(["-F", "none"])
            .arg("-o")
            .arg(option("IdentityFile=", &for_ssh_config(dir.user_key().as_os_str())))
            .arg("-o")
            .arg(option("ProxyCommand=", &proxy))
            .arg("-o")
            .arg(option("UserKnownHostsFile=", &for_ssh_config(dir.known_hosts().as_os_str())))
            .args(["-o", &format!("HostKeyAlias={}", host_alias(&machine))])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "GlobalKnownHostsFile=none"])
            .args(["-l", &guest.user, "--", &host_alias(&machine)])
            .args(self.command)
            .exec();
        Err(match error.kind() {
            io::ErrorKind::NotFound => Report::new(Kind::Host, "there is no ssh on this computer")
                .hint("install it; Debian's package is openssh-client"),
            _ => Report::new(Kind::Host, format!("cannot run ssh: {error}")),
        })
    }
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// The command line of this program's `connect` for ssh, which expands `%` and passes it to a shell.
pub fn proxy_command(program: &Path, state_dir: &Path, machine: &str) -> Result<OsString, Report> {
    let program = [program.as_os_str(), OsStr::new("--state-dir"), state_dir.as_os_str()];
    let verb = ["--machine", machine, "connect", "--service", "ssh"].map(OsStr::new);
    for_ssh_command(program.into_iter().chain(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_the_shell_and_ssh() {
        let line = proxy_command(Path::new("/opt/it's/vz"), Path::new("/st ate/100%"), "b").unwrap();
        assert_eq!(line, "\"/opt/it's/vz\" --state-dir '/st ate/100%%' --machine b connect --service ssh");
        // The result in a shell, after ssh has expanded %%.
        let shown = line.to_str().unwrap().replace("%%", "%").replacen("\"/opt", "printf '%s|' \"/opt", 1);
        let output = Command::new("sh").args(["-c", &shown]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "/opt/it's/vz|--state-dir|/st ate/100%|--machine|b|connect|--service|ssh|"
        );
        assert_eq!(for_ssh_config(OsStr::new("/a b/50%\"")), "\"/a b/50%%\\\"\"");
    }
}
