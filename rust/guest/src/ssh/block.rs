//! What ssh needs to be told of a machine: one `Host` block of its configuration.
//!
//! ssh takes the first value that it finds for an option. A `Host *` further down in the same configuration adds values for all
//! that a block leaves open, and some of those end a connection or hang Nix. So the block says everything that another block
//! could spoil (decision 25). `nix/darwin/builder.nix` writes the same block; a test compares them.
//!
//! The rule: only options that OpenSSH 8.7 knows (macOS 14 has a newer one). ssh refuses its whole configuration for one that it does
//! not know, whichever host it is asked for.

use dvn_config::MachineSettings;
use std::time::Duration;

/// Options with the same value for every machine, in the order in which they are printed. A list that
/// begins with `+` is ssh's own list.
pub const PINNED: [(&str, &str); 41] = [
    // How the guest is reached: directly, and by nothing that another block names.
    ("AddressFamily", "any"),
    ("CanonicalizeHostname", "no"),
    ("ProxyCommand", "none"),
    // Who the guest is: the pinned key, and nothing else.
    ("GlobalKnownHostsFile", "/dev/null"),
    ("StrictHostKeyChecking", "yes"),
    ("CheckHostIP", "no"),
    ("KnownHostsCommand", "none"),
    ("NoHostAuthenticationForLocalhost", "no"),
    ("RevokedHostKeys", "none"),
    ("UpdateHostKeys", "no"),
    ("VerifyHostKeyDNS", "no"),
    // Who logs in: the one key. The guest's sshd lets nobody try more than six, and an agent's come first.
    ("IdentitiesOnly", "yes"),
    ("IdentityAgent", "none"),
    ("PKCS11Provider", "none"),
    ("PubkeyAuthentication", "yes"),
    ("PreferredAuthentications", "publickey"),
    ("BatchMode", "yes"),
    // A connection is a process's: Nix talks through it, and waits for its end.
    ("ControlMaster", "no"),
    ("ControlPath", "none"),
    ("ControlPersist", "no"),
    ("ForkAfterAuthentication", "no"),
    ("RemoteCommand", "none"),
    ("RequestTTY", "auto"),
    ("SessionType", "default"),
    ("StdinNull", "no"),
    ("PermitLocalCommand", "no"),
    // Nothing beside that.
    ("ClearAllForwardings", "yes"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("Tunnel", "no"),
    // A build may be silent for hours, and the daemon ends the connections of a guest that hangs.
    ("ServerAliveInterval", "0"),
    ("ServerAliveCountMax", "3"),
    ("ConnectionAttempts", "1"),
    ("RekeyLimit", "default 1d"),
    ("Compression", "no"),
    ("LogLevel", "INFO"),
    // What both ends know.
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("PubkeyAcceptedAlgorithms", "ssh-ed25519"),
    ("Ciphers", "+aes128-ctr"),
    ("KexAlgorithms", "+curve25519-sha256"),
    ("MACs", "+hmac-sha2-256"),
];

/// A machine, as ssh is to know it.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The name that users and Nix give ssh.
    pub alias: &'a str,
    /// Address and port of the ssh door.
    pub listen: &'a str,
    /// The guest's user.
    pub user: &'a str,
    /// The file of the private key, quoted as ssh's configuration wants it.
    pub key: &'a str,
    /// The file with the pinned host key, likewise.
    pub known_hosts: &'a str,
    /// How long a connection may wait for the guest.
    pub patience: Duration,
}

impl Block<'_> {
    /// The options and their values.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let (host, port) = self.listen.rsplit_once(':').unwrap_or((self.listen, "22"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let own = [
            ("HostName", host.to_owned()),
            ("Port", port.to_owned()),
            ("User", self.user.to_owned()),
            ("IdentityFile", self.key.to_owned()),
            ("UserKnownHostsFile", self.known_hosts.to_owned()),
            ("HostKeyAlias", self.alias.to_owned()),
            // A loopback address, as the door's is: another block could name one from which there is no way.
            ("BindAddress", host.to_owned()),
            ("ConnectTimeout", self.patience.as_secs().to_string()),
        ];
        own.into_iter().chain(PINNED.map(|(option, value)| (option, value.to_owned()))).collect()
    }

    /// The block.
    pub fn text(&self) -> String {
        let options = self.options();
        let lines = options.iter().map(|(option, value)| format!("  {option} {value}\n"));
        format!("Host {}\n{}", self.alias, lines.collect::<String>())
    }
}

/// ssh counts the seconds of its time limit in 32 bits of milliseconds.
const MOST: Duration = Duration::from_secs(1_000_000);

/// How long a connection may wait. Its worst case: the guest before is stopping, the newest generation does not come up, and the
/// one before it boots.
pub fn patience(settings: &MachineSettings) -> Duration {
    let whole = |time: Duration| Duration::from_secs(time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)));
    let boots = whole(settings.boot_timeout).saturating_mul(2);
    boots.saturating_add(whole(settings.stop_grace)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_for_a_guest_is_waited_for() {
        let times =
            |boot_timeout, stop_grace| MachineSettings { boot_timeout, stop_grace, ..MachineSettings::sample() };
        let seconds = Duration::from_secs;
        for (boot, stop, expected) in [
            (seconds(180), seconds(30), 390),
            (Duration::from_millis(1), Duration::ZERO, 2),
            (Duration::from_millis(1500), seconds(1), 5),
            (Duration::MAX, Duration::MAX, 1_000_000),
        ] {
            assert_eq!(patience(&times(boot, stop)), seconds(expected), "{boot:?} {stop:?}");
        }
    }

    #[test]
    fn no_option_is_given_twice_for_the_first_would_count() {
        let block = Block {
            alias: "a",
            listen: "[::1]:31123",
            user: "builder",
            key: "k",
            known_hosts: "h",
            patience: Duration::from_secs(9),
        };
        let mut names: Vec<_> = block.options().into_iter().map(|(option, _)| option).collect();
        names.sort_unstable();
        let given = names.len();
        names.dedup();
        assert_eq!(names.len(), given);
        assert!(block.text().starts_with("Host a\n  HostName ::1\n  Port 31123\n"), "{}", block.text());
    }
}
