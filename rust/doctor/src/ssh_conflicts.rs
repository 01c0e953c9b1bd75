//! ssh options that break the connection to the machine or weaken it: those that another block of the configuration
//! sets, where the machine's own block is silent or comes later. The block that `darwin-vz-nix nix-config --door ssh`
//! prints sets all of them ([`dvn_guest::ssh::block`]); this check is for users with another block, or with one before
//! it.

use super::ssh_options::Config;
use std::{io, net::IpAddr, path::Path, time::Duration};

/// What the options must allow.
pub struct Wanted {
    /// The machine's address.
    pub address: IpAddr,
    /// How long the guest may take to boot.
    pub boot: Duration,
    /// Whether a file exists; an error if this user cannot see it.
    pub exists: fn(&Path) -> io::Result<bool>,
}

/// The severity, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Nix cannot build, or hangs.
    Broken(String),
    /// It works today, but may fail.
    Risky(String),
}

use Conflict::{Broken, Risky};

/// One check of the options.
type Look = fn(&Config, &Wanted) -> Option<Conflict>;

/// All conflicts, the worst first.
pub fn find(config: &Config, wanted: &Wanted) -> Vec<Conflict> {
    const LOOKS: [Look; 9] = [way, session, master, login, algorithms, connect_timeout, trust, forwards, rest];
    let mut found: Vec<_> = LOOKS.iter().filter_map(|look| look(config, wanted)).collect();
    found.sort_by_key(|conflict| matches!(conflict, Risky(_)));
    found
}

fn is(config: &Config, key: &str, values: &[&str]) -> bool {
    values.contains(&config.first(key))
}

/// The value, unless it is unset or means "none".
fn set<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
    Some(config.first(key)).filter(|value| !["", "none"].contains(value))
}

fn on(config: &Config, key: &str) -> bool {
    is(config, key, &["yes", "true"])
}

/// `key value`, as evidence.
fn given(config: &Config, key: &str) -> String {
    format!("{key} is {}", config.first(key))
}

fn way(config: &Config, wanted: &Wanted) -> Option<Conflict> {
    if set(config, "proxyjump").is_some() {
        return Some(Broken(format!("{}: the machine is on this computer", given(config, "proxyjump"))));
    }
    // This program's own proxy command leads to the machine, too.
    if set(config, "proxycommand").is_some_and(|command| !command.contains("darwin-vz-nix")) {
        return Some(Broken(format!("{}: the machine is on this computer", given(config, "proxycommand"))));
    }
    let other = if wanted.address.is_ipv4() { "inet6" } else { "inet" };
    if is(config, "addressfamily", &[other]) {
        return Some(Broken(format!(
            "{}, but the machine listens on {}",
            given(config, "addressfamily"),
            wanted.address
        )));
    }
    let from = set(config, "bindaddress")?;
    let loopback = from.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    (!loopback).then(|| Risky(format!("{}, which is not a loopback address", given(config, "bindaddress"))))
}

fn session(config: &Config, _: &Wanted) -> Option<Conflict> {
    let broken = |key| Some(Broken(format!("{}, with which Nix hangs or gets no answer", given(config, key))));
    if set(config, "remotecommand").is_some() {
        return broken("remotecommand");
    }
    if is(config, "requesttty", &["force", "yes", "true"]) {
        return broken("requesttty");
    }
    if is(config, "sessiontype", &["none", "subsystem"]) {
        return broken("sessiontype");
    }
    ["stdinnull", "forkafterauthentication"].into_iter().find(|key| on(config, key)).and_then(broken)
}

fn master(config: &Config, _: &Wanted) -> Option<Conflict> {
    let shares = !is(config, "controlmaster", &["", "no", "false"]);
    (shares && set(config, "controlpath").is_some())
        .then(|| Broken(format!("{}: Nix waits for a shared connection to end", given(config, "controlmaster"))))
}

