//! Facts about this computer, for the checks and the defaults.

use dvn_types::Arch;
use std::{path::Path, process::Command};

/// The default directory of the Nix store.
pub(super) const STORE: &str = "/nix/store";
/// The default socket of the Nix daemon.
pub(super) const STORE_DAEMON: &str = "/nix/var/nix/daemon-socket/socket";

/// Facts about a computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Processors that this program may use.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Its architecture, if guests for it exist.
    pub arch: Option<Arch>,
    /// It may support Rosetta for Linux guests. Only the backend knows whether it is installed.
    pub rosetta: bool,
    /// It has a Nix store and a Nix daemon in their default places.
    pub nix: bool,
}

impl HostFacts {
    /// Collects them. Unknown limits are taken as unlimited, so that nothing is refused by mistake.
    pub fn gather() -> HostFacts {
        let arch = Arch::host();
        HostFacts {
            cores: std::thread::available_parallelism()
                .map_or(u32::MAX, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory: memory().unwrap_or(u64::MAX),
            arch,
            rosetta: arch == Some(Arch::Aarch64) && std::env::consts::OS == "macos",
            nix: Path::new(STORE).is_dir() && Path::new(STORE_DAEMON).exists(),
        }
    }
}

/// The name of the operating system and its kernel: `Debian GNU/Linux 12 (bookworm), Linux 6.1.0`.
pub fn system() -> String {
    let kernel = rustix::system::uname();
    let kernel = format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy());
    match distribution() {
        Some(name) => format!("{name}, {kernel}"),
        None => kernel,
    }
}

/// From `/etc/os-release` on Linux, or `sw_vers` on macOS.
fn distribution() -> Option<String> {
    if let Ok(text) = std::fs::read_to_string("/etc/os-release") {
        let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        return Some(name.trim_matches('"').to_owned());
    }
    let output = Command::new("/usr/bin/sw_vers").arg("-productVersion").output().ok()?;
    Some(format!("macOS {}", String::from_utf8(output.stdout).ok()?.trim()))
}

/// From `/proc/meminfo` on Linux, or `sysctl` on macOS.
fn memory() -> Option<u64> {
    if let Ok(text) = std::fs::read_to_string("/proc/meminfo") {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        return line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024);
    }
    let output = Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_computer_has_a_processor_and_some_memory() {
        let host = HostFacts::gather();
        assert!((1..10_000).contains(&host.cores), "{host:?}");
        assert!((super::super::value::MIB..1 << 50).contains(&host.memory), "{host:?}");
    }
}
