//! A [`MachineSpec`] as the shim reads it. All choices between what Virtualization offers are made here.

use crate::{
    disks::{self, Attached},
    spec::{self, MachineSpec, Nic, Share},
};
use serde::Serialize;
use std::{os::fd::RawFd, path::Path};

/// The tag under which a guest mounts Rosetta.
const ROSETTA_TAG: &str = "rosetta";

/// The console that a guest of Virtualization has.
const CONSOLE: &str = "hvc0";

/// What `swift/Sources/DarwinVzShim/Configuration.swift` decodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimSpec<'a> {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub boot: Boot<'a>,
    pub disks: Vec<ShimDisk<'a>>,
    pub shares: Vec<ShimShare<'a>>,
    pub rosetta: Option<Rosetta>,
    /// Hardware addresses, one for each network interface.
    pub nics: Vec<String>,
    pub vsock: bool,
    /// A descriptor, lent while the machine is made.
    pub console: Option<RawFd>,
    pub nested: bool,
    /// What [`super::bridge::machine_identifier`] gave, for a machine that may be saved.
    pub identifier: Option<&'a str>,
}

/// How the guest begins.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Boot<'a> {
    /// A kernel, directly.
    Linux { kernel: &'a Path, initrd: &'a Path, cmdline: String },
    /// Firmware; `create`: its variable store is not there yet.
    Efi { variables: &'a Path, create: bool },
}

/// What a disk looks like to the guest.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bus {
    Virtio,
    Nvme,
    Usb,
}

impl From<disks::Bus> for Bus {
    fn from(bus: disks::Bus) -> Bus {
        match bus {
            disks::Bus::Virtio => Bus::Virtio,
            disks::Bus::Nvme => Bus::Nvme,
            disks::Bus::Usb => Bus::Usb,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimDisk<'a> {
    pub path: &'a Path,
    pub read_only: bool,
    pub bus: Bus,
    /// What the guest reads as the disk's serial number.
    pub serial: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimShare<'a> {
    pub tag: &'a str,
    pub path: &'a Path,
    pub read_only: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rosetta {
    pub tag: &'static str,
    pub caching: bool,
}

impl<'a> ShimSpec<'a> {
    /// For this guest; its console's output goes to `console`. Looks whether the EFI variable store is there.
    pub fn new(spec: &'a MachineSpec, console: RawFd, identifier: Option<&'a str>) -> ShimSpec<'a> {
        let devices = &spec.devices;
        ShimSpec {
            cpus: spec.cores,
            memory: spec.memory,
            boot: Boot::from(&spec.boot),
            disks: spec.disks().map(ShimDisk::from).collect(),
            shares: devices.shares.iter().map(ShimShare::from).collect(),
            // The cache is of use only where the guest runs rosettad, which no guest of ours does yet.
            rosetta: devices.rosetta.then_some(Rosetta { tag: ROSETTA_TAG, caching: false }),
            nics: devices.nics.iter().map(|Nic { mac }| mac.to_string()).collect(),
            vsock: devices.vsock,
            console: Some(console),
            nested: devices.nested,
            identifier,
        }
    }
}

impl<'a> From<&'a spec::Boot> for Boot<'a> {
    fn from(boot: &'a spec::Boot) -> Self {
        match boot {
            spec::Boot::Linux { kernel, initrd, cmdline, .. } => {
                Boot::Linux { kernel, initrd, cmdline: format!("{cmdline} console={CONSOLE}") }
            }
            spec::Boot::Efi { variables } => Boot::Efi { variables, create: !variables.exists() },
        }
    }
}

impl<'a> From<Attached<'a>> for ShimDisk<'a> {
    fn from(disk: Attached<'a>) -> Self {
        ShimDisk { path: disk.path, read_only: disk.read_only, bus: disk.bus.into(), serial: disk.serial }
    }
}

impl<'a> From<&'a Share> for ShimShare<'a> {
    fn from(share: &'a Share) -> Self {
        ShimShare { tag: &share.tag, path: &share.path, read_only: share.read_only }
    }
}
