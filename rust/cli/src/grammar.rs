//! The command line: its verbs and global flags.

use crate::{
    commands::{
        capabilities, complete, completions, config, connect, create, daemon, delete, destroy, doctor, exec,
        generations, ip, list, logs, nix_config, pause, run, screenshot, set, ssh, start, status, stop, suspend, token,
    },
    global::Global,
    tart,
};
use clap::{Parser, Subcommand};
use dvn_config::Key;

/// The help. It must fit a screen, so it has the verbs in groups and several on a line; `darwin-vz-nix VERB --help` has more.
const HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

Virtual machines:
  create, clone          Make a machine with an empty disk, or a copy of another one
  list, get, set         Show the machines; change cores, memory, disk or display of one
  rename, delete         Rename a machine; delete machines with their disks
  run, suspend           Boot a machine and show its console; save its memory and end its guest
  exec, ip, screenshot   Run a command in a machine; show its addresses or its screen
  tart                   Take Tart's command line for these machines
Virtual machines and builders for Nix:
  start, stop            Start or stop a machine; the daemon starts with it
  pause, resume          Pause the guest; resume it
  status, logs           Show what runs; show the daemon's log, a console or a build's log
Builders for Nix:
  ssh, connect           Open a shell or run a command; connect to a service, for Nix and ssh
  nix-config             Print the configuration that a host needs to build on the machine
  generations, destroy   Show the guest systems built from a recipe; delete disk and keys
This program:
  daemon                 Run the daemon in the foreground
  doctor, capabilities   Diagnose problems; show what is supported here, with reasons
  config, token          Show the effective settings; print the token of the HTTP API
  completions            Print a completion script for a shell

Options of every command:
{options}{after-help}";

/// The end of the help.
const AFTER_HELP: &str = "\
Examples:
  darwin-vz-nix create web --from-iso installer.iso && darwin-vz-nix run web
  darwin-vz-nix start && darwin-vz-nix nix-config    # the builder, and how Nix uses it

Exit codes: 0 success; 2 wrong command line; 3 wrong setting; 4 no daemon answers; 5 the host
lacks a requirement; 6 guest bundle; 7 the guest did not boot; 8 in use by another process;
9 state directory; 10 connection to the guest; 11 no such machine or generation; 70 internal error.
The manual page is darwin-vz-nix(1).";

