//! A machine boots from a medium beside an empty disk, is seen, suspended, goes on in another process, and hears its power button.

use crate::machine::{DISK, Machine, PATIENCE, SCREEN};
use dvn_hypervisor::{
    BACKENDS, Backend, Exit,
    disks::{Bus, SystemDisk},
};
use dvn_types::Kind;
use std::{fs, os::unix::fs::PermissionsExt};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn qemu_boots_a_medium_shows_it_suspends_it_and_has_it_go_on() {
    let machine = Machine::new(Backend::Qemu);
    let (spec, state) = (machine.spec(), machine.path("state"));
    let guest = machine.hypervisor.boot(spec.clone()).await.unwrap();
    machine.until(&*guest, "the medium", |machine| machine.console().contains("medium: ready")).await;
    let console = machine.console();
    assert!(console.contains("medium: up by EFI"), "{console}");
    // No disk of a machine that is not the builder carries the mark of those that the agent may format.
    let empty = format!("medium: disk vda sectors {} read-only 0 serial ''", DISK / 512);
    assert!(console.contains(&empty) && console.contains("medium: disk vdb"), "{console}");
    assert!(fs::metadata(machine.path("nvram.bin")).unwrap().len() > 0, "it has variables of its own");

    let display = guest.display().expect("the machine has a screen");
    let png = display.screenshot().await.unwrap();
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && &png[12..16] == b"IHDR");
    assert_eq!((number(16), number(20)), (SCREEN.width, SCREEN.height));

    guest.pause().await.unwrap();
    guest.resume().await.unwrap();
    machine.until(&*guest, "some counting", |machine| machine.counted().len() > 3).await;
    guest.suspend(state.clone()).await.unwrap();
    assert_eq!(guest.exited().await, Exit::Suspended);
    let last = *machine.counted().last().unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600, "it holds the guest's memory");
    assert!(!machine.path("run").exists(), "nothing of the boot is left");
    assert!(display.screenshot().await.is_err(), "there is no guest any more");

    let guest = machine.hypervisor.restore(machine.spec(), state.clone()).await.unwrap();
    machine.until(&*guest, "it to count on", |machine| machine.counted().len() > 3).await;
    let (console, counted) = (machine.console(), machine.counted());
    assert!(!console.contains("medium: up"), "it did not boot: {console}");
    assert!((last..=last + 2).contains(&counted[0]), "it goes on after {last}: {console}");
    assert!(!state.exists(), "the state is used up");
    machine.powers_off(&*guest).await;
    let refusal = machine.hypervisor.restore(machine.spec(), state).await.err().unwrap();
    assert_eq!(refusal.kind, Kind::State, "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_saved_guest_is_refused_in_qemus_words_and_stays() {
    let machine = Machine::new(Backend::Qemu);
    let state = machine.path("state");
    let guest = machine.hypervisor.boot(machine.spec()).await.unwrap();
    // Before it has begun anything, which is as good.
    guest.suspend(state.clone()).await.unwrap();
    fs::write(&state, "no memory of a guest").unwrap();
    let refusal = timeout(PATIENCE, machine.hypervisor.restore(machine.spec(), state.clone())).await.unwrap();
    let refusal = refusal.err().unwrap();
    assert!(
        refusal.kind == Kind::State && refusal.message.starts_with("the saved guest cannot be restored"),
        "{refusal}"
    );
    assert!(state.exists(), "it is the user's to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_saved_goes_on() {
    let machine = Machine::new(Backend::Qemu);
    let mut spec = machine.spec();
    spec.devices.disks[0].bus = Bus::Nvme;
    let guest = machine.hypervisor.boot(spec).await.unwrap();
    let refusal = guest.suspend(machine.path("state")).await.unwrap_err();
    assert!(refusal.kind == Kind::Host && refusal.message.contains("NVMe"), "{refusal}");
    guest.kill().await.unwrap();
    assert_eq!(guest.exited().await, Exit::Killed);

    let guest = machine.hypervisor.boot(machine.spec()).await.unwrap();
    let refusal = guest.suspend(machine.path("nowhere/state")).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::State, "{refusal}");
    machine.until(&*guest, "the medium all the same", |machine| machine.console().contains("medium: ready")).await;
    // Nothing says any more what the state would fit. QEMU still has the disk.
    fs::remove_file(machine.path("disk.img")).unwrap();
    let refusal = guest.suspend(machine.path("state")).await.unwrap_err();
    assert!(refusal.kind == Kind::State && !machine.path("state").exists(), "{refusal}");
    let last = machine.counted().len();
    machine.until(&*guest, "it to count on", |machine| machine.counted().len() > last + 1).await;
    machine.powers_off(&*guest).await;
}

/// Its firmware, which finds nothing to boot here, does not release the vsock device.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_system_is_not_suspended_and_goes_on() {
    let machine = Machine::new(Backend::Qemu);
    let mut spec = machine.spec_with(vec![SystemDisk::new(machine.path("disk.img"), false)]);
    spec.devices.vsock = true;
    let guest = machine.hypervisor.boot(spec).await.unwrap();
    let refusal = guest.suspend(machine.path("state")).await.unwrap_err();
    assert!(refusal.kind == Kind::Guest && refusal.message.contains("vsock device"), "{refusal}");
    assert!(!machine.path("state").exists() && !machine.path("state.partial").exists());
    guest.display().unwrap().screenshot().await.expect("it still runs");
    guest.kill().await.unwrap();
    assert_eq!(guest.exited().await, Exit::Killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn virtualization_boots_a_medium_by_efi() {
    if !BACKENDS.contains(&"vz") {
        eprintln!("this program was built without the backend vz");
        return;
    }
    let machine = Machine::new(Backend::Vz);
    for boot in ["first", "second"] {
        let guest = machine.hypervisor.boot(machine.spec()).await.unwrap();
        machine.until(&*guest, boot, |machine| machine.console().contains("medium: ready")).await;
        let console = machine.console();
        assert!(console.contains("medium: up by EFI"), "{console}");
        assert!(
            console.contains(&format!("medium: disk vda sectors {} read-only 0 serial ''", DISK / 512)),
            "{console}"
        );
        assert!(guest.display().is_none());
        machine.powers_off(&*guest).await;
    }
}
