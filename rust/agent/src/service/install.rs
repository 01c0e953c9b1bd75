//! `darwin-vz-agent install`: copies this program to its place, and has the guest's init system run it, now and at every
//! start.

use super::programs::PATH;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Where the program goes. The units name the same path.
const BINARY: &str = "usr/local/bin/darwin-vz-agent";

/// An init system that can run the agent.
struct Init {
    name: &'static str,
    /// This exists where the init system runs.
    sign: &'static str,
    unit: &'static str,
    content: &'static str,
    mode: u32,
    /// The commands that make it start, now and at every start of the guest.
    commands: &'static [&'static [&'static str]],
}

const INITS: [Init; 2] = [
    Init {
        name: "systemd",
        sign: "run/systemd/system",
        unit: "etc/systemd/system/darwin-vz-agent.service",
        content: include_str!("../../units/darwin-vz-agent.service"),
        mode: 0o644,
        commands: &[
            &["systemctl", "daemon-reload"],
            &["systemctl", "enable", "darwin-vz-agent.service"],
            &["systemctl", "restart", "darwin-vz-agent.service"],
        ],
    },
    Init {
        name: "OpenRC",
        sign: "run/openrc",
        unit: "etc/init.d/darwin-vz-agent",
        content: include_str!("../../units/darwin-vz-agent.openrc"),
        mode: 0o755,
        commands: &[&["rc-update", "add", "darwin-vz-agent", "default"], &["rc-service", "darwin-vz-agent", "restart"]],
    },
];

/// Runs the command.
pub fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("darwin-vz-agent: only root can install it; run it with sudo");
        return ExitCode::FAILURE;
    }
    match install(Path::new("/"), Path::new("/proc/self/exe"), run) {
        Ok(init) => {
            println!("darwin-vz-agent is installed as /{BINARY} and runs under {init}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("darwin-vz-agent cannot be installed: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Installs `program` below `root`, and returns the name of the init system that runs it.
fn install(
    root: &Path,
    program: &Path,
    mut run: impl FnMut(&[&str]) -> Result<(), String>,
) -> Result<&'static str, String> {
    if root.join("etc/NIXOS").exists() {
        return Err("NixOS does not take units from programs: declare a systemd service that runs \
            `darwin-vz-agent daemon` in its configuration"
            .to_owned());
    }
    let Some(init) = INITS.iter().find(|init| root.join(init.sign).is_dir()) else {
        return Err("neither systemd nor OpenRC runs here: have the init system of this guest run \
            `darwin-vz-agent daemon` as root"
            .to_owned());
    };
    let binary = fs::read(program).map_err(|e| format!("{}: {e}", program.display()))?;
    place(&root.join(BINARY), &binary, 0o755)?;
    place(&root.join(init.unit), init.content.as_bytes(), init.mode)?;
    init.commands.iter().try_for_each(|words| run(words))?;
    Ok(init.name)
}

/// Writes a file that appears whole, also in place of a program that runs.
fn place(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    let why = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(why)?;
    }
    fs::write(&new, content).map_err(why)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(why)?;
    fs::rename(&new, path).map_err(why)
}

fn run(words: &[&str]) -> Result<(), String> {
    let command = words.join(" ");
    let status = Command::new(words[0]).args(&words[1..]).env("PATH", PATH).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{command}` failed ({status})")),
        Err(e) => Err(format!("`{command}` cannot be started: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty root with these directories, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, directories: &[&str]) -> Root {
            let root = std::env::temp_dir().join(format!("dvn-install-{name}-{}", std::process::id()));
            directories.iter().for_each(|directory| fs::create_dir_all(root.join(directory)).unwrap());
            fs::write(root.join("program"), "new").unwrap();
            Root(root)
        }

        fn install(&self, fails: bool) -> (Result<&'static str, String>, Vec<String>) {
            let mut commands = Vec::new();
            let result = install(&self.0, &self.0.join("program"), |words| {
                commands.push(words.join(" "));
                if fails { Err("it failed".to_owned()) } else { Ok(()) }
            });
            (result, commands)
        }

        fn file(&self, path: &str) -> (String, u32) {
            let path = self.0.join(path);
            (fs::read_to_string(&path).unwrap(), fs::metadata(&path).unwrap().permissions().mode() & 0o777)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn systemd_gets_a_unit_and_an_older_program_is_replaced() {
        let root = Root::new("systemd", &["run/systemd/system", "run/openrc", "usr/local/bin"]);
        fs::write(root.0.join(BINARY), "old, and longer").unwrap();
        let (result, commands) = root.install(false);
        assert_eq!(result, Ok("systemd"));
        let expected = [
            "systemctl daemon-reload",
            "systemctl enable darwin-vz-agent.service",
            "systemctl restart darwin-vz-agent.service",
        ];
        assert_eq!(commands, expected);
        assert_eq!(root.file(BINARY), ("new".to_owned(), 0o755));
        let (unit, mode) = root.file("etc/systemd/system/darwin-vz-agent.service");
        assert!(unit.contains(&format!("ExecStart=/{BINARY} daemon\n")) && mode == 0o644, "{unit}");
        assert!(!root.0.join("etc/init.d").exists());
    }

    #[test]
    fn openrc_gets_a_script() {
        let root = Root::new("openrc", &["run/openrc"]);
        let (result, commands) = root.install(false);
        assert_eq!(result, Ok("OpenRC"));
        assert_eq!(commands, ["rc-update add darwin-vz-agent default", "rc-service darwin-vz-agent restart"]);
        let (script, mode) = root.file("etc/init.d/darwin-vz-agent");
        assert!(script.starts_with("#!/sbin/openrc-run\n") && script.contains(BINARY) && mode == 0o755, "{script}");
    }

    #[test]
    fn where_it_cannot_be_installed_nothing_is_written_and_the_reason_is_clear() {
        for (name, directories, expected) in [
            ("none", &["run"][..], "neither systemd nor OpenRC"),
            ("nixos", &["run/systemd/system", "etc/NIXOS"], "NixOS"),
        ] {
            let root = Root::new(name, directories);
            let (result, commands) = root.install(false);
            assert!(result.unwrap_err().contains(expected) && commands.is_empty());
            assert!(!root.0.join(BINARY).exists());
        }
        let root = Root::new("fails", &["run/systemd/system"]);
        let (result, commands) = root.install(true);
        assert_eq!((result, commands.len()), (Err("it failed".to_owned()), 1));
    }
}
