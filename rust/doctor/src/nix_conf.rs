//! The machine in this computer's Nix configuration: the setting `builders`, and the files that it names.

use super::{
    finding::{Finding, Outcome},
    keys::pinned_line,
    machines::{self, Machine, Reading, Unreadable},
    opened_bundle,
    program::Program,
    subject::Subject,
};
use dvn_guest::ssh::keys::host_alias;
use dvn_types::Kind;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The direct door's program: the file name that both this program and the nix-darwin module use.
const CONNECT: &str = "darwin-vz-nix-connect";

struct Facts {
    /// The builders, under each of Nix's readings.
    readings: [Result<Vec<Machine>, Unreadable>; 2],
    /// The setting's text.
    setting: String,
    /// Nix uses remote builders at all.
    asks: bool,
    /// This computer's own system, the default of a builder that names none.
    own_system: String,
    alias: String,
    /// The direct door's program in the machine's directory.
    connect: PathBuf,
    /// The guest's system as Nix spells it, if the bundle is known.
    system: Option<String>,
    /// The line of `known_hosts` with the guest's host key, if there is one.
    pinned: Option<String>,
    /// Whether a file is there.
    exists: fn(&Path) -> io::Result<bool>,
}

/// The check `nix-config`.
pub async fn check(subject: &Subject) -> Finding {
    let Some(nix) = subject.find("nix") else {
        return Finding::not_applicable("there is no nix on this computer");
    };
    let text = match show_config(&nix).await {
        Ok(text) => text,
        Err(why) => {
            return Finding::failed(Kind::Config, format!("Nix does not show its settings: {why}"))
                .hint("check: nix config show");
        }
    };
    let setting = read_setting(&text, "builders").unwrap_or_default();
    judge(&Facts {
        readings: read_both(&setting, &|path: &Path| fs::read_to_string(path)),
        setting,
        asks: read_setting(&text, "build-hook").is_none_or(|hook| !hook.is_empty()),
        own_system: read_setting(&text, "system").unwrap_or_default(),
        alias: host_alias(&subject.machine),
        connect: subject.dir().connect_program(),
        system: opened_bundle::fit(subject).await.map(|bundle| format!("{}-linux", bundle.arch)),
        pinned: pinned_line(&subject.dir(), &subject.machine),
        exists: |path| path.try_exists(),
    })
}

/// Nix 2.20 renamed the command.
async fn show_config(nix: &Program) -> Result<String, String> {
    let nix = nix.clone().args(["--extra-experimental-features", "nix-command"]);
    let said = nix.clone().args(["config", "show"]).run().await?;
    if said.succeeded() {
        return Ok(said.stdout);
    }
    let older = nix.args(["show-config"]).run().await?;
    if older.succeeded() { Ok(older.stdout) } else { Err(said.complaint()) }
}

/// A setting's value. It may continue over several lines, up to the next `name = value`.
fn read_setting(text: &str, name: &str) -> Option<String> {
    let begins = |line: &str| {
        let (key, value) = line.split_once(" =")?;
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_key.then(|| (key.to_owned(), value.trim_start().to_owned()))
    };
    let mut lines = text.lines().skip_while(|line| begins(line).is_none_or(|(key, _)| key != name));
    let (_, first) = begins(lines.next()?)?;
    let rest = lines.take_while(|line| begins(line).is_none());
    Some(std::iter::once(first.as_str()).chain(rest).collect::<Vec<_>>().join("\n"))
}

/// The way from a builder's line to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Door {
    Direct(PathBuf),
    Ssh,
}

/// The door that a builder's address leads to, if it leads to this machine.
fn door(address: &str, alias: &str, connect: &Path) -> Option<Door> {
    if let Some((_, program)) = address.split_once("remote-program=") {
        let program = PathBuf::from(unescaped(program.split('&').next()?));
        let name = program.file_name()?.to_str()?;
        // The module's own program is in the store, behind a hash; another machine's is in that machine's directory.
        let ours = program == connect || name.ends_with(&format!("-{CONNECT}"));
        return ours.then_some(Door::Direct(program));
    }
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).split(['?', '/', ':']).next()?;
    (host == alias).then_some(Door::Ssh)
}

