//! The grammar of the command line.

use super::{
    capabilities, complete, completions, config, connect, destroy, doctor, generations, logs, man, nix_config, pause,
    reference, run, ssh, start, status, stop, token,
};
use crate::{config::Key, spec::MachineName};
use clap::{Args, ColorChoice, Parser, Subcommand};
use std::path::PathBuf;

/// For the manual and the reference.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   2  the command line is wrong
   3  a setting is wrong
   4  no daemon answers
   5  this computer lacks something: a program, a right
   6  the guest bundle is wrong
   7  the guest did not come up
   8  somebody else has it: a port, the state directory
   9  the state directory: keys, disk, permissions, space
  10  the guest is up, but a connection to it failed
  11  there is no machine of that name, or no generation of that number
  70  a fault of this program
`ssh` exits as the command in the guest does; `doctor` with the code of the first failure it finds.";

/// Ends the help, which is to fit a screen.
const AFTER_HELP: &str = "\
Examples:
  darwin-vz-nix start                  boot the machine now, and show where the time goes
  darwin-vz-nix ssh -- uname -a        run a command in it; starts what does not run
  darwin-vz-nix nix-config             what to put into Nix's configuration to build on it
  darwin-vz-nix doctor                 look for what is wrong

Exit codes: 0 done; 2 wrong command line; 3 wrong setting; 4 no daemon answers; 5 this computer
lacks something; 6 guest bundle; 7 the guest did not come up; 8 somebody else has it; 9 state
directory; 10 connection to the guest; 11 no such machine or generation; 70 a fault of this program.
The manual, darwin-vz-nix(1), tells more.";

/// A Linux builder for Nix that starts when a build needs it and stops when idle
#[derive(Debug, Parser)]
#[command(name = "darwin-vz-nix", version, after_help = AFTER_HELP, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where all state lives; also says which daemon is meant
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Machine [default: builder, or the only one]
    #[arg(long, global = true, value_name = "NAME")]
    pub machine: Option<MachineName>,
    /// How much is logged: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    pub color: Option<ColorChoice>,
    /// Log more; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start the machine, and the daemon if none runs
    Start(start::Start),
    /// Stop the machine; the next connection starts it again
    Stop(stop::Stop),
    /// Have the guest stand still; the next connection has it go on
    Pause(pause::Pause),
    /// Have a paused guest go on
    Resume(pause::Resume),
    /// Show the machines
    Status(status::Status),
    /// Open a shell in the guest, or run a command there; starts what does not run
    Ssh(ssh::Ssh),
    /// Join stdin and stdout to a service of the guest, for Nix and ssh to call
    Connect(connect::Connect),
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Show the daemon's log, the guest's console or a build's log
    Logs(logs::Logs),
    /// Show the guest systems built from the recipe; go back, build, delete
    Generations(generations::Generations),
    /// Look for what is wrong, and repair it if asked to
    Doctor(doctor::Doctor),
    /// Stop the machine and delete its disk, keys and generations
    Destroy(destroy::Destroy),
    /// Print what a host needs to build on the machine
    NixConfig(nix_config::NixConfig),
    /// Show the settings that count, and where each comes from
    Config(config::Config),
    /// Print the token that the HTTP API asks for on TCP, or make a new one
    Token(token::Token),
    /// Show what this computer and this program can do, and why not
    Capabilities(capabilities::Capabilities),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print names for a shell's completion
    #[command(hide = true)]
    Complete(complete::Complete),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(man::Man),
    /// Print this command line's reference in Markdown
    #[command(hide = true)]
    Reference(reference::Reference),
}

impl Verb {
    /// Settings among the verb's own flags.
    pub fn flags(&self) -> Vec<(Key, String)> {
        match self {
            Verb::Run(verb) => {
                let api_listen = verb.api_listen.clone().map(|address| (Key::ApiListen, address));
                verb.machine.flags().into_iter().chain(api_listen).collect()
            }
            Verb::Config(verb) => verb.machine.flags(),
            _ => Vec::new(),
        }
    }

    /// An error is to be JSON on stdout, too.
    pub fn wants_json(&self) -> bool {
        match self {
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
            Verb::Run(verb) => verb.detached,
            _ => false,
        }
    }
}

/// A machine's settings as flags. They are text here; `config` reads them, so that a value has one spelling everywhere.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings of the machine")]
pub struct MachineFlags {
    /// Processors of the guest
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// Memory of the guest, such as 8G
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Size of the data disk, such as 100G
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<String>,
    /// Begin each boot with an empty data disk
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ephemeral: Option<String>,
    /// Minutes unused until the guest is stopped; 0 is never
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// Where ssh clients reach it: a loopback address and port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of the guest bundle
    #[arg(long, value_name = "DIR")]
    bundle: Option<String>,
    /// A derivation of the host's store, whose output is the guest bundle to build and change to
    #[arg(long, value_name = "DRV")]
    recipe: Option<String>,
    /// Directory with the host's nix, for the recipe
    #[arg(long, value_name = "DIR")]
    nix: Option<String>,
    /// Let an aarch64 guest run x86_64 programs through Rosetta
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rosetta: Option<String>,
    /// Let the guest run virtual machines
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_short_help = true)]
    nested_virtualization: Option<String>,
    /// Let the guest build on the host's store
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    share_store: Option<String>,
    /// The host's store, as a directory
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// The socket of the host's Nix daemon
    #[arg(long, value_name = "FILE")]
    store_daemon: Option<String>,
    /// auto, or what runs the guest: vz (macOS) or qemu (Linux)
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// auto, or force kvm or tcg
    #[arg(long, value_name = "NAME")]
    accelerator: Option<String>,
    /// Seconds that a boot may take
    #[arg(long, value_name = "TIME")]
    boot_timeout: Option<String>,
    /// Seconds that a guest may take to power off before it is killed
    #[arg(long, value_name = "TIME")]
    stop_grace: Option<String>,
    /// Seconds without an answer until a guest in use is killed; 0 is never
    #[arg(long, value_name = "TIME")]
    hang_timeout: Option<String>,
}

impl MachineFlags {
    fn flags(&self) -> Vec<(Key, String)> {
        let given = [
            (Key::Cores, &self.cores),
            (Key::Memory, &self.memory),
            (Key::DiskSize, &self.disk_size),
            (Key::Ephemeral, &self.ephemeral),
            (Key::IdleTimeout, &self.idle_timeout),
            (Key::Listen, &self.listen),
            (Key::Bundle, &self.bundle),
            (Key::Recipe, &self.recipe),
            (Key::Nix, &self.nix),
            (Key::Rosetta, &self.rosetta),
            (Key::NestedVirtualization, &self.nested_virtualization),
            (Key::ShareStore, &self.share_store),
            (Key::StoreDir, &self.store_dir),
            (Key::StoreDaemon, &self.store_daemon),
            (Key::Backend, &self.backend),
            (Key::Accelerator, &self.accelerator),
            (Key::BootTimeout, &self.boot_timeout),
            (Key::StopGrace, &self.stop_grace),
            (Key::HangTimeout, &self.hang_timeout),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}
