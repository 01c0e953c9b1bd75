//! The table of settings: the only place that declares them. The format of a row:
//!
//! ```text
//!  Key  name in the file      field: kind of value(type of its content) of the part of `MachineConfig` that has it
//!   about: the description for the reference
//!   flag: the placeholder for its value and the description, for the help
//!   default: from the host's facts and the default state directory
//!   in_words: a description of the default, if it depends on the host
//! ```
//!
//! `value.rs` has the formats of values and their parsers, `check.rs` their ranges.

use super::{
    host::{self, HostFacts},
    origin::{Origin, Sourced},
    value::{
        AbsolutePath, Accelerator, Base, Cores, GIB, Idle, Limit, Listen, LogLevel, MIB, MaybeLimit, MaybeListen,
        MaybePath, Raw, Recipe, Runner, Setting, Size, Switch,
    },
};
use dvn_hypervisor::{Backend, Requirements};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

settings! {
    of the daemon {
        StateDir "state-dir" => state_dir: AbsolutePath(PathBuf) {
            about: "directory of all state",
            flag: "DIR", "State directory; also selects the daemon",
            default: |_, state_dir| AbsolutePath(state_dir.to_owned()),
            in_words: "`/var/lib/darwin-vz-nix` for root; for others `darwin-vz-nix` in `$XDG_STATE_HOME`, or in `~/.local/state`",
        }
        LogLevel "log-level" => log_level: LogLevel(String) {
            about: "level of the log",
            flag: "LEVEL", "Log level: error, warn, info, debug or trace",
            default: |_, _| LogLevel("info".to_owned()),
        }
        ApiListen "api-listen" => api_listen: MaybeListen(Option<SocketAddr>) {
            about: "loopback address and port on which the HTTP API listens, too; it requires the token in `STATE_DIR/api-token`",
            flag: "ADDRESS", "Loopback address and port on which the HTTP API listens, too",
            default: |_, _| MaybeListen(None),
        }
    }
    of each machine {
        Cores "cores" => cores: Cores(u32) of hardware {
            about: "processors of the guest",
            flag: "N", "Processors of the guest",
            default: |host, _| Cores(if host.cores == u32::MAX { 1 } else { (host.cores / 2).max(1) }),
            in_words: "half of the host's",
        }
        /// In bytes.
        Memory "memory" => memory: Size(u64) of hardware {
            about: "memory of the guest",
            flag: "SIZE", "Memory of the guest, such as 8G",
            // A host with unknown memory has `u64::MAX`. Rounded to MiB for display.
            default: |host, _| Size((host.memory / 2).min(8 * GIB) / MIB * MIB),
            in_words: "half of the host's, at most `8G`",
        }
        /// In bytes.
        DiskSize "disk-size" => disk_size: Size(u64) of builder {
            about: "size of the data disk as the guest sees it; the file is sparse",
            flag: "SIZE", "Size of the data disk, such as 100G",
            default: |_, _| Size(100 * GIB),
        }
        Ephemeral "ephemeral" => ephemeral: Switch(bool) of builder {
            about: "start each boot with an empty data disk",
            flag: "BOOL", "Start each boot with an empty data disk",
            default: |_, _| Switch(false),
        }
        /// `None` means never.
        IdleTimeout "idle-timeout" => idle_timeout: Idle(Option<Duration>) of lifecycle {
            about: "time without traffic or a build until the guest is stopped",
            flag: "TIME", "Idle minutes until the guest is stopped; 0 means never",
            default: |_, _| Idle(Some(Duration::from_secs(180 * 60))),
        }
        /// A loopback address.
        Listen "listen" => listen: Listen(SocketAddr) of builder {
            about: "loopback address and port for ssh clients",
            flag: "ADDRESS", "Loopback address and port for ssh clients",
            default: |_, _| Listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 31122))),
        }
        /// Without one the machine cannot boot.
        Bundle "bundle" => bundle: MaybePath(Option<PathBuf>) of builder {
            about: "directory of the guest bundle",
            flag: "DIR", "Directory of the guest bundle",
            default: |_, _| MaybePath(None),
        }
        Recipe "recipe" => recipe: Recipe(Option<PathBuf>) of builder {
            about: "a `.drv` in the host's store whose output is the next guest bundle: the guest builds it, and then boots from it",
            flag: "DRV", "Derivation in the host's store whose output is the guest bundle to build and switch to",
            default: |_, _| Recipe(None),
        }
        Nix "nix" => nix: MaybePath(Option<PathBuf>) of builder {
            about: "directory with the host's `nix`; without it, PATH and the usual directories are searched",
            flag: "DIR", "Directory with the host's nix, for the recipe",
            default: |_, _| MaybePath(None),
        }
        Rosetta "rosetta" => rosetta: Switch(bool) of builder {
            about: "let an aarch64 guest run x86_64 programs through Rosetta",
            flag: "BOOL", "Let an aarch64 guest run x86_64 programs through Rosetta",
            default: |_, _| Switch(false),
        }
        NestedVirtualization "nested-virtualization" => nested: Switch(bool) of hardware {
            about: "let the guest run virtual machines; a Mac needs an M3 or newer, and macOS 15 or newer",
            flag: "BOOL", "Let the guest run virtual machines",
            default: |_, _| Switch(false),
        }
        ShareStore "share-store" => share_store: Switch(bool) of builder {
            about: "let the guest build on the host's store, so that paths that the host has are not copied",
            flag: "BOOL", "Let the guest build on the host's store",
            default: |host, _| Switch(host.nix),
            in_words: "`true` where the host has Nix with a daemon",
        }
        StoreDir "store-dir" => store_dir: AbsolutePath(PathBuf) of builder {
            about: "directory of the host's store",
            flag: "DIR", "Directory of the host's store",
            default: |_, _| AbsolutePath(host::STORE.into()),
        }
        StoreDaemon "store-daemon" => store_daemon: AbsolutePath(PathBuf) of builder {
            about: "socket of the host's Nix daemon, which knows the valid paths of that store",
            flag: "FILE", "Socket of the host's Nix daemon",
            default: |_, _| AbsolutePath(host::STORE_DAEMON.into()),
        }
        /// `None` selects this host's default.
        Backend "backend" => backend: Runner(Option<Backend>) of hardware {
            about: "backend that runs the guest: `vz` (macOS) or `qemu` (Linux)",
            flag: "NAME", "Backend that runs the guest: auto, vz (macOS) or qemu (Linux)",
            default: |_, _| Runner(None),
        }
        /// `None` lets the backend choose.
        Accelerator "accelerator" => accelerator: Accelerator(Option<String>) of hardware {
            about: "how QEMU executes guest code: `kvm` with the processor's virtualization, `tcg` by emulation",
            flag: "NAME", "QEMU's accelerator: auto, kvm or tcg",
            default: |_, _| Accelerator(None),
        }
        BootTimeout "boot-timeout" => boot_timeout: Limit(Duration) of lifecycle {
            about: "how long a boot may take",
            flag: "TIME", "Seconds that a boot may take",
            default: |_, _| Limit(Duration::from_secs(180)),
        }
        StopGrace "stop-grace" => stop_grace: Limit(Duration) of lifecycle {
            about: "how long a guest may take to power off before it is killed",
            flag: "TIME", "Seconds that a guest may take to power off before it is killed",
            default: |_, _| Limit(Duration::from_secs(30)),
        }
        /// `None` means never.
        HangTimeout "hang-timeout" => hang_timeout: MaybeLimit(Option<Duration>) of lifecycle {
            about: "how long a guest in use may fail to answer before it is killed",
            flag: "TIME", "Seconds until a guest in use that hangs is killed; 0 means never",
            default: |_, _| MaybeLimit(Some(Duration::from_secs(300))),
        }
    }
}

