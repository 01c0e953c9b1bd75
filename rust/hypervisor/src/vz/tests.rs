//! Shim and bridge with simulated machines: the guarantees of `docs/ffi.md`.

// Tests, though clippy does not see it behind `cfg(all(test, …))`.
#![allow(clippy::unwrap_used)]

use super::{
    bridge::{self, Events, Machine},
    sink::{DROPPED, Event, Failure, OWN_DOMAIN},
    standin::{OPEN_PORT, StandIn},
    vm_task::TIMEOUT,
    *,
};
use crate::{
    Exit,
    disks::{CacheDisk, SystemDisk},
    spec::{Boot, Devices, Nic, Share},
};
use dvn_host::machine_dir::MachineDir;
use dvn_types::MacAddress;
use serde_json::{Value, json};
use std::time::Duration;
use std::{
    fs,
    io::{Read, Write},
    path::Path,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A machine without disks and shares.
fn plain() -> Value {
    json!({
        "cpus": 1, "memory": 1_u64 << 30, "disks": [], "shares": [], "nics": [], "vsock": true, "nested": false,
        "boot": {"linux": {"kernel": "/b/Image", "initrd": "/b/initrd", "cmdline": "quiet"}},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut spec = plain();
    change(&mut spec);
    spec.to_string()
}

fn machine() -> (Arc<Machine>, Events) {
    Machine::new(plain().to_string()).unwrap()
}

fn refusal(spec: String) -> Failure {
    Machine::new(spec).map(drop).unwrap_err()
}

fn spec(dir: &Path) -> MachineSpec {
    MachineSpec {
        arch: Arch::host().unwrap(),
        boot: Boot::Linux {
            kernel: dir.join("Image"),
            initrd: dir.join("run/initrd"),
            cmdline: "quiet".into(),
            cache: None,
        },
        devices: Devices { nics: vec![Nic { mac: MacAddress::random() }], vsock: true, ..Devices::default() },
        runtime_dir: dir.join("run"),
        console_log: dir.join("console.log"),
        ..MachineSpec::sample()
    }
}

/// The same with other devices.
fn having(dir: &Path, change: impl FnOnce(&mut Devices)) -> MachineSpec {
    let mut spec = spec(dir);
    change(&mut spec.devices);
    spec
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), so).await.expect("it never was so");
}

fn vz(code: i64) -> impl Fn(&Failure) -> bool {
    move |failure| failure.domain == "VZErrorDomain" && failure.code == code
}

#[tokio::test]
async fn a_life() {
    let stand_in = StandIn::take();
    let (machine, mut events) = machine();
    machine.start().await.unwrap();
    machine.pause().await.unwrap();
    machine.resume().await.unwrap();
    assert!(vz(4)(&machine.start().await.unwrap_err()), "it runs already");
    machine.request_stop().await.unwrap();
    assert_eq!(events.recv().await, Some(Event::Stopped));
    assert!(vz(3)(&machine.request_stop().await.unwrap_err()), "it is off");
    machine.start().await.unwrap();
    machine.stop().await.unwrap();
    drop(machine);
    assert_eq!(events.recv().await, None, "a stop that was asked for is no event");
    drop(stand_in);
}

#[tokio::test]
async fn a_hundred_machines_leave_nothing() {
    let stand_in = StandIn::take();
    // The first machine also opens what a process opens once.
    let mut before = 0;
    for round in 0..101 {
        let (machine, mut events) = machine();
        machine.start().await.unwrap();
        let connection = machine.connect(OPEN_PORT).await.unwrap();
        let (found, mut arrivals) = mpsc::channel(4);
        machine.listen(1024, found).await.unwrap();
        let guest = stand_in.guest_dials(1024).unwrap();
        let arrived = arrivals.recv().await.unwrap();
        match round % 3 {
            0 => machine.stop().await.unwrap(),
            1 => machine.request_stop().await.unwrap(),
            _ => {}
        }
        // Connections may outlive their machine, or the other way round.
        if round % 2 == 0 {
            drop((connection, arrived));
            drop(machine);
        } else {
            drop(machine);
            drop((connection, arrived));
        }
        while timeout(TIMEOUT, events.recv()).await.unwrap().is_some() {}
        drop((guest, stand_in.dialled()));
        stand_in.must_be_empty();
        if round == 0 {
            before = descriptors();
        }
    }
    // Other tests of this process open and close a few.
    assert!(descriptors() < before + 50, "{} descriptors, and {before} after the first machine", descriptors());
}

#[tokio::test]
async fn a_machine_dropped_while_it_starts_is_answered() {
    let stand_in = StandIn::take();
    for round in 0..200 {
        let (machine, mut events) = machine();
        let start = {
            let machine = Arc::clone(&machine);
            tokio::spawn(async move { machine.start().await })
        };
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(machine);
        if round % 3 == 0 {
            // The request continues without a receiver.
            start.abort();
            let _ = start.await;
        } else {
            start.await.unwrap().unwrap();
        }
        assert_eq!(timeout(TIMEOUT, events.recv()).await.unwrap(), None);
    }
    stand_in.must_be_empty();
}

#[tokio::test]
async fn a_request_without_an_answer_of_the_framework_is_answered_by_the_shim() {
    let stand_in = StandIn::take();
    let (machine, mut events) = machine();
    machine.start().await.unwrap();
    stand_in.mute();
    let dropped = |answer: Result<(), Failure>| {
        let failure = answer.unwrap_err();
        assert_eq!((failure.domain.as_str(), failure.code), (OWN_DOMAIN, DROPPED));
    };
    // The completion handler is released unused: the shim answers.
    dropped(timeout(Duration::from_secs(5), machine.pause()).await.unwrap());
    drop(machine);
    assert_eq!(timeout(TIMEOUT, events.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn errors_arrive_with_code_domain_and_reason() {
    let stand_in = StandIn::take();
    for code in [1, 6, 9] {
        let (machine, _events) = machine();
        stand_in.fail_next_start(code);
        assert!(vz(code as i64)(&machine.start().await.unwrap_err()), "{code}");
        machine.start().await.unwrap();
    }
    let (machine, mut events) = machine();
    machine.start().await.unwrap();
    stand_in.network_lost();
    assert!(matches!(events.recv().await, Some(Event::NetworkLost(e)) if vz(7)(&e) && e.text.contains("vmnet ended")));
    stand_in.guest_ends(1);
    assert!(matches!(events.recv().await, Some(Event::Crashed(e)) if vz(1)(&e)));

    stand_in.without_the_right();
    let failure = refusal(plain().to_string());
    assert!(vz(2)(&failure) && failure.text.contains("com.apple.security.virtualization"), "{failure:?}");
}

#[test]
fn a_spec_that_cannot_be_is_refused_with_its_reason() {
    let stand_in = StandIn::take();
    let disk = |path: &str| json!([{"path": path, "readOnly": false, "bus": "virtio"}]);
    assert_eq!(refusal("no JSON".into()).domain, "NSCocoaErrorDomain");
    assert!(vz(5)(&refusal(with(|spec| spec["disks"] = disk("/nonexistent")))));
    let small = refusal(with(|spec| spec["memory"] = 1.into()));
    assert!(vz(2)(&small) && small.text.contains("memory"), "{small:?}");
    assert!(vz(2)(&refusal(with(|spec| spec["nested"] = true.into()))));
    assert!(vz(10)(&refusal(with(|spec| spec["rosetta"] = json!({"tag": "rosetta", "caching": true})))));
    for (key, value) in [("nics", json!(["no"])), ("identifier", json!("@"))] {
        assert_eq!(refusal(with(|spec| spec[key] = value)).domain, OWN_DOMAIN, "{key}");
    }
    assert_eq!(refusal(with(|spec| spec["console"] = 12345.into())).domain, "NSPOSIXErrorDomain");
    drop(stand_in);
}

#[test]
fn every_device_of_the_spec_can_be_made() {
    let stand_in = StandIn::take();
    stand_in.rosetta(2);
    stand_in.nested();
    let tmp = tempfile::tempdir().unwrap();
    let image = tmp.path().join("image");
    fs::write(&image, [0; 512]).unwrap();
    let disk = |bus: &str| json!({"path": image, "readOnly": true, "bus": bus});
    let variables = tmp.path().join("efi");
    let all = |create: bool| {
        with(|spec| {
            spec["boot"] = json!({"efi": {"variables": variables, "create": create}});
            spec["disks"] = json!([disk("virtio"), disk("nvme"), disk("usb")]);
            spec["shares"] = json!([{"tag": "store", "path": "/nix/store", "readOnly": true}]);
            spec["rosetta"] = json!({"tag": "rosetta", "caching": true});
            spec["nested"] = true.into();
            spec["nics"] = json!([MacAddress::random().to_string(), MacAddress::random().to_string()]);
            spec["identifier"] = bridge::machine_identifier().into();
        })
    };
    drop(Machine::new(all(true)).unwrap());
    assert!(variables.exists());
    drop(Machine::new(all(false)).unwrap());
}

#[tokio::test]
async fn a_state_that_was_saved_can_be_restored_in_another_machine() {
    let stand_in = StandIn::take();
    let tmp = tempfile::tempdir().unwrap();
    let file = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    let (first, _events) = machine();
    first.can_save().await.unwrap();
    first.start().await.unwrap();
    assert!(vz(4)(&first.save(file("state")).await.unwrap_err()), "only a paused machine is saved");
    first.pause().await.unwrap();
    assert!(vz(11)(&first.save(file("no/such/dir")).await.unwrap_err()));
    first.save(file("state")).await.unwrap();
    drop(first);

    let (second, _events) = machine();
    fs::write(file("rubbish"), "rubbish").unwrap();
    assert!(vz(12)(&second.restore(file("rubbish")).await.unwrap_err()));
    second.restore(file("state")).await.unwrap();
    second.resume().await.unwrap();

    let shared = with(|spec| spec["shares"] = json!([{"tag": "t", "path": "/", "readOnly": true}]));
    let (shared, _events) = Machine::new(shared).unwrap();
    assert!(vz(10)(&shared.can_save().await.unwrap_err()));
    drop((second, shared));
    drop(stand_in);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booted_guest_is_reached_both_ways_and_ends_as_it_says() {
    let stand_in = StandIn::take();
    let tmp = tempfile::tempdir().unwrap();
    let boot = async |name: &str| {
        fs::create_dir_all(tmp.path().join("run")).unwrap();
        fs::write(tmp.path().join("run/initrd"), name).unwrap();
        Vz::probe().unwrap().boot(spec(tmp.path())).await.unwrap()
    };
    let guest = boot("first").await;
    let mut stream = guest.connect(OPEN_PORT).await.unwrap();
    let mut theirs = stand_in.dialled().unwrap();
    stream.write_all(b"to the guest").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the guest");
    theirs.write_all(b"to the host").unwrap();
    drop(theirs);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"to the host");
    assert_eq!(stand_in.connections(), 1);
    drop(stream);
    wait_until(|| stand_in.connections() == 0).await;

    let refusal = guest.connect(1).await.err().unwrap();
    assert_eq!(refusal.kind, Kind::Guest);

    let mut listener = guest.listen(1024).unwrap();
    let mut dialled = loop {
        // `listen` does not wait for the framework.
        match stand_in.guest_dials(1024) {
            Some(dialled) => break dialled,
            None => tokio::task::yield_now().await,
        }
    };
    dialled.write_all(b"ready").unwrap();
    let mut ready = [0; 5];
    listener.accept().await.unwrap().read_exact(&mut ready).await.unwrap();
    assert_eq!(&ready, b"ready");
    drop(listener);
    while stand_in.guest_dials(1024).is_some() {
        tokio::task::yield_now().await;
    }

    guest.request_stop().await.unwrap();
    assert_eq!(guest.exited().await, Exit::PoweredOff);
    stand_in.must_be_empty();
    assert!(!tmp.path().join("run").exists(), "the boot's secrets are gone");
    assert_eq!(guest.connect(OPEN_PORT).await.err().unwrap().message, "the guest is gone");

    let guest = boot("second").await;
    guest.kill().await.unwrap();
    assert_eq!(guest.exited().await, Exit::Killed);
    let guest = boot("third").await;
    stand_in.guest_ends(1);
    assert!(matches!(guest.exited().await, Exit::Crashed(why) if why.contains("stopped unexpectedly")));
    drop(boot("fourth").await);
    stand_in.must_be_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_boot_leaves_no_guest() {
    let stand_in = StandIn::take();
    let tmp = tempfile::tempdir().unwrap();
    let vz = Vz::probe().unwrap();
    for wait in [0, 1, 4, 6] {
        let boot = vz.boot(spec(tmp.path()));
        let _ = timeout(Duration::from_millis(wait), boot).await.map(drop);
        wait_until(|| stand_in.machines() == 0).await;
    }
    stand_in.fail_next_start(6);
    let error = vz.boot(spec(tmp.path())).await.err().unwrap();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.message.contains("no further virtual machine") && !error.hints.is_empty(), "{error:?}");
    let disk = having(tmp.path(), |devices| devices.disks = vec![SystemDisk::new("/nonexistent", true)]);
    assert_eq!(vz.boot(disk).await.err().unwrap().kind, Kind::State);
}

/// Says when it is dropped how many machines exist.
struct Probe(Option<oneshot::Sender<isize>>);

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(super::standin::machines());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_holds_is_dropped_after_its_machine_is_gone() {
    let stand_in = StandIn::take();
    let tmp = tempfile::tempdir().unwrap();
    let vz = Vz::probe().unwrap();
    let probe = || {
        let (gone, machines) = oneshot::channel();
        (Box::new(Probe(Some(gone))), machines)
    };
    // Cancelled at different moments of the start.
    for wait in [0, 1, 4, 6] {
        let (hold, machines) = probe();
        let boot = vz.boot_holding(spec(tmp.path()), hold);
        let _ = timeout(Duration::from_millis(wait), boot).await.map(drop);
        assert_eq!(machines.await.unwrap(), 0, "after {wait} ms");
    }
    let (hold, mut machines) = probe();
    let guest = vz.boot_holding(spec(tmp.path()), hold).await.unwrap();
    assert!(machines.try_recv().is_err());
    guest.kill().await.unwrap();
    guest.exited().await;
    assert_eq!(machines.try_recv().unwrap(), 0, "though the guest is still referred to");
    drop(stand_in);
}

#[test]
fn what_this_host_lacks_is_said_before_a_boot() {
    let stand_in = StandIn::take();
    stand_in.rosetta(1);
    let tmp = tempfile::tempdir().unwrap();
    let host = Host::ask().unwrap();
    assert_eq!((host.supported, host.rosetta, host.nested), (true, Rosetta::NotInstalled, false));
    host.check(&spec(tmp.path())).unwrap();
    let error = host.check(&having(tmp.path(), |devices| devices.rosetta = true)).unwrap_err();
    assert!(error.hints[0].contains("softwareupdate --install-rosetta"), "{error:?}");
    let nesting = having(tmp.path(), |devices| devices.nested = true);
    assert!(host.check(&nesting).unwrap_err().message.contains("M3"), "{:?}", host.check(&nesting));
    stand_in.nested();
    Host::ask().unwrap().check(&nesting).unwrap();
    let foreign = [Arch::X86_64, Arch::Aarch64].into_iter().find(|arch| Some(*arch) != Arch::host()).unwrap();
    assert_eq!(host.check(&MachineSpec { arch: foreign, ..spec(tmp.path()) }).unwrap_err().kind, Kind::Host);
    for bad in [MachineSpec { cores: 10_000, ..spec(tmp.path()) }, MachineSpec { memory: 1, ..spec(tmp.path()) }] {
        assert_eq!(host.check(&bad).unwrap_err().kind, Kind::Config);
    }
    let none = Host { supported: false, ..host };
    assert_eq!(none.check(&spec(tmp.path())).unwrap_err().kind, Kind::Host);
}

#[test]
fn the_spec_names_the_console_and_keeps_the_order() {
    let tmp = tempfile::tempdir().unwrap();
    let mut spec = having(tmp.path(), |devices| {
        devices.disks = vec![SystemDisk::new("/a", true), SystemDisk::new("/b", false)];
        devices.shares = vec![Share { tag: "nix-store".into(), path: "/nix/store".into(), read_only: true }];
    });
    let json = serde_json::to_value(ShimSpec::new(&spec, 7, None)).unwrap();
    assert_eq!(json["boot"]["linux"]["cmdline"], "quiet console=hvc0");
    assert_eq!(json["disks"][0], json!({"path": "/a", "readOnly": true, "bus": "virtio", "serial": null}));
    assert_eq!(json["disks"][1]["path"], "/b");
    assert_eq!(json["shares"][0], json!({"tag": "nix-store", "path": "/nix/store", "readOnly": true}));
    assert_eq!((&json["nested"], &json["vsock"]), (&json!(false), &json!(true)));
    assert_eq!((&json["console"], &json["nics"]), (&json!(7), &json!([spec.devices.nics[0].mac.to_string()])));
    spec.devices.nested = true;
    assert_eq!(serde_json::to_value(ShimSpec::new(&spec, 7, None)).unwrap()["nested"], true);
}

#[test]
fn only_the_builders_data_disk_is_marked_for_the_agent() {
    let tmp = tempfile::tempdir().unwrap();
    let mut spec = having(tmp.path(), |devices| devices.disks = vec![SystemDisk::new("/a", true)]);
    if let Boot::Linux { cache, .. } = &mut spec.boot {
        *cache = Some(CacheDisk::of(&MachineDir::at(tmp.path())));
    }
    let disks = serde_json::to_value(ShimSpec::new(&spec, 7, None)).unwrap()["disks"].clone();
    let data = tmp.path().join("data.img");
    assert_eq!(disks[1], json!({"path": data, "readOnly": false, "bus": "virtio", "serial": "dvn-cache"}));
    assert_eq!(disks[0]["serial"], json!(null));
    spec.boot = Boot::Efi { variables: tmp.path().join("nvram.bin") };
    let json = serde_json::to_value(ShimSpec::new(&spec, 7, None)).unwrap();
    assert_eq!(json["disks"].as_array().unwrap().len(), 1);
    assert_eq!(json["boot"]["efi"], json!({"variables": tmp.path().join("nvram.bin"), "create": true}));
    fs::write(tmp.path().join("nvram.bin"), "boot entries").unwrap();
    assert_eq!(serde_json::to_value(ShimSpec::new(&spec, 7, None)).unwrap()["boot"]["efi"]["create"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_guest_is_restored_in_another_machine() {
    let stand_in = StandIn::take();
    let tmp = tempfile::tempdir().unwrap();
    let (vz, state) = (Vz::probe().unwrap(), tmp.path().join("state"));
    // The stand-in reports the version of the host's Linux, not one of macOS.
    let vz = Vz { capabilities: Capabilities { suspend: Ok(vec![]), ..vz.capabilities }, host: vz.host };
    let run = tmp.path().join("run");
    let spec = spec(tmp.path());
    let guest = vz.boot(spec.clone()).await.unwrap();
    guest.suspend(state.clone()).await.unwrap();
    assert_eq!(guest.exited().await, Exit::Suspended);
    stand_in.must_be_empty();
    assert!(!run.exists() && state.exists());

    let other = MachineSpec { cores: 2, ..spec.clone() };
    assert_eq!(vz.restore(other, state.clone()).await.err().unwrap().kind, Kind::State);
    let guest = vz.restore(spec.clone(), state.clone()).await.unwrap();
    assert!(!state.exists(), "it is used up");
    guest.pause().await.unwrap();
    guest.suspend(state.clone()).await.expect("a paused guest can be suspended as well");
    fs::write(&state, "rubbish").unwrap();
    let refusal = vz.restore(spec.clone(), state.clone()).await.err().unwrap();
    assert!(refusal.message.contains("cannot load the saved VM") && state.exists(), "{refusal:?}");

    let disk = tmp.path().join("disk.img");
    fs::write(&disk, [0; 512]).unwrap();
    let guest = vz.boot(having(tmp.path(), |it| it.disks = vec![SystemDisk::new(&disk, false)])).await.unwrap();
    fs::remove_file(&disk).unwrap();
    let state = tmp.path().join("other");
    let refusal = guest.suspend(state.clone()).await.unwrap_err();
    assert!(refusal.message.contains("disk.img") && !state.exists(), "{refusal}");
    guest.pause().await.expect("it goes on");
    drop(guest);

    let guest = vz.boot(spec).await.unwrap();
    // The directory does not exist, so the framework cannot write there, and the guest continues to run.
    guest.suspend(tmp.path().join("nowhere/state")).await.unwrap_err();
    guest.pause().await.unwrap();
    drop(guest);
    stand_in.must_be_empty();
}
