//! A [`MachineSpec`] as the shim reads it. All choices between what Virtualization offers are made here.

use crate::spec::{Disk, MachineSpec, Share};
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
    pub mac: Option<String>,
    /// A descriptor, lent while the machine is made.
    pub console: Option<RawFd>,
    pub nested: bool,
    /// What [`super::bridge::machine_identifier`] gave, for a machine that may be saved.
    pub identifier: Option<String>,
}

/// How the guest begins.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Boot<'a> {
    /// A kernel, directly.
    Linux { kernel: &'a Path, initrd: &'a Path, cmdline: String },
}

/// What a disk looks like to the guest.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bus {
    /// What Linux guests take.
    Virtio,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimDisk<'a> {
    pub path: &'a Path,
    pub read_only: bool,
    pub bus: Bus,
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
    /// For this guest on a system of this version; its console's output goes to `console`.
    pub fn new(spec: &'a MachineSpec, console: RawFd) -> ShimSpec<'a> {
        ShimSpec {
            cpus: spec.cores,
            memory: spec.memory,
            boot: Boot::Linux {
                kernel: &spec.kernel,
                initrd: &spec.initrd,
                cmdline: format!("{} console={CONSOLE}", spec.cmdline),
            },
            disks: spec.disks.iter().map(ShimDisk::from).collect(),
            shares: spec.shares.iter().map(ShimShare::from).collect(),
            // The cache is of use only where the guest runs rosettad, which no guest of ours does yet.
            rosetta: spec.rosetta.then_some(Rosetta { tag: ROSETTA_TAG, caching: false }),
            mac: Some(spec.mac.to_string()),
            console: Some(console),
            nested: spec.nested,
            identifier: None,
        }
    }
}

impl<'a> From<&'a Disk> for ShimDisk<'a> {
    fn from(disk: &'a Disk) -> Self {
        ShimDisk { path: &disk.path, read_only: disk.read_only, bus: Bus::Virtio }
    }
}

impl<'a> From<&'a Share> for ShimShare<'a> {
    fn from(share: &'a Share) -> Self {
        ShimShare { tag: &share.tag, path: &share.path, read_only: share.read_only }
    }
}
