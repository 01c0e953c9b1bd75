//! Hints for known error messages of the programs that run a guest: QEMU, its helpers and the C library. The messages
//! themselves do not say what a user of this program can do.

/// Parts of messages in lower case, and the hint for them.
const KNOWN: &[(&[&str], &str)] = &[
    (
        &["cannot allocate memory", "cannot set up guest memory", "unable to map backing store", "killed by signal 9"],
        "the computer may be short of memory: end other programs, or give the guest less with the setting memory, or with start --memory",
    ),
    (&["no space left on device", "disk quota exceeded"], "free some space on the volume of the state directory"),
    (
        &["too many open files"],
        "raise the limit of open files where the daemon is started: ulimit -n, or LimitNOFILE of its unit",
    ),
    (
        &["failed to get \"write\" lock", "failed to get shared \"write\" lock", "is another process using the image"],
        "another process uses the data disk: find it with fuser and end it",
    ),
    (
        &["could not access kvm kernel module", "failed to initialize kvm", "kvm_create_vm"],
        "set accelerator to tcg, or see why KVM does not work: `darwin-vz-nix capabilities`",
    ),
    (
        &["permission denied", "operation not permitted"],
        "the daemon's user may not do this: check the owner and the permissions of that file",
    ),
    (
        &[
            "invalid option",
            "unknown option",
            "unexpected argument",
            "unrecognized option",
            "not a valid device model",
            "property not found",
            "invalid parameter",
        ],
        "this program does not support the installed version: install the one that `darwin-vz-nix capabilities` names",
    ),
];

/// The hint for unknown messages.
const OTHERWISE: &str = "see its other messages with `darwin-vz-nix logs`; for more of them set log-level to debug";

/// The hint for a message.
pub fn on(message: &str) -> &'static str {
    let words = message.to_lowercase();
    let known = KNOWN.iter().find(|(marks, _)| marks.iter().any(|mark| words.contains(mark)));
    known.map_or(OTHERWISE, |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_message_has_its_hint() {
        let qemu = "qemu-system-x86_64: cannot set up guest memory 'memory': Cannot allocate memory";
        assert!(on(qemu).contains("setting memory"));
        assert!(on("qemu-system-x86_64 was killed by signal 9").contains("short of memory"));
        assert!(on("Failed to get \"write\" lock").contains("fuser"));
        assert!(on("error: unexpected argument '--uds-path' found").contains("capabilities"));
        assert_eq!(on("it ended with exit code 1"), OTHERWISE);
    }

    #[test]
    fn marks_are_in_lower_case() {
        assert!(KNOWN.iter().flat_map(|(marks, _)| *marks).all(|mark| mark.to_lowercase() == **mark));
    }
}
