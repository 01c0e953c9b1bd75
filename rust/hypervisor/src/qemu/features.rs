//! What QEMU can do on this host, each with its reason, for display only. Decisions are made by [`super::probe`].

use super::probe::{self, Accelerator, Programs, VIRTIOFS, VSOCK};
use crate::capabilities::Feature;
use dvn_types::Arch;
use std::{fs, io};

/// What the kernel reports about KVM.
pub struct Kvm {
    /// `/proc/cpuinfo`.
    pub cpu_info: String,
    /// The result of opening `/dev/kvm` for reading and writing.
    pub opened: io::Result<()>,
    /// The parameter `nested` of the module, if it is loaded.
    pub nested: Option<String>,
}

impl Kvm {
    /// Reads them.
    pub fn ask() -> Kvm {
        let parameter = |module| fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).ok();
        Kvm {
            cpu_info: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            opened: fs::File::options().read(true).write(true).open("/dev/kvm").map(drop),
            nested: ["kvm_intel", "kvm_amd"].into_iter().find_map(parameter),
        }
    }

    fn feature(&self) -> Feature {
        let (available, why) = match (&self.opened, probe::offers_virtualization(&self.cpu_info)) {
            (Ok(()), true) => (true, "the processor offers virtualization, and /dev/kvm opens".to_owned()),
            (Ok(()), false) => {
                (false, "/dev/kvm opens, but the processor does not offer virtualization (no vmx, no svm)".to_owned())
            }
            (Err(e), true) => (false, format!("the processor offers virtualization, but /dev/kvm does not open: {e}")),
            (Err(_), false) => (false, "the processor does not offer virtualization (no vmx, no svm)".to_owned()),
        };
        Feature { name: "kvm", available, why }
    }

    /// Whether guests can run virtual machines, with the reason.
    pub fn nesting(&self, accelerator: Accelerator) -> Result<&'static str, &'static str> {
        let on = self.nested.as_deref().is_some_and(|value| ["Y", "1"].contains(&value.trim()));
        match (accelerator, on) {
            (Accelerator::Tcg, _) => Err("guests are emulated without kvm"),
            (Accelerator::Kvm, true) => Ok("the host's kvm module has it enabled"),
            (Accelerator::Kvm, false) => Err("the host's kvm module has it disabled, or does not support it"),
        }
    }
}

/// All features, basic ones first.
pub fn all(programs: &Programs, accelerator: Accelerator, kvm: &Kvm) -> Vec<Feature> {
    let program = |name: &'static str, of: &str| match programs.find(of) {
        Ok(path) => Feature { name, available: true, why: path.display().to_string() },
        Err(report) => Feature { name, available: false, why: format!("{of} is missing; {}", report.hints.join("; ")) },
    };
    let guests = |arch: Arch, name: &'static str| {
        let mut feature = program(name, &probe::system_emulator(arch));
        if feature.available {
            let native = Arch::host() == Some(arch) && accelerator == Accelerator::Kvm;
            feature.why.push_str(if native { ", with kvm" } else { ", emulated by tcg: slow" });
        }
        feature
    };
    let nesting = kvm.nesting(accelerator);
    let never = |name, why: &str| Feature { name, available: false, why: why.to_owned() };
    vec![
        kvm.feature(),
        guests(Arch::X86_64, "x86_64-guests"),
        guests(Arch::Aarch64, "aarch64-guests"),
        efi(programs),
        program("vsock", VSOCK),
        program("shares", VIRTIOFS),
        program("helpers-end-with-us", "setpriv"),
        never("rosetta", "it is part of macOS"),
        Feature {
            name: "nested-virtualization",
            available: nesting.is_ok(),
            why: nesting.unwrap_or_else(|why| why).to_owned(),
        },
        Feature {
            name: "save-restore",
            available: true,
            why: "machines that boot by EFI, without shares and NVMe disks".to_owned(),
        },
        Feature { name: "display", available: true, why: "QEMU takes screenshots".to_owned() },
    ]
}

/// Firmware for guests of the host's own architecture.
fn efi(programs: &Programs) -> Feature {
    let name = "efi-boot";
    match Arch::host().map(|arch| programs.firmware(arch)) {
        Some(Ok(firmware)) => Feature { name, available: true, why: firmware.code.display().to_string() },
        Some(Err(report)) => {
            Feature { name, available: false, why: format!("firmware is missing; {}", report.hints.join("; ")) }
        }
        None => Feature { name, available: false, why: "this computer's architecture has no firmware here".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kvm(flags: &str, opened: io::Result<()>, nested: Option<&str>) -> Kvm {
        Kvm { cpu_info: format!("flags : fpu {flags}\n"), opened, nested: nested.map(str::to_owned) }
    }

    #[test]
    fn the_reason_against_kvm_is_the_one_that_counts() {
        let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
        let both = kvm("vmx", Ok(()), None).feature();
        assert!(both.available, "{both:?}");
        for (kvm, reason) in [
            (kvm("vmx", missing(), None), "/dev/kvm does not open: entity not found"),
            (kvm("sse", Ok(()), None), "/dev/kvm opens, but the processor"),
            (kvm("sse", missing(), None), "the processor does not offer"),
        ] {
            let feature = kvm.feature();
            assert!(!feature.available && feature.why.contains(reason), "{feature:?}");
        }
    }

    #[test]
    fn nesting_needs_kvm_and_its_parameter() {
        for (accelerator, parameter, available) in [
            (Accelerator::Kvm, Some("Y\n"), true),
            (Accelerator::Kvm, Some("1\n"), true),
            (Accelerator::Kvm, Some("N\n"), false),
            (Accelerator::Kvm, None, false),
            (Accelerator::Tcg, Some("Y\n"), false),
        ] {
            let nesting = kvm("vmx", Ok(()), parameter).nesting(accelerator);
            assert_eq!(nesting.is_ok(), available, "{accelerator:?} {parameter:?}: {nesting:?}");
        }
    }

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        let tmp = tempfile::tempdir().unwrap();
        let features = all(&Programs::new(tmp.path().as_os_str()), Accelerator::Tcg, &kvm("", Ok(()), None));
        let vsock = features.iter().find(|feature| feature.name == "vsock").unwrap();
        assert!(!vsock.available, "{vsock:?}");
        assert!(vsock.why.starts_with("vhost-device-vsock is missing; install it: cargo install"), "{vsock:?}");
    }
}
