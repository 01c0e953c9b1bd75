//! The names of the settings, and where a value came from.

use std::{fmt, path::PathBuf};

/// Begins the name of every environment variable of ours.
pub const ENV_PREFIX: &str = "DARWIN_VZ_NIX_";

/// Variables with our prefix that are no setting: the CLI reads them itself.
pub const ENV_OF_THE_CLI: [&str; 2] = ["DARWIN_VZ_NIX_CONFIG", "DARWIN_VZ_NIX_MACHINE"];

/// A setting. [`Key::name`] is its name in the file and, after `--`, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `state-dir`
    StateDir,
    /// `log-level`
    LogLevel,
    /// `api-listen`
    ApiListen,
    /// `cores`
    Cores,
    /// `memory`
    Memory,
    /// `disk-size`
    DiskSize,
    /// `ephemeral`
    Ephemeral,
    /// `idle-timeout`
    IdleTimeout,
    /// `listen`
    Listen,
    /// `bundle`
    Bundle,
    /// `recipe`
    Recipe,
    /// `nix`
    Nix,
    /// `rosetta`
    Rosetta,
    /// `nested-virtualization`
    NestedVirtualization,
    /// `share-store`
    ShareStore,
    /// `store-dir`
    StoreDir,
    /// `store-daemon`
    StoreDaemon,
    /// `backend`
    Backend,
    /// `accelerator`
    Accelerator,
    /// `boot-timeout`
    BootTimeout,
    /// `stop-grace`
    StopGrace,
    /// `hang-timeout`
    HangTimeout,
}

impl Key {
    /// Every setting, in the order in which they are shown.
    pub const ALL: [Key; 22] = [
        Key::StateDir,
        Key::LogLevel,
        Key::ApiListen,
        Key::Cores,
        Key::Memory,
        Key::DiskSize,
        Key::Ephemeral,
        Key::IdleTimeout,
        Key::Listen,
        Key::Bundle,
        Key::Recipe,
        Key::Nix,
        Key::Rosetta,
        Key::NestedVirtualization,
        Key::ShareStore,
        Key::StoreDir,
        Key::StoreDaemon,
        Key::Backend,
        Key::Accelerator,
        Key::BootTimeout,
        Key::StopGrace,
        Key::HangTimeout,
    ];

    /// The setting of that name.
    pub fn named(name: &str) -> Option<Key> {
        Key::ALL.into_iter().find(|key| key.name() == name)
    }

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Key::StateDir => "state-dir",
            Key::LogLevel => "log-level",
            Key::ApiListen => "api-listen",
            Key::Cores => "cores",
            Key::Memory => "memory",
            Key::DiskSize => "disk-size",
            Key::Ephemeral => "ephemeral",
            Key::IdleTimeout => "idle-timeout",
            Key::Listen => "listen",
            Key::Bundle => "bundle",
            Key::Recipe => "recipe",
            Key::Nix => "nix",
            Key::Rosetta => "rosetta",
            Key::NestedVirtualization => "nested-virtualization",
            Key::ShareStore => "share-store",
            Key::StoreDir => "store-dir",
            Key::StoreDaemon => "store-daemon",
            Key::Backend => "backend",
            Key::Accelerator => "accelerator",
            Key::BootTimeout => "boot-timeout",
            Key::StopGrace => "stop-grace",
            Key::HangTimeout => "hang-timeout",
        }
    }

    /// Its environment variable.
    pub fn env(self) -> String {
        match self {
            Key::LogLevel => format!("{ENV_PREFIX}LOG"),
            key => format!("{ENV_PREFIX}{}", key.name().to_uppercase().replace('-', "_")),
        }
    }

    /// Each machine may have its own; the others belong to the daemon.
    pub fn of_a_machine(self) -> bool {
        !matches!(self, Key::StateDir | Key::LogLevel | Key::ApiListen)
    }

    /// The default where that depends on the host, for the reference.
    pub fn default_of_the_host(self) -> Option<&'static str> {
        match self {
            Key::StateDir => Some(
                "`/var/lib/darwin-vz-nix` for root; for others `darwin-vz-nix` in `$XDG_STATE_HOME`, or in `~/.local/state`",
            ),
            Key::Cores => Some("half of the host's"),
            Key::Memory => Some("half of the host's, at most `8G`"),
            Key::ShareStore => Some("`true` where the host has Nix with a daemon"),
            _ => None,
        }
    }

    /// What it is, for the reference.
    pub fn about(self) -> &'static str {
        match self {
            Key::StateDir => "where all state lives",
            Key::LogLevel => "how much is logged",
            Key::ApiListen => "where the HTTP API answers on TCP, too; it takes the token in `STATE_DIR/api-token`",
            Key::Cores => "processors of the guest",
            Key::Memory => "memory of the guest",
            Key::DiskSize => "size of the data disk as the guest sees it; the file is sparse",
            Key::Ephemeral => "begin each boot with an empty data disk",
            Key::IdleTimeout => "how long without traffic or a build until the guest is stopped",
            Key::Listen => "where ssh clients reach the machine",
            Key::Bundle => "directory of the guest bundle",
            Key::Recipe => {
                "a `.drv` of this host's store, the guest's successor: the guest builds it and boots from it"
            }
            Key::Nix => {
                "directory with this host's `nix`; without it, the program looks on PATH and in the usual places"
            }
            Key::Rosetta => "let an aarch64 guest run x86_64 programs through Rosetta",
            Key::NestedVirtualization => "let the guest run virtual machines: on a Mac, M3 and macOS 15 or newer",
            Key::ShareStore => "let the guest build on the host's store, so that nothing is copied which the host has",
            Key::StoreDir => "the host's store, as a directory",
            Key::StoreDaemon => "the socket of the host's Nix daemon, which knows what is valid in that store",
            Key::Backend => "what runs the guest: `vz` (macOS) or `qemu` (Linux)",
            Key::Accelerator => "how QEMU executes guest code: `kvm` with the processor's help, `tcg` without",
            Key::BootTimeout => "how long a boot may take",
            Key::StopGrace => "how long a guest may take to power off before it is killed",
            Key::HangTimeout => "how long a guest in use may not answer before it is killed",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
    pub fn spelled(&self, key: Key) -> String {
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
