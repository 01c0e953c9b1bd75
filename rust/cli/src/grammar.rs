//! The grammar of the command line.

use crate::{
    commands::{
        capabilities, complete, completions, config, connect, destroy, doctor, generations, logs, nix_config, pause,
        run, ssh, start, status, stop, token,
    },
    global::Global,
};
use clap::{Parser, Subcommand};
use dvn_config::Key;

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
