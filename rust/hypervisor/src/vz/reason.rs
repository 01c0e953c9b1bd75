//! The meaning of Virtualization's errors for a user, with hints.

use super::sink::{Failure, OWN_DOMAIN};
use dvn_types::{Kind, Report};

/// The framework's errors. The numbers are from Apple's `VZError.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 1: an internal failure, such as a guest that stopped unexpectedly.
    Internal,
    /// 2: this program lacks the entitlement for Virtualization.
    Entitlement,
    /// 2: a configuration that the framework refuses.
    Configuration,
    /// 3 and 4: the operation is not possible in the machine's state.
    State,
    /// 5: a disk image cannot be used.
    Disk,
    /// 6: the system allows no further virtual machine.
    Limit,
    /// 7: the network failed.
    Network,
    /// 8: the volume of a disk image is full.
    Full,
    /// 9: the operation was cancelled.
    Cancelled,
    /// 10: not supported on this Mac.
    Unsupported,
    /// 11: saving failed.
    Save,
    /// 12: restoring failed.
    Restore,
    /// The shim reports that macOS is too old.
    System,
    /// Any other error of any domain.
    Other,
}

impl Reason {
    /// Classifies an error.
    pub fn of(failure: &Failure) -> Reason {
        match (failure.domain.as_str(), failure.code) {
            ("VZErrorDomain", 1) => Reason::Internal,
            // There is no code for it. The text is in the system's language, but contains the entitlement's name.
            ("VZErrorDomain", 2) if failure.text.contains("com.apple.security.virtualization") => Reason::Entitlement,
            ("VZErrorDomain", 2) => Reason::Configuration,
            ("VZErrorDomain", 3 | 4) => Reason::State,
            ("VZErrorDomain", 5) => Reason::Disk,
            ("VZErrorDomain", 6) => Reason::Limit,
            ("VZErrorDomain", 7) => Reason::Network,
            ("VZErrorDomain", 8) => Reason::Full,
            ("VZErrorDomain", 9) => Reason::Cancelled,
            ("VZErrorDomain", 10) => Reason::Unsupported,
            ("VZErrorDomain", 11) => Reason::Save,
            ("VZErrorDomain", 12) => Reason::Restore,
            (OWN_DOMAIN, 2) => Reason::System,
            _ => Reason::Other,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Reason::Internal | Reason::State | Reason::Cancelled | Reason::Other => Kind::Boot,
            Reason::Disk | Reason::Full | Reason::Save | Reason::Restore => Kind::State,
            Reason::Limit => Kind::Busy,
            Reason::Entitlement | Reason::Configuration | Reason::Network | Reason::Unsupported | Reason::System => {
                Kind::Host
            }
        }
    }

    /// The cause, where the framework's text does not name it.
    fn because(self) -> Option<&'static str> {
        match self {
            Reason::Entitlement => Some("this program is not signed with the right to use Virtualization"),
            Reason::Internal => Some("the virtual machine stopped unexpectedly, as it may after a kernel panic"),
            Reason::Limit => Some("macOS allows no further virtual machine at the same time"),
            Reason::Disk => Some("a disk image is damaged, or another program has it open"),
            Reason::Full => Some("the volume with the disk image is full"),
            _ => None,
        }
    }

    fn hints(self) -> &'static [&'static str] {
        match self {
            Reason::Entitlement => &[
                "sign it: codesign --force --sign - --entitlements entitlements.plist PROGRAM",
                "a build by nix or `make sign` has done so; copying a program with `strip` or `install_name_tool` undoes it",
            ],
            Reason::Limit => &["stop other virtual machines, of other programs too, and try again"],
            Reason::Disk => &[
                "see which program has it open: lsof PATH",
                "or recreate it: darwin-vz-nix destroy --keep-keys; it contains no build results",
            ],
            Reason::Full => &["free some space, then start again"],
            Reason::Network => &[
                "if it persists, restart the Mac: macOS provides the network of virtual machines through a separate service",
            ],
            Reason::Unsupported | Reason::System => &["see what this Mac can do: darwin-vz-nix capabilities"],
            Reason::Configuration => {
                &["give fewer cores or less memory", "see what this Mac can do: darwin-vz-nix capabilities"]
            }
            _ => &[],
        }
    }
}

/// The error for the user.
pub fn report(what: &str, failure: &Failure) -> Report {
    let reason = Reason::of(failure);
    let report = Report::new(reason.kind(), format!("{what}: {}", describe(failure)));
    reason.hints().iter().fold(report, |report, hint| report.hint(*hint))
}

/// One line: the cause if it is known, and the framework's text.
pub fn describe(failure: &Failure) -> String {
    let words = format!("{} ({} {})", failure.text.trim_end_matches('.'), failure.domain, failure.code);
    match Reason::of(failure).because() {
        Some(because) => format!("{because}: {words}"),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vz(code: i64, text: &str) -> Failure {
        Failure { domain: "VZErrorDomain".into(), code, text: text.into() }
    }

    #[test]
    fn a_missing_entitlement_differs_from_a_bad_configuration_in_any_language() {
        let text = "Ungültige Konfiguration. Der Prozess besitzt „com.apple.security.virtualization“ nicht.";
        let lacks = report("cannot make the VM", &vz(2, text));
        assert_eq!(lacks.kind, Kind::Host);
        assert!(lacks.message.contains("not signed") && lacks.hints[0].starts_with("sign it: codesign"), "{lacks:?}");
        assert_eq!(Reason::of(&vz(2, "Invalid CPU count.")), Reason::Configuration);
    }

    #[test]
    fn each_code_of_apples_has_a_reason_of_its_own_kind() {
        let kinds: Vec<_> = (1..=12).map(|code| Reason::of(&vz(code, "")).kind()).collect();
        use Kind::{Boot, Busy, Host, State};
        assert_eq!(kinds, [Boot, Host, Boot, Boot, State, Busy, Host, State, Boot, Host, State, State]);
        let other = Failure { domain: "NSPOSIXErrorDomain".into(), code: 2, text: "No such file.".into() };
        assert_eq!(Reason::of(&other), Reason::Other);
        assert_eq!(describe(&other), "No such file (NSPOSIXErrorDomain 2)");
    }

    #[test]
    fn what_a_user_can_mend_has_a_hint() {
        for code in [5, 6, 7, 8, 10] {
            assert!(!report("x", &vz(code, "y")).hints.is_empty(), "{code}");
        }
    }
}
