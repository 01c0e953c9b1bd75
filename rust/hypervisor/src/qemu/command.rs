//! Translates a [`MachineSpec`] into QEMU's command line. Pure, so it can be tested without QEMU.

use super::{firmware::Firmware, probe::Accelerator};
use crate::{
    disks::{Attached, Bus},
    spec::{Boot, Forward, MachineSpec, Screen},
};
use dvn_types::Arch;
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

/// The guest's vsock context id. It is private to the helper's process.
pub const GUEST_CID: u32 = 3;

/// QEMU's name of the vsock device and of its connection to the helper, and of the port that a device has which can be
/// unplugged.
pub const VSOCK: &str = "vsock";
pub const VSOCK_PORT: &str = "vsock-port";
pub const VSOCK_DRIVER: &str = "vhost-user-vsock-pci";

/// The sockets of one boot, in its runtime directory.
#[derive(Clone, Debug)]
pub struct Sockets<'a>(pub &'a Path);

impl Sockets<'_> {
    /// QEMU ↔ vhost-device-vsock.
    pub fn vhost_vsock(&self) -> std::path::PathBuf {
        self.0.join("vhost-vsock")
    }
    /// Host programs → guest ports; a guest's connection to host port P arrives at this path with `_P` appended.
    pub fn vsock(&self) -> std::path::PathBuf {
        self.0.join("vsock")
    }
    /// The guest's connections to a port of the host arrive here.
    pub fn vsock_port(&self, port: u32) -> std::path::PathBuf {
        self.0.join(format!("vsock_{port}"))
    }
    /// QEMU's monitor.
    pub fn qmp(&self) -> std::path::PathBuf {
        self.0.join("qmp")
    }
    /// QEMU ↔ virtiofsd of the share at this index.
    pub fn share(&self, index: usize) -> std::path::PathBuf {
        self.0.join(format!("virtiofs-{index}"))
    }
    /// QEMU ↔ this program, for saved states.
    pub fn state(&self) -> std::path::PathBuf {
        self.0.join("state")
    }
}

/// How QEMU runs a spec.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What executes guest code.
    pub accelerator: Accelerator,
    /// For a machine that boots by EFI.
    pub firmware: Option<&'a Firmware>,
    /// QEMU waits for a saved state, and stays paused after loading it.
    pub restore: bool,
}

/// Arguments for `qemu-system-ARCH`.
pub fn qemu(spec: &MachineSpec, start: Start<'_>) -> Vec<OsString> {
    let sockets = Sockets(&spec.runtime_dir);
    let mut line = Line::default();
    // Only what is given here: no default devices, no user configuration.
    line.flags(&["-nodefaults", "-no-user-config"]).pair("-display", "none");
    if let Boot::Linux { .. } = spec.boot {
        // A kernel that panics resets the machine. One that boots by EFI may restart itself, as installers do.
        line.flags(&["-no-reboot"]);
    }
    line.pair("-name", option("guest=", spec.name.as_ref()));
    line.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    let (machine, cpu) = machine(spec, start.accelerator);
    line.pair("-machine", format!("{machine},memory-backend=memory")).pair("-cpu", cpu);
    line.pair("-accel", start.accelerator.as_str());
    line.pair("-smp", spec.cores.to_string());
    // The vhost-user helpers map the guest's memory, so it must be shared.
    line.pair("-object", format!("memory-backend-memfd,id=memory,size={},share=on", spec.memory));
    line.pair("-m", format!("{}B", spec.memory));
    match &spec.boot {
        Boot::Linux { kernel, initrd, cmdline, .. } => {
            let console = if spec.arch == Arch::X86_64 { "ttyS0" } else { "ttyAMA0" };
            line.pair("-kernel", kernel).pair("-initrd", initrd);
            line.pair("-append", format!("{cmdline} console={console}"));
        }
        Boot::Efi { variables } => {
            if let Some(firmware) = start.firmware {
                line.pair("-drive", option("if=pflash,unit=0,format=raw,readonly=on,file=", &firmware.code));
            }
            line.pair("-drive", option("if=pflash,unit=1,format=raw,file=", variables));
        }
    }
    line.pair("-chardev", "stdio,id=console,signal=off").pair("-serial", "chardev:console");
    line.pair("-chardev", option("socket,id=qmp,server=off,path=", &sockets.qmp()));
    line.pair("-mon", "chardev=qmp,mode=control");
    devices(&mut line, spec, start, &sockets);
    if start.restore {
        line.flags(&["-S"]).pair("-incoming", "defer");
    }
    line.0
}

