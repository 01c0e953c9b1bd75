//! Translates a [`MachineSpec`] into the shim's format. All choices between Virtualization's options are made here.

use crate::{
    disks::{self, Attached},
    spec::{self, MachineSpec, Nic, Share},
};
use serde::Serialize;
use std::{os::fd::RawFd, path::Path};

/// The tag under which a guest mounts Rosetta.
const ROSETTA_TAG: &str = "rosetta";

/// The console device of a guest under Virtualization.
const CONSOLE: &str = "hvc0";

/// The JSON that `swift/Sources/DarwinVzShim/Configuration.swift` decodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimSpec<'a> {
    pub cpus: u32,
    /// In bytes.
    pub memory: u64,
    pub boot: Boot<'a>,
    pub disks: Vec<ShimDisk<'a>>,
    pub shares: Vec<ShimShare<'a>>,
    pub rosetta: Option<Rosetta>,
    /// Hardware addresses, one for each network interface.
    pub nics: Vec<String>,
    pub vsock: bool,
    /// A descriptor, borrowed while the machine is created.
    pub console: Option<RawFd>,
    pub nested: bool,
    /// From [`super::bridge::machine_identifier`], for a machine that may be saved.
    pub identifier: Option<&'a str>,
}

/// How the guest boots.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Boot<'a> {
    /// A kernel is booted directly.
    Linux { kernel: &'a Path, initrd: &'a Path, cmdline: String },
    /// UEFI firmware. `create`: the variable store is missing and must be created.
    Efi { variables: &'a Path, create: bool },
}

/// How a disk is attached to the guest.
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
    /// The disk's serial number as the guest sees it.
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
    /// For this guest, with its console's output to `console`. Checks whether the EFI variable store exists.
    pub fn new(spec: &'a MachineSpec, console: RawFd, identifier: Option<&'a str>) -> ShimSpec<'a> {
        let devices = &spec.devices;
        ShimSpec {
            cpus: spec.cores,
            memory: spec.memory,
            boot: Boot::from(&spec.boot),
            disks: spec.disks().map(ShimDisk::from).collect(),
            shares: devices.shares.iter().map(ShimShare::from).collect(),
            // Caching only helps if the guest runs rosettad, which none of this project's guests does yet.
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
