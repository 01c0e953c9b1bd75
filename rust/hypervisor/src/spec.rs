//! What a backend boots: plain data, already checked, every path absolute.

use crate::disks::{Attached, CacheDisk, SystemDisk};
use dvn_types::{Arch, MacAddress, MachineName};
use std::path::PathBuf;

/// A directory of the host, offered over VirtioFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The tag under which the guest mounts it.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest cannot write it.
    pub read_only: bool,
}

/// A network interface, on a network of its own behind the host's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Two guests on one host must differ.
    pub mac: MacAddress,
}

/// A screen with keyboard and tablet. The guest may choose another size later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// How a guest begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel, directly: guests of bundles.
    Linux {
        /// An arm64 `Image`, or an x86 ELF `vmlinux` or `bzImage`.
        kernel: PathBuf,
        /// Initial RAM disk, the boot payload already appended.
        initrd: PathBuf,
        /// Kernel command line, without the console, which is the backend's to name.
        cmdline: String,
        /// The disk that the guest's agent may format: after all others in the guest's order.
        cache: Option<CacheDisk>,
    },
    /// UEFI firmware, which looks for a boot loader on the disks.
    Efi {
        /// The firmware's variables: the machine's own, with its boot entries. The backend makes the file if it is not there.
        variables: PathBuf,
    },
}

/// What the guest finds in its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// In the guest's order.
    pub disks: Vec<SystemDisk>,
    /// Network interfaces.
    pub nics: Vec<Nic>,
    /// VirtioFS shares.
    pub shares: Vec<Share>,
    /// A screen, or none.
    pub display: Option<Screen>,
    /// A vsock device, by which host and guest reach each other's ports.
    pub vsock: bool,
    /// Offer Rosetta to the guest.
    pub rosetta: bool,
    /// Let the guest run virtual machines.
    pub nested: bool,
}

/// Everything a backend needs to boot one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// Whose guest it is.
    pub name: MachineName,
    /// The guest's architecture.
    pub arch: Arch,
    /// Virtual processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// How it begins.
    pub boot: Boot,
    /// What it has.
    pub devices: Devices,
    /// A directory of this boot alone, made empty: sockets and whatever else the backend needs.
    pub runtime_dir: PathBuf,
    /// Where the guest's serial console is written.
    pub console_log: PathBuf,
}

impl MachineSpec {
    /// The disks in the guest's order, the builder's data disk last. No other code of a backend looks at disks.
    pub fn disks(&self) -> impl Iterator<Item = Attached<'_>> {
        let cache = match &self.boot {
            Boot::Linux { cache, .. } => cache.as_ref(),
            Boot::Efi { .. } => None,
        };
        self.devices.disks.iter().map(Attached::from).chain(cache.map(Attached::from))
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
impl MachineSpec {
    /// One that no test minds, with nothing to boot.
    pub fn sample() -> MachineSpec {
        MachineSpec {
            name: "builder".parse().unwrap(),
            arch: Arch::X86_64,
            cores: 1,
            memory: 1 << 30,
            boot: Boot::Linux { kernel: "/k".into(), initrd: "/i".into(), cmdline: String::new(), cache: None },
            devices: Devices {
                nics: vec![Nic { mac: "02:00:00:00:00:01".parse().unwrap() }],
                vsock: true,
                ..Devices::default()
            },
            runtime_dir: "/r".into(),
            console_log: "/c".into(),
        }
    }
}
