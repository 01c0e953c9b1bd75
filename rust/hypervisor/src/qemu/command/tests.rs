use super::*;
use crate::{
    disks::{CacheDisk, SystemDisk},
    spec::{Devices, Nic, Share},
};
use dvn_host::machine_dir::MachineDir;
use dvn_protocol::CACHE_DISK;
use proptest::prelude::*;

const TCG: Start = Start { accelerator: Accelerator::Tcg, firmware: None, restore: false };
const KVM: Start = Start { accelerator: Accelerator::Kvm, ..TCG };

/// A builder's spec, as the crate `guest` creates it.
fn spec() -> MachineSpec {
    let sample = MachineSpec::sample();
    MachineSpec {
        boot: Boot::Linux {
            kernel: "/b/vmlinux".into(),
            initrd: "/r/initrd".into(),
            cmdline: "quiet".into(),
            cache: Some(CacheDisk::of(&MachineDir::at(Path::new("/m")))),
        },
        devices: Devices {
            disks: vec![SystemDisk::new("/b/a,b.img", true)],
            shares: vec![Share { tag: "nix-store".into(), path: "/nix/store".into(), read_only: true }],
            ..sample.devices
        },
        ..MachineSpec::sample()
    }
}

/// A machine that boots its own system by EFI.
fn efi() -> MachineSpec {
    let medium = SystemDisk { bus: Bus::Usb, ..SystemDisk::new("/isos/installer.iso", true) };
    MachineSpec {
        boot: Boot::Efi { variables: "/m/n,vram".into() },
        devices: Devices { disks: vec![SystemDisk::new("/m/disk.img", false), medium], ..Devices::default() },
        ..MachineSpec::sample()
    }
}

fn firmware() -> Firmware {
    Firmware { code: "/f/CODE.fd".into(), template: "/f/VARS.fd".into() }
}

