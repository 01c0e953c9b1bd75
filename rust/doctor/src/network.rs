//! The guest's network access: it asks the public cache, as its Nix does for each download. Only this check finds a VPN
//! on the host that captures all routes, or a name server that answers only the host.

use super::{finding::Finding, guest, program::Program, shell::Output, subject::Subject};
use dvn_types::Kind;
use std::time::Duration;
use tokio::time::timeout;

/// Nix's default cache.
const CACHE: &str = "cache.nixos.org";
/// Longer than the guest's own limits below, so that the guest reports the cause.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the host's own name lookup.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);

struct Facts {
    /// What the guest's Nix printed about the cache.
    guest: Output,
    /// The guest's name servers.
    servers: Vec<String>,
    /// The host resolves the cache's name.
    host_resolves: bool,
    /// The interface of the host's default route, if known.
    interface: Option<String>,
}

/// The check `network`.
pub async fn check(subject: &Subject) -> Finding {
    let mut shell = match guest::shell(subject).await {
        Ok(shell) => shell,
        Err(finding) => return finding,
    };
    // With the proxies of nix-daemon.
    let ask = format!(
        "while IFS= read -r line; do export \"$line\"; done 2>/dev/null </etc/nix/environment; \
         nix --extra-experimental-features nix-command store ping --store https://{CACHE} \
         --option connect-timeout 10 --option download-attempts 1"
    );
    let gather = async {
        let guest = shell.run(&ask, TIMEOUT).await?;
        let servers = shell.run("cat /etc/resolv.conf", TIMEOUT).await?;
        Ok::<_, String>((guest, name_servers(&servers.text)))
    };
    let (guest, servers) = match gather.await {
        Ok(facts) => facts,
        Err(why) => return Finding::failed(Kind::Guest, why),
    };
    let lookup = timeout(HOST_TIMEOUT, tokio::net::lookup_host((CACHE, 443)));
    let host_resolves =
        guest.code == 0 || lookup.await.is_ok_and(|found| found.is_ok_and(|mut all| all.next().is_some()));
    let interface = if guest.code == 0 { None } else { default_interface(subject).await };
    judge(&Facts { guest, servers, host_resolves, interface })
}

async fn default_interface(subject: &Subject) -> Option<String> {
    let ask = async |program: Option<Program>, args: &[&str]| Some(program?.args(args).run().await.ok()?.stdout);
    match ask(subject.find("ip"), &["route", "show", "default"]).await {
        Some(text) => by_ip(&text),
        None => by_route(&ask(subject.find("route"), &["-n", "get", "default"]).await?),
    }
}

/// `default via 192.168.1.1 dev wlan0 proto dhcp metric 600`
fn by_ip(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).map(str::to_owned)
}

/// `   interface: utun3`, among other lines
fn by_route(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.trim().strip_prefix("interface:")).map(|name| name.trim().to_owned())
}

/// Interface names that VPNs use.
fn is_tunnel(interface: &str) -> bool {
    ["utun", "tun", "tap", "ppp", "ipsec", "wg"].iter().any(|prefix| interface.starts_with(prefix))
}

fn name_servers(resolv_conf: &str) -> Vec<String> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.map(|server| server.trim().to_owned()).collect()
}

/// Why a download fails, by curl's error text, which is the same in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Name,
    Proxy,
    Connection,
    Certificate,
    Other,
}

fn cause(text: &str) -> Cause {
    let text = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match () {
        () if says(&["resolve proxy", "resolve the proxy"]) => Cause::Proxy,
        () if says(&["resolve host", "could not resolve", "couldn't resolve"]) => Cause::Name,
        () if says(&["certificate", "ssl"]) => Cause::Certificate,
        () if says(&[
            "timeout",
            "timed out",
            "connect to server",
            "could not connect",
            "failed to connect",
            "unreachable",
        ]) =>
        {
            Cause::Connection
        }
        () => Cause::Other,
    }
}

