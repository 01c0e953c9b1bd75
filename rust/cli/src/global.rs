//! The flags of every verb.

use clap::{Args, ColorChoice};
use dvn_config::Key;
use dvn_types::MachineName;
use std::path::PathBuf;

/// Flags of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    #[arg(long, global = true, value_name = Key::StateDir.placeholder(), help = Key::StateDir.help())]
    pub state_dir: Option<String>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Machine [default: builder, or the only one]
    #[arg(long, global = true, value_name = "NAME")]
    pub machine: Option<MachineName>,
    #[arg(long, global = true, value_name = Key::LogLevel.placeholder(), help = Key::LogLevel.help())]
    pub log_level: Option<String>,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    pub color: Option<ColorChoice>,
    /// Log at level debug; -vv logs at level trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}
