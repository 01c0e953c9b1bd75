//! The host's part of a boot: the bundle, keys and data disk, and the boot payload behind the bundle's initial RAM disk.

use crate::{
    bundle::{Bundle, BundleError},
    disk, payload,
    sharing::Sharing,
    ssh::keys::Keys,
};
use bytesize::ByteSize;
use dvn_config::BuilderConfig;
use dvn_host::machine_dir::MachineDir;
use dvn_hypervisor::{
    Capabilities, Requirements,
    disks::{CacheDisk, SystemDisk},
    spec::{Boot, Devices, MachineSpec, Nic, Share},
};
use dvn_protocol::{CACHE_DISK, GuestConfig, HostPorts, STORE_TAG, ShareMount, VERSION};
use dvn_types::{Kind, MachineName, Report};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Where the guest mounts the host's store.
const STORE_MOUNT: &str = "/mnt/nix-store";

/// What the host's part of one boot needs.
pub struct Preparation {
    /// The machine.
    pub name: MachineName,
    /// What this boot requires of the backend.
    pub requirements: Requirements,
    /// The bundle to boot.
    pub bundle: Option<PathBuf>,
    /// The size of the data disk that this start requests, in bytes.
    pub disk_size: Option<u64>,
    /// The builder's configuration.
    pub config: Arc<BuilderConfig>,
    /// The machine's directory.
    pub dir: MachineDir,
    /// What the backend can do.
    pub capabilities: Capabilities,
    /// The host's store, if it is shared.
    pub sharing: Option<Arc<Sharing>>,
    /// The token of this boot.
    pub token: String,
}

impl Preparation {
    /// Returns the spec, and whether the data disk was created again. Blocks.
    pub fn run(self) -> Result<(MachineSpec, bool), Report> {
        let Preparation { name, requirements, bundle, disk_size, config, dir, capabilities, sharing, token } = self;
        if capabilities.archs.is_empty() {
            return Err(Report::new(
                Kind::Host,
                format!("no {} is installed, so no VM can start", capabilities.backend),
            )
            .hint("install it: on Debian and Ubuntu the package qemu-system-x86, or qemu-system-arm for ARM guests"));
        }
        let bundle = Bundle::open(bundle.as_deref().ok_or(BundleError::None)?, &capabilities.archs)?;
        capabilities.admit_sizes(&requirements)?;
        capabilities.admit_nesting(&requirements, bundle.arch)?;
        let keys = Keys::ensure(&dir, &name)?;
        let (cache, rebuilt) = data_disk(&name, &config, disk_size, &dir, bundle.minimum_disk)?;
        let sharing = sharing.filter(|sharing| match unavailable_reason(&bundle, &config.store_dir) {
            Some(why) => {
                sharing.impossible(&why);
                false
            }
            None => true,
        });
        let (shares, mounts) = if sharing.is_some() { shares(&config.store_dir) } else { (vec![], vec![]) };
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let guest_config = GuestConfig {
            version: VERSION,
            token,
            host_name: format!("darwin-vz-{name}"),
            unix_seconds,
            host_ports: HostPorts::HIGH,
            shares: mounts,
            store_record: sharing.map(|sharing| sharing.record()),
            cache_disk: Some(CACHE_DISK.to_owned()),
        };
        let runtime_dir = dir.fresh_run_dir()?;
        let initrd = runtime_dir.join("initrd");
        payload::append(&bundle.initrd, &initrd, &guest_config, &keys)?;
        let images = bundle.images.into_iter();
        let spec = MachineSpec {
            name,
            arch: bundle.arch,
            cores: requirements.cores,
            memory: requirements.memory,
            boot: Boot::Linux { kernel: bundle.kernel, initrd, cmdline: bundle.cmdline, cache: Some(cache) },
            devices: Devices {
                disks: images.map(|image| SystemDisk::new(image.path, image.read_only)).collect(),
                nics: vec![Nic { mac: dir.mac_address()? }],
                forwards: vec![],
                shares,
                display: None,
                vsock: true,
                rosetta: config.rosetta,
                nested: requirements.nested,
            },
            runtime_dir,
            console_log: dir.console_log(),
        };
        Ok((spec, rebuilt))
    }
}

/// The data disk, and whether it was created again.
fn data_disk(
    name: &MachineName,
    config: &BuilderConfig,
    requested: Option<u64>,
    dir: &MachineDir,
    minimum: u64,
) -> Result<(CacheDisk, bool), Report> {
    let cache = CacheDisk::of(dir);
    if config.ephemeral {
        disk::discard(&cache)?;
    }
    let disk::Image { size, rebuilt } = disk::ensure(&cache, config.disk_size, requested, minimum)?;
    if let Some(why) = &rebuilt {
        tracing::warn!(machine = %name, "the data disk is made anew, and what was cached on it is gone: {why}");
    }
    if requested.is_none() && size > config.disk_size {
        let (has, configured) = (ByteSize(size).display().iec(), ByteSize(config.disk_size).display().iec());
        tracing::info!(machine = %name, "the data disk is {has} already, more than the configured {configured}, and stays so");
    }
    Ok((cache, rebuilt.is_some()))
}

/// Why the guest cannot build on the host's store, as far as that is known before the boot; `None` if it can.
fn unavailable_reason(bundle: &Bundle, store_dir: &Path) -> Option<String> {
    if !bundle.host_store {
        return Some("the guest bundle does not have the feature host-store".to_owned());
    }
    (!store_dir.is_dir()).then(|| format!("store-dir {} is no directory", store_dir.display()))
}

/// The host's store as a share, and where the guest mounts it.
fn shares(store_dir: &Path) -> (Vec<Share>, Vec<ShareMount>) {
    let share = Share { tag: STORE_TAG.into(), path: store_dir.to_owned(), read_only: true };
    let mount = ShareMount { tag: STORE_TAG.into(), mount_point: STORE_MOUNT.into(), read_only: true };
    (vec![share], vec![mount])
}
