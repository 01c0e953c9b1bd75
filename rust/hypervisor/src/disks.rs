//! Disks of a guest, in two types that nothing converts into each other.
//!
//! ```text
//!  SystemDisk  holds what a user wants kept     the guest reads and writes it; no code of the host or of the agent formats it
//!  CacheDisk   the builder's data disk alone    the host may make it anew, the agent may format it
//! ```
//!
//! The agent formats the one disk that carries [`CACHE_DISK`], and [`CacheDisk`] is the only disk to which a backend gives that
//! name. Its one constructor takes no path but the directory of a machine, whose data disk it names; the only place for it in a
//! spec is [`Boot::Linux`](crate::spec::Boot::Linux).

use dvn_host::machine_dir::MachineDir;
use dvn_protocol::CACHE_DISK;
use std::path::{Path, PathBuf};

/// What a disk looks like to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk: what Linux takes. The guest finds these in their order.
    #[default]
    Virtio,
    /// NVMe, for systems without drivers for virtio. A machine with one cannot be suspended by QEMU.
    Nvme,
    /// A USB stick, as most installers expect to be started from.
    Usb,
}

/// A disk whose content is the user's. The guest writes it, unless it is read-only; nothing else changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemDisk {
    /// A raw image.
    pub path: PathBuf,
    /// The guest cannot write it, and several guests may share it.
    pub read_only: bool,
    /// How the guest sees it.
    pub bus: Bus,
}

impl SystemDisk {
    /// A virtio disk.
    pub fn new(path: impl Into<PathBuf>, read_only: bool) -> SystemDisk {
        SystemDisk { path: path.into(), read_only, bus: Bus::Virtio }
    }
}

/// A disk that may be formatted at any boot, by host and guest: the data disk in a builder's directory.
///
/// No other file can be named:
///
/// ```compile_fail,E0451
/// let disk = dvn_hypervisor::disks::CacheDisk { path: "/home/me/disk.img".into() };
/// ```
///
/// and a machine that boots by EFI has no place for one:
///
/// ```compile_fail,E0559
/// # fn of(cache: dvn_hypervisor::disks::CacheDisk) {
/// let boot = dvn_hypervisor::spec::Boot::Efi { variables: "/v".into(), cache: Some(cache) };
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDisk {
    path: PathBuf,
}

impl CacheDisk {
    /// The data disk of the builder in this directory.
    pub fn of(dir: &MachineDir) -> CacheDisk {
        CacheDisk { path: dir.data_disk() }
    }

    /// A raw image.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A disk as a backend attaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached<'a> {
    /// A raw image.
    pub path: &'a Path,
    /// The guest cannot write it.
    pub read_only: bool,
    /// How the guest sees it.
    pub bus: Bus,
    /// What the guest reads as the disk's serial number, if it has one; at most 20 bytes.
    pub serial: Option<&'static str>,
}

impl<'a> From<&'a SystemDisk> for Attached<'a> {
    fn from(disk: &'a SystemDisk) -> Self {
        Attached { path: &disk.path, read_only: disk.read_only, bus: disk.bus, serial: None }
    }
}

impl<'a> From<&'a CacheDisk> for Attached<'a> {
    fn from(disk: &'a CacheDisk) -> Self {
        Attached { path: &disk.path, read_only: false, bus: Bus::Virtio, serial: Some(CACHE_DISK) }
    }
}