fn login(config: &Config, wanted: &Wanted) -> Option<Conflict> {
    if is(config, "pubkeyauthentication", &["no", "false"]) {
        return Some(Broken(format!("{}, but the guest accepts nothing else", given(config, "pubkeyauthentication"))));
    }
    let preferred = config.first("preferredauthentications");
    if !preferred.is_empty() && !preferred.split(',').any(|method| method == "publickey") {
        let given = given(config, "preferredauthentications");
        return Some(Broken(format!("{given}, but the guest accepts only publickey")));
    }
    // The guest's sshd closes the connection after six keys.
    let there = |key: &&String| (wanted.exists)(Path::new(key)).unwrap_or(true);
    let keys = config.all("identityfile").iter().filter(there).count();
    if keys > 5 && !is(config, "identityagent", &["none"]) {
        return Some(Risky(format!("it offers {keys} keys, an agent's first; the guest refuses after six")));
    }
    if set(config, "pkcs11provider").is_some() {
        return Some(Risky(format!("{}, whose keys are tried first", given(config, "pkcs11provider"))));
    }
    is(config, "identitiesonly", &["no", "false"])
        .then(|| Risky("identitiesonly is no: with many keys in an agent, ssh never offers the right one".to_owned()))
}

/// Lists of which the guest must support at least one item. Its further algorithms do not matter here: ssh's defaults
/// include these.
const KNOWN: [(&str, &[&str]); 5] = [
    ("hostkeyalgorithms", &["ssh-ed25519"]),
    ("pubkeyacceptedalgorithms", &["ssh-ed25519"]),
    (
        "ciphers",
        &[
            "chacha20-poly1305@openssh.com",
            "aes128-ctr",
            "aes192-ctr",
            "aes256-ctr",
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
        ],
    ),
    (
        "kexalgorithms",
        &[
            "mlkem768x25519-sha256",
            "sntrup761x25519-sha512",
            "sntrup761x25519-sha512@openssh.com",
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "ecdh-sha2-nistp256",
            "ecdh-sha2-nistp384",
            "ecdh-sha2-nistp521",
        ],
    ),
    (
        "macs",
        &[
            "umac-64-etm@openssh.com",
            "umac-128-etm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha1-etm@openssh.com",
            "umac-64@openssh.com",
            "umac-128@openssh.com",
            "hmac-sha2-256",
            "hmac-sha2-512",
            "hmac-sha1",
        ],
    ),
];

fn algorithms(config: &Config, _: &Wanted) -> Option<Conflict> {
    let foreign = |(key, known): &(&str, &[&str])| {
        let list = config.first(key);
        !list.is_empty() && !list.split(',').any(|algorithm| known.contains(&algorithm))
    };
    let (key, _) = KNOWN.iter().find(|list| foreign(list))?;
    Some(Broken(format!("{}, none of which the guest supports", given(config, key))))
}

fn connect_timeout(config: &Config, wanted: &Wanted) -> Option<Conflict> {
    let seconds: u64 = config.first("connecttimeout").parse().ok().filter(|seconds| *seconds > 0)?;
    (Duration::from_secs(seconds) < wanted.boot).then(|| {
        Broken(format!("{}, but a guest may take {} s to boot", given(config, "connecttimeout"), wanted.boot.as_secs()))
    })
}

fn trust(config: &Config, _: &Wanted) -> Option<Conflict> {
    if let Some(file) = set(config, "revokedhostkeys") {
        return Some(Risky(format!("revokedhostkeys is {file}: where ssh cannot read it, it trusts no host")));
    }
    if on(config, "nohostauthenticationforlocalhost") {
        return Some(Risky(format!(
            "{}, and the guest is on localhost",
            given(config, "nohostauthenticationforlocalhost")
        )));
    }
    let others = set(config, "knownhostscommand").map(|_| "knownhostscommand");
    let others = others.or(on(config, "verifyhostkeydns").then_some("verifyhostkeydns"))?;
    Some(Risky(format!("{}: keys other than the pinned one may be accepted", given(config, others))))
}

