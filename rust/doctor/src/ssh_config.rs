//! Root's ssh configuration for the machine: Nix's daemon runs as root, and uses it for the ssh door.

use super::{
    finding::Finding,
    keys::pinned_line,
    needs,
    program::Program,
    ssh_conflicts::{self, Conflict, Wanted},
    ssh_options::Config,
    subject::Subject,
};
use dvn_guest::ssh::keys::host_alias;
use dvn_types::Kind;
use std::{fs, io, net::SocketAddr, path::Path, time::Duration};

/// Read by every user's ssh; root's reads nothing else, unless root has a file of its own.
const SYSTEM: &str = "/etc/ssh/ssh_config";

struct Facts {
    alias: String,
    /// The output of `ssh -G`.
    config: Config,
    /// The machine's address.
    listen: SocketAddr,
    /// How long a guest may take to boot.
    boot: Duration,
    /// The guest's user, if the bundle is known.
    user: Option<String>,
    /// The line that must be in `known_hosts`.
    pinned: Option<String>,
    /// Whether a file exists.
    exists: fn(&Path) -> io::Result<bool>,
    /// A file's contents.
    read: fn(&Path) -> Option<String>,
}

/// The check `ssh-config`.
pub async fn check(subject: &Subject) -> Finding {
    let settings = match needs::settings(subject) {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let alias = host_alias(&subject.machine);
    let Some(ssh) = subject.find("ssh") else {
        return Finding::not_applicable("there is no ssh on this computer");
    };
    let said = match ask(ssh, subject.user, &alias).run().await {
        Ok(said) if said.succeeded() => said,
        Ok(said) => {
            return Finding::failed(Kind::Config, format!("ssh cannot read its configuration: {}", said.complaint()))
                .hint(format!("check: ssh -G {alias}"));
        }
        Err(why) => return Finding::warning(why),
    };
    let listening = subject.status().and_then(|status| status.listen.first()?.parse().ok());
    judge(&Facts {
        alias,
        config: Config::read(&said.stdout),
        listen: listening.unwrap_or(settings.builder.listen),
        boot: settings.lifecycle.boot_timeout,
        user: super::opened_bundle::fit(subject).await.map(|bundle| bundle.ssh_user),
        pinned: pinned_line(&subject.dir(), &subject.machine),
        exists: |path| path.try_exists(),
        read: |path| fs::read_to_string(path).ok(),
    })
}

/// The options of root's ssh. Another user's own file is left out, as root's ssh does not read it.
fn ask(ssh: Program, user: u32, alias: &str) -> Program {
    let own = user == 0 || !Path::new(SYSTEM).exists();
    let ssh = if own { ssh } else { ssh.args(["-F", SYSTEM]) };
    ssh.args(["-G", alias])
}

fn judge(facts: &Facts) -> Finding {
    let (alias, config) = (&facts.alias, &facts.config);
    if config.first("hostname") == alias {
        return Finding::not_applicable(format!("ssh has no host {alias}; only Nix's ssh door needs it"));
    }
    let mut faults = Vec::new();
    let reached = format!("{}:{}", config.first("hostname"), config.first("port"));
    if config.first("hostname") != facts.listen.ip().to_string()
        || config.first("port") != facts.listen.port().to_string()
    {
        faults.push(format!("it connects to {reached}, but the machine listens on {}", facts.listen));
    }
    if let Some(user) = facts.user.as_deref().filter(|user| *user != config.first("user")) {
        faults.push(format!("it logs in as {}, but the guest's user is {user}", config.first("user")));
    }
    // A file that this user cannot see may exist.
    let keys = config.all("identityfile");
    if !keys.iter().any(|key| (facts.exists)(Path::new(key)).unwrap_or(true)) {
        faults.push(format!("its key {} is missing", keys.join(", ")));
    }
    if let Some(pinned) = &facts.pinned {
        let files = config.first("userknownhostsfile");
        // Several paths are separated by spaces, and a single path may contain spaces.
        let said = (facts.read)(Path::new(files)).or_else(|| {
            let texts: Vec<_> = files.split(' ').filter_map(|file| (facts.read)(Path::new(file))).collect();
            (!texts.is_empty()).then(|| texts.concat())
        });
        if said.is_some_and(|said| !said.lines().any(|line| line == pinned.trim_end())) {
            faults.push(format!("{files} has another host key, or none"));
        }
    }
    let mut risks = Vec::new();
    let wanted = Wanted { address: facts.listen.ip(), boot: facts.boot, exists: facts.exists };
    for conflict in ssh_conflicts::find(config, &wanted) {
        match conflict {
            Conflict::Broken(why) => faults.push(why),
            Conflict::Risky(why) => risks.push(why),
        }
    }
    if !["true", "yes"].contains(&config.first("stricthostkeychecking")) {
        risks.insert(0, "does not insist on its host key".to_owned());
    }
    match faults.first() {
        Some(fault) => {
            let more = if faults.len() > 1 { format!("; {}", faults[1..].join("; ")) } else { String::new() };
            Finding::failed(Kind::Config, format!("ssh knows {alias}, but {fault}{more}"))
                .hint("use the block that `darwin-vz-nix nix-config --door ssh` prints, or activate the nix-darwin module again")
                .hint(format!(
                    "if another block sets it, move that block after the machine's; see `ssh -G {alias}`"
                ))
        }
        None if !risks.is_empty() => {
            Finding::warning(format!("ssh reaches {alias} at {reached}, but {}", risks.join("; ")))
                .hint("put the block that `darwin-vz-nix nix-config --door ssh` prints before any `Host *`")
        }
        None => Finding::ok(format!("ssh reaches {alias} at {reached}, with its key and host key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    /// As OpenSSH 9.2 prints it, shortened.
    const KNOWN: &str = "host darwin-vz-builder\nuser builder\nhostname 127.0.0.1\nport 31122\nidentitiesonly yes\n\
        stricthostkeychecking true\nhostkeyalias darwin-vz-builder\nidentityfile /var/lib/x y/id_ed25519\n\
        globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2\nuserknownhostsfile /a b/known_hosts\n";
    const UNKNOWN: &str = "host darwin-vz-builder\nuser root\nhostname darwin-vz-builder\nport 22\n\
        stricthostkeychecking ask\nidentityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/id_ed25519\n\
        userknownhostsfile /root/.ssh/known_hosts /root/.ssh/known_hosts2\n";

    fn facts(config: &str) -> Facts {
        Facts {
            alias: "darwin-vz-builder".to_owned(),
            config: Config::read(config),
            listen: "127.0.0.1:31122".parse().unwrap(),
            boot: Duration::from_secs(180),
            user: Some("builder".to_owned()),
            pinned: Some("darwin-vz-builder ssh-ed25519 AAAA\n".to_owned()),
            exists: |path| Ok(path == Path::new("/var/lib/x y/id_ed25519")),
            read: |path| {
                (path == Path::new("/a b/known_hosts"))
                    .then(|| "# ours\ndarwin-vz-builder ssh-ed25519 AAAA\n".to_owned())
            },
        }
    }

    #[test]
    fn a_host_that_ssh_does_not_know_is_no_fault() {
        assert_eq!(judge(&facts(UNKNOWN)).outcome, Outcome::NotApplicable);
    }

    #[test]
    fn a_host_that_it_knows_must_lead_to_the_guest() {
        let finding = judge(&facts(KNOWN));
        let expected = "ssh reaches darwin-vz-builder at 127.0.0.1:31122, with its key and host key";
        assert_eq!(finding, Finding::ok(expected));
        for (from, to, expected) in [
            ("port 31122", "port 31123", "connects to 127.0.0.1:31123"),
            ("user builder", "user root", "logs in as root"),
            ("x y/id_ed25519", "gone", "its key /var/lib/gone is missing"),
        ] {
            let finding = judge(&facts(&KNOWN.replace(from, to)));
            assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Config)));
            assert!(finding.evidence.contains(expected), "{expected}: {finding:?}");
        }
        for conflict in ["requesttty force", "connecttimeout 10", "proxyjump bastion"] {
            let finding = judge(&facts(&format!("{KNOWN}{conflict}\n")));
            assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Config)), "{conflict}");
            assert!(finding.evidence.contains(conflict.split(' ').next().unwrap()), "{finding:?}");
        }
        let lax = judge(&facts(&KNOWN.replace("checking true", "checking accept-new")));
        assert_eq!(lax.outcome, Outcome::Warning);
    }

    #[test]
    fn another_host_key_is_found_and_a_file_that_cannot_be_read_is_no_fault() {
        let other = Facts { pinned: Some("darwin-vz-builder ssh-ed25519 BBBB\n".to_owned()), ..facts(KNOWN) };
        assert!(judge(&other).evidence.contains("another host key"), "{:?}", judge(&other));
        let hidden = Facts { read: |_| None, exists: |_| Err(io::ErrorKind::PermissionDenied.into()), ..facts(KNOWN) };
        assert_eq!(judge(&hidden).outcome, Outcome::Ok);
    }
}
