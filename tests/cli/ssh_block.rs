//! The block for ssh, followed by what a user may have in a `Host *`: what ssh makes of both together, for every option
//! of ssh_config(5).

use super::program;
use assert_cmd::Command;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// The effect of a later value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// None: the block's own value wins.
    Ignored,
    /// It is added to the block's own.
    Added,
    /// It is used, and changes nothing that matters to the machine.
    Harmless,
}

use Effect::{Added, Harmless, Ignored};

/// The options of OpenSSH 9.2, except those about Kerberos, which not every ssh has, and which the guest does not use.
/// Harmless are those that have an effect only with another one, or with a terminal, or for a log-in method that is not
/// used.
const OPTIONS: [(&str, &str, Effect); 96] = [
    ("AddKeysToAgent", "yes", Harmless),
    ("AddressFamily", "inet6", Ignored),
    ("BatchMode", "no", Ignored),
    ("BindAddress", "192.0.2.1", Ignored),
    ("BindInterface", "wlan9", Harmless),
    ("CanonicalDomains", "example.org", Harmless),
    ("CanonicalizeFallbackLocal", "no", Harmless),
    ("CanonicalizeHostname", "always", Ignored),
    ("CanonicalizeMaxDots", "9", Harmless),
    ("CanonicalizePermittedCNAMEs", "*:*", Harmless),
    ("CASignatureAlgorithms", "rsa-sha2-512", Harmless),
    ("CertificateFile", "/none-cert.pub", Added),
    ("CheckHostIP", "yes", Ignored),
    ("Ciphers", "aes128-cbc", Ignored),
    ("ClearAllForwardings", "no", Ignored),
    ("Compression", "yes", Ignored),
    ("ConnectionAttempts", "9", Ignored),
    ("ConnectTimeout", "1", Ignored),
    ("ControlMaster", "yes", Ignored),
    ("ControlPath", "/tmp/dvn-%C", Ignored),
    ("ControlPersist", "yes", Ignored),
    ("DynamicForward", "1080", Added),
    ("EnableSSHKeysign", "yes", Harmless),
    ("EscapeChar", "none", Harmless),
    ("ExitOnForwardFailure", "yes", Harmless),
    ("FingerprintHash", "md5", Harmless),
    ("ForkAfterAuthentication", "yes", Ignored),
    ("ForwardAgent", "yes", Ignored),
    ("ForwardX11", "yes", Ignored),
    ("ForwardX11Timeout", "1", Harmless),
    ("ForwardX11Trusted", "no", Harmless),
    ("GatewayPorts", "yes", Harmless),
    ("GlobalKnownHostsFile", "/none", Ignored),
    ("HashKnownHosts", "yes", Harmless),
    ("HostbasedAcceptedAlgorithms", "rsa-sha2-512", Harmless),
    ("HostbasedAuthentication", "yes", Harmless),
    ("HostKeyAlgorithms", "rsa-sha2-512", Ignored),
    ("HostKeyAlias", "other", Ignored),
    ("HostName", "example.org", Ignored),
    ("IdentitiesOnly", "no", Ignored),
    ("IdentityAgent", "/none", Ignored),
    ("IdentityFile", "/none", Added),
    ("IgnoreUnknown", "Imagined", Harmless),
    ("IPQoS", "none", Harmless),
    ("KbdInteractiveAuthentication", "no", Harmless),
    ("KbdInteractiveDevices", "pam", Harmless),
    ("KexAlgorithms", "diffie-hellman-group14-sha1", Ignored),
    ("KnownHostsCommand", "/bin/false", Ignored),
    ("LocalCommand", "true", Harmless),
    ("LocalForward", "8080 localhost:80", Added),
    ("LogLevel", "QUIET", Ignored),
    ("LogVerbose", "kex.c:*:1000", Harmless),
    ("MACs", "hmac-sha1", Ignored),
    ("NoHostAuthenticationForLocalhost", "yes", Ignored),
    ("NumberOfPasswordPrompts", "1", Harmless),
    ("PasswordAuthentication", "no", Harmless),
    ("PermitLocalCommand", "yes", Ignored),
    ("PermitRemoteOpen", "none", Harmless),
    ("PKCS11Provider", "/none", Ignored),
    ("Port", "22", Ignored),
    ("PreferredAuthentications", "password", Ignored),
    ("ProxyCommand", "false", Ignored),
    ("ProxyJump", "bastion", Ignored),
    ("ProxyUseFdpass", "yes", Harmless),
    ("PubkeyAcceptedAlgorithms", "rsa-sha2-512", Ignored),
    ("PubkeyAuthentication", "no", Ignored),
    ("RekeyLimit", "1K 1s", Ignored),
    ("RemoteCommand", "tmux", Ignored),
    ("RemoteForward", "8080 localhost:80", Added),
    ("RequestTTY", "force", Ignored),
    ("RevokedHostKeys", "/none", Ignored),
    ("SecurityKeyProvider", "/none", Harmless),
    ("SendEnv", "*", Harmless),
    ("ServerAliveCountMax", "1", Ignored),
    ("ServerAliveInterval", "1", Ignored),
    ("SessionType", "none", Ignored),
    ("SetEnv", "A=B", Harmless),
    ("StdinNull", "yes", Ignored),
    ("StreamLocalBindMask", "0777", Harmless),
    ("StreamLocalBindUnlink", "yes", Harmless),
    ("StrictHostKeyChecking", "no", Ignored),
    ("SyslogFacility", "AUTH", Harmless),
    ("TCPKeepAlive", "no", Harmless),
    ("Tunnel", "yes", Ignored),
    ("TunnelDevice", "1:1", Harmless),
    ("UpdateHostKeys", "yes", Ignored),
    ("User", "root", Ignored),
    ("UserKnownHostsFile", "/none", Ignored),
    ("VerifyHostKeyDNS", "yes", Ignored),
    ("VisualHostKey", "yes", Harmless),
    ("XAuthLocation", "/none", Harmless),
    // Values other than the usual ones, with another effect.
    ("ControlMaster", "auto", Ignored),
    ("ProxyJump", "none", Ignored),
    ("RequestTTY", "no", Ignored),
    ("SessionType", "subsystem", Ignored),
    ("ConnectTimeout", "none", Ignored),
];

