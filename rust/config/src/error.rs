//! Why a configuration is refused.

use super::{origin::Origin, table::Key};
use dvn_types::{Kind, Report};
use std::{io, path::PathBuf};

/// Why a configuration is refused. Each names the value's origin.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that is not there or cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{origin}: this is not TOML: {message}")]
    Syntax {
        /// The line.
        origin: Origin,
        /// The parser's words.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {name:?}")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// As it was written.
        name: String,
        /// The setting most like it.
        nearest: Option<String>,
    },
    /// There is no setting for this variable.
    #[error("the environment variable {name} is set, but there is no setting of that name")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable most like it.
        nearest: Option<String>,
    },
    /// A setting of the daemon stands in a machine's table.
    #[error("{origin}: {key} is not a machine's own: it holds for the whole daemon")]
    Misplaced {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        key: Key,
    },
    /// `machines` or one of its entries is no table.
    #[error("{origin}: {name} is a table: write [{name}]")]
    NoTable {
        /// Where it stands.
        origin: Origin,
        /// The name of the table it should be.
        name: String,
    },
    /// A machine's name is not one.
    #[error("{origin}: {why}")]
    BadName {
        /// Where it stands.
        origin: Origin,
        /// What is wrong with it.
        why: String,
    },
    /// The value cannot be read.
    #[error("{} cannot be {given}", origin.spelled(*key))]
    Unclear {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        key: Key,
        /// What was given.
        given: String,
        /// What would be right.
        instead: String,
    },
    /// The value is out of its range, or this host cannot do it.
    #[error("{} = {given}: {why}", origin.spelled(*key))]
    Unfit {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        key: Key,
        /// What was given.
        given: String,
        /// Why that cannot be.
        why: String,
        /// What would be right.
        instead: String,
    },
    /// Two machines have one address.
    #[error("the machines {first} and {second} both listen on {address} ({origin})")]
    SharedAddress {
        /// A machine.
        first: String,
        /// Another.
        second: String,
        /// Their address.
        address: String,
        /// Where the second one's stands.
        origin: Origin,
    },
    /// The chosen machine is not configured.
    #[error("there is no machine {name}; there are: {known}")]
    NoSuchMachine {
        /// The machine.
        name: String,
        /// Those there are.
        known: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// Several machines, and none is named `builder`.
    #[error("there are several machines ({known}), and it is not clear which one is meant")]
    Ambiguous {
        /// Those there are.
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
                report.hint(format!("give [machines.{second}] a listen of its own, such as 127.0.0.1:31123"))
            }
            ConfigError::NoSuchMachine { nearest: Some(name), .. } => report.hint(format!("did you mean {name}?")),
            ConfigError::NoSuchMachine { name, nearest: None, .. } => report.hint(format!(
                "name one of these with --machine, or add a table [machines.{name}] to the configuration file"
            )),
            ConfigError::Syntax { .. } => {
                report.hint("a setting is written `cores = 4` or, with text, `memory = \"8G\"`")
            }
            ConfigError::BadName { .. } | ConfigError::NoTable { .. } => {
                report.hint("a machine of its own is a table such as [machines.ci], with settings below it")
            }
            ConfigError::Ambiguous { .. } => report.hint("name it with --machine"),
            ConfigError::Unreadable { .. } => report.hint("check the path and its permissions, or leave --config out"),
        }
    }
}

/// The candidate most like `given`, if one is like it at all.
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
