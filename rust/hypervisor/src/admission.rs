//! Checks a machine's settings against a backend's capabilities before anything is created. A boot fails by these
//! checks; `doctor` reports them.

use super::capabilities::{Capabilities, cannot_nest};
use dvn_types::{Arch, Kind, Report};

/// What a machine's settings require of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    /// Processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The guest must be able to run virtual machines.
    pub nested: bool,
}

impl Capabilities {
    /// Refuses sizes outside of the backend's limits.
    pub fn admit_sizes(&self, requirements: &Requirements) -> Result<(), Report> {
        let (fewest, most) = self.limits.cores;
        if !(fewest..=most).contains(&requirements.cores) {
            let message = format!("cores is {}, but {} supports {fewest} to {most}", requirements.cores, self.backend);
            return Err(Report::new(Kind::Config, message).hint(format!("set cores to {fewest} to {most}")));
        }
        let (least, greatest) = self.limits.memory;
        if !(least..=greatest).contains(&requirements.memory) {
            let [least, greatest, given] = [least, greatest, requirements.memory].map(|bytes| bytes >> 20);
            let message = format!("memory is {given}M, but {} supports {least}M to {greatest}M", self.backend);
            return Err(Report::new(Kind::Config, message).hint(format!("set memory to {least}M to {greatest}M")));
        }
        Ok(())
    }

    /// Refuses nested virtualization where guests of this architecture cannot have it.
    pub fn admit_nesting(&self, requirements: &Requirements, arch: Arch) -> Result<(), Report> {
        match self.nesting(arch) {
            Err(why) if requirements.nested => Err(cannot_nest(&why)),
            _ => Ok(()),
        }
    }

    /// Whether guests of this architecture can run virtual machines; the error says why not.
    fn nesting(&self, arch: Arch) -> Result<(), String> {
        if !self.nested {
            let feature = self.features.iter().find(|feature| feature.name == "nested-virtualization");
            let unknown = || format!("the backend {} does not offer it", self.backend);
            return Err(feature.map_or_else(unknown, |feature| feature.why.clone()));
        }
        if Arch::host() != Some(arch) {
            return Err(format!("{arch} guests are emulated on this computer"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::{Feature, Limits};

    fn can(nested: bool) -> Capabilities {
        let why = "the host's kvm module has it disabled".to_owned();
        Capabilities {
            backend: "qemu",
            accelerator: "kvm",
            archs: vec![],
            rosetta: false,
            nested,
            shares: true,
            pause: true,
            efi: Ok(()),
            display: Ok(()),
            forwards: Ok(()),
            suspend: Ok(vec![]),
            limits: Limits { cores: (1, 8), memory: (64 << 20, 8 << 30) },
            features: vec![Feature { name: "nested-virtualization", available: nested, why }],
        }
    }

    #[test]
    fn what_no_boot_can_give_is_refused_with_the_setting() {
        let requirements = Requirements { cores: 8, memory: 8 << 30, nested: false };
        assert!(can(false).admit_sizes(&requirements).is_ok());
        for (requirements, setting) in [
            (Requirements { cores: 9, ..requirements }, "cores"),
            (Requirements { cores: 0, ..requirements }, "cores"),
            (Requirements { memory: 1 << 20, ..requirements }, "memory"),
            (Requirements { memory: 9 << 30, ..requirements }, "memory"),
        ] {
            let refusal = can(false).admit_sizes(&requirements).unwrap_err();
            assert_eq!(refusal.kind, Kind::Config);
            assert!(refusal.message.starts_with(setting) && refusal.hints[0].contains(setting), "{refusal:?}");
        }
    }

    #[test]
    fn virtual_machines_in_a_guest_are_refused_where_there_can_be_none() {
        let host = Arch::host().unwrap();
        let other = if host == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let requirements = Requirements { cores: 1, memory: 1 << 30, nested: true };
        let refusal = |can: Capabilities, arch| can.admit_nesting(&requirements, arch).err();
        assert_eq!(refusal(can(true), host), None);
        assert_eq!(can(false).admit_nesting(&Requirements { nested: false, ..requirements }, other), Ok(()));
        for (refusal, why) in [(refusal(can(false), host), "has it disabled"), (refusal(can(true), other), "emulated")]
        {
            let refusal = refusal.unwrap();
            assert!(refusal.kind == Kind::Host && refusal.message.contains(why), "{refusal}");
            assert!(refusal.hints[0].contains("nested-virtualization"), "{refusal:?}");
        }
    }
}
