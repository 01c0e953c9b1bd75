//! A machine's configuration for ssh: one `Host` block.
//!
//! ssh uses the first value that it finds for an option. A later `Host *` in the same configuration adds values for
//! options that a block leaves open, and some of those end a connection or hang Nix. So the block sets every option
//! that another block could spoil (decision 25). `nix/darwin/builder.nix` writes the same block; a test compares them.
//!
//! Rule: only options that OpenSSH 8.7 knows (macOS 14 has a newer one). ssh refuses its whole configuration for one unknown
//! option, for every host.

use dvn_config::LifecyclePolicy;
use std::time::Duration;

/// Options with the same value for every machine, in the order of printing. A list that begins with `+` extends ssh's
/// own list.
pub const PINNED: [(&str, &str); 41] = [
    // How to reach the guest: directly, ignoring what another block names.
    ("AddressFamily", "any"),
    ("CanonicalizeHostname", "no"),
    ("ProxyCommand", "none"),
    // The guest's identity: the pinned key, and nothing else.
    ("GlobalKnownHostsFile", "/dev/null"),
    ("StrictHostKeyChecking", "yes"),
    ("CheckHostIP", "no"),
    ("KnownHostsCommand", "none"),
    ("NoHostAuthenticationForLocalhost", "no"),
    ("RevokedHostKeys", "none"),
    ("UpdateHostKeys", "no"),
    ("VerifyHostKeyDNS", "no"),
    // The client's identity: one key. The guest's sshd allows six attempts, and an agent's keys would come first.
    ("IdentitiesOnly", "yes"),
    ("IdentityAgent", "none"),
    ("PKCS11Provider", "none"),
    ("PubkeyAuthentication", "yes"),
    ("PreferredAuthentications", "publickey"),
    ("BatchMode", "yes"),
    // One connection per process: Nix talks through it, and waits for its end.
    ("ControlMaster", "no"),
    ("ControlPath", "none"),
    ("ControlPersist", "no"),
    ("ForkAfterAuthentication", "no"),
    ("RemoteCommand", "none"),
    ("RequestTTY", "auto"),
    ("SessionType", "default"),
    ("StdinNull", "no"),
    ("PermitLocalCommand", "no"),
    // Nothing besides that.
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
    // Algorithms that both ends support.
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("PubkeyAcceptedAlgorithms", "ssh-ed25519"),
    ("Ciphers", "+aes128-ctr"),
    ("KexAlgorithms", "+curve25519-sha256"),
    ("MACs", "+hmac-sha2-256"),
];

/// A machine's values for its block.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The name that users and Nix pass to ssh.
    pub alias: &'a str,
    /// Address and port of the ssh door.
    pub listen: &'a str,
    /// The guest's user.
    pub user: &'a str,
    /// The file of the private key, quoted for ssh's configuration.
    pub key: &'a str,
    /// The file with the pinned host key, quoted for ssh's configuration.
    pub known_hosts: &'a str,
    /// How long a connection may wait for the guest.
    pub connect_timeout: Duration,
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
            // A loopback address, like the door's: another block could name one without a route to it.
            ("BindAddress", host.to_owned()),
            ("ConnectTimeout", self.connect_timeout.as_secs().to_string()),
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

/// ssh stores its time limit in 32 bits of milliseconds.
const MOST: Duration = Duration::from_secs(1_000_000);

/// How long a connection may wait. The worst case: the previous guest is stopping, the newest generation does not come
/// up, and the one before it boots.
pub fn connect_timeout(lifecycle: &LifecyclePolicy) -> Duration {
    let whole = |time: Duration| Duration::from_secs(time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)));
    let boots = whole(lifecycle.boot_timeout).saturating_mul(2);
    boots.saturating_add(whole(lifecycle.stop_grace)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_covers_the_longest_wait_for_a_guest() {
        let times =
            |boot_timeout, stop_grace| LifecyclePolicy { boot_timeout, stop_grace, ..LifecyclePolicy::sample() };
        let seconds = Duration::from_secs;
        for (boot, stop, expected) in [
            (seconds(180), seconds(30), 390),
            (Duration::from_millis(1), Duration::ZERO, 2),
            (Duration::from_millis(1500), seconds(1), 5),
            (Duration::MAX, Duration::MAX, 1_000_000),
        ] {
            assert_eq!(connect_timeout(&times(boot, stop)), seconds(expected), "{boot:?} {stop:?}");
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
            connect_timeout: Duration::from_secs(9),
        };
        let mut names: Vec<_> = block.options().into_iter().map(|(option, _)| option).collect();
        names.sort_unstable();
        let given = names.len();
        names.dedup();
        assert_eq!(names.len(), given);
        assert!(block.text().starts_with("Host a\n  HostName ::1\n  Port 31123\n"), "{}", block.text());
    }
}
