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
    /// What executes guest code: `kvm`, `tcg`, `hvf`, …
    pub accelerator: &'static str,
    /// Architectures of guests that it can boot, the host's own first.
    pub archs: Vec<Arch>,
    /// aarch64 guests can run x86_64 programs through Rosetta.
    pub rosetta: bool,
    /// Guests can run virtual machines themselves.
    pub nested: bool,
    /// Host directories can be shared over VirtioFS.
    pub shares: bool,
    /// Guests can be paused: [`Guest::pause`](crate::Guest::pause), [`Guest::resume`](crate::Guest::resume).
    pub pause: bool,
    /// Guests can boot by EFI firmware: [`Boot::Efi`]. The error says why not.
    pub efi: Result<(), String>,
    /// Guests can have a screen for [`Guest::display`](crate::Guest::display). The error says why not.
    pub display: Result<(), String>,
    /// Ports of the host can lead to the guest: [`Devices::forwards`](crate::spec::Devices::forwards). The error says why not.
    pub forwards: Result<(), String>,
    /// Guests can be suspended and restored: [`Guest::suspend`](crate::Guest::suspend),
    /// [`Hypervisor::restore`](crate::Hypervisor::restore). The list has the parts that prevent it for a machine, each
    /// with the reason. The error says why no guest can be suspended.
    pub suspend: Result<Vec<(Part, &'static str)>, String>,
    /// Sizes of a guest that the backend accepts.
    pub limits: Limits,
    /// What works here and what does not, with reasons, for display only; no code decides by it.
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

/// A feature that a backend may have on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name, in words with dashes.
    pub name: &'static str,
    /// It works here.
    pub available: bool,
    /// The reason; if it does not work, also what would help.
    pub why: String,
}

/// A part of a machine that can prevent suspending it.
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
    /// Whether the machine has this part.
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
    /// Refuses to suspend or restore a machine that the backend cannot save.
    pub fn admit_suspend(&self, spec: &MachineSpec) -> Result<(), Report> {
        let obstacles = self.suspend.as_ref().map_err(|why| cannot_suspend(self.backend, why))?;
        match obstacles.iter().find(|(part, _)| part.is_in(spec)) {
            Some((_, why)) => Err(cannot_suspend(self.backend, why)),
            None => Ok(()),
        }
    }

    /// Refuses a boot method and devices that no guest can have here.
    pub fn admit_machine(&self, spec: &MachineSpec) -> Result<(), Report> {
        if let (Boot::Efi { .. }, Err(why)) = (&spec.boot, &self.efi) {
            return Err(Report::new(Kind::Host, format!("guests cannot boot by EFI here: {why}")));
        }
        if let (Some(_), Err(why)) = (spec.devices.display, &self.display) {
            return Err(Report::new(Kind::Host, format!("guests cannot have a screen here: {why}"))
                .hint("leave the display out"));
        }
        if let (Some(_), Err(why)) = (spec.devices.forwards.first(), &self.forwards) {
            return Err(Report::new(Kind::Host, format!("no port of this host can lead to a guest: {why}"))
                .hint("connect to the guest's own address: darwin-vz-nix ip NAME"));
        }
        Ok(())
    }
}

/// The error for a guest that cannot be suspended or restored.
pub(crate) fn cannot_suspend(backend: &str, why: &str) -> Report {
    Report::new(Kind::Host, format!("the backend {backend} cannot suspend this guest: {why}"))
        .hint("stop it instead; it boots again at the next start")
}

/// The error for a guest that cannot run virtual machines.
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
            forwards: Err("there is no network".into()),
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
    fn an_obstacle_to_suspending_is_reported_with_its_reason() {
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
