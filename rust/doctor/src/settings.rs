//! The settings, checked against this computer.

use super::{
    finding::Finding,
    needs,
    subject::{Observer, Subject},
};
use dvn_config::{HardwareConfig, Size};
use dvn_hypervisor::Capabilities;
use dvn_types::{
    Arch, Kind, Report,
    wire::{BackendView, FeatureView},
};

/// The check `settings`.
pub async fn settings(subject: &Subject) -> Finding {
    match &subject.settings {
        Ok(settings) => {
            let hardware = &settings.hardware;
            if let Some(Err(report)) =
                subject.capabilities.as_ref().ok().map(|can| can.admit_sizes(&hardware.requirements()))
            {
                return report.into();
            }
            let (memory, disk) = (Size(hardware.memory), Size(settings.builder.disk_size));
            let cores = if hardware.cores == 1 { "1 core".to_owned() } else { format!("{} cores", hardware.cores) };
            Finding::ok(format!("{cores}, {memory} of memory, a disk of {disk}"))
        }
        Err(report) => report.clone().into(),
    }
}

/// The check `nested`.
pub async fn nested(subject: &Subject) -> Finding {
    let hardware = match needs::settings(subject) {
        Ok(settings) => &settings.hardware,
        Err(finding) => return finding,
    };
    // Another check reports a bad bundle. Assume the host's own architecture then.
    let arch = super::opened_bundle::fit(subject).await.map(|bundle| bundle.arch).or(Arch::host());
    judge_nested(hardware, &subject.capabilities, arch)
}

fn judge_nested(hardware: &HardwareConfig, capabilities: &Result<Capabilities, Report>, arch: Option<Arch>) -> Finding {
    if !hardware.nested {
        return Finding::not_applicable("the machine does not use it");
    }
    let (Ok(can), Some(arch)) = (capabilities, arch) else {
        return Finding::not_applicable("nothing runs guests here: see the check backend");
    };
    can.admit_nesting(&hardware.requirements(), arch)
        .map_or_else(Finding::from, |()| Finding::ok("guests can run virtual machines"))
}

/// The check `backend`.
pub async fn backend(subject: &Subject) -> Finding {
    match needs::settings(subject) {
        Ok(settings) => judge_backend(&subject.backend, settings.builder.share_store, subject.observer),
        Err(finding) => finding,
    }
}

/// No guest boots without these, whatever the backend.
const NEEDED: [&str; 3] = ["virtualization", "vsock", "helpers-end-with-us"];

fn judge_backend(backend: &Result<BackendView, Report>, share_store: bool, observer: Observer) -> Finding {
    let can = match backend {
        Ok(can) => can,
        Err(report) => return report.clone().into(),
    };
    let is_needed =
        |feature: &&FeatureView| NEEDED.contains(&feature.name.as_str()) || share_store && feature.name == "shares";
    let missing: Vec<_> = can.features.iter().filter(is_needed).filter(|feature| !feature.available).collect();
    let (whose, looked) = match observer {
        Observer::Daemon => ("the running daemon", "the running daemon, whose search path is"),
        Observer::Command => (
            "this command",
            "this command, as no daemon runs (a daemon's search path may differ), with the search path",
        ),
    };
    let looked = format!("this was found by {looked} {}", can.search_path);
    let guests: Vec<_> = can.guests.iter().map(|arch| arch.as_str()).collect();
    if let Some(first) = missing.first() {
        return missing
            .iter()
            .fold(
                Finding::failed(Kind::Host, format!("the backend {} lacks {}", can.backend, first.name)),
                |finding, feature| finding.hint(format!("{}: {}", feature.name, feature.why)),
            )
            .hint(looked);
    }
    if guests.is_empty() {
        return Finding::failed(Kind::Host, format!("the backend {} boots no guests here", can.backend))
            .hint("see why: `darwin-vz-nix capabilities`; restart a running daemon to make it find programs that were installed later")
            .hint(looked);
    }
    let guests = guests.join(" and ");
    Finding::ok(format!("{} with {}, for {guests} guests, as found by {whose}", can.backend, can.accelerator))
}

/// The check `rosetta`.
pub async fn rosetta(subject: &Subject) -> Finding {
    match needs::settings(subject) {
        Ok(settings) => judge_rosetta(settings.builder.rosetta, &subject.backend),
        Err(finding) => finding,
    }
}

