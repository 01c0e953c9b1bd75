//! Why a bundle cannot be booted.

use dvn_types::{Arch, Kind, Report};
use std::{io, path::PathBuf};

/// The version of `guest.json` that this program reads.
pub const VERSION: u64 = 1;

/// Why a bundle cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No bundle was configured.
    #[error("no guest bundle is configured, so there is nothing to boot")]
    None,
    /// The directory or its `guest.json` cannot be read.
    #[error("there is no guest bundle at {dir}: cannot read guest.json: {error}")]
    Missing {
        /// The bundle.
        dir: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// `guest.json` is not JSON or lacks a field.
    #[error("{dir}/guest.json is damaged: {error}")]
    Manifest {
        /// The bundle.
        dir: PathBuf,
        /// The cause.
        error: serde_json::Error,
    },
    /// It has another version of the format.
    #[error("the guest bundle {dir} has version {version}, and this program reads version {VERSION}")]
    Version {
        /// The bundle.
        dir: PathBuf,
        /// The version in `guest.json`.
        version: u64,
    },
    /// Its agent speaks another protocol version.
    #[error(
        "the agent in the guest bundle {dir} speaks protocol {version}, and this program speaks {}",
        dvn_protocol::VERSION
    )]
    Agent {
        /// The bundle.
        dir: PathBuf,
        /// The version in `guest.json`.
        version: u32,
    },
    /// It is for another processor architecture.
    #[error("the guest bundle {dir} is for {arch}, and this host can boot {}", list(.can))]
    WrongArch {
        /// The bundle.
        dir: PathBuf,
        /// The architecture in `guest.json`.
        arch: Arch,
        /// What the backend can boot.
        can: Vec<Arch>,
    },
    /// A field is unsafe to pass to a hypervisor or to ssh.
    #[error("{dir}/guest.json has a {field} that cannot be used: {why}")]
    Unfit {
        /// The bundle.
        dir: PathBuf,
        /// The field.
        field: &'static str,
        /// The problem.
        why: String,
    },
    /// It names a file outside the bundle.
    #[error("{dir}/guest.json names {name:?}, which is not a file of the bundle")]
    Escapes {
        /// The bundle.
        dir: PathBuf,
        /// The name in `guest.json`.
        name: String,
    },
    /// A file is missing, empty or unreadable.
    #[error("the guest bundle's file {path} cannot be used: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The kernel has a format that the hypervisor cannot start.
    #[error("the kernel {path} is {found}, and a {arch} guest needs {needed}")]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// The guest's architecture.
        arch: Arch,
        /// The format it has.
        found: &'static str,
        /// The format it needs.
        needed: &'static str,
    },
}

impl From<BundleError> for Report {
    fn from(error: BundleError) -> Report {
        let report = Report::new(Kind::Bundle, error.to_string());
        match error {
            BundleError::None => report
                .hint("name one: `bundle = \"/path\"` in the configuration file, DARWIN_VZ_NIX_BUNDLE or --bundle")
                .hint("docs/guest-contract.md says what a bundle is and how to build one"),
            BundleError::Missing { .. } => report.hint("check the `bundle` setting: `darwin-vz-nix config`"),
            BundleError::Manifest { .. } | BundleError::Escapes { .. } | BundleError::File { .. } => {
                report.hint("build the bundle again; it was changed or copied incompletely")
            }
            BundleError::Version { .. } | BundleError::Agent { .. } => {
                report.hint("use the bundle of the same release as this program")
            }
            BundleError::WrongArch { .. } => report.hint("use a bundle built for one of those processors"),
            BundleError::Unfit { .. } => report.hint("docs/guest-contract.md says what is allowed there"),
            BundleError::Kernel { arch: Arch::Aarch64, found, .. } if found.contains("gzip") => {
                report.hint("unpack it: gzip -dc <the kernel >Image, and name that file in guest.json")
            }
            BundleError::Kernel { .. } => report.hint("build the bundle with a kernel in that format"),
        }
    }
}

fn list(archs: &[Arch]) -> String {
    match archs {
        [] => "no guest at all".to_owned(),
        some => some.iter().map(|a| a.as_str()).collect::<Vec<_>>().join(", "),
    }
}
