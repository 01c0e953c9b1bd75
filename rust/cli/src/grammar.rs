//! The command line: its verbs and global flags.

use crate::{
    commands::{
        capabilities, complete, completions, config, connect, destroy, doctor, generations, logs, nix_config, pause,
        run, ssh, start, status, stop, token,
    },
    global::Global,
};
use clap::{Parser, Subcommand};
use dvn_config::Key;

/// The end of the help. The whole help must fit a screen.
const AFTER_HELP: &str = "\
Examples:
  darwin-vz-nix start                  boot the machine now, and show how long each phase takes
  darwin-vz-nix ssh -- uname -a        run a command in it, starting it if needed
  darwin-vz-nix nix-config             print the Nix configuration to build on it
  darwin-vz-nix doctor                 diagnose problems

Exit codes: 0 success; 2 wrong command line; 3 wrong setting; 4 no daemon answers; 5 the host
lacks a requirement; 6 guest bundle; 7 the guest did not boot; 8 in use by another process;
9 state directory; 10 connection to the guest; 11 no such machine or generation; 70 internal error.
The manual page is darwin-vz-nix(1).";

/// A Linux builder for Nix that starts when a build needs it and stops when idle
#[derive(Debug, Parser)]
#[command(name = "darwin-vz-nix", version, after_help = AFTER_HELP, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start the machine, and the daemon if none runs
    Start(start::Start),
    /// Stop the machine; the next connection starts it again
    Stop(stop::Stop),
    /// Pause the guest; the next connection resumes it
    Pause(pause::Pause),
    /// Resume a paused guest
    Resume(pause::Resume),
    /// Show the machines
    Status(status::Status),
    /// Open a shell in the guest or run a command there; starts it if needed
    Ssh(ssh::Ssh),
    /// Connect stdin and stdout to a service of the guest; called by Nix and ssh
    Connect(connect::Connect),
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Show the daemon's log, the guest's console or a build's log
    Logs(logs::Logs),
    /// Show the guest systems built from the recipe; roll back, build, delete
    Generations(generations::Generations),
    /// Diagnose problems, and repair them with --fix
    Doctor(doctor::Doctor),
    /// Stop the machine and delete its disk, keys and generations
    Destroy(destroy::Destroy),
    /// Print the configuration that a host needs to build on the machine
    NixConfig(nix_config::NixConfig),
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
            Verb::Run(verb) => {
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