fn text(args: &[OsString]) -> String {
    args.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn with(spec: MachineSpec, change: impl FnOnce(&mut MachineSpec)) -> MachineSpec {
    let mut spec = spec;
    change(&mut spec);
    spec
}

#[test]
fn disks_keep_their_order_and_commas() {
    let line = text(&qemu(&spec(), TCG));
    let system = line.find("node-name=disk0,read-only=on,discard=unmap,filename=/b/a,,b.img").unwrap();
    let data = line.find("node-name=disk1,read-only=off,discard=unmap,filename=/m/data.img").unwrap();
    assert!(system < data, "{line}");
    assert!(line.contains("-append quiet console=ttyS0"), "{line}");
    assert!(line.contains("-accel tcg") && line.contains("-cpu max "), "{line}");
}

#[test]
fn a_path_that_is_no_utf_8_stays_itself() {
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/b/\xff,y"));
    assert_eq!(option("path=", path).as_bytes(), b"path=/b/\xff,,y");
}

/// The check of the path length must use the longest socket path.
#[test]
fn no_socket_of_a_boot_has_a_longer_path_than_was_checked() {
    let dir = MachineDir::at(Path::new("/m"));
    let run = dir.run_dir();
    let sockets = Sockets(&run);
    let ports = [dvn_protocol::AGENT_PORT, dvn_protocol::STORE_PORT];
    let of_ports = ports.map(|port| sockets.vsock_port(port));
    let others = [sockets.vhost_vsock(), sockets.vsock(), sockets.qmp(), sockets.share(9), sockets.state()];
    for socket in others.iter().chain(&of_ports) {
        assert!(socket.as_os_str().len() <= dir.longest_socket().as_os_str().len(), "{}", socket.display());
    }
}

#[test]
fn an_arm_guest_has_its_own_machine_and_console() {
    let line = text(&qemu(&MachineSpec { arch: Arch::Aarch64, ..spec() }, KVM));
    assert!(
        line.contains("-machine virt,") && line.contains("console=ttyAMA0") && line.contains("-cpu host"),
        "{line}"
    );
}

#[test]
fn a_guest_has_the_means_for_virtual_machines_only_if_asked_for() {
    for (nested, cpu) in [(false, "-cpu host,vmx=off,svm=off "), (true, "-cpu host ")] {
        let line = text(&qemu(&with(spec(), |spec| spec.devices.nested = nested), KVM));
        assert!(line.contains(cpu), "{line}");
    }
}

#[test]
fn a_share_is_read_only_by_its_helper() {
    assert!(text(&virtiofs(&spec(), 0)).ends_with("--readonly"));
    let line = text(&qemu(&spec(), TCG));
    assert!(line.contains("id=share0,path=/r/virtiofs-0") && line.contains("tag=nix-store"), "{line}");
}

#[test]
fn a_machine_by_efi_has_the_firmware_read_only_and_variables_of_its_own() {
    let firmware = firmware();
    let line = text(&qemu(&efi(), Start { firmware: Some(&firmware), ..TCG }));
    let code = line.find("-drive if=pflash,unit=0,format=raw,readonly=on,file=/f/CODE.fd ").unwrap();
    let variables = line.find("-drive if=pflash,unit=1,format=raw,file=/m/n,,vram ").unwrap();
    assert!(code < variables, "{line}");
    assert!(line.contains("-machine pc-q35-7.2,vmport=off,hpet=off,smm=off,"), "a version of it: {line}");
    assert!(!line.contains("-kernel") && !line.contains("-append"), "{line}");
    let arm = MachineSpec { arch: Arch::Aarch64, ..efi() };
    let line = text(&qemu(&arm, Start { firmware: Some(&firmware), ..TCG }));
    assert!(line.contains("-machine virt-7.2,"), "{line}");
}

#[test]
fn a_machine_has_what_was_asked_for_and_nothing_else() {
    let line = text(&qemu(&efi(), TCG));
    for absent in ["vsock", "netdev", "virtio-vga", "usb-kbd", "vhost-user-fs", "incoming"] {
        assert!(!line.contains(absent), "{absent}: {line}");
    }
    assert!(
        line.contains("-device qemu-xhci,id=usb,addr=0x2 ") && line.contains("usb-storage,bus=usb.0,drive=disk1,"),
        "{line}"
    );
    let nvme = with(efi(), |spec| spec.devices.disks[0].bus = Bus::Nvme);
    assert!(text(&qemu(&nvme, TCG)).contains("-device nvme,drive=disk0,serial=disk0"));
    let shown = with(efi(), |spec| spec.devices.display = Some(Screen { width: 1024, height: 768 }));
    let line = text(&qemu(&shown, TCG));
    for device in ["virtio-vga,xres=1024,yres=768", "usb-kbd,bus=usb.0", "usb-tablet,bus=usb.0"] {
        assert!(line.contains(device), "{line}");
    }
    assert_eq!(line.matches("qemu-xhci").count(), 1, "{line}");
    let line = text(&qemu(&MachineSpec { arch: Arch::Aarch64, ..shown }, TCG));
    assert!(line.contains("virtio-gpu-pci,xres=1024,yres=768"), "{line}");
    let line = text(&qemu(&efi(), Start { restore: true, ..TCG }));
    assert!(line.ends_with("-S -incoming defer"), "{line}");
}

/// The firmware would no longer find what it booted from.
#[test]
fn no_device_moves_a_disk_of_a_machine_that_boots_by_efi() {
    let disk = "drive=disk0,werror=report,rerror=report,addr=0x10";
    let one = SystemDisk::new("/m/disk.img", false);
    let bare = with(efi(), |spec| spec.devices.disks = vec![one.clone()]);
    let full = with(bare.clone(), |spec| {
        spec.devices.disks.push(SystemDisk::new("/x", true));
        spec.devices.display = Some(Screen { width: 1, height: 1 });
        spec.devices.vsock = true;
        spec.devices.nics = vec![Nic { mac: "02:00:00:00:00:01".parse().unwrap() }];
    });
    for spec in [&bare, &full] {
        let line = text(&qemu(spec, TCG));
        assert!(line.contains(disk), "{line}");
        let places: Vec<_> = line.split("addr=").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
        let distinct: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(distinct.len(), places.len(), "{line}");
    }
    let direct = with(spec(), |spec| spec.devices.disks = vec![one]);
    assert!(!text(&qemu(&direct, TCG)).contains("addr="), "a kernel finds its disks by their order");
}

#[test]
fn only_a_machine_by_efi_has_a_vsock_device_that_can_be_unplugged() {
    let efi = with(efi(), |spec| spec.devices.vsock = true);
    let line = text(&qemu(&efi, TCG));
    let port = line.find("-device pcie-root-port,id=vsock-port,").unwrap();
    let device = line.find("-device vhost-user-vsock-pci,id=vsock,chardev=vsock,bus=vsock-port").unwrap();
    assert!(port < device && line.contains("socket,id=vsock,path=/r/vhost-vsock"), "{line}");
    let line = text(&qemu(&efi, Start { restore: true, ..TCG }));
    assert!(line.contains("pcie-root-port,id=vsock-port,"), "{line}");
    assert!(!line.contains("vhost-user-vsock") && !line.contains("id=vsock,"), "{line}");
    let line = text(&qemu(&spec(), TCG));
    assert!(
        line.contains("-device vhost-user-vsock-pci,id=vsock,chardev=vsock ") && !line.contains("root-port"),
        "{line}"
    );
}

#[test]
fn the_builders_data_disk_is_marked() {
    let line = text(&qemu(&spec(), TCG));
    assert!(line.contains("drive=disk1,werror=report,rerror=report,serial=dvn-cache "), "{line}");
    assert_eq!(line.matches("serial=").count(), 1, "{line}");
}

fn any_disk() -> impl Strategy<Value = SystemDisk> {
    let bus = prop_oneof![Just(Bus::Virtio), Just(Bus::Nvme), Just(Bus::Usb)];
    // Also names that try to inject options.
    ("/[a-z,=./-]{1,20}|/m/data\\.img|/x,serial=dvn-cache", any::<bool>(), bus)
        .prop_map(|(path, read_only, bus)| SystemDisk { path: path.into(), read_only, bus })
}

/// Any spec without a [`CacheDisk`], which only a builder's directory gives.
fn any_machine() -> impl Strategy<Value = MachineSpec> {
    let boot = prop_oneof![
        "/[a-z,=]{1,20}".prop_map(|variables| Boot::Efi { variables: variables.into() }),
        "[a-z =,]{0,20}".prop_map(|cmdline| Boot::Linux {
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline,
            cache: None
        }),
    ];
    let arch = prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)];
    let devices = (prop::collection::vec(any_disk(), 0..5), any::<[bool; 4]>());
    (boot, arch, devices).prop_map(|(boot, arch, (disks, [vsock, rosetta, nested, display]))| {
        let display = display.then_some(Screen { width: 640, height: 480 });
        let devices = Devices { disks, vsock, rosetta, nested, display, ..Devices::default() };
        MachineSpec { arch, boot, devices, ..MachineSpec::sample() }
    })
}

