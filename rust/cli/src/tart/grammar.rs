//! Tart's command line: its verbs, flags and defaults.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Virtual machines, by Tart's command line
#[derive(Debug, Parser)]
#[command(
    name = "tart",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
The machines are those of `darwin-vz-nix list`. Not here yet: images of registries (pull, push, login,
logout), macOS guests, and the archives of import and export.
Exit codes: 0 success; 1 error; 2 no such machine, or not in the needed state; 64 wrong command line."
)]
pub struct Tart {
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a machine
    Create(Create),
    /// Make a copy of a machine
    Clone(Clone),
    /// Run a machine until it ends
    Run(Box<Run>),
    /// Change what a machine is made of
    Set(Set),
    /// Show what a machine is made of
    Get(Get),
    /// List the machines
    List(List),
    /// Print the address of a running machine
    Ip(Ip),
    /// Run a command in a running machine
    Exec(Exec),
    /// Give a machine another name
    Rename(Rename),
    /// Stop a machine
    Stop(Stop),
    /// Save a running machine's memory and end it
    Suspend(OneName),
    /// Delete machines
    Delete(Names),
    /// Print a machine's full name
    #[command(hide = true)]
    Fqn(OneName),
    /// Keep credentials for a registry
    Login(Absent),
    /// Forget credentials for a registry
    Logout(Absent),
    /// Fetch an image from a registry
    Pull(Absent),
    /// Send a machine to a registry
    Push(Absent),
    /// Make a machine from an archive
    Import(Absent),
    /// Write a machine to an archive
    Export(Absent),
    /// Delete images of registries that are not in use
    Prune(Absent),
}

/// Arguments of a verb that is not here yet. All are accepted, so that the answer is about the verb.
#[derive(Debug, Args)]
pub struct Absent {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub struct OneName {
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Names {
    #[arg(required = true)]
    pub name: Vec<String>,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    pub name: String,
    /// A restore image of macOS: a path, a URL, or latest
    #[arg(long, value_name = "PATH", required_unless_present = "linux", conflicts_with = "linux")]
    pub from_ipsw: Option<String>,
    /// A machine for Linux
    #[arg(long)]
    pub linux: bool,
    /// Size of the disk in GB
    #[arg(long, value_name = "GB", default_value_t = 50)]
    pub disk_size: u16,
    #[arg(long, value_enum, default_value = "raw")]
    pub disk_format: DiskFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiskFormat {
    Raw,
    Asif,
}

/// Arguments of `clone`.
#[derive(Debug, Args)]
pub struct Clone {
    pub source_name: String,
    pub new_name: String,
    /// Without meaning for a machine of this computer
    #[arg(long)]
    pub insecure: bool,
    /// Without meaning for a machine of this computer
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub concurrency: u32,
    #[arg(long, hide = true)]
    pub deduplicate: bool,
    /// Without meaning here: nothing is deleted unasked
    #[arg(long, value_name = "GB", default_value_t = 100)]
    pub prune_limit: u32,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    pub name: String,
    /// No window; there is none here in any case
    #[arg(long)]
    pub no_graphics: bool,
    #[arg(long, hide = true)]
    pub graphics: bool,
    /// Print the serial console, which is printed in any case
    #[arg(long)]
    pub serial: bool,
    #[arg(long, value_name = "PATH")]
    pub serial_path: Option<String>,
    /// No sound; there is none here in any case
    #[arg(long)]
    pub no_audio: bool,
    /// No shared clipboard; there is none here in any case
    #[arg(long)]
    pub no_clipboard: bool,
    #[arg(long)]
    pub recovery: bool,
    #[arg(long)]
    pub vnc: bool,
    #[arg(long)]
    pub vnc_experimental: bool,
    /// A further disk: PATH, or PATH:ro
    #[arg(long, value_name = "SPEC")]
    pub disk: Vec<String>,
    #[arg(long, value_name = "OPTIONS")]
    pub root_disk_opts: Option<String>,
    #[arg(long, value_name = "SPEC", help = "A directory to share: [NAME:]PATH[:ro,tag=TAG]")]
    pub dir: Vec<String>,
    #[arg(long, value_name = "TAG")]
    pub rosetta: Option<String>,
    #[arg(long, value_name = "INTERFACE")]
    pub net_bridged: Vec<String>,
    #[arg(long)]
    pub net_softnet: bool,
    #[arg(long, value_name = "CIDRS")]
    pub net_softnet_allow: Option<String>,
    #[arg(long, value_name = "CIDRS")]
    pub net_softnet_block: Option<String>,
    /// Ports of this computer that lead to the machine: EXTERNAL:INTERNAL, …
    #[arg(long, value_name = "PORTS")]
    pub net_softnet_expose: Option<String>,
    #[arg(long)]
    pub net_host: bool,
    /// Every machine that can be suspended can be, without this
    #[arg(long)]
    pub suspendable: bool,
    #[arg(long)]
    pub capture_system_keys: bool,
    #[arg(long)]
    pub no_trackpad: bool,
    #[arg(long)]
    pub no_pointer: bool,
    #[arg(long)]
    pub no_keyboard: bool,
    #[arg(long)]
    pub nested: bool,
}

/// Arguments of `set`.
#[derive(Debug, Args)]
pub struct Set {
    pub name: String,
    /// Virtual processors
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// Size of the display: WIDTHxHEIGHT, and px or pt after it
    #[arg(long, value_name = "SIZE")]
    pub display: Option<String>,
    #[arg(long, overrides_with = "no_display_refit")]
    pub display_refit: bool,
    #[arg(long)]
    pub no_display_refit: bool,
    /// Give it a new MAC address
    #[arg(long)]
    pub random_mac: bool,
    #[arg(long)]
    pub random_serial: bool,
    #[arg(long, value_name = "PATH")]
    pub disk: Option<String>,
    /// Size of the disk in GB; it can only grow
    #[arg(long, value_name = "GB")]
    pub disk_size: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Get {
    pub name: String,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Source {
    Local,
    Oci,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    #[arg(long, value_enum)]
    pub source: Option<Source>,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Only the names
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resolver {
    Dhcp,
    Arp,
    Agent,
}

/// Arguments of `ip`.
#[derive(Debug, Args)]
pub struct Ip {
    pub name: String,
    /// Wait so many seconds for an address
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u16,
    /// How to find it; the agent is asked in any case
    #[arg(long, value_enum, default_value = "dhcp")]
    pub resolver: Resolver,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Pass stdin on to the command
    #[arg(short)]
    pub interactive: bool,
    /// Run the command on a terminal
    #[arg(short)]
    pub tty: bool,
    pub name: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Arguments of `rename`.
#[derive(Debug, Args)]
pub struct Rename {
    pub name: String,
    pub new_name: String,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    pub name: String,
    /// Seconds until the machine is stopped by force
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}