/// QEMU's machine and processor. A guest that boots by EFI lives long and can be suspended, so its machine has a fixed
/// version, which newer QEMUs still support.
fn machine(spec: &MachineSpec, accelerator: Accelerator) -> (&'static str, &'static str) {
    let efi = matches!(spec.boot, Boot::Efi { .. });
    let machine = match (spec.arch, efi) {
        (Arch::X86_64, false) => "q35,vmport=off,hpet=off",
        // The firmware without Secure Boot needs no system management mode.
        (Arch::X86_64, true) => "pc-q35-7.2,vmport=off,hpet=off,smm=off",
        (Arch::Aarch64, false) => "virt,gic-version=max",
        (Arch::Aarch64, true) => "virt-7.2,gic-version=max",
    };
    let cpu = match (accelerator, spec.arch) {
        (Accelerator::Kvm, Arch::X86_64) if !spec.devices.nested => "host,vmx=off,svm=off",
        (Accelerator::Kvm, _) => "host",
        // The firmware does not know five levels of page tables.
        (Accelerator::Tcg, Arch::X86_64) if efi => "max,la57=off",
        (Accelerator::Tcg, Arch::X86_64) => "max",
        // The architected pointer authentication costs half the speed under TCG.
        (Accelerator::Tcg, Arch::Aarch64) => "max,pauth-impdef=on",
    };
    (machine, cpu)
}

