//! What a backend can do on this host.

use crate::{
    disks::Bus,
    spec::{Boot, MachineSpec},
};
use dvn_types::{Arch, Kind, Report};
use serde::Serialize;

/// What a backend can do on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name: `qemu`, `vz`.
    pub backend: &'static str,
    /// How guest code is executed: `kvm`, `tcg`, `hvf`, …
    pub accelerator: &'static str,
    /// Guests it can boot, the host's own first.
    pub archs: Vec<Arch>,
    /// x86_64 programs run in an aarch64 guest through Rosetta.
    pub rosetta: bool,
    /// Guests can run virtual machines themselves.
    pub nested: bool,
    /// Host directories can be shared over VirtioFS.
    pub shares: bool,
    /// Guests can stand still and go on: [`Guest::pause`](crate::Guest::pause), [`Guest::resume`](crate::Guest::resume).
    pub pause: bool,
    /// Guests can boot by EFI firmware: [`Boot::Efi`]; if not, why.
    pub efi: Result<(), String>,
    /// Guests can have a screen that [`Guest::display`](crate::Guest::display) shows; if not, why.
    pub display: Result<(), String>,
    /// Guests can be saved and go on later: [`Guest::suspend`](crate::Guest::suspend),
    /// [`Hypervisor::restore`](crate::Hypervisor::restore). All but those with one of these parts, with the reason; or none, and why.
    pub suspend: Result<Vec<(Part, &'static str)>, String>,
    /// Sizes of a guest that the backend accepts.
    pub limits: Limits,
    /// What it can do and cannot, with reasons, for people to read; nothing is decided by this.
    pub features: Vec<Feature>,
}

/// Smallest and largest, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Virtual processors.
    pub cores: (u32, u32),
    /// Memory in bytes.
    pub memory: (u64, u64),
}

/// Something that a backend may be able to do on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name, in words with dashes.
    pub name: &'static str,
    /// It works here.
    pub available: bool,
    /// Why so, and if it does not work, what would help.
    pub why: String,
}

/// What a machine may have that hinders its being saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [`Boot::Linux`].
    Kernel,
    /// A vsock device.
    Vsock,
    /// A directory of the host.
    Share,
    /// A disk at [`Bus::Nvme`].
    Nvme,
}

impl Part {
    /// The machine has it.
    fn is_in(self, spec: &MachineSpec) -> bool {
        match self {
            Part::Kernel => matches!(spec.boot, Boot::Linux { .. }),
            Part::Vsock => spec.devices.vsock,
            Part::Share => !spec.devices.shares.is_empty() || spec.devices.rosetta,
            Part::Nvme => spec.disks().any(|disk| disk.bus == Bus::Nvme),
        }
    }
}

impl Capabilities {
    /// Refuses to save, or to have go on, a guest of a machine that cannot be saved.
    pub fn admit_suspend(&self, spec: &MachineSpec) -> Result<(), Report> {
        let hindrances = self.suspend.as_ref().map_err(|why| cannot_suspend(self.backend, why))?;
        match hindrances.iter().find(|(part, _)| part.is_in(spec)) {
            Some((_, why)) => Err(cannot_suspend(self.backend, why)),
            None => Ok(()),
        }
    }

    /// Refuses a way to begin and devices that no guest can have here.
    pub fn admit_machine(&self, spec: &MachineSpec) -> Result<(), Report> {
        if let (Boot::Efi { .. }, Err(why)) = (&spec.boot, &self.efi) {
            return Err(Report::new(Kind::Host, format!("no guest can boot by EFI here: {why}")));
        }
        if let (Some(_), Err(why)) = (spec.devices.display, &self.display) {
            return Err(Report::new(Kind::Host, format!("a guest can have no screen here: {why}"))
                .hint("leave the display out"));
        }
        Ok(())
    }
}

/// A guest cannot be saved, or go on from a saved state.
pub(crate) fn cannot_suspend(backend: &str, why: &str) -> Report {
    Report::new(Kind::Host, format!("the backend {backend} cannot suspend this guest: {why}"))
        .hint("stop it instead: it boots anew then")
}

/// A guest cannot be given what virtual machines of its own need.
pub(crate) fn cannot_nest(why: &str) -> Report {
    Report::new(Kind::Host, format!("a guest cannot run virtual machines here: {why}"))
        .hint("set nested-virtualization to false; builds that need the feature kvm need another builder")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Devices, Screen, Share};

    fn can(suspend: Result<Vec<(Part, &'static str)>, String>) -> Capabilities {
        Capabilities {
            backend: "test",
            accelerator: "none",
            archs: vec![],
            rosetta: true,
            nested: false,
            shares: true,
            pause: true,
            efi: Err("there is no firmware".into()),
            display: Err("nothing shows it".into()),
            suspend,
            limits: Limits { cores: (1, 1), memory: (0, 1) },
            features: vec![],
        }
    }

    fn machine(change: impl FnOnce(&mut Devices)) -> MachineSpec {
        let mut devices = Devices::default();
        change(&mut devices);
        MachineSpec { boot: Boot::Efi { variables: "/v".into() }, devices, ..MachineSpec::sample() }
    }

    #[test]
    fn what_hinders_a_suspension_is_told_with_its_reason() {
        let parts = [(Part::Kernel, "kernel"), (Part::Vsock, "vsock"), (Part::Share, "share"), (Part::Nvme, "nvme")];
        let can_some = can(Ok(parts.to_vec()));
        assert_eq!(can_some.admit_suspend(&machine(|_| {})), Ok(()));
        let share = Share { tag: "t".into(), path: "/".into(), read_only: true };
        let nvme = crate::disks::SystemDisk { bus: Bus::Nvme, ..crate::disks::SystemDisk::new("/d", false) };
        for (spec, why) in [
            (MachineSpec { devices: Devices::default(), ..MachineSpec::sample() }, "kernel"),
            (machine(|devices| devices.vsock = true), "vsock"),
            (machine(|devices| devices.shares = vec![share]), "share"),
            (machine(|devices| devices.rosetta = true), "share"),
            (machine(|devices| devices.disks = vec![nvme]), "nvme"),
        ] {
            let refusal = can_some.admit_suspend(&spec).unwrap_err();
            assert!(refusal.kind == Kind::Host && refusal.message.ends_with(why), "{refusal:?}");
            assert_eq!(can(Ok(vec![])).admit_suspend(&spec), Ok(()));
        }
        let refusal = can(Err("macOS is too old".into())).admit_suspend(&machine(|_| {})).unwrap_err();
        assert!(refusal.message.ends_with("macOS is too old") && !refusal.hints.is_empty(), "{refusal:?}");
    }

    #[test]
    fn what_no_guest_can_have_is_refused() {
        let can = can(Ok(vec![]));
        assert_eq!(can.admit_machine(&MachineSpec::sample()), Ok(()));
        assert!(can.admit_machine(&machine(|_| {})).unwrap_err().message.ends_with("there is no firmware"));
        let mut shown = MachineSpec::sample();
        shown.devices.display = Some(Screen { width: 1, height: 1 });
        assert!(can.admit_machine(&shown).unwrap_err().message.ends_with("nothing shows it"));
    }
}
