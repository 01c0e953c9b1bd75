//! Disks of a guest, in two types that cannot be converted into each other.
//!
//! ```text
//!  SystemDisk  holds the user's data            the guest reads and writes it; no code of the host or of the agent formats it
//!  CacheDisk   only the builder's data disk     the host may recreate it, the agent may format it
//! ```
//!
//! The agent formats only the disk with the serial number [`CACHE_DISK`], and a backend gives that number only to a
//! [`CacheDisk`]. Its only constructor takes a machine's directory and uses the data disk there; its only place in a
//! spec is [`Boot::Linux`](crate::spec::Boot::Linux).

use dvn_host::machine_dir::MachineDir;
use dvn_protocol::CACHE_DISK;
use std::path::{Path, PathBuf};

/// How a disk is attached to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk, for Linux. The guest sees these in their order.
    #[default]
    Virtio,
    /// NVMe, for systems without drivers for virtio. A machine with one cannot be suspended by QEMU.
    Nvme,
    /// A USB stick, from which most installers expect to boot.
    Usb,
}

/// A disk with the user's data. Only the guest writes it, unless it is read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemDisk {
    /// A raw image.
    pub path: PathBuf,
    /// The guest cannot write it, so several guests may share it.
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
/// No other file can be given:
///
/// ```compile_fail,E0451
/// let disk = dvn_hypervisor::disks::CacheDisk { path: "/home/me/disk.img".into() };
/// ```
///
/// and a machine that boots by EFI has no field for one:
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
    /// The disk's serial number as the guest sees it, if any; at most 20 bytes.
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
