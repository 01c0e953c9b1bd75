//! Old and new versions of Nix on the host, at both doors. docs/guides/nix-versions.md has the results.
//!
//! Each is Debian's, from the suite that `tests/tools/setup.sh` names, in a separate directory. The guest's is 2.26.

use crate::lab::{Door, Lab, derivation, path_from_env, stderr, stdout_of, wait};
use std::{
    fs,
    io::Write,
    process::{Command, Output},
};

/// One of them.
struct Client {
    /// The suite of Debian that it is from.
    suite: &'static str,
    /// Major and minor version; for the moving suite the minimum.
    version: [u32; 2],
    moves: bool,
}

const CLIENTS: [Client; 3] = [
    Client { suite: "bookworm", version: [2, 8], moves: false },
    Client { suite: "trixie", version: [2, 26], moves: false },
    Client { suite: "sid", version: [2, 34], moves: true },
];

impl Client {
    /// Makes the lab's host use it, and checks its version.
    fn install(&self, lab: &mut Lab) {
        lab.nix_programs = path_from_env("DVN_TEST_NIX_CLIENTS").join(self.suite);
        assert!(lab.nix_programs.is_dir(), "{:?} is not there: run `tests/tools/setup.sh tests`", lab.nix_programs);
        let text = stdout_of(&lab.host_nix("nix").arg("--version").output().unwrap(), "nix --version");
        // Not by a macro: the line must appear in the output of a successful test, too.
        let _ = write!(std::io::stderr(), "Nix of Debian {}: {text}", self.suite);
        let mut numbers = text.trim().rsplit(' ').next().unwrap().split('.').map(|number| number.parse().unwrap());
        let version = [numbers.next().unwrap(), numbers.next().unwrap()];
        let fits = if self.moves { version >= self.version } else { version == self.version };
        assert!(fits, "{} has {version:?}, and {:?} was expected", self.suite, self.version);
    }

    /// The command of this version that checks whether a store answers.
    fn info(&self) -> &'static str {
        if self.version < [2, 26] { "ping" } else { "info" }
    }
}

/// The address of a door's store, as `nix-config` has it.
fn address(lab: &Lab, door: Door) -> String {
    let line = lab.ok(&["nix-config", "--only", "builders", "--door", door.name()]);
    line.split(' ').next().unwrap().to_owned()
}

fn run(command: &mut Command, what: &str) -> String {
    stdout_of(&command.output().unwrap(), what).trim().to_owned()
}

/// A file in the host's store.
fn add(lab: &Lab, name: &str) -> String {
    let file = lab.dir.path().join(name);
    fs::write(&file, format!("{name}\n")).unwrap();
    run(lab.host_nix("nix-store").arg("--add").arg(file), "nix-store --add")
}

/// An expression of one derivation that copies its input.
fn copying(name: &str, input: &str) -> String {
    let expression = derivation(name, &format!("cat {input} >$out; echo built {name} >&2"));
    expression.replacen("derivation {", &format!("derivation {{ input = builtins.storePath {input};"), 1)
}

/// Builds it with the old command, which all versions have. Returns the whole output and the result.
fn build(lab: &Lab, nix: &mut Command, name: &str, input: &str) -> (Output, String) {
    let output = nix.args(["--no-out-link", "-E", &copying(name, input)]).output().unwrap();
    let text = fs::read_to_string(lab.result(&stdout_of(&output, name))).unwrap();
    (output, text)
}

