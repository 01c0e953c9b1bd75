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
        /// Why.
        error: io::Error,
    },
    /// `guest.json` is no JSON or lacks something.
    #[error("{dir}/guest.json is damaged: {error}")]
    Manifest {
        /// The bundle.
        dir: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// It was made for another version of this program.
    #[error("the guest bundle {dir} has version {version}, and this program reads version {VERSION}")]
    Version {
        /// The bundle.
        dir: PathBuf,
        /// As written.
        version: u64,
    },
    /// Its agent speaks another version of the protocol.
    #[error(
        "the agent in the guest bundle {dir} speaks protocol {version}, and this program speaks {}",
        dvn_protocol::VERSION
    )]
    Agent {
        /// The bundle.
        dir: PathBuf,
        /// As written.
        version: u32,
    },
    /// It is for another processor.
    #[error("the guest bundle {dir} is for {arch}, and this host can boot {}", list(.can))]
    WrongArch {
        /// The bundle.
        dir: PathBuf,
        /// As written.
        arch: Arch,
        /// What the backend can boot.
        can: Vec<Arch>,
    },
    /// Something in it cannot be passed on to a hypervisor or to ssh.
    #[error("{dir}/guest.json has a {field} that cannot be used: {why}")]
    Unfit {
        /// The bundle.
        dir: PathBuf,
        /// What it is of.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file is named that leads out of the bundle.
    #[error("{dir}/guest.json names {name:?}, which is not a file of the bundle")]
    Escapes {
        /// The bundle.
        dir: PathBuf,
        /// As written.
        name: String,
    },
    /// A file is missing, empty or unreadable.
    #[error("the guest bundle's file {path} cannot be used: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel is in a form that the hypervisor cannot start.
    #[error("the kernel {path} is {found}, and a {arch} guest needs {needed}")]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// Whose kernel it should be.
        arch: Arch,
        /// What it is.
        found: &'static str,
        /// What it should be.
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
                report.hint("build the bundle again; it was changed or not wholly copied")
            }
            BundleError::Version { .. } | BundleError::Agent { .. } => {
                report.hint("take the bundle of the same release as this program")
            }
            BundleError::WrongArch { .. } => report.hint("take the bundle built for one of those processors"),
            BundleError::Unfit { .. } => report.hint("docs/guest-contract.md says what may stand there"),
            BundleError::Kernel { arch: Arch::Aarch64, found, .. } if found.contains("gzip") => {
                report.hint("unpack it: gzip -dc <the kernel >Image, and name that file in guest.json")
            }
            BundleError::Kernel { .. } => report.hint("build the bundle with such a kernel"),
        }
    }
}

fn list(archs: &[Arch]) -> String {
    match archs {
        [] => "no guest at all".to_owned(),
        some => some.iter().map(|a| a.as_str()).collect::<Vec<_>>().join(", "),
    }
}
