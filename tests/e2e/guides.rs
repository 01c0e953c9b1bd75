//! The builds of README and guides, word for word, on a host of another system with a shared store, like a Mac. Each
//! must come from the guest, every time, and must fail without a builder.

#[path = "../docs/markdown.rs"]
#[allow(dead_code, reason = "of a page, only the code is wanted")]
mod markdown;

use crate::lab::{Lab, path_from_env};
use std::{
    cell::Cell,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A command, and the page that shows it.
#[derive(Debug)]
struct Shown {
    page: String,
    /// The part of its block before it that runs our program.
    before: Vec<String>,
    command: String,
}

/// All `nix build` commands in shell blocks.
fn shown() -> Vec<Shown> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![PathBuf::from("README.md")];
    for dir in ["docs", "docs/guides", "docs/migrating", "docs/concepts"] {
        let files = fs::read_dir(root.join(dir)).unwrap().map(|entry| Path::new(dir).join(entry.unwrap().file_name()));
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut shown = Vec::new();
    for path in pages {
        let page = markdown::read(&fs::read_to_string(root.join(&path)).unwrap());
        for (_, _, code) in page.blocks.iter().filter(|(language, ..)| language == "sh") {
            let mut before = Vec::new();
            for command in commands(code) {
                if command.starts_with("nix build") {
                    shown.push(Shown { page: path.display().to_string(), before: before.clone(), command });
                } else {
                    before.push(command);
                }
            }
        }
    }
    shown
}

/// The commands of a block: one per line, or several lines of a quotation or after a backslash.
fn commands(code: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open = false;
    for line in code.lines() {
        match commands.last_mut().filter(|_| open) {
            Some(command) => *command = format!("{command}\n{line}"),
            None => commands.push(line.to_owned()),
        }
        let command = commands.last().unwrap();
        open = command.matches('\'').count() % 2 == 1 || command.ends_with('\\');
    }
    commands
}

/// The environment of a reader of the guides: the program and Nix on PATH, a builder in Nix's configuration if the page
/// has the module, and a flake in the directory. Only this function replaces words of the guides that concern another
/// computer.
struct Setup {
    lab: Lab,
    cwd: PathBuf,
    builders: String,
    runs: Cell<u32>,
}

impl Setup {
    fn new() -> Setup {
        // A Mac shares the store by default.
        let lab = Lab::sharing("");
        let dir = lab.dir.path().to_owned();
        let cwd = dir.join("d");
        for made in ["d", "bin", "nixpkgs", ".config/nix"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        let arch = std::env::consts::ARCH;
        let run = "builtins.derivation { inherit name; system = \"SYSTEM\"; builder = \"/bin/sh\"; args = [ \"-c\" script ]; PATH = \"/bin\"; }";
        let run = run.replace("SYSTEM", &format!("{arch}-linux"));
        // The parts of nixpkgs that the guides use.
        let nixpkgs =
            format!("{{ outputs = _: {{ legacyPackages.{arch}-linux.runCommand = name: _: script: {run}; }}; }}");
        fs::write(dir.join("nixpkgs/flake.nix"), nixpkgs).unwrap();
        let registry = format!(
            r#"{{"version": 2, "flakes": [{{"from": {{"type": "indirect", "id": "nixpkgs"}}, "to": {{"type": "path", "path": "{}/nixpkgs"}}}}]}}"#,
            dir.display()
        );
        fs::write(dir.join(".config/nix/registry.json"), registry).unwrap();
        let program = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_darwin-vz-nix"));
        fs::write(dir.join("bin/darwin-vz-nix"), program).unwrap();
        fs::set_permissions(dir.join("bin/darwin-vz-nix"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(dir.join("config.toml"), cwd.join("config.toml")).unwrap();
        let builders = lab.ok(&["nix-config", "--only", "builders"]).trim().to_owned();
        let setup = Setup { lab, cwd, builders, runs: Cell::new(0) };
        setup.write_project();
        // Nix takes from a repository what git tracks; a state directory in it is not tracked.
        for args in [&["init", "--quiet"][..], &["add", "flake.nix"]] {
            assert!(Command::new("git").args(args).current_dir(&setup.cwd).status().unwrap().success());
        }
        setup
    }

    /// Writes a project of the user, with content that was never built.
    fn write_project(&self) {
        let number = self.runs.replace(self.runs.get() + 1);
        let arch = std::env::consts::ARCH;
        let script = "read -r kernel </proc/version; echo $kernel >$out";
        let project = format!(
            "builtins.derivation {{ name = \"project-{number}\"; system = \"{arch}-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" {script:?} ]; }}"
        );
        let flake = format!("{{ outputs = _: {{ packages.{arch}-linux.default = {project}; }}; }}");
        fs::write(self.cwd.join("flake.nix"), flake).unwrap();
    }

    fn words(&self, text: &str) -> String {
        let here = format!("{}-linux", std::env::consts::ARCH);
        text.replace("aarch64-linux", &here).replace("x86_64-linux", &here)
    }

    /// Runs a command of a page.
    fn run(&self, command: &str, builders: &str) -> Output {
        self.write_project();
        let dir = self.lab.dir.path();
        let path = format!("{}/bin:{}:{}", dir.display(), path_from_env("DVN_TEST_NIX").display(), self.lab.path);
        let mut bash = Command::new("timeout");
        bash.args(["100", "bash", "-euc", &self.words(command)])
            .current_dir(&self.cwd)
            .env_clear()
            .stdin(Stdio::null());
        bash.env("PATH", path).env("HOME", dir).env("NIX_REMOTE", format!("local?root={}", dir.join("host").display()));
        // A daemon that a page starts by itself runs beside the lab's.
        bash.env("DARWIN_VZ_NIX_LISTEN", "127.0.0.1:0");
        bash.env("DARWIN_VZ_NIX_STATE_DIR", self.lab.state()).env("DARWIN_VZ_NIX_CONFIG", dir.join("config.toml"));
        bash.env(
            "NIX_CONFIG",
            format!(
                "experimental-features = nix-command flakes\nsystem = aarch64-darwin\nflake-registry =\nbuilders = {builders}\n\
                 substitute = false\n{}",
                self.lab.nix_settings
            ),
        );
        bash.output().unwrap()
    }

    /// The text behind `result`.
    fn result(&self) -> (PathBuf, String) {
        let target = fs::read_link(self.cwd.join("result")).unwrap();
        let text = fs::read_to_string(self.lab.result(target.to_str().unwrap())).unwrap();
        (target, text)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_build_that_is_shown_comes_from_the_guest() {
    let shown = shown();
    assert!(shown.len() > 5, "the guides show {} builds: the test has shrunk", shown.len());
    let setup = Setup::new();
    let here = fs::read_to_string("/proc/version").unwrap();
    for Shown { page, before, command } in &shown {
        assert!(command.contains("-linux"), "{page} shows a build for no system of a guest:\n{command}");
        // A daemon that the page starts by itself; others run already.
        let own: Vec<_> =
            before.iter().filter(|line| line.contains("--state-dir") && line.contains(" start")).collect();
        for line in &own {
            let started = setup.run(line, "");
            assert!(started.status.success(), "{page}: {line}\n{}", stderr(&started));
        }
        // On a page without the module, the command itself names the builder.
        let builders = if command.contains("--builders") { "" } else { &setup.builders };
        let mut results = Vec::new();
        for _ in 0..2 {
            let built = setup.run(command, builders);
            assert!(built.status.success(), "{page}:\n{command}\n{}", stderr(&built));
            let (path, text) = setup.result();
            assert_ne!(text.trim(), here.trim(), "{page}: it was built here");
            assert!(text.starts_with("Linux version ") || text.trim() == std::env::consts::ARCH, "{page}: {text}");
            results.push(path);
            // The time in seconds makes a derivation a new one.
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        assert_ne!(
            results[0], results[1],
            "{page}: the second run found the result of the first, and did not build:\n{command}"
        );
        let without = command.split(" --builders").next().unwrap();
        let refused = setup.run(without, "");
        assert!(!refused.status.success(), "{page}: it needs no builder:\n{command}");
        assert!(
            ["required", "Unable to start any build"].iter().any(|words| stderr(&refused).contains(words)),
            "{page}: {}",
            stderr(&refused)
        );
        if !own.is_empty() {
            let stopped = setup.run("darwin-vz-nix --state-dir \"$PWD/vm\" stop --daemon", "");
            assert!(stopped.status.success(), "{page}: {}", stderr(&stopped));
        }
    }
}
