//! `create` and `clone`: new machines, with an empty disk or with a copy of another one's.

use crate::{context::Context, launch, output, progress};
use clap::{Args, ValueEnum};
use dvn_config::Size;
use dvn_types::{Arch, MachineName, Report, wire::CreateRequest};

/// Flags of `create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix create web --from-iso nixos-minimal.iso --disk-size 20G
  darwin-vz-nix create 'My VM' --linux --cores 2 --memory 2G")]
pub struct Create {
    /// Name of the new machine
    #[arg(value_name = "NAME")]
    new_name: MachineName,
    /// Image with an installer; attached until the guest has powered itself off
    #[arg(long, value_name = "FILE")]
    from_iso: Option<String>,
    /// For Linux, which is the default
    #[arg(long)]
    linux: bool,
    /// Size of its disk, which takes only what is written [default: 50GB]
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Virtual processors [default: 4, or as many as there are]
    #[arg(long, visible_alias = "cpu", value_name = "N")]
    cores: Option<u32>,
    /// Memory, such as 2G [default: 4G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Architecture [default: the installer's]
    #[arg(long, value_name = "ARCH", value_enum)]
    arch: Option<Architecture>,
    /// Print the machine as JSON
    #[arg(long)]
    pub json: bool,
}

/// An architecture, for the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Architecture {
    Aarch64,
    #[value(name = "x86_64")]
    X86_64,
}

impl From<Architecture> for Arch {
    fn from(given: Architecture) -> Arch {
        match given {
            Architecture::Aarch64 => Arch::Aarch64,
            Architecture::X86_64 => Arch::X86_64,
        }
    }
}

impl Create {
    /// Returns when it is made.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let name = self.new_name;
        let request = CreateRequest {
            name: name.clone(),
            disk_size: self.disk_size.map(|size| size.0),
            medium: self.from_iso.as_deref().map(|path| context.absolute(path)).transpose()?,
            arch: self.arch.map(Into::into),
            cores: self.cores,
            memory: self.memory.map(|size| size.0),
        };
        let client = launch::ensure(context).await?;
        let made = progress::with_notice(format!("{name}: creating"), client.create(&request)).await?;
        match self.json {
            true => output::print_json(&made),
            false => output::print(&format!("{name} is created\n")),
        }
    }
}

/// Flags of `clone`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix clone base ci-1")]
pub struct CloneMachine {
    /// Machine, which must not run
    #[arg(value_name = "SOURCE")]
    source: MachineName,
    /// Name of the copy
    #[arg(value_name = "NAME")]
    new_name: MachineName,
    /// Print the copy as JSON
    #[arg(long)]
    pub json: bool,
}

impl CloneMachine {
    /// Returns when it is made.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (source, name) = (self.source, self.new_name);
        let client = launch::ensure(context).await?;
        let copying = client.clone_machine(&source, name.clone());
        let made = progress::with_notice(format!("{name}: copying {source}"), copying).await?;
        match self.json {
            true => output::print_json(&made),
            false => output::print(&format!("{name} is a copy of {source}\n")),
        }
    }
}