fn forwards(config: &Config, _: &Wanted) -> Option<Conflict> {
    if on(config, "clearallforwardings") {
        return None;
    }
    let key =
        ["localforward", "remoteforward", "dynamicforward"].into_iter().find(|key| !config.all(key).is_empty())?;
    let why = format!("{}, but the guest forwards nothing", given(config, key));
    Some(if on(config, "exitonforwardfailure") { Broken(why) } else { Risky(why) })
}

/// Options of newer versions of ssh, which a block for all versions cannot set.
fn rest(config: &Config, _: &Wanted) -> Option<Conflict> {
    if on(config, "refuseconnection") {
        return Some(Broken(given(config, "refuseconnection")));
    }
    set(config, "channeltimeout").map(|limit| Risky(format!("channeltimeout is {limit}, which ends silent builds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Conflict> {
        let wanted = Wanted { address: [127, 0, 0, 1].into(), boot: Duration::from_secs(180), exists: |_| Ok(true) };
        find(&Config::read(text), &wanted)
    }

    #[test]
    fn sshs_defaults_and_our_block_conflict_with_nothing() {
        let own = "addressfamily any\nrequesttty auto\nsessiontype default\ncontrolmaster false\nconnecttimeout none\n\
            clearallforwardings no\nidentitiesonly yes\npubkeyauthentication true\nstdinnull no\n";
        assert_eq!(found(own), []);
        assert_eq!(found(""), []);
        let pinned = dvn_guest::ssh::block::PINNED.iter().filter(|(_, value)| !value.starts_with('+'));
        let pinned: String = pinned.map(|(key, value)| format!("{} {value}\n", key.to_lowercase())).collect();
        assert_eq!(found(&format!("{pinned}bindaddress 127.0.0.1\nconnecttimeout 390\n")), []);
        assert_eq!(found("controlmaster auto\n"), [], "without a path nothing is shared");
        assert_eq!(found("proxycommand /x/darwin-vz-nix connect --service ssh\n"), []);
    }

    #[test]
    fn each_option_that_breaks_a_build_is_named() {
        for text in [
            "requesttty force",
            "requesttty true",
            "remotecommand tmux",
            "sessiontype none",
            "stdinnull yes",
            "forkafterauthentication yes",
            "proxyjump bastion",
            "proxycommand nc %h %p",
            "addressfamily inet6",
            "pubkeyauthentication false",
            "preferredauthentications password,keyboard-interactive",
            "pubkeyacceptedalgorithms ssh-rsa",
            "hostkeyalgorithms ssh-rsa,rsa-sha2-512",
            "ciphers 3des-cbc",
            "kexalgorithms diffie-hellman-group1-sha1",
            "macs hmac-md5",
            "connecttimeout 5",
            "connecttimeout 179",
            "refuseconnection yes",
        ] {
            let found = found(text);
            let key = text.split(' ').next().unwrap();
            assert!(matches!(&found[..], [Broken(why)] if why.contains(key)), "{text}: {found:?}");
        }
        for (text, key) in [
            ("controlmaster auto\ncontrolpath /tmp/%C", "controlmaster"),
            ("localforward 8080 x:80\nexitonforwardfailure yes", "localforward"),
        ] {
            assert!(matches!(&found(text)[..], [Broken(why)] if why.contains(key)), "{text}: {:?}", found(text));
        }
    }

    #[test]
    fn each_risky_option_is_named_after_those() {
        let many = "identityfile k\n".repeat(8);
        for text in [
            "identitiesonly no",
            "pkcs11provider /usr/lib/x.so",
            "revokedhostkeys /gone",
            "nohostauthenticationforlocalhost yes",
            "knownhostscommand /bin/keys %H",
            "verifyhostkeydns true",
            "bindaddress 192.0.2.1",
            "dynamicforward 1080",
            "channeltimeout session=300",
            many.as_str(),
        ] {
            let found = found(text);
            assert!(matches!(&found[..], [Risky(_)]), "{text}: {found:?}");
        }
        assert!(matches!(&found("identitiesonly no\nrequesttty force")[..], [Broken(_), Risky(_)]));
    }
}