/// Decodes percent-encoding, such as `%2F`.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut unescaped = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                unescaped.push(byte);
                at += 3;
            }
            None => {
                unescaped.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&unescaped).into_owned()
}

const TAKE: &str = "use the line that `darwin-vz-nix nix-config` prints";

fn read_both(setting: &str, file: &impl Fn(&Path) -> io::Result<String>) -> [Result<Vec<Machine>, Unreadable>; 2] {
    [Reading::Trimmed, Reading::Split].map(|reading| machines::read(setting, reading, file))
}

fn judge(facts: &Facts) -> Finding {
    let [first, second] = facts.readings.each_ref().map(|machines| judge_list(facts, machines));
    if first.outcome == second.outcome {
        return first;
    }
    let good = |finding: &Finding| matches!(finding.outcome, Outcome::Ok | Outcome::NotApplicable);
    let worse = if second.outcome == Outcome::Failed || good(&first) { second } else { first };
    worse
        .hint("versions of Nix read this list in two ways: give each builder and each @FILE a line that begins with it")
}

fn judge_list(facts: &Facts, machines: &Result<Vec<Machine>, Unreadable>) -> Finding {
    let machines = match machines {
        Ok(machines) => machines,
        Err(Unreadable::File { path, why }) if why.kind() == io::ErrorKind::PermissionDenied => {
            return Finding::not_applicable(format!("{} is not readable for this user", path.display()))
                .hint("run this as root, as Nix's daemon does");
        }
        Err(why) => {
            return Finding::failed(
                Kind::Config,
                format!("Nix cannot read its list of builders, and uses none: {why}"),
            )
            .hint(format!("correct the setting builders: {}", short(&facts.setting)));
        }
    };
    let ours =
        machines.iter().filter_map(|machine| Some((machine, door(&machine.address, &facts.alias, &facts.connect)?)));
    let mut findings: Vec<_> = ours.map(|(machine, door)| judge_one(facts, machine, &door)).collect();
    if findings.is_empty() {
        let setting = if facts.setting.is_empty() { "empty" } else { &facts.setting };
        return Finding::warning(format!("Nix sends no builds to the machine (builders is {})", short(setting)))
            .hint("`darwin-vz-nix nix-config` prints what it needs, or enable the nix-darwin module");
    }
    if !facts.asks {
        return Finding::failed(Kind::Config, "Nix uses no builders: its setting build-hook is empty")
            .hint("remove build-hook from nix.conf");
    }
    // Nix uses the first that suits.
    let best = |wanted| findings.iter().position(|finding| finding.outcome == wanted);
    let index = best(Outcome::Ok).or(best(Outcome::Warning)).unwrap_or(0);
    findings.swap_remove(index)
}

/// Judges one line that leads to the machine, for a build without required features.
fn judge_one(facts: &Facts, machine: &Machine, door: &Door) -> Finding {
    let failed = |evidence: String| Finding::failed(Kind::Config, evidence).hint(TAKE);
    let own = std::slice::from_ref(&facts.own_system);
    let systems = if machine.systems.is_empty() { own } else { &machine.systems };
    let shown = systems.join(",");
    if let Some(system) = facts.system.as_ref().filter(|system| !systems.contains(system)) {
        return failed(format!("Nix sends it builds for {shown}, and the guest builds for {system}"));
    }
    if machine.jobs == 0 {
        return failed("its line allows 0 parallel builds: builds for it wait for ever".to_owned());
    }
    if let Door::Direct(program) = door {
        let shown = program.display();
        if !machine.address.starts_with("ssh-ng://") {
            return failed(format!("its line uses {}, and the direct door requires ssh-ng://", machine.address));
        }
        if program.to_string_lossy().contains(|c: char| c.is_ascii_whitespace()) {
            let evidence = format!("Nix cannot run {shown}: it takes the text after a blank for an argument");
            return Finding::failed(Kind::Config, evidence).hint("use a state directory whose path has no blanks");
        }
        // A program that this user cannot see may exist.
        if !(facts.exists)(program).unwrap_or(true) {
            return failed(format!("its line runs {shown}, which is missing"));
        }
    }
    if *door == Door::Ssh {
        let key = |text: &str| text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let pinned = facts.pinned.as_deref().and_then(|line| line.split_once(' ')).map(|(_, public)| key(public));
        if let (Some(pinned), Some(configured)) = (pinned, &machine.host_key)
            && key(configured) != pinned
        {
            return failed("Nix expects a host key other than the guest's".to_owned());
        }
        if let Some(file) = machine.ssh_key.as_ref().filter(|file| !(facts.exists)(file).unwrap_or(true)) {
            return failed(format!("its line logs in with {}, which is missing", file.display()));
        }
    }
    if !machine.mandatory.is_empty() {
        let features = machine.mandatory.join(",");
        return Finding::warning(format!("Nix sends it only builds that require {features}"))
            .hint("for all builds, put - into the seventh field of its line");
    }
    let way = if *door == Door::Ssh { "ssh" } else { "the direct door" };
    Finding::ok(format!("Nix sends builds for {shown} through {way}"))
}

