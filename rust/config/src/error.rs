//! Why a configuration is refused.

use super::{origin::Origin, table::Key};
use dvn_types::{Kind, Report};
use std::{io, path::PathBuf};

/// Why a configuration is refused. Each variant names the value's origin.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file given by `--config` does not exist or cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not valid TOML.
    #[error("{origin}: this is not TOML: {message}")]
    Syntax {
        /// The line.
        origin: Origin,
        /// The parser's message.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {name:?}")]
    UnknownKey {
        /// Its origin.
        origin: Origin,
        /// The name as given.
        name: String,
        /// The most similar setting.
        nearest: Option<String>,
    },
    /// There is no setting for this variable.
    #[error("the environment variable {name} is set, but there is no setting of that name")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The most similar variable.
        nearest: Option<String>,
    },
    /// A setting of the daemon is in a machine's table.
    #[error("{origin}: {key} is not a setting of a machine: it applies to the whole daemon")]
    Misplaced {
        /// Its origin.
        origin: Origin,
        /// The setting.
        key: Key,
    },
    /// `machines` or one of its entries is not a table.
    #[error("{origin}: {name} is a table: write [{name}]")]
    NoTable {
        /// Its origin.
        origin: Origin,
        /// The table's name.
        name: String,
    },
    /// A machine's name is invalid.
    #[error("{origin}: {why}")]
    BadName {
        /// Its origin.
        origin: Origin,
        /// What is wrong with it.
        why: String,
    },
    /// The value cannot be parsed.
    #[error("{} cannot be {given}", origin.spelled(*key))]
    Unclear {
        /// Its origin.
        origin: Origin,
        /// The setting.
        key: Key,
        /// What was given.
        given: String,
        /// Which values are valid.
        instead: String,
    },
    /// The value is out of range, or this host does not support it.
    #[error("{} = {given}: {why}", origin.spelled(*key))]
    Unfit {
        /// Its origin.
        origin: Origin,
        /// The setting.
        key: Key,
        /// What was given.
        given: String,
        /// Why it is refused.
        why: String,
        /// Which values are valid.
        instead: String,
    },
    /// Two machines have the same address.
    #[error("the machines {first} and {second} both listen on {address} ({origin})")]
    SharedAddress {
        /// A machine.
        first: String,
        /// Another machine.
        second: String,
        /// Their address.
        address: String,
        /// The origin of the second machine's address.
        origin: Origin,
    },
    /// The chosen machine is not configured.
    #[error("there is no machine {name}; there are: {known}")]
    NoSuchMachine {
        /// The machine.
        name: String,
        /// The configured machines.
        known: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// Several machines, none of which is named `builder`.
    #[error("there are several machines ({known}), and it is not clear which one is meant")]
    Ambiguous {
        /// The configured machines.
        known: String,
    },
}

impl From<ConfigError> for Report {
    fn from(error: ConfigError) -> Report {
        let kind = match error {
            ConfigError::NoSuchMachine { .. } => Kind::NotFound,
            _ => Kind::Config,
        };
        let report = Report::new(kind, error.to_string());
        match error {
            ConfigError::UnknownKey { nearest: Some(name), .. }
            | ConfigError::UnknownVariable { nearest: Some(name), .. } => report.hint(format!("did you mean {name}?")),
            ConfigError::UnknownKey { nearest: None, .. } => {
                let names: Vec<&str> = Key::ALL.iter().map(|key| key.name()).collect();
                report.hint(format!("the settings are {}", names.join(", ")))
            }
            ConfigError::UnknownVariable { nearest: None, name } => report.hint(format!("unset {name}")),
            ConfigError::Misplaced { key, .. } => {
                report.hint(format!("move {key} to the top of the file, above the first [table]"))
            }
            ConfigError::Unclear { instead, .. } | ConfigError::Unfit { instead, .. } => report.hint(instead),
            ConfigError::SharedAddress { second, .. } => {
                report.hint(format!("set another listen in [machines.{second}], such as 127.0.0.1:31123"))
            }
            ConfigError::NoSuchMachine { nearest: Some(name), .. } => report.hint(format!("did you mean {name}?")),
            ConfigError::NoSuchMachine { name, nearest: None, .. } => report.hint(format!(
                "name one of these with --machine, or add a table [machines.{name}] to the configuration file"
            )),
            ConfigError::Syntax { .. } => {
                report.hint("a setting is written `cores = 4` or, with text, `memory = \"8G\"`")
            }
            ConfigError::BadName { .. } | ConfigError::NoTable { .. } => {
                report.hint("a machine is a table such as [machines.ci], with its settings below it")
            }
            ConfigError::Ambiguous { .. } => report.hint("name it with --machine"),
            ConfigError::Unreadable { .. } => report.hint("check the path and its permissions, or leave --config out"),
        }
    }
}

/// The candidate most similar to `given`, if any is similar enough.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|name| {
            (
                strsim::normalized_damerau_levenshtein(
                    &given.to_lowercase().replace('_', "-"),
                    &name.to_lowercase().replace('_', "-"),
                ),
                name,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}
