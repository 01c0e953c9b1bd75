//! What this computer's Nix was told of the machine: the setting `builders`, and the files it names.

use super::{Finding, Subject, bundle, program::Program};
use crate::{error::Kind, ssh::keys::host_alias};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The direct door's program, by the file name that the program itself and the nix-darwin module give it.
const CONNECT: &str = "darwin-vz-nix-connect";

struct Facts {
    /// The setting, with files in the place of their names.
    lines: Vec<String>,
    /// The setting as it was given.
    setting: String,
    alias: String,
    /// The direct door's program in the machine's directory.
    connect: PathBuf,
    /// Nix's name for the guest's kind, if the bundle tells.
    system: Option<String>,
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
            return Finding::failed(Kind::Config, format!("Nix does not tell its settings: {why}"))
                .hint("see for yourself: nix config show");
        }
    };
    let setting = read_setting(&text, "builders").unwrap_or_default();
    judge(&Facts {
        lines: machines(&setting, |path| fs::read_to_string(path)),
        setting,
        alias: host_alias(&subject.machine),
        connect: subject.dir().connect_program(),
        system: bundle::fit(subject).await.map(|bundle| format!("{}-linux", bundle.arch)),
        exists: |path| path.try_exists(),
    })
}

/// Nix renamed the command in 2.20.
async fn show_config(nix: &Program) -> Result<String, String> {
    let nix = nix.clone().args(["--extra-experimental-features", "nix-command"]);
    let said = nix.clone().args(["config", "show"]).run().await?;
    if said.succeeded() {
        return Ok(said.stdout);
    }
    let older = nix.args(["show-config"]).run().await?;
    if older.succeeded() { Ok(older.stdout) } else { Err(said.complaint()) }
}

/// A setting's value, which may go on over several lines, up to the next `name = value`.
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

/// Lines of builders: separated by newlines or semicolons, `@FILE` for those of a file. A file that is missing has none.
fn machines(setting: &str, read: impl Fn(&Path) -> io::Result<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for item in setting.split(['\n', ';']).map(str::trim) {
        match item.strip_prefix('@') {
            Some(path) => lines.extend(read(Path::new(path)).unwrap_or_default().lines().map(str::to_owned)),
            None => lines.push(item.to_owned()),
        }
    }
    let uncommented = lines.iter().map(|line| line.split('#').next().unwrap_or_default().trim());
    uncommented.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// How a builder's line leads to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Door {
    Direct(PathBuf),
    Ssh,
}

/// The door that a line means, if it means this machine at all.
fn door(line: &str, alias: &str, connect: &Path) -> Option<Door> {
    let address = line.split_whitespace().next()?;
    if let Some((_, program)) = address.split_once("remote-program=") {
        let program = PathBuf::from(unescaped(program.split('&').next()?));
        let name = program.file_name()?.to_str()?;
        // The module's own is in the store, behind a hash; another machine's is in that machine's directory.
        let ours = program == connect || name.ends_with(&format!("-{CONNECT}"));
        return ours.then_some(Door::Direct(program));
    }
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).split(['?', '/', ':']).next()?;
    (host == alias).then_some(Door::Ssh)
}

/// `%2F` and its like, as in addresses.
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

fn judge(facts: &Facts) -> Finding {
    let found = facts.lines.iter().find_map(|line| Some((line, door(line, &facts.alias, &facts.connect)?)));
    let Some((line, door)) = found else {
        let setting = if facts.setting.is_empty() { "empty" } else { &facts.setting };
        return Finding::warning(format!("Nix sends no build to the machine (builders is {})", short(setting)))
            .hint("`darwin-vz-nix nix-config` prints what it needs, or enable the nix-darwin module");
    };
    let systems = line.split_whitespace().nth(1).unwrap_or("-");
    if let Some(system) = &facts.system
        && !systems.split(',').any(|known| known == system)
    {
        return Finding::failed(
            Kind::Config,
            format!("Nix sends it builds for {systems}, and the guest builds for {system}"),
        )
        .hint("take the line that `darwin-vz-nix nix-config` prints");
    }
    match door {
        // A program that may not be looked at may be there.
        Door::Direct(program) if !(facts.exists)(&program).unwrap_or(true) => {
            let evidence = format!("Nix is to run {}, which is missing", program.display());
            Finding::failed(Kind::Config, evidence).hint("take the line that `darwin-vz-nix nix-config` prints")
        }
        Door::Direct(_) => Finding::ok(format!("Nix sends builds for {systems} through the direct door")),
        Door::Ssh => Finding::ok(format!("Nix sends builds for {systems} through ssh")),
    }
}

fn short(text: &str) -> String {
    let first: String = text.chars().take(60).collect();
    if first.len() < text.len() { format!("{first}…") } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    const DIRECT: &str = "ssh-ng://localhost?remote-program=/s%20t/machines/builder/darwin-vz-nix-connect x86_64-linux - 4 1 benchmark - -";
    const SSH: &str = "ssh-ng://builder@darwin-vz-builder aarch64-linux /s/id_ed25519 4 1 big-parallel - c3No";

    fn judged(setting: &str, files: &[(&str, &str)]) -> Finding {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        judge(&Facts {
            lines: machines(setting, read),
            setting: setting.to_owned(),
            alias: "darwin-vz-builder".to_owned(),
            connect: "/s t/machines/builder/darwin-vz-nix-connect".into(),
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
    fn addresses_are_unescaped() {
        assert_eq!(unescaped("/a%20b/50%25/%zz%"), "/a b/50%/%zz%");
    }
}
