//! An error as users see it: its kind, what happened and why, and what to do next.
//!
//! Modules have their own `thiserror` enums of reasons; at the edge (the API, the CLI, a denied lease) each becomes one
//! [`Report`]. The kind decides the exit code.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The kind of an error, by the part that needs fixing. The number is the exit code of the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A setting, a flag or the configuration file. Exit code 3.
    Config,
    /// No daemon answers. Exit code 4.
    NotRunning,
    /// This computer lacks something: a program, a permission, a processor feature. Exit code 5.
    Host,
    /// The guest bundle. Exit code 6.
    Bundle,
    /// The guest did not boot. Exit code 7.
    Boot,
    /// A resource is in use: a port, the state directory; or a machine is being stopped. Exit code 8.
    Busy,
    /// The state directory: its keys, its disk, its permissions, its free space. Exit code 9.
    State,
    /// The guest is up but a connection to it failed. Exit code 10.
    Guest,
    /// There is no machine of that name, or nothing at that path of the API. Exit code 11.
    NotFound,
    /// A bug in this program. Exit code 70.
    Internal,
}

impl Kind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Kind; 10] = [
        Kind::Config,
        Kind::NotRunning,
        Kind::Host,
        Kind::Bundle,
        Kind::Boot,
        Kind::Busy,
        Kind::State,
        Kind::Guest,
        Kind::NotFound,
        Kind::Internal,
    ];

    /// The exit code of the CLI for an error of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Config => 3,
            Kind::NotRunning => 4,
            Kind::Host => 5,
            Kind::Bundle => 6,
            Kind::Boot => 7,
            Kind::Busy => 8,
            Kind::State => 9,
            Kind::Guest => 10,
            Kind::NotFound => 11,
            Kind::Internal => 70,
        }
    }
}

/// An error as it is displayed, sent over the API and kept in a machine's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The kind.
    pub kind: Kind,
    /// What happened and why, in one or two sentences.
    pub message: String,
    /// What to do next, one step each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Report {
    /// An error without hints; [`Report::hint`] adds some.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Report { kind, message: message.into(), hints: Vec::new() }
    }

    /// Adds a step that the user can take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}