/// The prefix of this program's environment variables.
pub const ENV_PREFIX: &str = "DARWIN_VZ_NIX_";

impl Key {
    /// The setting of that name.
    pub fn named(name: &str) -> Option<Key> {
        Key::ALL.into_iter().find(|key| key.name() == name)
    }

    /// Its environment variable.
    pub fn env(self) -> String {
        match self {
            Key::LogLevel => format!("{ENV_PREFIX}LOG"),
            key => format!("{ENV_PREFIX}{}", key.name().to_uppercase().replace('-', "_")),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One machine's configuration. Each owner has the part that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// The virtual hardware, and what runs it.
    pub hardware: HardwareConfig,
    /// Its times.
    pub lifecycle: LifecyclePolicy,
    /// What it has as a builder.
    pub builder: Arc<BuilderConfig>,
}

impl From<&Complete> for MachineConfig {
    fn from(complete: &Complete) -> MachineConfig {
        MachineConfig { hardware: complete.into(), lifecycle: complete.into(), builder: Arc::new(complete.into()) }
    }
}

impl HardwareConfig {
    /// What it requires of the backend.
    pub fn requirements(&self) -> Requirements {
        Requirements { cores: self.cores, memory: self.memory, nested: self.nested }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Complete {
    fn sample() -> Complete {
        let limit = Duration::from_secs(60);
        let host = HostFacts { cores: 1, memory: 2 * GIB, arch: None, rosetta: false, nix: false };
        Complete {
            disk_size: Sourced::default(Size(GIB)),
            idle_timeout: Sourced::default(Idle(None)),
            boot_timeout: Sourced::default(Limit(limit)),
            stop_grace: Sourced::default(Limit(limit)),
            hang_timeout: Sourced::default(MaybeLimit(Some(limit))),
            ..Complete::defaults(&host, Path::new("/"))
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl MachineConfig {
    /// A configuration for tests: long time limits, no idle stop, nothing to boot.
    pub fn sample() -> MachineConfig {
        MachineConfig::from(&Complete::sample())
    }
}
