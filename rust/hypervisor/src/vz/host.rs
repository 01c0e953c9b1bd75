//! What Virtualization can do with this computer and version of macOS.

use super::bridge;
use crate::{
    capabilities::{Feature, Limits, Part, cannot_nest},
    spec::MachineSpec,
};
use dvn_types::{Arch, Kind, Report};
use serde::{Deserialize, Serialize};

/// The requirements of nested virtualization.
const NESTING: &str = "it needs an M3 or newer, and macOS 15";

/// Rosetta for Linux guests on this Mac.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", from = "i64")]
pub enum Rosetta {
    /// This Mac does not support it.
    NotSupported,
    /// It is available, but not installed.
    NotInstalled,
    /// Guests can use it.
    Installed,
}

impl From<i64> for Rosetta {
    /// Apple's numbers (`VZLinuxRosettaAvailability`).
    fn from(availability: i64) -> Rosetta {
        match availability {
            1 => Rosetta::NotInstalled,
            2 => Rosetta::Installed,
            _ => Rosetta::NotSupported,
        }
    }
}

/// The report of `swift/Sources/DarwinVzShim/Capabilities.swift`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// This Mac can run virtual machines.
    pub supported: bool,
    /// The version of macOS.
    pub system: [u32; 3],
    /// Rosetta for guests.
    pub rosetta: Rosetta,
    /// Guests can run virtual machines themselves.
    pub nested: bool,
    /// Fewest and most processors of a guest.
    pub cpus: [u32; 2],
    /// Least and most memory of a guest, in bytes.
    pub memory: [u64; 2],
}

impl Host {
    /// Queries the system.
    pub fn ask() -> Result<Host, Report> {
        serde_json::from_str(&bridge::capabilities())
            .map_err(|e| Report::new(Kind::Internal, format!("the shim did not report what this host can do: {e}")))
    }

    /// Whether machines can be saved and restored at all. A machine's configuration may still prevent it.
    pub fn saves(&self) -> bool {
        self.system[0] >= 14
    }

    /// Which machines can be suspended. The system checks each configuration in addition.
    pub fn suspends(&self) -> Result<Vec<(Part, &'static str)>, String> {
        let [major, minor, patch] = self.system;
        match self.saves() {
            true => Ok(vec![(Part::Share, "macOS does not save a guest with shares")]),
            false => Err(format!("it needs macOS 14, and this is macOS {major}.{minor}.{patch}")),
        }
    }

    /// Limits for a guest's sizes.
    pub fn limits(&self) -> Limits {
        Limits { cores: self.cpus.into(), memory: self.memory.into() }
    }

    /// What works here and what does not, for display only.
    pub fn features(&self) -> Vec<Feature> {
        let feature = |name, available, yes: &str, no: &str| {
            let why = if available { yes } else { no };
            Feature { name, available, why: why.to_owned() }
        };
        let [major, minor, patch] = self.system;
        let system = format!("this is macOS {major}.{minor}.{patch}");
        let rosetta = match self.rosetta {
            Rosetta::Installed => "it is installed",
            Rosetta::NotInstalled => "it is not installed; softwareupdate --install-rosetta --agree-to-license",
            Rosetta::NotSupported => "this computer has no Rosetta for Linux guests",
        };
        vec![
            feature(
                "virtualization",
                self.supported,
                "macOS offers it",
                "macOS refuses it, as it does inside most virtual machines",
            ),
            feature("shares", true, "part of macOS", ""),
            feature("rosetta", self.rosetta == Rosetta::Installed, rosetta, rosetta),
            feature("nested-virtualization", self.nested, "the processor and macOS offer it", NESTING),
            feature("efi-boot", true, "part of macOS", ""),
            feature("display", false, "", "macOS shows a guest's screen only in a window, and this program has none"),
            feature("save-restore", self.saves(), &system, &format!("needs macOS 14, and {system}")),
        ]
    }

    /// Refuses what cannot work, with clearer errors than the framework's.
    pub fn check(&self, spec: &MachineSpec) -> Result<(), Report> {
        let host = |what: String| Report::new(Kind::Host, what);
        if !self.supported {
            return Err(host("this computer cannot run virtual machines".into())
                .hint("a Mac inside a virtual machine cannot, unless its host offers nested virtualization"));
        }
        if Arch::host() != Some(spec.arch) {
            return Err(host(format!(
                "Virtualization runs only guests of this computer's architecture, and this one is for {}",
                spec.arch
            ))
            .hint("set bundle to one for this computer's architecture"));
        }
        let [fewest, most] = self.cpus;
        if !(fewest..=most).contains(&spec.cores) {
            return Err(Report::new(
                Kind::Config,
                format!("a guest here can have {fewest} to {most} cores, not {}", spec.cores),
            )
            .hint(format!("set cores to {most} or fewer")));
        }
        let [least, greatest] = self.memory;
        if !(least..=greatest).contains(&spec.memory) {
            let mib = |bytes: u64| bytes >> 20;
            return Err(Report::new(
                Kind::Config,
                format!(
                    "a guest here can have {} to {} MiB of memory, not {}",
                    mib(least),
                    mib(greatest),
                    mib(spec.memory)
                ),
            )
            .hint(format!("set memory to {} or less", mib(greatest))));
        }
        if spec.devices.nested && !self.nested {
            return Err(cannot_nest(NESTING));
        }
        match self.rosetta {
            _ if !spec.devices.rosetta => Ok(()),
            Rosetta::Installed => Ok(()),
            Rosetta::NotInstalled => Err(host("Rosetta is not installed on this Mac".into())
                .hint("install it: softwareupdate --install-rosetta --agree-to-license")
                .hint("or set rosetta to false")),
            Rosetta::NotSupported => Err(host("this computer has no Rosetta for Linux guests".into())
                .hint("set rosetta to false; x86_64 builds need another builder")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_is_reported_with_its_reason() {
        let old = Host {
            supported: true,
            system: [13, 6, 1],
            rosetta: Rosetta::NotInstalled,
            nested: false,
            cpus: [1, 8],
            memory: [4 << 20, 8 << 30],
        };
        let why = |host: &Host, name| {
            let features = host.features();
            let feature = features.iter().find(|feature| feature.name == name).unwrap();
            (feature.available, feature.why.clone())
        };
        assert_eq!(why(&old, "save-restore"), (false, "needs macOS 14, and this is macOS 13.6.1".to_owned()));
        assert!(why(&old, "rosetta").1.contains("softwareupdate --install-rosetta"));
        let new = Host { system: [14, 0, 0], rosetta: Rosetta::Installed, ..old };
        assert_eq!(why(&new, "save-restore"), (true, "this is macOS 14.0.0".to_owned()));
        assert!(why(&new, "rosetta").0);
        assert_eq!(new.limits(), Limits { cores: (1, 8), memory: (4 << 20, 8 << 30) });
    }
}
