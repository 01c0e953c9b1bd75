//! Where a value came from.

use std::{fmt, path::PathBuf};

/// Where a value came from, so that an error can say what to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The flag of that key.
    Flag(String),
    /// The environment variable of that name.
    Env(String),
    /// A line of the configuration file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "--{name}"),
            Origin::Env(name) => f.write_str(name),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// The setting as its source spells it, for errors.
    pub fn spelled(&self, key: impl fmt::Display) -> String {
        match self {
            Origin::Flag(_) | Origin::Env(_) => self.to_string(),
            Origin::File { .. } => format!("{self}: {key}"),
            Origin::Default => format!("{key} (default)"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that nobody set.
    pub fn default(value: T) -> Self {
        Sourced { value, origin: Origin::Default }
    }
}
