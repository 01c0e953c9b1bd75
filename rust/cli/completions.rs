//! `completions`: a script that lets a shell complete this command line.

use super::{args::Cli, output};
use crate::error::Report;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints it.
    pub fn run(self) -> Result<(), Report> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "darwin-vz-nix", &mut script);
        output::print_bytes(&script)
    }
}