/// Everything that a client does at a door: checks whether the machine answers, builds, copies both ways, queries
/// paths.
fn check_door(lab: &Lab, client: &Client, door: Door) {
    let (suite, address) = (client.suite, address(lab, door));
    let name = |what: &str| format!("{suite}-{}-{what}", door.name());
    let nix = |args: &[&str]| run(lab.nix("nix", door).args(args), &format!("{}: nix {args:?}", name("")));

    nix(&["store", client.info(), "--store", &address]);

    // As a builder, which the setting names.
    let input = add(lab, &name("input"));
    let (output, text) = build(lab, &mut lab.nix("nix-build", door), &name("build"), &input);
    assert_eq!(text, format!("{}\n", name("input")));
    let log = stderr(&output);
    assert!(log.contains(&format!("built {}", name("build"))) && log.contains("on 'ssh-ng://"), "{log}");

    // As a store: to it, in it, from it.
    let copied = add(lab, &name("copied"));
    nix(&["copy", "--to", &address, &copied]);
    let mut there = lab.nix("nix-build", door);
    there.args(["--store", &address, "--no-out-link", "-E", &copying(&name("there"), &copied)]);
    let there = run(&mut there, &name("there"));
    assert!(!lab.result(&there).exists(), "built in the guest's store, {there} is in the host's already");
    assert_eq!(nix(&["path-info", "--store", &address, &copied, &there]).lines().count(), 2);
    nix(&["copy", "--no-check-sigs", "--from", &address, &there]);
    assert_eq!(fs::read_to_string(lab.result(&there)).unwrap(), format!("{}\n", name("copied")));
}

/// What does not depend on the door: a builder from a file, and a query for a path that the guest lacks.
fn use_file(lab: &Lab, client: &Client) {
    let door = Door::Direct;
    let machines = lab.dir.path().join("machines");
    fs::write(&machines, lab.ok(&["nix-config", "--only", "builders"])).unwrap();
    let mut nix = lab.nix("nix-build", door);
    nix.arg("--builders").arg(format!("@{}", machines.display()));
    let name = format!("{}-by-file", client.suite);
    assert_eq!(build(lab, &mut nix, &name, &add(lab, &format!("{name}-input"))).1, format!("{name}-input\n"));
    let unknown =
        lab.nix("nix", door).args(["path-info", "--store", &address(lab, door), &missing_path()]).output().unwrap();
    assert!(!unknown.status.success() && stderr(&unknown).contains("is not valid"), "{}", stderr(&unknown));
}

/// A path that no store has.
fn missing_path() -> String {
    format!("/nix/store/{}-missing_path", "0".repeat(32))
}

/// The program's own use of the host's Nix for its checks.
fn run_doctor(lab: &Lab) {
    let mut doctor = lab.program(&["doctor", "nix-config", "build", "--deep"]);
    doctor.env("PATH", format!("{}:{}", lab.nix_programs.display(), lab.path));
    doctor.env("NIX_CONFIG", format!("builders = {}", lab.ok(&["nix-config", "--only", "builders"])));
    let text = stdout_of(&doctor.output().unwrap(), "doctor");
    assert!(text.lines().filter(|line| line.starts_with("ok ")).count() == 2, "{text}");
}

#[test]
fn every_version_of_nix_asks_builds_and_copies_through_both_doors() {
    let mut lab = Lab::running("cores = 2");
    for client in &CLIENTS {
        client.install(&mut lab);
        for door in [Door::Direct, Door::Ssh] {
            check_door(&lab, client, door);
        }
        use_file(&lab, client);
        run_doctor(&lab);
    }
    assert_eq!(lab.boots(), 1);
    wait("the connections to end", || lab.leases() == 0);
}

#[test]
fn every_version_of_nix_builds_where_the_hosts_store_is_shared() {
    let mut lab = Lab::sharing("cores = 2");
    // The oldest comes last: a guest that has left the host's store does not use it until its next boot.
    for client in CLIENTS.iter().rev() {
        client.install(&mut lab);
        lab.end_host_nix();
        lab.run_host_nix();
        let shared = client.version >= [2, 18];
        for door in [Door::Direct, Door::Ssh] {
            let name = format!("{}-{}", client.suite, door.name());
            let input = add(&lab, &format!("{name}-input"));
            let (_, text) = build(&lab, &mut lab.nix("nix-build", door), &name, &input);
            assert_eq!(text, format!("{name}-input\n"));
            let copied = lab.ssh(&format!("ls -d /data{input} 2>/dev/null || true"));
            assert_eq!(copied.trim().is_empty(), shared, "{input} in the guest's own layer: {copied:?}");
        }
        let store = lab.status()["store"].clone();
        assert_eq!(store["sharing"] == "on", shared, "{store}");
        if !shared {
            assert!(store.to_string().contains("1.35 or later is needed (Nix 2.18)"), "{store}");
        }
    }
    assert_eq!(lab.boots(), 1);
}