/// Options of newer versions. `doctor` checks those that matter.
const NEWER: [&str; 8] = [
    "channeltimeout",
    "enableescapecommandline",
    "obscurekeystroketiming",
    "refuseconnection",
    "requiredrsasize",
    "tag",
    "versionaddendum",
    "warnweakcrypto",
];

type Effective = BTreeMap<String, Vec<String>>;

/// ssh's evaluation of that configuration.
fn effective(dir: &Path, config: &str) -> Effective {
    let file = dir.join("ssh_config");
    fs::write(&file, config).unwrap();
    let output = Command::new("ssh").arg("-F").arg(&file).args(["-G", "darwin-vz-builder"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{config}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut effective = Effective::new();
    for (key, value) in said.lines().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
        effective.entry(key.to_lowercase()).or_default().push(value.to_owned());
    }
    effective
}

fn block(dir: &Path) -> String {
    fs::write(dir.join("config.toml"), "cores = 1\nboot-timeout = \"200s\"\nstop-grace = \"20s\"\n").unwrap();
    let output = program(dir, &["nix-config", "--only", "ssh"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nothing_that_comes_after_the_block_spoils_a_connection() {
    let dir = crate::common::private_dir();
    let block = block(dir.path());
    let alone = effective(dir.path(), &block);
    assert_eq!(alone["connecttimeout"], ["420"], "two boots and a stop");
    for (option, value, later) in OPTIONS {
        let both = effective(dir.path(), &format!("{block}Host *\n  {option} {value}\n"));
        let key = option.to_lowercase();
        let changed: Vec<_> = both.iter().filter(|(key, values)| alone.get(*key) != Some(values)).collect();
        let gone: Vec<_> = alone.keys().filter(|key| !both.contains_key(*key)).collect();
        assert_eq!(gone, Vec::<&String>::new(), "{option} {value}");
        match later {
            Ignored => assert!(changed.is_empty(), "{option} {value}: {changed:?}"),
            Added => {
                let own = alone.get(&key).map_or(&[][..], Vec::as_slice);
                let kept = both.get(&key).is_none_or(|values| values.starts_with(own));
                assert!(kept && changed.iter().all(|(changed, _)| **changed == key), "{option} {value}: {changed:?}");
            }
            Harmless => {
                assert!(changed.iter().all(|(changed, _)| **changed == key), "{option} {value}: {changed:?}");
            }
        }
    }
}

#[test]
fn every_option_of_ssh_has_been_judged() {
    let dir = crate::common::private_dir();
    let judged: BTreeSet<String> = OPTIONS.iter().map(|(option, ..)| option.to_lowercase()).collect();
    let known = effective(dir.path(), "");
    let kerberos = |key: &&String| key.starts_with("gssapi");
    let unknown: Vec<_> = known
        .keys()
        .filter(|key| !kerberos(key) && !judged.contains(*key) && !NEWER.contains(&key.as_str()) && *key != "host")
        .collect();
    assert_eq!(unknown, Vec::<&String>::new(), "say what becomes of them after the block");
}

/// The report of `doctor ssh-config` if ssh reads this.
fn doctor(dir: &Path, config: &str) -> (String, String) {
    let file = dir.join("read_by_ssh");
    fs::write(&file, config).unwrap();
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    // Root's ssh, or another user's with root's file.
    let ssh = bin.join("ssh");
    let real =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|dir| dir.join("ssh")).find(|ssh| ssh.exists());
    let script = format!(
        "#!/bin/sh\nfor name; do :; done\nexec {} -F {} -G \"$name\"\n",
        real.unwrap().display(),
        file.display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = program(dir, &["doctor", "ssh-config", "--json"]).env("PATH", path).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = &report["checks"][0];
    (check["outcome"].as_str().unwrap().to_owned(), check["evidence"].as_str().unwrap().to_owned())
}

#[test]
fn doctor_judges_what_ssh_makes_of_all_blocks() {
    let dir = crate::common::private_dir();
    let dir = dir.path();
    let block = block(dir);
    let hostile = "Host *\n  RequestTTY force\n  ControlMaster yes\n  ControlPath /tmp/dvn-%C\n  ConnectTimeout 5\n  ProxyJump bastion\n";
    assert_eq!(doctor(dir, &block).0, "ok");
    let after = doctor(dir, &format!("{block}{hostile}"));
    assert_eq!(after.0, "ok", "{after:?}");
    let (outcome, evidence) = doctor(dir, &format!("{hostile}{block}"));
    assert_eq!(outcome, "failed", "{evidence}");
    for option in ["requesttty", "controlmaster", "connecttimeout", "proxyjump"] {
        assert!(evidence.contains(option), "{option}: {evidence}");
    }
    // A block that leaves options open, as those of earlier versions did.
    let open: String = block
        .lines()
        .filter(|line| !["RequestTTY", "ConnectTimeout"].iter().any(|open| line.contains(open)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(doctor(dir, &open).0, "ok");
    let (outcome, evidence) = doctor(dir, &format!("{open}Host *\n  RequestTTY force\n"));
    assert!(outcome == "failed" && evidence.contains("requesttty is force"), "{evidence}");
}
