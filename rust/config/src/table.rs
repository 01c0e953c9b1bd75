//! The table of settings: each is declared here, and only here. Its row gives
//!
//! ```text
//!  Key  name in the file      field: kind of value(what it holds)
//!   about: what it is, for the reference
//!   flag: what stands for its value in the help, and what the help says of it
//!   default: from the facts of the host and the state directory of this user
//!   in_words: the default, where it depends on the host
//! ```
//!
//! How values are written and read is in `value.rs`, what they must be besides in `check.rs`.

use super::{
    host::{self, HostFacts},
    origin::{Origin, Sourced},
    value::{
        AbsolutePath, Accelerator, Base, Cores, GIB, Idle, Limit, Listen, LogLevel, MIB, MaybeLimit, MaybeListen,
        MaybePath, Raw, Recipe, Runner, Setting, Size, Switch,
    },
};
use dvn_hypervisor::Backend;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

settings! {
    of the daemon {
        StateDir "state-dir" => state_dir: AbsolutePath(PathBuf) {
            about: "where all state lives",
            flag: "DIR", "Where all state lives; also says which daemon is meant",
            default: |_, state_dir| AbsolutePath(state_dir.to_owned()),
            in_words: "`/var/lib/darwin-vz-nix` for root; for others `darwin-vz-nix` in `$XDG_STATE_HOME`, or in `~/.local/state`",
        }
        LogLevel "log-level" => log_level: LogLevel(String) {
            about: "how much is logged",
            flag: "LEVEL", "How much is logged: error, warn, info, debug, trace",
            default: |_, _| LogLevel("info".to_owned()),
        }
        ApiListen "api-listen" => api_listen: MaybeListen(Option<SocketAddr>) {
            about: "where the HTTP API answers on TCP, too; it takes the token in `STATE_DIR/api-token`",
            flag: "ADDRESS", "Where the HTTP API answers on TCP, too: a loopback address and port",
            default: |_, _| MaybeListen(None),
        }
    }
    of each machine {
        Cores "cores" => cores: Cores(u32) {
            about: "processors of the guest",
            flag: "N", "Processors of the guest",
            default: |host, _| Cores(if host.cores == u32::MAX { 1 } else { (host.cores / 2).max(1) }),
            in_words: "half of the host's",
        }
        /// In bytes.
        Memory "memory" => memory: Size(u64) {
            about: "memory of the guest",
            flag: "SIZE", "Memory of the guest, such as 8G",
            // A host that does not tell its memory has `u64::MAX`; a whole number of MiB reads well everywhere.
            default: |host, _| Size((host.memory / 2).min(8 * GIB) / MIB * MIB),
            in_words: "half of the host's, at most `8G`",
        }
        /// In bytes.
        DiskSize "disk-size" => disk_size: Size(u64) {
            about: "size of the data disk as the guest sees it; the file is sparse",
            flag: "SIZE", "Size of the data disk, such as 100G",
            default: |_, _| Size(100 * GIB),
        }
        Ephemeral "ephemeral" => ephemeral: Switch(bool) {
            about: "begin each boot with an empty data disk",
            flag: "BOOL", "Begin each boot with an empty data disk",
            default: |_, _| Switch(false),
        }
        /// `None` is never.
        IdleTimeout "idle-timeout" => idle_timeout: Idle(Option<Duration>) {
            about: "how long without traffic or a build until the guest is stopped",
            flag: "TIME", "Minutes unused until the guest is stopped; 0 is never",
            default: |_, _| Idle(Some(Duration::from_secs(180 * 60))),
        }
        /// A loopback address.
        Listen "listen" => listen: Listen(SocketAddr) {
            about: "where ssh clients reach the machine",
            flag: "ADDRESS", "Where ssh clients reach it: a loopback address and port",
            default: |_, _| Listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 31122))),
        }
        /// Without one the machine cannot boot.
        Bundle "bundle" => bundle: MaybePath(Option<PathBuf>) {
            about: "directory of the guest bundle",
            flag: "DIR", "Directory of the guest bundle",
            default: |_, _| MaybePath(None),
        }
        Recipe "recipe" => recipe: Recipe(Option<PathBuf>) {
            about: "a `.drv` of this host's store, the guest's successor: the guest builds it and boots from it",
            flag: "DRV", "A derivation of the host's store, whose output is the guest bundle to build and change to",
            default: |_, _| Recipe(None),
        }
        Nix "nix" => nix: MaybePath(Option<PathBuf>) {
            about: "directory with this host's `nix`; without it, the program looks on PATH and in the usual places",
            flag: "DIR", "Directory with the host's nix, for the recipe",
            default: |_, _| MaybePath(None),
        }
        Rosetta "rosetta" => rosetta: Switch(bool) {
            about: "let an aarch64 guest run x86_64 programs through Rosetta",
            flag: "BOOL", "Let an aarch64 guest run x86_64 programs through Rosetta",
            default: |_, _| Switch(false),
        }
        NestedVirtualization "nested-virtualization" => nested: Switch(bool) {
            about: "let the guest run virtual machines: on a Mac, M3 and macOS 15 or newer",
            flag: "BOOL", "Let the guest run virtual machines",
            default: |_, _| Switch(false),
        }
        ShareStore "share-store" => share_store: Switch(bool) {
            about: "let the guest build on the host's store, so that nothing is copied which the host has",
            flag: "BOOL", "Let the guest build on the host's store",
            default: |host, _| Switch(host.nix),
            in_words: "`true` where the host has Nix with a daemon",
        }
        StoreDir "store-dir" => store_dir: AbsolutePath(PathBuf) {
            about: "the host's store, as a directory",
            flag: "DIR", "The host's store, as a directory",
            default: |_, _| AbsolutePath(host::STORE.into()),
        }
        StoreDaemon "store-daemon" => store_daemon: AbsolutePath(PathBuf) {
            about: "the socket of the host's Nix daemon, which knows what is valid in that store",
            flag: "FILE", "The socket of the host's Nix daemon",
            default: |_, _| AbsolutePath(host::STORE_DAEMON.into()),
        }
        /// `None` is this host's own choice.
        Backend "backend" => backend: Runner(Option<Backend>) {
            about: "what runs the guest: `vz` (macOS) or `qemu` (Linux)",
            flag: "NAME", "auto, or what runs the guest: vz (macOS) or qemu (Linux)",
            default: |_, _| Runner(None),
        }
        /// `None` has the backend find out.
        Accelerator "accelerator" => accelerator: Accelerator(Option<String>) {
            about: "how QEMU executes guest code: `kvm` with the processor's help, `tcg` without",
            flag: "NAME", "auto, or force kvm or tcg",
            default: |_, _| Accelerator(None),
        }
        BootTimeout "boot-timeout" => boot_timeout: Limit(Duration) {
            about: "how long a boot may take",
            flag: "TIME", "Seconds that a boot may take",
            default: |_, _| Limit(Duration::from_secs(180)),
        }
        StopGrace "stop-grace" => stop_grace: Limit(Duration) {
            about: "how long a guest may take to power off before it is killed",
            flag: "TIME", "Seconds that a guest may take to power off before it is killed",
            default: |_, _| Limit(Duration::from_secs(30)),
        }
        /// `None` is for ever.
        HangTimeout "hang-timeout" => hang_timeout: MaybeLimit(Option<Duration>) {
            about: "how long a guest in use may not answer before it is killed",
            flag: "TIME", "Seconds without an answer until a guest in use is killed; 0 is never",
            default: |_, _| MaybeLimit(Some(Duration::from_secs(300))),
        }
    }
}

/// Begins the name of every environment variable of ours.
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

#[cfg(any(test, feature = "testing"))]
impl MachineSettings {
    /// Some that no test minds: patient, never idle, with nothing to boot.
    pub fn sample() -> MachineSettings {
        let patience = Duration::from_secs(60);
        let host = HostFacts { cores: 1, memory: 2 * GIB, arch: None, rosetta: false, nix: false };
        MachineSettings {
            disk_size: GIB,
            idle_timeout: None,
            boot_timeout: patience,
            stop_grace: patience,
            hang_timeout: Some(patience),
            ..Complete::defaults(&host, Path::new("/")).into()
        }
    }
}
