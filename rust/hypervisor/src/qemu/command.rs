//! A [`MachineSpec`] as QEMU's command line. Pure, so that it is tested without QEMU.

use super::probe::Accelerator;
use crate::spec::MachineSpec;
use dvn_types::Arch;
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

/// The context id under which the host's helper knows the guest. It is private to the helper's process.
pub const GUEST_CID: u32 = 3;

/// Sockets of one boot, in its runtime directory.
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
    /// Where the guest's connections to a port of the host arrive.
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
}

/// Arguments for `qemu-system-ARCH`.
pub fn qemu(spec: &MachineSpec, accelerator: Accelerator) -> Vec<OsString> {
    let sockets = Sockets(&spec.runtime_dir);
    let mut line = Line::default();
    // Nothing but what is named here: no default devices, no configuration of the user's.
    line.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]).pair("-display", "none");
    line.pair("-name", format!("guest={}", spec.name));
    line.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    let (machine, native_cpu, any_cpu, console) = match spec.arch {
        Arch::X86_64 => {
            ("q35,vmport=off,hpet=off", if spec.nested { "host" } else { "host,vmx=off,svm=off" }, "max", "ttyS0")
        }
        // The architected pointer authentication costs half the speed under TCG.
        Arch::Aarch64 => ("virt,gic-version=max", "host", "max,pauth-impdef=on", "ttyAMA0"),
    };
    line.pair("-machine", format!("{machine},memory-backend=memory"));
    line.pair("-cpu", if accelerator == Accelerator::Kvm { native_cpu } else { any_cpu });
    line.pair("-accel", accelerator.as_str());
    line.pair("-smp", spec.cores.to_string());
    // The vhost-user helpers map the guest's memory, so it must be shared.
    line.pair("-object", format!("memory-backend-memfd,id=memory,size={},share=on", spec.memory));
    line.pair("-m", format!("{}B", spec.memory));
    line.pair("-kernel", &spec.kernel).pair("-initrd", &spec.initrd);
    line.pair("-append", format!("{} console={console}", spec.cmdline));
    line.pair("-chardev", "stdio,id=console,signal=off").pair("-serial", "chardev:console");
    line.pair("-chardev", option("socket,id=qmp,server=off,path=", &sockets.qmp()));
    line.pair("-mon", "chardev=qmp,mode=control");
    for (index, disk) in spec.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        let node = format!("driver=file,node-name=disk{index},read-only={read_only},discard=unmap,filename=");
        line.pair("-blockdev", option(&node, &disk.path));
        // A full host disk is the guest's error to handle; QEMU's default would freeze the guest.
        line.pair("-device", format!("virtio-blk-pci,drive=disk{index},werror=report,rerror=report"));
    }
    line.pair("-netdev", "user,id=net").pair("-device", format!("virtio-net-pci,netdev=net,mac={},romfile=", spec.mac));
    line.pair("-device", "virtio-rng-pci");
    line.pair("-chardev", option("socket,id=vsock,path=", &sockets.vhost_vsock()));
    line.pair("-device", "vhost-user-vsock-pci,chardev=vsock");
    for (index, share) in spec.shares.iter().enumerate() {
        line.pair("-chardev", option(&format!("socket,id=share{index},path="), &sockets.share(index)));
        let device = format!("vhost-user-fs-pci,chardev=share{index},tag={},queue-size=1024", share.tag);
        line.pair("-device", device);
    }
    line.0
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
    let share = &spec.shares[index];
    let mut line = Line::default();
    line.pair("--socket-path", Sockets(&spec.runtime_dir).share(index)).pair("--shared-dir", &share.path);
    // Its sandbox `namespace` works without root, but forks: the child that serves outlives a killed parent, and nothing may
    // outlive the daemon. It also maps one user only, so the guest would see files of the host's root as nobody's. The share is
    // read-only, and as whoever runs the daemon.
    line.pair("--sandbox", "none").pair("--cache", "auto");
    if share.read_only {
        line.flags(&["--readonly"]);
    }
    line.0
}

/// `prefix` and a path, as the value of one QEMU option: a comma in the path is doubled.
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
mod tests {
    use super::*;
    use crate::spec::{Disk, Share};
    use dvn_types::MacAddress;

    fn spec() -> MachineSpec {
        MachineSpec {
            name: "builder".parse().unwrap(),
            arch: Arch::X86_64,
            cores: 2,
            memory: 1 << 30,
            kernel: "/b/vmlinux".into(),
            initrd: "/r/initrd".into(),
            cmdline: "quiet".into(),
            disks: vec![
                Disk { path: "/b/a,b.img".into(), read_only: true },
                Disk { path: "/m/data.img".into(), read_only: false },
            ],
            shares: vec![Share { tag: "nix-store".into(), path: "/nix/store".into(), read_only: true }],
            rosetta: false,
            nested: false,
            mac: MacAddress::random(),
            runtime_dir: "/r".into(),
            console_log: "/m/console.log".into(),
        }
    }

    fn text(args: &[OsString]) -> String {
        args.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn disks_keep_their_order_and_commas() {
        let line = text(&qemu(&spec(), Accelerator::Tcg));
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

    /// What is refused because a socket's path would be too long is refused for the longest.
    #[test]
    fn no_socket_of_a_boot_has_a_longer_path_than_was_checked() {
        let dir = dvn_host::machine_dir::MachineDir::at(Path::new("/m"));
        let run = dir.run_dir();
        let sockets = Sockets(&run);
        let ports = [dvn_protocol::AGENT_PORT, dvn_protocol::STORE_PORT];
        let of_ports = ports.map(|port| sockets.vsock_port(port));
        for socket in [sockets.vhost_vsock(), sockets.vsock(), sockets.qmp(), sockets.share(9)].iter().chain(&of_ports)
        {
            assert!(socket.as_os_str().len() <= dir.longest_socket().as_os_str().len(), "{}", socket.display());
        }
    }

    #[test]
    fn an_arm_guest_has_its_own_machine_and_console() {
        let line = text(&qemu(&MachineSpec { arch: Arch::Aarch64, ..spec() }, Accelerator::Kvm));
        assert!(
            line.contains("-machine virt,") && line.contains("console=ttyAMA0") && line.contains("-cpu host"),
            "{line}"
        );
    }

    #[test]
    fn a_guest_has_the_means_for_virtual_machines_only_if_asked_for() {
        for (nested, cpu) in [(false, "-cpu host,vmx=off,svm=off "), (true, "-cpu host ")] {
            let line = text(&qemu(&MachineSpec { nested, ..spec() }, Accelerator::Kvm));
            assert!(line.contains(cpu), "{line}");
        }
    }

    #[test]
    fn a_share_is_read_only_by_its_helper() {
        assert!(text(&virtiofs(&spec(), 0)).ends_with("--readonly"));
        let line = text(&qemu(&spec(), Accelerator::Tcg));
        assert!(line.contains("id=share0,path=/r/virtiofs-0") && line.contains("tag=nix-store"), "{line}");
    }
}
