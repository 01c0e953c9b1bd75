//! The installer (`tests/guest/installer`) puts a system on an empty disk, which then boots without it, and can be suspended with a
//! vsock device. The installer writes to no other disk.

use crate::machine::{Machine, PATIENCE, medium};
use dvn_hypervisor::{Backend, Exit, Guest, disks::SystemDisk};
use dvn_protocol::service::SERVICE_PORT;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, Instant, sleep, timeout},
};

/// The smallest disk, in bytes, that the installer accepts.
const SMALLEST: u64 = 256 << 20;

fn installer() -> SystemDisk {
    medium("DVN_TEST_INSTALLER")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installer_fills_an_empty_disk_and_the_machine_boots_from_it() {
    let machine = Machine::new(Backend::Qemu);
    let disk = machine.disk("disk.img", SMALLEST);
    let guest = machine.hypervisor.boot(machine.spec_with(vec![disk.clone(), installer()])).await.unwrap();
    machine.is_off(&*guest).await;
    let console = machine.console();
    assert!(console.contains("installer: up") && console.contains("installer: installed"), "{console}");

    let alone = || {
        let mut spec = machine.spec_with(vec![disk.clone()]);
        spec.devices.vsock = true;
        spec
    };
    let guest = machine.hypervisor.boot(alone()).await.unwrap();
    let ready = |boot: u32| format!("system: ready boots={boot} ip=10.0.2.15 port=8096");
    machine.until(&*guest, "the system", |machine| machine.console().contains(&ready(1))).await;
    let give_up = Instant::now() + PATIENCE;
    while guest.connect(SERVICE_PORT).await.is_err() {
        assert!(Instant::now() < give_up, "the agent does not listen: {}", machine.console());
        sleep(Duration::from_millis(50)).await;
    }
    answers(&*guest).await;
    keeps_its_vsock_device_if_it_is_not_saved(&machine, &*guest).await;
    answers(&*guest).await;
    let mut left_open = guest.connect(SERVICE_PORT).await.unwrap();
    let state = machine.path("state");
    guest.pause().await.unwrap();
    guest.suspend(state.clone()).await.unwrap();
    assert_eq!(guest.exited().await, Exit::Suspended);
    let guest = machine.hypervisor.restore(alone(), state.clone()).await.unwrap();
    machine.until(&*guest, "the vsock device", |machine| machine.console().contains(VSOCK_IS_BACK)).await;
    assert!(!machine.console().contains("system: ready"), "it did not boot: {}", machine.console());
    answers(&*guest).await;
    assert_eq!(left_open.read(&mut [0; 1]).await.unwrap(), 0, "connections do not survive");
    assert!(!state.exists(), "the state is used up");
    machine.powers_off(&*guest).await;

    // The firmware starts the installer first, which leaves the system as it is.
    let guest = machine.hypervisor.boot(machine.spec_with(vec![installer(), disk.clone()])).await.unwrap();
    machine.until(&*guest, "the system again", |machine| machine.console().contains(&ready(2))).await;
    let console = machine.console();
    assert!(console.contains("installer: up") && !console.contains("installer: installing"), "{console}");
    guest.kill().await.unwrap();
    assert_eq!(guest.exited().await, Exit::Killed);
}

/// The agent answers a call.
async fn answers(guest: &dyn Guest) {
    let mut stream = timeout(PATIENCE, guest.connect(SERVICE_PORT)).await.unwrap().unwrap();
    stream.write_all(b"{\"call\":\"hello\"}\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("\"hostName\":\"dvn-demo\""));
}

/// The system's line when its kernel has bound the device.
const VSOCK_IS_BACK: &str = "system: vsock device: bind";

/// Something is in the way of the stream that QEMU writes, so saving fails after the device was unplugged.
async fn keeps_its_vsock_device_if_it_is_not_saved(machine: &Machine, guest: &dyn Guest) {
    let obstacle = machine.path("run/state");
    fs::write(&obstacle, "").unwrap();
    let refusal = guest.suspend(machine.path("state")).await.unwrap_err();
    assert!(refusal.message.starts_with("cannot suspend the guest: it is being suspended already"), "{refusal}");
    machine.until(guest, "the vsock device", |machine| machine.console().contains(VSOCK_IS_BACK)).await;
    fs::remove_file(obstacle).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installer_writes_to_no_disk_that_has_anything_on_it() {
    let machine = Machine::new(Backend::Qemu);
    let disks = ["first", "last", "small"].map(|name| machine.disk(name, SMALLEST));
    let mark = |name: &str, at: u64| {
        let file = File::options().write(true).open(machine.path(name)).unwrap();
        file.write_all_at(b"x", at).unwrap();
    };
    mark("first", 510);
    mark("last", SMALLEST - 1);
    machine.disk("small", SMALLEST - 512);
    let written = || disks.each_ref().map(|disk| fs::metadata(&disk.path).unwrap().modified().unwrap());
    let before = written();
    let all = disks.iter().cloned().chain([installer()]).collect();
    let guest = machine.hypervisor.boot(machine.spec_with(all)).await.unwrap();
    machine.is_off(&*guest).await;
    let console = machine.console();
    for line in ["vda is not empty", "vdb is not empty", "vdc is too small", "no disk is empty"] {
        assert!(console.contains(&format!("installer: {line}")), "{line}: {console}");
    }
    assert_eq!(before, written());
}