/// The serial numbers of the devices, as QEMU parses them.
fn serials(args: &[OsString]) -> Vec<String> {
    let devices = args.windows(2).filter(|pair| pair[0] == "-device").map(|pair| pair[1].to_str().unwrap());
    let options = devices.flat_map(|device| device.split(',').map(str::to_owned).collect::<Vec<_>>());
    options.filter_map(|option| option.strip_prefix("serial=").map(str::to_owned)).collect()
}

proptest! {
    /// The agent formats the disk of this serial number and no other (rust/agent/src/pid1/disk.rs).
    #[test]
    fn no_disk_of_another_machine_is_one_that_the_agent_may_format(spec in any_machine()) {
        prop_assert!(spec.disks().all(|disk| disk.serial.is_none()));
        prop_assert!(!serials(&qemu(&spec, TCG)).iter().any(|serial| serial == CACHE_DISK));
    }

    #[test]
    fn a_cache_disk_is_the_data_disk_of_its_directory_and_comes_last(machine in any_machine(), name in "[a-z]{1,8}") {
        let dir = MachineDir::at(&Path::new("/machines").join(name));
        let boot = Boot::Linux {
            kernel: "/k".into(), initrd: "/i".into(), cmdline: String::new(), cache: Some(CacheDisk::of(&dir)),
        };
        let spec = MachineSpec { boot, ..machine };
        let marked: Vec<_> = spec.disks().filter(|disk| disk.serial == Some(CACHE_DISK)).collect();
        prop_assert_eq!(marked.len(), 1);
        prop_assert_eq!(marked[0].path, dir.data_disk());
        prop_assert_eq!(spec.disks().last(), Some(marked[0]));
        prop_assert_eq!(serials(&qemu(&spec, TCG)).iter().filter(|serial| *serial == CACHE_DISK).count(), 1);
    }
}