fn devices(line: &mut Line, spec: &MachineSpec, start: Start<'_>, sockets: &Sockets<'_>) {
    let devices = &spec.devices;
    if devices.display.is_some() || devices.disks.iter().any(|disk| disk.bus == Bus::Usb) {
        line.pair("-device", format!("qemu-xhci,id=usb{}", Slot::Usb.of(spec)));
    }
    for (index, attached) in spec.disks().enumerate() {
        disk(line, index, &attached, &Slot::Disk(index).of(spec));
    }
    for (index, nic) in devices.nics.iter().enumerate() {
        let mut network = format!("user,id=net{index}");
        for Forward { host, guest } in devices.forwards.iter().filter(|_| index == 0) {
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        line.pair("-netdev", network);
        let slot = Slot::Nic(index).of(spec);
        line.pair("-device", format!("virtio-net-pci,netdev=net{index},mac={},romfile={slot}", nic.mac));
    }
    line.pair("-device", format!("virtio-rng-pci{}", Slot::Random.of(spec)));
    if devices.vsock {
        vsock_device(line, spec, start.restore, sockets);
    }
    for (index, share) in devices.shares.iter().enumerate() {
        line.pair("-chardev", option(&format!("socket,id=share{index},path="), &sockets.share(index)));
        let device = format!("vhost-user-fs-pci,chardev=share{index},tag={},queue-size=1024", share.tag);
        let device = device + &Slot::Share(index).of(spec);
        line.pair("-device", device);
    }
    if let Some(Screen { width, height }) = devices.display {
        // The machine virt has no VGA.
        let card = if spec.arch == Arch::X86_64 { "virtio-vga" } else { "virtio-gpu-pci" };
        line.pair("-device", format!("{card},xres={width},yres={height}{}", Slot::Display.of(spec)));
        line.pair("-device", "usb-kbd,bus=usb.0").pair("-device", "usb-tablet,bus=usb.0");
    }
}

/// The place of a device on the PCI bus of a machine that boots by EFI. The firmware remembers what it boots from by its place, so a
/// disk must not move when another device comes or goes.
enum Slot {
    Display,
    Usb,
    Random,
    Vsock,
    Nic(usize),
    Share(usize),
    Disk(usize),
}

impl Slot {
    /// The option for it; empty where QEMU may choose: for a kernel that is booted directly, and beyond the room for its kind.
    fn of(self, spec: &MachineSpec) -> String {
        let (first, index, room) = match self {
            Slot::Display => (0x1, 0, 1),
            Slot::Usb => (0x2, 0, 1),
            Slot::Random => (0x3, 0, 1),
            Slot::Vsock => (0x4, 0, 1),
            Slot::Nic(index) => (0x5, index, 4),
            Slot::Share(index) => (0x9, index, 7),
            Slot::Disk(index) => (0x10, index, 12),
        };
        match spec.boot {
            Boot::Efi { .. } if index < room => format!(",addr={:#x}", first + index),
            _ => String::new(),
        }
    }
}

/// Whether the machine's vsock device can be unplugged, which suspending the machine takes ([`super::hotplug`]).
pub fn has_vsock_port(spec: &MachineSpec) -> bool {
    spec.devices.vsock && matches!(spec.boot, Boot::Efi { .. })
}

/// The device; for a restore only its port, which was empty when the guest was saved.
fn vsock_device(line: &mut Line, spec: &MachineSpec, restore: bool, sockets: &Sockets<'_>) {
    let has_port = has_vsock_port(spec);
    let mut device = format!("{VSOCK_DRIVER},id={VSOCK},chardev={VSOCK}");
    if has_port {
        line.pair("-device", format!("pcie-root-port,id={VSOCK_PORT},chassis=1,slot=1{}", Slot::Vsock.of(spec)));
        device.push_str(&format!(",bus={VSOCK_PORT}"));
    }
    if !(has_port && restore) {
        line.pair("-chardev", option(&format!("socket,id={VSOCK},path="), &sockets.vhost_vsock()));
        line.pair("-device", device);
    }
}

fn disk(line: &mut Line, index: usize, disk: &Attached<'_>, slot: &str) {
    let read_only = if disk.read_only { "on" } else { "off" };
    let node = format!("driver=file,node-name=disk{index},read-only={read_only},discard=unmap,filename=");
    line.pair("-blockdev", option(&node, disk.path));
    let mut device = match disk.bus {
        // A full host disk is the guest's error to handle; QEMU's default would freeze the guest.
        Bus::Virtio => format!("virtio-blk-pci,drive=disk{index},werror=report,rerror=report{slot}"),
        Bus::Usb => format!("usb-storage,bus=usb.0,drive=disk{index},werror=report,rerror=report"),
        // QEMU requires a serial number here.
        Bus::Nvme => format!("nvme,drive=disk{index},serial=disk{index}{slot}"),
    };
    if let Some(serial) = disk.serial {
        device.push_str(&format!(",serial={serial}"));
    }
    line.pair("-device", device);
}

/// Arguments for `vhost-device-vsock`.
pub fn vsock(spec: &MachineSpec) -> Vec<OsString> {
    let sockets = Sockets(&spec.runtime_dir);
    let mut line = Line::default();
    line.pair("--guest-cid", GUEST_CID.to_string());
    line.pair("--socket", sockets.vhost_vsock()).pair("--uds-path", sockets.vsock());
    line.0
}

/// Arguments for the `virtiofsd` of the share at `index`.
pub fn virtiofs(spec: &MachineSpec, index: usize) -> Vec<OsString> {
    let share = &spec.devices.shares[index];
    let mut line = Line::default();
    line.pair("--socket-path", Sockets(&spec.runtime_dir).share(index)).pair("--shared-dir", &share.path);
    // The sandbox `namespace` works without root, but forks: the child that serves survives a killed parent, and
    // nothing may outlive the daemon. It also maps only one user, so the guest would see the host root's files as owned
    // by `nobody`. The share is read-only, with the permissions of the daemon's user.
    line.pair("--sandbox", "none").pair("--cache", "auto");
    if share.read_only {
        line.flags(&["--readonly"]);
    }
    line.0
}

/// `prefix` and a path as the value of one QEMU option. Commas in the path are doubled.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut value = prefix.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        value.extend_from_slice(if *byte == b',' { b",," } else { std::slice::from_ref(byte) });
    }
    OsString::from_vec(value)
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flags(&mut self, flags: &[&str]) -> &mut Self {
        self.0.extend(flags.iter().map(OsString::from));
        self
    }
    fn pair(&mut self, flag: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.extend([OsString::from(flag), value.into()]);
        self
    }
}

#[cfg(test)]
mod tests;
