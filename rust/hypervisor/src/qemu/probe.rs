//! Detects QEMU on this host: its programs, the architectures they support, and the accelerator.

use super::firmware::Firmware;
use dvn_host::search_path;
use dvn_types::{Arch, Kind, Report};
use std::{
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
};

/// QEMU's helper for the vsock device.
pub const VSOCK: &str = "vhost-device-vsock";
/// QEMU's helper for a share.
pub const VIRTIOFS: &str = "virtiofsd";

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, through Linux's KVM.
    Kvm,
    /// QEMU's translation: slow, but available on every host and for every architecture.
    Tcg,
}

impl Accelerator {
    /// The spelling of QEMU's `-accel` and of the setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// Programs of the host, found along a search path.
#[derive(Clone, Debug)]
pub struct Programs {
    search_path: OsString,
}

impl Programs {
    /// Searches `search_path`, which has the format of `PATH`, and in the directories where distributions install
    /// helpers.
    pub fn new(search_path: &OsStr) -> Self {
        Programs { search_path: search_path.to_owned() }
    }

    /// The path of the program. The error names the package that has it.
    pub fn find(&self, name: &str) -> Result<PathBuf, Report> {
        self.look_up(name).ok_or_else(|| {
            Report::new(
                Kind::Host,
                format!("the program {name} is not on the search path, and no VM can start without it"),
            )
            .hint(how_to_get(name))
        })
    }

    fn look_up(&self, name: &str) -> Option<PathBuf> {
        search_path::find(name, &self.search_path, &["/usr/libexec", "/usr/lib/qemu"])
    }

    /// The firmware for guests that boot by EFI. The error names the package that has it.
    pub fn firmware(&self, arch: Arch) -> Result<Firmware, Report> {
        Firmware::find(arch, &self.search_path)
    }

    /// The architectures that the installed QEMU supports, the host's own first.
    pub fn archs(&self) -> Vec<Arch> {
        let mut archs: Vec<Arch> = [Arch::X86_64, Arch::Aarch64]
            .into_iter()
            .filter(|a| self.look_up(&system_emulator(*a)).is_some())
            .collect();
        archs.sort_by_key(|a| Some(*a) != Arch::host());
        archs
    }
}

/// The name of QEMU's program for an architecture.
pub fn system_emulator(arch: Arch) -> String {
    format!("qemu-system-{arch}")
}

fn how_to_get(name: &str) -> &'static str {
    match name {
        "qemu-system-x86_64" => "install it: on Debian and Ubuntu the package qemu-system-x86",
        "qemu-system-aarch64" => "install it: on Debian and Ubuntu the package qemu-system-arm",
        "vhost-device-vsock" => "install it: cargo install --locked vhost-device-vsock@0.3.0",
        "virtiofsd" => {
            "install it: the package virtiofsd of Debian 13 or newer, or cargo install --locked virtiofsd@1.14.0; or set share-store to false"
        }
        "setpriv" => "install it: on Debian and Ubuntu the package util-linux",
        _ => "install the package that brings it, or add its directory to PATH",
    }
}

/// KVM if the processor reports virtualization *and* the device opens. Some hosts have a `/dev/kvm` under which stock
/// kernels hang at boot; their processors do not report the feature.
pub fn choose(cpu_info: &str, kvm_opens: bool) -> Accelerator {
    if kvm_opens && offers_virtualization(cpu_info) { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// Whether the processor reports virtualization.
pub fn offers_virtualization(cpu_info: &str) -> bool {
    // An arm64 kernel lists no such flag; its device exists only if the kernel was started at EL2.
    let arm = cpu_info.lines().any(|line| line.starts_with("CPU implementer"));
    let mut flags = cpu_info.lines().filter(|l| l.starts_with("flags")).flat_map(str::split_whitespace);
    arm || flags.any(|flag| flag == "vmx" || flag == "svm")
}

/// The accelerator for this host, or the forced one. Fails if that cannot work.
pub fn accelerator(forced: Option<&str>) -> Result<Accelerator, Report> {
    let kvm_opens = fs::File::options().read(true).write(true).open("/dev/kvm");
    match forced {
        None | Some("auto") => {
            let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            Ok(choose(&cpu_info, kvm_opens.is_ok()))
        }
        Some("tcg") => Ok(Accelerator::Tcg),
        Some("kvm") => match kvm_opens {
            Ok(_) => Ok(Accelerator::Kvm),
            Err(e) => {
                Err(Report::new(Kind::Host, format!("accelerator is set to kvm, but /dev/kvm cannot be opened: {e}"))
                    .hint("load the module kvm_intel or kvm_amd, and join the group kvm")
                    .hint("or set accelerator to auto"))
            }
        },
        Some(other) => Err(Report::new(Kind::Config, format!("there is no accelerator {other:?} for QEMU"))
            .hint("take auto, kvm or tcg")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn kvm_needs_the_processor_and_the_device() {
        let intel = "processor : 0\nflags\t\t: fpu vmx sse\n";
        let amd = "flags\t\t: fpu svm\n";
        let bare = "flags\t\t: fpu vmxish sse\n";
        let arm = "processor : 0\nCPU implementer : 0x41\n";
        assert_eq!(choose(intel, true), Accelerator::Kvm);
        assert_eq!(choose(amd, true), Accelerator::Kvm);
        assert_eq!(choose(arm, true), Accelerator::Kvm);
        assert_eq!(choose(bare, true), Accelerator::Tcg);
        assert_eq!(choose(intel, false), Accelerator::Tcg);
        assert_eq!(choose("", true), Accelerator::Tcg);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let tmp = tempfile::tempdir().unwrap();
        let programs = Programs::new(tmp.path().as_os_str());
        let error = programs.find("vhost-device-vsock").unwrap_err();
        assert_eq!(error.kind, Kind::Host);
        assert!(error.hints[0].contains("vhost-device-vsock@0.3.0"), "{error:?}");
        let program = tmp.path().join("vhost-device-vsock");
        fs::write(&program, "").unwrap();
        assert!(programs.find("vhost-device-vsock").is_err(), "not executable");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(programs.find("vhost-device-vsock").unwrap(), program);
    }

    #[test]
    fn an_unknown_accelerator_is_refused() {
        assert_eq!(accelerator(Some("warp")).unwrap_err().kind, Kind::Config);
        assert_eq!(accelerator(Some("tcg")).unwrap(), Accelerator::Tcg);
    }
}