fn short(text: &str) -> String {
    let first: String = text.chars().take(60).collect();
    if first.len() < text.len() { format!("{first}…") } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: &str = "ssh-ng://localhost?remote-program=/s%25t/machines/builder/darwin-vz-nix-connect x86_64-linux - 4 1 benchmark - -";
    const SSH: &str =
        "ssh-ng://builder@darwin-vz-builder aarch64-linux /s/id_ed25519 4 1 big-parallel - c3NoLWVkMjU1MTkgQUFBQQ==";

    fn judged(setting: &str, files: &[(&str, &str)]) -> Finding {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        judge(&Facts {
            readings: read_both(setting, &read),
            setting: setting.to_owned(),
            asks: true,
            own_system: "x86_64-linux".to_owned(),
            pinned: Some("darwin-vz-builder ssh-ed25519 AAAA\n".to_owned()),
            alias: "darwin-vz-builder".to_owned(),
            connect: "/s%t/machines/builder/darwin-vz-nix-connect".into(),
            system: Some(if setting.contains("aarch64") { "aarch64-linux" } else { "x86_64-linux" }.to_owned()),
            exists: |path| Ok(!path.starts_with("/gone")),
        })
    }

    #[test]
    fn a_setting_is_read_with_all_its_lines() {
        let text =
            "build-users-group = \nbuilders = a x86_64-linux\nb aarch64-linux?x=1\nbuilders-use-substitutes = false\n";
        assert_eq!(read_setting(text, "builders").as_deref(), Some("a x86_64-linux\nb aarch64-linux?x=1"));
        assert_eq!(read_setting(text, "build-users-group").as_deref(), Some(""));
        assert_eq!(read_setting(text, "max-jobs"), None);
    }

    #[test]
    fn the_machine_is_found_by_either_door_also_in_a_file() {
        assert_eq!(judged(DIRECT, &[]), Finding::ok("Nix sends builds for x86_64-linux through the direct door"));
        assert_eq!(judged(SSH, &[]), Finding::ok("Nix sends builds for aarch64-linux through ssh"));
        let file = format!("# builders\nssh://other i686-linux\n{DIRECT} # ours\n");
        assert_eq!(judged("@/etc/nix/machines", &[("/etc/nix/machines", &file)]).outcome, Outcome::Ok);
        assert_eq!(judged(&format!("ssh://other i686-linux ; {DIRECT}"), &[]).outcome, Outcome::Ok);
        let module = "ssh-ng://localhost?remote-program=/nix/store/abc-darwin-vz-nix-connect x86_64-linux - 4 1 - - -";
        assert_eq!(judged(module, &[]).outcome, Outcome::Ok);
    }

    #[test]
    fn without_the_machine_nix_builds_nothing_there() {
        for setting in ["", "@/etc/nix/machines", "ssh://darwin-vz-builder2 x86_64-linux", "# ssh://darwin-vz-builder"]
        {
            assert_eq!(judged(setting, &[]).outcome, Outcome::Warning, "{setting}");
        }
        let others = DIRECT.replace("machines/builder", "machines/ci");
        assert_eq!(judged(&others, &[]).outcome, Outcome::Warning);
    }

    #[test]
    fn a_line_that_leads_nowhere_is_a_fault() {
        let gone = "ssh-ng://localhost?remote-program=/gone/x-darwin-vz-nix-connect x86_64-linux - 4 1 - - -";
        let finding = judged(gone, &[]);
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Config)));
        assert!(finding.evidence.contains("which is missing"), "{finding:?}");
        let foreign = DIRECT.replace("x86_64-linux", "i686-linux");
        assert!(judged(&foreign, &[]).evidence.contains("the guest builds for x86_64-linux"));
    }

    #[test]
    fn a_line_that_nix_does_not_use_is_no_way_in() {
        let failed = Outcome::Failed;
        for (from, to, outcome, said) in [
            ("- 4 1", "- 0 1", failed, "0 parallel builds"),
            ("benchmark - -", "- kvm,benchmark -", Outcome::Warning, "only builds that require kvm,benchmark"),
            ("ssh-ng://", "ssh://", failed, "uses ssh://"),
            ("s%25t", "s%20t", failed, "the text after a blank"),
            ("s%25t", "s%09t", failed, "the text after a blank"),
            ("- 4 1", "- four 1", failed, "Nix cannot read its list of builders, and uses none"),
            (" - 4", " - -", Outcome::Ok, "through the direct door"),
            ("x86_64-linux", "-", Outcome::Ok, "builds for x86_64-linux"),
        ] {
            let line = DIRECT.replace(from, to);
            assert_ne!(line, DIRECT, "{from}");
            let connect = if to.contains("t") && to.contains('%') {
                to.replace("%20", " ").replace("%09", "\t")
            } else {
                "s%t".to_owned()
            };
            let facts = Facts {
                readings: read_both(&line, &|_: &Path| Err(io::ErrorKind::NotFound.into())),
                setting: line.clone(),
                asks: true,
                own_system: "x86_64-linux".to_owned(),
                alias: "darwin-vz-builder".to_owned(),
                connect: format!("/{connect}/machines/builder/darwin-vz-nix-connect").into(),
                system: Some("x86_64-linux".to_owned()),
                pinned: None,
                exists: |_| Ok(true),
            };
            let finding = judge(&facts);
            assert_eq!(finding.outcome, outcome, "{line}: {finding:?}");
            assert!(finding.evidence.contains(said), "{line}: {finding:?}");
        }
        for (from, to, said) in [
            ("c3NoLWVkMjU1MTkgQUFBQQ==", "c3NoLWVkMjU1MTkgQkJCQg==", "a host key other"),
            ("/s/id_ed25519", "/gone/id_ed25519", "/gone/id_ed25519, which is missing"),
        ] {
            let finding = judged(&SSH.replace(from, to), &[]);
            assert!(finding.outcome == failed && finding.evidence.contains(said), "{finding:?}");
        }
    }

    #[test]
    fn of_several_lines_the_one_counts_that_nix_can_use() {
        let useless = DIRECT.replace("- 4 1", "- 0 1");
        assert_eq!(judged(&format!("{useless} ; {DIRECT}"), &[]).outcome, Outcome::Ok);
        assert_eq!(judged(&format!("{useless} ; {useless}"), &[]).outcome, Outcome::Failed);
    }

    #[test]
    fn files_in_files_lead_to_the_machine_or_nowhere() {
        let files = [("/etc/nix/machines", "@/etc/nix/more"), ("/etc/nix/more", DIRECT), ("/l", "@/l")];
        assert_eq!(judged("@/etc/nix/machines", &files).outcome, Outcome::Ok);
        assert_eq!(judged("@ /etc/nix/more", &files).outcome, Outcome::Ok);
        let parting = judged("@/none ; @/etc/nix/more", &files);
        assert_eq!((parting.outcome, parting.hints.len()), (Outcome::Warning, 2), "{parting:?}");
        assert_eq!(judged(&format!("{DIRECT} ; "), &files).outcome, Outcome::Failed);
        let circle = judged("@/l", &files);
        assert!(circle.outcome == Outcome::Failed && circle.evidence.contains("includes itself"), "{circle:?}");
    }

    #[test]
    fn addresses_are_unescaped() {
        assert_eq!(unescaped("/a%20b/50%25/%zz%"), "/a b/50%/%zz%");
    }
}