fn judge_rosetta(wanted: bool, backend: &Result<BackendView, Report>) -> Finding {
    if !wanted {
        return Finding::not_applicable("the machine does not use it");
    }
    let Ok(can) = backend else {
        return Finding::not_applicable("nothing runs guests here: see the check backend");
    };
    match can.features.iter().find(|feature| feature.name == "rosetta") {
        Some(feature) if feature.available => Finding::ok(feature.why.clone()),
        Some(feature) => Finding::failed(Kind::Host, format!("the machine uses it, but {}", feature.why))
            .hint("install it, or set rosetta to false"),
        None => Finding::failed(Kind::Host, format!("the machine uses it, but the backend {} has none", can.backend))
            .hint("set rosetta to false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_hypervisor::{Feature, Limits};
    use dvn_types::Arch;

    fn can(features: &[(&str, bool)]) -> Result<BackendView, Report> {
        let feature = |(name, available): &(&str, bool)| FeatureView {
            name: (*name).to_owned(),
            available: *available,
            why: if *available { "it is installed".to_owned() } else { "it is missing; install it".to_owned() },
        };
        Ok(BackendView {
            backend: "vz".to_owned(),
            accelerator: "hvf".to_owned(),
            guests: vec![Arch::Aarch64],
            features: features.iter().map(feature).collect(),
            search_path: "/a:/b".to_owned(),
        })
    }

    #[test]
    fn a_backend_needs_what_boots_a_guest_and_the_rest_is_no_fault() {
        let fine =
            can(&[("virtualization", true), ("vsock", true), ("shares", false), ("nested-virtualization", false)]);
        let found = "vz with hvf, for aarch64 guests, as found by";
        assert_eq!(judge_backend(&fine, false, Observer::Daemon), Finding::ok(format!("{found} the running daemon")));
        assert_eq!(judge_backend(&fine, false, Observer::Command), Finding::ok(format!("{found} this command")));
        let finding = judge_backend(&fine, true, Observer::Daemon);
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Host)));
        assert_eq!(finding.hints[0], "shares: it is missing; install it");
        assert_eq!(finding.hints[1], "this was found by the running daemon, whose search path is /a:/b");
        let finding = judge_backend(&can(&[("vsock", false)]), false, Observer::Command);
        assert_eq!(finding.evidence, "the backend vz lacks vsock");
        assert!(finding.hints[1].contains("this command, as no daemon runs"), "{finding:?}");
        let none = judge_backend(&Err(Report::new(Kind::Config, "built without it")), false, Observer::Command);
        assert_eq!((none.outcome, none.kind), (Outcome::Failed, Some(Kind::Config)));
    }

    #[test]
    fn rosetta_counts_where_it_is_used() {
        assert_eq!(judge_rosetta(false, &can(&[("rosetta", false)])).outcome, Outcome::NotApplicable);
        assert_eq!(judge_rosetta(true, &can(&[("rosetta", true)])), Finding::ok("it is installed"));
        let finding = judge_rosetta(true, &can(&[("rosetta", false)]));
        assert_eq!(finding.evidence, "the machine uses it, but it is missing; install it");
        assert_eq!(judge_rosetta(true, &can(&[])).outcome, Outcome::Failed);
    }

    /// The backend's own capabilities, with nested virtualization or without.
    fn nesting(nested: bool) -> Result<Capabilities, Report> {
        let why = if nested { "the processor has it" } else { "the processor has none" }.to_owned();
        Ok(Capabilities {
            backend: "vz",
            accelerator: "hvf",
            archs: vec![Arch::Aarch64],
            rosetta: false,
            nested,
            pause: true,
            shares: true,
            efi: Ok(()),
            display: Ok(()),
            forwards: Ok(()),
            suspend: Ok(vec![]),
            limits: Limits { cores: (1, 8), memory: (0, 8 << 30) },
            features: vec![Feature { name: "nested-virtualization", available: nested, why }],
        })
    }

    #[test]
    fn virtual_machines_in_the_guest_are_judged_as_a_boot_does() {
        let wanted = HardwareConfig { nested: true, ..HardwareConfig::sample() };
        let judged = |hardware: &HardwareConfig, can| judge_nested(hardware, &can, Arch::host());
        assert_eq!(judged(&HardwareConfig::sample(), nesting(false)).outcome, Outcome::NotApplicable);
        let finding = judged(&wanted, nesting(false));
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Host)));
        assert!(finding.hints[0].contains("set nested-virtualization to false"), "{finding:?}");
        assert_eq!(judged(&wanted, nesting(true)).outcome, Outcome::Ok);
        let none = Err(Report::new(Kind::Config, "built without it"));
        assert_eq!(judged(&wanted, none).outcome, Outcome::NotApplicable);
    }
}
