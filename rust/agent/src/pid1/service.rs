//! The agent in a guest with another PID 1, such as systemd: two commands in place of one long boot.
//!
//! ```text
//! initrd ROOT DIRECTORY   payload to ROOT/darwin-vz ─ clock ─ data disk to ROOT/data, its DIRECTORY at ROOT/data/nix ─
//!                         its fate, beside the payload ─ host's store ─ end
//! service                 payload ─ shares ─ sshd (warm) ─ nix-daemon, which PID 1 runs ─ power button ─ Ready to the host ─
//!                         serve requests
//! ```
//!
//! The rule: the agent does nothing that PID 1 does. Processes, system mounts, the network and the shutdown belong to
//! PID 1. The agent watches the power button as well, because PID 1's own watch may begin after Ready; at a press, or
//! at the host's request, the agent asks PID 1 to power off.

use super::{
    accounts, boot, channel, children, disk,
    garbage::{Collector, with_room},
    host_store::{self, HostStore, layers},
    mounts, nix, payload, power, requests, shares, shutdown, ssh,
};
use crate::console::{Phases, say};
use crate::pid1::tasks::{Outcome, SERVICES, serve, vsock_port};
use crate::threads::background;
use dvn_protocol::{
    GuestConfig, NIX_PORT, SSH_PORT,
    messages::{BootPhase, DataDisk},
};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path, sync::Arc};

/// The file beside the payload that passes data from the first command to the second.
const HANDOVER: &str = "boot.json";

/// Where all parts of the agent expect the guest's own store, and where guests without a `directory` keep it.
const NIX: &str = "/data/nix";

/// In the initramfs, with modules loaded and the future root mounted at `root`. The store that other guests keep in
/// [`NIX`] is not this guest's, so this guest has a `directory` of its own on the data disk, which is mounted in that
/// place.
pub fn initrd(root: &str, directory: &str) -> Outcome<()> {
    let phases = Phases::default();
    phases.mark("kernel");
    phases.mark("modules");
    background("reaper", children::reap);
    mount_point(&format!("{root}{}", payload::HOME))?;
    let payload = payload::take(root)?;
    let config = &payload.config;
    boot::catch_up(payload.config.unix_seconds);
    mount_point(disk::DATA)?;
    let data = disk::prepare(config.cache_disk.as_deref())?;
    phases.mark("disk");
    Handover { data_disk: data.fate, phases: phases.so_far() }.write(&format!("{root}{}", payload::HOME))?;
    // If the initramfs shares its mounts, as systemd does, an unmount in this mount would also affect its copy.
    mount_change(disk::DATA, MountPropagationFlags::PRIVATE)
        .map_err(|e| format!("{} stays shared: {e}", disk::DATA))?;
    put_in_place(directory)?;
    let target = format!("{root}{}", disk::DATA);
    mount_point(&target)?;
    let store = HostStore::offered(config, &config.shares);
    if store.is_some() && Path::new(layers::UPPER).is_dir() {
        layers::seal()?;
    }
    // Not moved: the kernel cannot move a mount out of a shared one.
    mount_bind_recursive(disk::DATA, &target).map_err(|e| format!("the data disk cannot be bound to {target}: {e}"))?;
    unmount(disk::DATA, UnmountFlags::DETACH).map_err(|e| format!("{} stays mounted twice: {e}", disk::DATA))?;
    // A layer of the system's store, which the initramfs mounts next.
    if let Some(store) = store {
        match shares::mount(store.share(), root) {
            Ok(()) => store.prepare_daemon()?,
            Err(why) => say(format_args!("the host's store is missing: {why}")),
        }
    }
    Ok(())
}

