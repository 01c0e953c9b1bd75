//! Flags for settings, made from the table of settings. Their values stay text here; the crate `config` parses them, so
//! all sources accept the same values.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use dvn_config::Key;

/// All settings of a machine.
pub type MachineFlags = Flags<false>;

/// A machine's sizes, which `start` accepts for one boot.
pub type SizeFlags = Flags<true>;

/// The settings of a machine that were given as flags.
#[derive(Clone, Debug)]
pub struct Flags<const SIZES_ONLY: bool>(Vec<(Key, String)>);

impl<const SIZES_ONLY: bool> Flags<SIZES_ONLY> {
    /// The given settings.
    pub fn flags(&self) -> Vec<(Key, String)> {
        self.0.clone()
    }

    fn keys() -> impl Iterator<Item = Key> {
        let has = |key: Key| match SIZES_ONLY {
            true => matches!(key, Key::Cores | Key::Memory | Key::DiskSize),
            false => key.of_a_machine(),
        };
        Key::ALL.into_iter().filter(move |key| has(*key))
    }

    /// A setting as a flag.
    fn flag(key: Key) -> Arg {
        let help = match key {
            Key::Cores if SIZES_ONLY => "Processors of the guest, for this boot",
            Key::Memory if SIZES_ONLY => "Memory of the guest, for this boot, such as 8G",
            Key::DiskSize if SIZES_ONLY => "Size of the data disk, such as 100G; a disk can grow, not shrink",
            key => key.help(),
        };
        let flag = Arg::new(key.name()).long(key.name()).value_name(key.placeholder()).help(help);
        // Few Macs support it, and the short help must fit a screen.
        let flag = flag.hide_short_help(key == Key::NestedVirtualization);
        match key.bare_flag() {
            Some(value) => flag.num_args(0..=1).require_equals(true).default_missing_value(value),
            None => flag,
        }
    }
}

impl<const SIZES_ONLY: bool> Args for Flags<SIZES_ONLY> {
    fn augment_args(command: Command) -> Command {
        let heading = (!SIZES_ONLY).then_some("Settings of the machine");
        command.args(Self::keys().map(|key| Self::flag(key).help_heading(heading)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SIZES_ONLY: bool> FromArgMatches for Flags<SIZES_ONLY> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let value = |key: Key| matches.get_one::<String>(key.name()).cloned();
        Ok(Flags(Self::keys().filter_map(|key| Some((key, value(key)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
