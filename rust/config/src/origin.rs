//! The origin of a value.

use std::{fmt, path::PathBuf};

/// The origin of a value, so that an error can say what to fix.
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
    /// The default, since no source gives it.
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
    /// The setting in its source's spelling, for errors.
    pub fn spelled(&self, key: impl fmt::Display) -> String {
        match self {
            Origin::Flag(_) | Origin::Env(_) => self.to_string(),
            Origin::File { .. } => format!("{self}: {key}"),
            Origin::Default => format!("{key} (default)"),
        }
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A default value.
    pub fn default(value: T) -> Self {
        Sourced { value, origin: Origin::Default }
    }
}