/// In the system. Returns only if the service cannot start.
pub fn serve_host() -> Outcome<()> {
    let handover = Handover::read(payload::HOME)?;
    let phases = Phases::after(handover.phases);
    phases.mark("root");
    shutdown::leave_it_to_pid_1();
    disk::trouble::watch();
    background("reaper", children::reap);
    power::watch();
    let file = format!("{}/config.json", payload::HOME);
    let json = fs::read(&file).map_err(|e| format!("{file}: {e}"))?;
    let config = GuestConfig::parse(&json)?;
    rustix::system::sethostname(config.host_name.as_bytes())
        .map_err(|e| format!("the host name {:?} cannot be set: {e}", config.host_name))?;
    boot::raise_descriptor_limit();
    let store = HostStore::mounted(&config);
    let (mut shares, others): (Vec<_>, Vec<_>) =
        config.shares.into_iter().partition(|share| store.as_ref().is_some_and(|store| store.share() == share));
    for share in &others {
        // An earlier agent may have mounted it.
        let _ = unmount(share.mount_point.as_str(), UnmountFlags::DETACH);
    }
    shares.extend(shares::mount_all(&others));
    host_store::reconcile(store.as_ref())?;
    if let Some(store) = &store {
        store.serve(&config.token)?;
    }
    phases.mark("store");

    let sshd = ssh::Pool::start(store.as_ref().map(|_| nix::SETTINGS_BESIDE_HOST_STORE))?;
    sshd.wait_for_banner(SERVICES)?;
    phases.mark("sshd");
    nix::wait_until_it_answers(SERVICES)?;
    nix::wait_until_it_greets(SERVICES)?;
    phases.mark("nix-daemon");
    let builders = accounts::build_users();
    let garbage = Collector::start(builders.clone());
    serve("ssh", vsock_port(SSH_PORT)?, with_room(Arc::clone(&garbage), move || sshd.connect()));
    serve("nix", vsock_port(NIX_PORT)?, with_room(garbage, nix::connect));
    power::wait_for_button();
    phases.mark("ready");
    channel::run(
        config.host_ports.agent,
        &config.token,
        &phases,
        handover.data_disk,
        &Arc::new(requests::Requests { builders, shares, store }),
    )
}

/// Replaces another guest's store, which is deleted, by a directory of the data disk, empty if new.
fn put_in_place(directory: &str) -> Outcome<()> {
    let own = own_directory(directory)?;
    match fs::remove_dir_all(NIX) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("{NIX}, another guest's store: {e}")),
        _ => {}
    }
    mounts::directory(&own, 0o755, (0, 0))?;
    mounts::directory(NIX, 0o755, (0, 0))?;
    mounts::bind(&own, NIX)
}

/// Accepts a single name other than that of the place itself.
fn own_directory(name: &str) -> Outcome<String> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let own = format!("{}/{name}", disk::DATA);
    if plain && own != NIX {
        Ok(own)
    } else {
        Err(format!("{name:?} is not a valid name for a directory of this guest"))
    }
}

/// Makes a mount point; on a read-only root it exists already.
fn mount_point(path: &str) -> Outcome<()> {
    if Path::new(path).is_dir() { Ok(()) } else { mounts::directory(path, 0o755, (0, 0)) }
}

/// The data that the first command passes to the second.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Handover {
    data_disk: DataDisk,
    phases: Vec<BootPhase>,
}

impl Handover {
    fn write(&self, dir: &str) -> Outcome<()> {
        let file = Path::new(dir).join(HANDOVER);
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
    }

    fn read(dir: &str) -> Outcome<Handover> {
        let file = Path::new(dir).join(HANDOVER);
        let why = |e: &dyn std::fmt::Display| format!("{}: {e}: was `darwin-vz-agent initrd` run?", file.display());
        let text = fs::read_to_string(&file).map_err(|e| why(&e))?;
        serde_json::from_str(&text).map_err(|e| why(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_takes_no_directory_but_its_own() {
        assert_eq!(own_directory("nixos").as_deref(), Ok("/data/nixos"));
        for bad in ["", "nix", "..", "nix/var", "/etc"] {
            assert!(own_directory(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_initrd_knows_survives_the_change_of_root() {
        let dir = std::env::temp_dir().join(format!("dvn-handover-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        let handover =
            Handover { data_disk: DataDisk::Rebuilt, phases: vec![BootPhase { name: "kernel".to_owned(), at_ms: 7 }] };
        handover.write(dir).unwrap();
        assert_eq!(Handover::read(dir), Ok(handover));
        fs::write(Path::new(dir).join(HANDOVER), "{\"data_disk\":\"lost\"}").unwrap();
        assert!(Handover::read(dir).unwrap_err().contains("lost"));
        fs::remove_dir_all(dir).unwrap();
        assert!(Handover::read(dir).unwrap_err().contains("initrd"));
    }
}