/// Linux builders for Nix, and virtual machines, on one computer
#[derive(Debug, Parser)]
#[command(name = "darwin-vz-nix", version, help_template = HELP, after_help = AFTER_HELP)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a machine with an empty disk
    ///
    /// A name that is taken is refused: no machine is ever replaced. Without an installer the disk stays empty until a
    /// machine is started with one as a further disk.
    Create(create::Create),
    /// Make a copy of a machine that does not run
    ///
    /// Where the file system can, both share the blocks of their disks, and the copy takes no time. The copy has another MAC
    /// address. A copy of a suspended machine is suspended, too, and keeps the address.
    Clone(create::CloneMachine),
    /// List the machines
    List(list::List),
    /// Show what a machine is made of
    Get(list::Get),
    /// Change what a stopped machine is made of
    ///
    /// What is not given stays as it is. A suspended machine is refused: its saved memory fits only what it was saved on.
    Set(set::Set),
    /// Give a machine another name
    Rename(set::Rename),
    /// Delete machines with their disks
    ///
    /// It does not ask. A machine that runs is refused, and so is a builder (see `destroy`). After an error the others are
    /// still deleted; the exit code is that of the first error.
    Delete(delete::Delete),
    /// Boot a machine and show its console until its guest ends
    ///
    /// Ctrl-C presses the power button, a second Ctrl-C forces the machine off. The exit code is 0 if the guest powered itself
    /// off, was stopped or suspended, and another one if it crashed. The daemon runs the guest, so with --detach it continues.
    ///
    /// A directory is mounted in the guest by its tag: `mount -t virtiofs NAME /mnt`. Without a name the tag is
    /// com.apple.virtio-fs.automount, which macOS mounts by itself.
    Run(run::Run),
    /// Save a machine's memory and end its guest
    ///
    /// The next start continues it. `stop` discards the saved memory instead.
    Suspend(suspend::Suspend),
    /// Run a command in a running machine
    ///
    /// The agent in the guest runs it. The exit code is the command's, or 128 and the number of the signal that killed it.
    Exec(exec::Exec),
    /// Print the address of a running machine
    ///
    /// An address of IPv4, if there is one; --json prints all. The agent in the guest is asked.
    Ip(ip::Ip),
    /// Save the screen of a running machine as a PNG
    Screenshot(screenshot::Screenshot),
    /// Take Tart's command line for these machines, as the program does if it is called as `tart`
    ///
    /// `darwin-vz-nix tart list --help` and the like show the flags of Tart's verbs.
    Tart(tart::Arguments),
    /// Start a machine, and the daemon if none runs
    ///
    /// A suspended machine continues. `run` can add devices, and stays attached to the machine.
    Start(start::Start),
    /// Stop a machine; a builder is started again by the next connection
    ///
    /// It presses the power button, and kills a guest that has not powered itself off in time. A suspended machine loses its
    /// saved memory.
    Stop(stop::Stop),
    /// Pause the guest; the next connection resumes that of a builder
    Pause(pause::Pause),
    /// Resume a paused guest
    Resume(pause::Resume),
    /// Show the builders, and the other machines that run or are suspended
    Status(status::Status),
    /// Show the daemon's log, a guest's console or a build's log
    Logs(logs::Logs),
    /// Open a shell in the guest or run a command there; starts it if needed
    Ssh(ssh::Ssh),
    /// Connect stdin and stdout to a service of the guest; called by Nix and ssh
    Connect(connect::Connect),
    /// Print the configuration that a host needs to build on the machine
    NixConfig(nix_config::NixConfig),
    /// Show the guest systems built from the recipe; roll back, build, delete
    Generations(generations::Generations),
    /// Stop the machine and delete its disk, keys and generations
    Destroy(destroy::Destroy),
    /// Run the daemon in the foreground
    Daemon(daemon::Daemon),
    /// Diagnose problems, and repair them with --fix
    Doctor(doctor::Doctor),
    /// Show the effective settings, and where each comes from
    Config(config::Config),
    /// Print the token that the HTTP API requires on TCP, or create a new one
    Token(token::Token),
    /// Show what this computer and this program support, with reasons
    Capabilities(capabilities::Capabilities),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print names for a shell's completion
    #[command(hide = true)]
    Complete(complete::Complete),
}

impl Verb {
    /// The settings that the verb's flags give.
    pub fn flags(&self) -> Vec<(Key, String)> {
        match self {
            Verb::Daemon(verb) => {
                let api_listen = verb.api_listen.clone().map(|address| (Key::ApiListen, address));
                verb.machine.flags().into_iter().chain(api_listen).collect()
            }
            Verb::Config(verb) => verb.machine.flags(),
            _ => Vec::new(),
        }
    }

    /// Whether errors are also printed as JSON on stdout.
    pub fn wants_json(&self) -> bool {
        match self {
            Verb::Create(verb) => verb.json,
            Verb::Clone(verb) => verb.json,
            Verb::List(verb) => verb.json,
            Verb::Get(verb) => verb.json,
            Verb::Set(verb) => verb.json,
            Verb::Rename(verb) => verb.json,
            Verb::Delete(verb) => verb.json,
            Verb::Suspend(verb) => verb.json,
            Verb::Ip(verb) => verb.json,
            Verb::Status(verb) => verb.json,
            Verb::Config(verb) => verb.json,
            Verb::Generations(verb) => verb.json(),
            Verb::Start(verb) => verb.json,
            Verb::Stop(verb) => verb.json,
            Verb::Pause(verb) => verb.json,
            Verb::Resume(verb) => verb.json,
            Verb::NixConfig(verb) => verb.json,
            Verb::Token(verb) => verb.json,
            Verb::Capabilities(verb) => verb.json,
            Verb::Daemon(verb) => verb.detached,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_help_has_every_verb_in_one_group() {
        let lines = HELP.lines().filter_map(|line| line.strip_prefix("  "));
        let mut shown: Vec<&str> =
            lines.flat_map(|line| line.split("  ").next().unwrap_or_default().split(", ")).collect();
        let program = Cli::command();
        let visible = program.get_subcommands().filter(|verb| !verb.is_hide_set());
        let mut verbs: Vec<&str> = visible.map(clap::Command::get_name).collect();
        shown.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(shown, verbs);
    }
}
