//! Options with which ssh reaches the machine, or lets itself be spoiled: what another block of its configuration says where the
//! machine's own is silent or comes later. `darwin-vz-nix nix-config --door ssh` prints a block that leaves nothing open
//! ([`dvn_guest::ssh::block`]); this is for those who have another, or one before it.

use super::ssh_options::Config;
use std::{io, net::IpAddr, path::Path, time::Duration};

/// What the machine wants of ssh.
pub struct Wanted {
    /// Where it listens.
    pub address: IpAddr,
    /// How long its guest may take to come up.
    pub boot: Duration,
    /// Whether a file is there. One that may not be looked at may be.
    pub exists: fn(&Path) -> io::Result<bool>,
}

/// How bad it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoiled {
    /// Nix cannot build, or hangs.
    Broken(String),
    /// It works today.
    Risky(String),
}

use Spoiled::{Broken, Risky};

/// One look at the options.
type Look = fn(&Config, &Wanted) -> Option<Spoiled>;

/// Everything that is wrong, the worst first.
pub fn find(config: &Config, wanted: &Wanted) -> Vec<Spoiled> {
    const LOOKS: [Look; 9] = [way, session, master, login, algorithms, patience, trust, forwards, rest];
    let mut found: Vec<_> = LOOKS.iter().filter_map(|look| look(config, wanted)).collect();
    found.sort_by_key(|spoiled| matches!(spoiled, Risky(_)));
    found
}

fn is(config: &Config, key: &str, values: &[&str]) -> bool {
    values.contains(&config.first(key))
}

/// Set, and not to what says that there is none.
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

fn way(config: &Config, wanted: &Wanted) -> Option<Spoiled> {
    if set(config, "proxyjump").is_some() {
        return Some(Broken(format!("{}: the machine is on this computer", given(config, "proxyjump"))));
    }
    // This program's own is a way in, too.
    if set(config, "proxycommand").is_some_and(|command| !command.contains("darwin-vz-nix")) {
        return Some(Broken(format!("{}: the machine is on this computer", given(config, "proxycommand"))));
    }
    let other = if wanted.address.is_ipv4() { "inet6" } else { "inet" };
    if is(config, "addressfamily", &[other]) {
        return Some(Broken(format!("{}, and it listens on {}", given(config, "addressfamily"), wanted.address)));
    }
    let from = set(config, "bindaddress")?;
    let loopback = from.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    (!loopback).then(|| Risky(format!("{}, which is no address of the loopback", given(config, "bindaddress"))))
}

fn session(config: &Config, _: &Wanted) -> Option<Spoiled> {
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

fn master(config: &Config, _: &Wanted) -> Option<Spoiled> {
    let shares = !is(config, "controlmaster", &["", "no", "false"]);
    (shares && set(config, "controlpath").is_some())
        .then(|| Broken(format!("{}: Nix waits for a shared connection to end", given(config, "controlmaster"))))
}

fn login(config: &Config, wanted: &Wanted) -> Option<Spoiled> {
    if is(config, "pubkeyauthentication", &["no", "false"]) {
        return Some(Broken(format!("{}, and the guest takes nothing else", given(config, "pubkeyauthentication"))));
    }
    let preferred = config.first("preferredauthentications");
    if !preferred.is_empty() && !preferred.split(',').any(|method| method == "publickey") {
        let given = given(config, "preferredauthentications");
        return Some(Broken(format!("{given}, and the guest takes publickey alone")));
    }
    // The guest's sshd gives up after six.
    let there = |key: &&String| (wanted.exists)(Path::new(key)).unwrap_or(true);
    let keys = config.all("identityfile").iter().filter(there).count();
    if keys > 5 && !is(config, "identityagent", &["none"]) {
        return Some(Risky(format!("it tries {keys} keys, and those of an agent first; the guest gives up after six")));
    }
    if set(config, "pkcs11provider").is_some() {
        return Some(Risky(format!("{}, whose keys are tried first", given(config, "pkcs11provider"))));
    }
    is(config, "identitiesonly", &["no", "false"])
        .then(|| Risky("identitiesonly is no: with many keys in an agent, ssh never comes to the right one".to_owned()))
}

/// Lists of which the guest must know one. What it knows besides does not matter here: ssh's own lists have these.
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

fn algorithms(config: &Config, _: &Wanted) -> Option<Spoiled> {
    let foreign = |(key, known): &(&str, &[&str])| {
        let list = config.first(key);
        !list.is_empty() && !list.split(',').any(|algorithm| known.contains(&algorithm))
    };
    let (key, _) = KNOWN.iter().find(|list| foreign(list))?;
    Some(Broken(format!("{}, of which the guest has none", given(config, key))))
}

fn patience(config: &Config, wanted: &Wanted) -> Option<Spoiled> {
    let seconds: u64 = config.first("connecttimeout").parse().ok().filter(|seconds| *seconds > 0)?;
    (Duration::from_secs(seconds) < wanted.boot).then(|| {
        Broken(format!(
            "{}, and a guest may take {} s to come up",
            given(config, "connecttimeout"),
            wanted.boot.as_secs()
        ))
    })
}

fn trust(config: &Config, _: &Wanted) -> Option<Spoiled> {
    if let Some(file) = set(config, "revokedhostkeys") {
        return Some(Risky(format!("revokedhostkeys is {file}: where ssh cannot read it, it trusts no host")));
    }
    if on(config, "nohostauthenticationforlocalhost") {
        return Some(Risky(format!("{}, and the guest is on it", given(config, "nohostauthenticationforlocalhost"))));
    }
    let others = set(config, "knownhostscommand").map(|_| "knownhostscommand");
    let others = others.or(on(config, "verifyhostkeydns").then_some("verifyhostkeydns"))?;
    Some(Risky(format!("{}: others than the pinned key may count", given(config, others))))
}

fn forwards(config: &Config, _: &Wanted) -> Option<Spoiled> {
    if on(config, "clearallforwardings") {
        return None;
    }
    let key =
        ["localforward", "remoteforward", "dynamicforward"].into_iter().find(|key| !config.all(key).is_empty())?;
    let why = format!("{}, and the guest forwards nothing", given(config, key));
    Some(if on(config, "exitonforwardfailure") { Broken(why) } else { Risky(why) })
}

/// What newer versions of ssh know, and a block for all of them cannot say.
fn rest(config: &Config, _: &Wanted) -> Option<Spoiled> {
    if on(config, "refuseconnection") {
        return Some(Broken(given(config, "refuseconnection")));
    }
    set(config, "channeltimeout")
        .map(|limit| Risky(format!("channeltimeout is {limit}, which ends builds that are silent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Spoiled> {
        let wanted = Wanted { address: [127, 0, 0, 1].into(), boot: Duration::from_secs(180), exists: |_| Ok(true) };
        find(&Config::read(text), &wanted)
    }

    #[test]
    fn what_ssh_has_of_its_own_accord_and_what_our_block_says_spoil_nothing() {
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
    fn each_option_that_spoils_a_build_is_named() {
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
    fn each_option_that_spoils_some_is_named_after_those() {
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
