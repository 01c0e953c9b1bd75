//! What a backend cannot give a guest, said before anything is made for it. A boot refuses by this, and `doctor` shows it.

use super::capabilities::{Capabilities, cannot_nest};
use dvn_types::{Arch, Kind, Report};

/// What a machine's settings want of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The guest is to run virtual machines.
    pub nested: bool,
}

impl Capabilities {
    /// Refuses sizes that the backend does not take.
    pub fn admit_sizes(&self, wish: &Wish) -> Result<(), Report> {
        let (fewest, most) = self.limits.cores;
        if !(fewest..=most).contains(&wish.cores) {
            let message = format!("cores is {}, and {} gives a guest {fewest} to {most}", wish.cores, self.backend);
            return Err(Report::new(Kind::Config, message).hint(format!("set cores to {fewest} to {most}")));
        }
        let (least, greatest) = self.limits.memory;
        if !(least..=greatest).contains(&wish.memory) {
            let [least, greatest, wished] = [least, greatest, wish.memory].map(|bytes| bytes >> 20);
            let message = format!("memory is {wished}M, and {} gives a guest {least}M to {greatest}M", self.backend);
            return Err(Report::new(Kind::Config, message).hint(format!("set memory to {least}M to {greatest}M")));
        }
        Ok(())
    }

    /// Refuses virtual machines in a guest of this architecture where the guest could have none.
    pub fn admit_nesting(&self, wish: &Wish, arch: Arch) -> Result<(), Report> {
        match self.nesting(arch) {
            Err(why) if wish.nested => Err(cannot_nest(&why)),
            _ => Ok(()),
        }
    }

    /// Whether guests of this architecture can run virtual machines, and why not.
    fn nesting(&self, arch: Arch) -> Result<(), String> {
        if !self.nested {
            let feature = self.features.iter().find(|feature| feature.name == "nested-virtualization");
            let unknown = || format!("the backend {} does not offer it", self.backend);
            return Err(feature.map_or_else(unknown, |feature| feature.why.clone()));
        }
        if Arch::host() != Some(arch) {
            return Err(format!("an {arch} guest is translated on this computer"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::{Feature, Limits};

    fn can(nested: bool) -> Capabilities {
        let why = "the host's kvm module has it off".to_owned();
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
            suspend: Ok(vec![]),
            limits: Limits { cores: (1, 8), memory: (64 << 20, 8 << 30) },
            features: vec![Feature { name: "nested-virtualization", available: nested, why }],
        }
    }

    #[test]
    fn what_no_boot_can_give_is_refused_with_the_setting() {
        let wish = Wish { cores: 8, memory: 8 << 30, nested: false };
        assert!(can(false).admit_sizes(&wish).is_ok());
        for (wish, setting) in [
            (Wish { cores: 9, ..wish }, "cores"),
            (Wish { cores: 0, ..wish }, "cores"),
            (Wish { memory: 1 << 20, ..wish }, "memory"),
            (Wish { memory: 9 << 30, ..wish }, "memory"),
        ] {
            let refusal = can(false).admit_sizes(&wish).unwrap_err();
            assert_eq!(refusal.kind, Kind::Config);
            assert!(refusal.message.starts_with(setting) && refusal.hints[0].contains(setting), "{refusal:?}");
        }
    }

    #[test]
    fn virtual_machines_in_a_guest_are_refused_where_there_can_be_none() {
        let host = Arch::host().unwrap();
        let other = if host == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let wish = Wish { cores: 1, memory: 1 << 30, nested: true };
        let refusal = |can: Capabilities, arch| can.admit_nesting(&wish, arch).err();
        assert_eq!(refusal(can(true), host), None);
        assert_eq!(can(false).admit_nesting(&Wish { nested: false, ..wish }, other), Ok(()));
        for (refusal, why) in [(refusal(can(false), host), "has it off"), (refusal(can(true), other), "translated")] {
            let refusal = refusal.unwrap();
            assert!(refusal.kind == Kind::Host && refusal.message.contains(why), "{refusal}");
            assert!(refusal.hints[0].contains("nested-virtualization"), "{refusal:?}");
        }
    }
}
