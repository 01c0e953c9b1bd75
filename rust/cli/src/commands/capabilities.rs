//! `capabilities`: what this computer and this program support, with reasons. Needs neither settings nor a daemon.

use crate::{context::Environment, output};
use clap::Args;
use comfy_table::{Table, presets};
use dvn_config::{HostFacts, MIN_MEMORY, Size};
use dvn_hypervisor::Feature;
use dvn_types::{Arch, Report};
use serde::Serialize;

/// Flags of `capabilities`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix capabilities --json")]
pub struct Capabilities {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    version: &'static str,
    system: String,
    arch: &'static str,
    /// Backends that are compiled in.
    backends: &'static [&'static str],
    /// This host's backend, or why there is none.
    #[serde(flatten)]
    backend: Chosen,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Chosen {
    Backend(Backend),
    Error(Report),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend {
    name: &'static str,
    accelerator: &'static str,
    /// Architectures of guests, the fastest first.
    guests: Vec<Arch>,
    /// Smallest and largest.
    cores: (u32, u32),
    /// Smallest and largest, in bytes.
    memory: (u64, u64),
    features: Vec<Feature>,
}

impl Capabilities {
    /// Prints them. A missing backend is reported, but is not a failure.
    pub fn run(self) -> Result<(), Report> {
        let search_path = Environment::read()?.variable("PATH").unwrap_or_default().to_owned();
        let hypervisor = dvn_hypervisor::for_this_host(None, search_path.as_ref(), None);
        let shown = Shown {
            version: env!("CARGO_PKG_VERSION"),
            system: dvn_config::system(),
            arch: std::env::consts::ARCH,
            backends: dvn_hypervisor::BACKENDS,
            backend: match hypervisor {
                Ok(hypervisor) => Chosen::Backend(backend(hypervisor.capabilities(), &HostFacts::gather())),
                Err(report) => Chosen::Error(report),
            },
        };
        if self.json { output::print_json(&shown) } else { output::print(&text(&shown)) }
    }
}

/// Combines the limits of the backend, of the host and of this program's checks.
fn backend(can: &dvn_hypervisor::Capabilities, host: &HostFacts) -> Backend {
    Backend {
        name: can.backend,
        accelerator: can.accelerator,
        guests: can.archs.clone(),
        cores: (can.limits.cores.0.max(1), can.limits.cores.1.min(host.cores)),
        memory: (can.limits.memory.0.max(MIN_MEMORY), can.limits.memory.1.min(host.memory)),
        features: can.features.clone(),
    }
}

fn text(shown: &Shown) -> String {
    let mut text = format!("darwin-vz-nix {} on {}, {}\n", shown.version, shown.system, shown.arch);
    let backend = match &shown.backend {
        Chosen::Backend(backend) => backend,
        Chosen::Error(report) => {
            text.push_str(&format!("no backend: {}\n", report.message));
            text.extend(report.hints.iter().map(|hint| format!("  {hint}\n")));
            return text;
        }
    };
    let mebibytes = |bytes: u64| Size(bytes >> 20 << 20);
    let guests: Vec<&str> = backend.guests.iter().map(|arch| arch.as_str()).collect();
    let also: Vec<&str> = shown.backends.iter().copied().filter(|name| *name != backend.name).collect();
    let also = if also.is_empty() { String::new() } else { format!(" (also built in: {})", also.join(", ")) };
    for (name, value) in [
        ("backend", format!("{}{also}", backend.name)),
        ("accelerator", backend.accelerator.to_owned()),
        ("guests", if guests.is_empty() { "none".to_owned() } else { guests.join(", ") }),
        ("cores", format!("{} to {}", backend.cores.0, backend.cores.1)),
        ("memory", format!("{} to {}", mebibytes(backend.memory.0), mebibytes(backend.memory.1))),
    ] {
        text.push_str(&format!("{name:<12} {value}\n"));
    }
    text.push('\n');
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["FEATURE", "HERE", "WHY"]);
    for feature in &backend.features {
        table.add_row([feature.name, if feature.available { "yes" } else { "no" }, &feature.why]);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    text.extend(table.lines().map(|line| format!("{}\n", line.trim_end())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_hypervisor::Limits;
    use dvn_types::Kind;

    fn shown(backend: Chosen) -> Shown {
        Shown { version: "1.2.3", system: "macOS 15.1".to_owned(), arch: "aarch64", backends: &["vz"], backend }
    }

    fn on_a_mac() -> Backend {
        let feature = |name, available, why: &str| Feature { name, available, why: why.to_owned() };
        let can = dvn_hypervisor::Capabilities {
            backend: "vz",
            accelerator: "hvf",
            archs: vec![Arch::Aarch64],
            rosetta: false,
            nested: false,
            shares: true,
            pause: true,
            efi: Ok(()),
            display: Ok(()),
            forwards: Ok(()),
            suspend: Ok(vec![]),
            limits: Limits { cores: (1, 64), memory: (4 << 20, 8 << 30) },
            features: vec![
                feature("shares", true, "part of macOS"),
                feature("rosetta", false, "not installed; softwareupdate --install-rosetta"),
            ],
        };
        backend(&can, &HostFacts { cores: 8, memory: 16 << 30, arch: None, rosetta: true, nix: false })
    }

    #[test]
    fn the_narrowest_limits_count() {
        let backend = on_a_mac();
        assert_eq!((backend.cores, backend.memory), ((1, 8), (MIN_MEMORY, 8 << 30)));
    }

    #[test]
    fn every_feature_is_shown_with_its_reason() {
        insta::assert_snapshot!(text(&shown(Chosen::Backend(on_a_mac()))), @r"
        darwin-vz-nix 1.2.3 on macOS 15.1, aarch64
        backend      vz
        accelerator  hvf
        guests       aarch64
        cores        1 to 8
        memory       256M to 8G

        FEATURE  HERE  WHY
        shares   yes   part of macOS
        rosetta  no    not installed; softwareupdate --install-rosetta
        ");
    }

    #[test]
    fn a_missing_backend_is_shown_with_its_reason() {
        let shown = shown(Chosen::Error(Report::new(Kind::Host, "there is none").hint("build it with Xcode")));
        assert!(text(&shown).ends_with("no backend: there is none\n  build it with Xcode\n"), "{}", text(&shown));
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["error"]["message"], "there is none");
    }
}