fn judge(facts: &Facts) -> Finding {
    if facts.guest.code == 0 {
        return Finding::ok(format!("the guest's Nix reaches {CACHE}"));
    }
    if facts.guest.code == 127 {
        return Finding::not_applicable("the guest has no Nix to test with");
    }
    let cause = cause(&facts.guest.text);
    if !facts.host_resolves && cause == Cause::Name {
        return Finding::not_applicable(format!(
            "this computer cannot resolve {CACHE} either: it is offline, or has no name service"
        ));
    }
    let why =
        facts.guest.text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").trim();
    let servers = if facts.servers.is_empty() { "none".to_owned() } else { facts.servers.join(", ") };
    let finding = match cause {
        Cause::Name => Finding::failed(Kind::Guest, format!("the guest cannot resolve {CACHE}, though this computer can; the guest's name servers: {servers}"))
            .hint("the guest asks the name server of the virtual network, which asks this computer's; firewalls and VPNs often forbid it")
            .hint("check: `darwin-vz-nix ssh -- cat /etc/resolv.conf`"),
        Cause::Proxy => Finding::failed(Kind::Guest, "the guest cannot resolve its proxy's name")
            .hint("use a name or address that is valid in the guest, where localhost is the guest itself"),
        Cause::Connection => Finding::failed(Kind::Guest, format!("the guest resolves {CACHE}, but cannot connect to it: {why}"))
            .hint("if downloads need a proxy, configure it for the guest"),
        Cause::Certificate => Finding::failed(Kind::Guest, format!("the guest does not trust the certificate presented for {CACHE}: {why}"))
            .hint("if a company proxy inspects TLS, give the guest its certificate (certificateFiles)"),
        Cause::Other => Finding::failed(Kind::Guest, format!("the guest's Nix cannot download from {CACHE}: {why}")),
    };
    match facts.interface.as_deref().filter(|interface| is_tunnel(interface)) {
        Some(interface) => finding.hint(format!(
            "this computer's traffic goes through {interface}, a VPN; try without it, or exclude the virtual network from it"
        )),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    const NAME: &str = "warning: unable to download 'https://cache.nixos.org/nix-cache-info': Could not resolve hostname (6) Could not resolve host: cache.nixos.org\nerror: unable to download";
    const TIME: &str = "error: unable to download 'https://cache.nixos.org/nix-cache-info': Timeout was reached (28)";
    const TRUST: &str = "error: unable to download 'https://cache.nixos.org/nix-cache-info': SSL peer certificate or SSH remote key was not OK (60)";
    const PROXY: &str =
        "error: unable to download 'https://cache.nixos.org/nix-cache-info': Could not resolve proxy name (5)";

    fn facts(code: i32, text: &str) -> Facts {
        let servers = vec!["192.168.64.1".to_owned()];
        Facts {
            guest: Output { code, text: text.to_owned() },
            servers,
            host_resolves: true,
            interface: Some("en0".into()),
        }
    }

    #[test]
    fn a_guest_that_reaches_the_cache_is_fine() {
        assert_eq!(judge(&facts(0, "Store URL: https://cache.nixos.org")).outcome, Outcome::Ok);
    }

    #[test]
    fn each_cause_has_its_words() {
        for (text, expected) in [
            (NAME, "cannot resolve cache.nixos.org, though this computer can; the guest's name servers: 192.168.64.1"),
            (TIME, "but cannot connect to it"),
            (TRUST, "does not trust the certificate"),
            (PROXY, "cannot resolve its proxy's name"),
            ("error: something else", "cannot download from cache.nixos.org: error: something else"),
        ] {
            let finding = judge(&facts(1, text));
            assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Guest)));
            assert!(finding.evidence.contains(expected), "{expected}: {finding:?}");
        }
    }

    #[test]
    fn an_offline_host_says_nothing_about_the_guest() {
        let offline = Facts { host_resolves: false, ..facts(1, NAME) };
        assert_eq!(judge(&offline).outcome, Outcome::NotApplicable);
        let without = facts(127, "sh: nix: not found");
        assert_eq!(judge(&without).outcome, Outcome::NotApplicable);
    }

    #[test]
    fn a_vpn_is_named() {
        let vpn = Facts { interface: Some("utun3".into()), ..facts(1, TIME) };
        let hints = |facts| judge(facts).hints.into_iter().filter(|hint| hint.contains("VPN; try")).count();
        assert_eq!((hints(&vpn), hints(&facts(1, TIME))), (1, 0));
    }

    #[test]
    fn interfaces_are_read() {
        let mac = "   route to: default\ndestination: default\n       mask: default\n    gateway: 10.0.0.1\n  interface: utun3\n      flags: <UP,GATEWAY,DONE,STATIC>\n";
        assert_eq!(by_route(mac).as_deref(), Some("utun3"));
        assert_eq!(by_route("route: writing to routing socket: not in table\n"), None);
        assert_eq!(by_ip("default via 192.168.1.1 dev wlan0 proto dhcp metric 600\n").as_deref(), Some("wlan0"));
        assert_eq!(by_ip(""), None);
        assert_eq!(name_servers("# x\nnameserver 10.0.2.3\nsearch lan\n"), ["10.0.2.3"]);
        assert!(is_tunnel("wg0") && !is_tunnel("en0") && !is_tunnel("wlan0"));
    }
}
