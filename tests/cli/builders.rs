//! `doctor nix-config` against Nix itself: how Nix uses a list of builders, and what `doctor` reports.

use super::program;
use dvn_guest::ssh::keys::Keys;
use dvn_host::machine_dir::StateDir;
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

fn nix() -> PathBuf {
    std::env::var_os("DVN_TEST_NIX").expect("DVN_TEST_NIX is not set: run these tests with `make test`").into()
}

/// What Nix does with a build for a foreign system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nix {
    /// It asks the machine.
    Asks,
    /// It refuses, or cannot parse the list.
    Refuses,
    /// It waits for a free job of the machine, which never comes.
    Waits,
}

use Nix::{Asks, Refuses, Waits};

/// A computer with machines that only record requests.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Host {
        let host = Host(crate::common::private_dir());
        fs::write(host.path("config.toml"), "cores = 1\n").unwrap();
        let name = "builder".parse().unwrap();
        let machine = StateDir::open(&host.path("s")).unwrap().make_machine(&name).unwrap();
        Keys::ensure(&machine, &name).unwrap();
        for dir in ["bin", "plain", "with blank", "etc"] {
            fs::create_dir(host.path(dir)).unwrap();
        }
        let asked = format!("#!/bin/sh\n: >{}\nexit 1\n", host.path("asked").display());
        for program in ["plain/x-darwin-vz-nix-connect", "with blank/x-darwin-vz-nix-connect", "bin/ssh"] {
            fs::write(host.path(program), &asked).unwrap();
            fs::set_permissions(host.path(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Fills in the words `DIR`, `DIRECT` and `KEY` of a setting.
    fn filled(&self, text: &str) -> String {
        let dir = self.0.path().to_str().unwrap();
        text.replace("DIRECT", "ssh-ng://localhost?remote-program=DIR/plain/x-darwin-vz-nix-connect")
            .replace("KEY", "DIR/s/machines/builder/id_ed25519")
            .replace("DIR", dir)
    }

    fn config(&self, builders: &str) -> String {
        format!("experimental-features = nix-command\nmax-jobs = 0\nsystem = aarch64-darwin\nbuilders = {builders}\n")
    }

    fn search_path(&self) -> String {
        format!("{}:{}:{}", self.path("bin").display(), nix().display(), std::env::var("PATH").unwrap())
    }

    /// What Nix does with it. Nix reports a wait at its third level of verbosity.
    fn nix(&self, builders: &str) -> Nix {
        let _ = fs::remove_file(self.path("asked"));
        let system = format!("{}-linux", std::env::consts::ARCH);
        let derivation = format!("derivation {{ name = \"x\"; system = \"{system}\"; builder = \"/bin/sh\"; }}");
        let mut child = Command::new(nix().join("nix"))
            .args(["build", "-vvv", "--no-link", "--impure", "--expr", &derivation])
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", self.0.path())
            .env("NIX_CONF_DIR", self.path("etc"))
            .env("NIX_REMOTE", format!("local?root={}", self.path("store").display()))
            .env("NIX_CONFIG", self.config(builders))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let waits = lines.any(|line| line.contains("hook reply is 'postpone'"));
        if waits {
            child.kill().unwrap();
        }
        let ended = child.wait().unwrap();
        assert!(!ended.success(), "{builders}: what was asked has built nothing");
        match (self.path("asked").exists(), waits) {
            (true, _) => Asks,
            (false, true) => Waits,
            (false, false) => Refuses,
        }
    }

    /// The report of `doctor`.
    fn doctor(&self, builders: &str) -> (String, String) {
        let mut doctor = program(self.0.path(), &["doctor", "nix-config", "--json"]);
        doctor
            .env("DARWIN_VZ_NIX_STATE_DIR", self.path("s"))
            .env("PATH", self.search_path())
            .env("NIX_CONF_DIR", self.path("etc"))
            .env("NIX_REMOTE", format!("local?root={}", self.path("store").display()))
            .env("NIX_CONFIG", self.config(builders));
        let output = doctor.output().unwrap();
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let check = &report["checks"][0];
        (check["outcome"].as_str().unwrap().to_owned(), check["evidence"].as_str().unwrap().to_owned())
    }
}

#[test]
fn doctor_calls_a_list_of_builders_fine_if_nix_asks_the_machine_and_only_then() {
    let host = Host::new();
    let file = |name: &str, text: &str| {
        fs::write(host.path(name), host.filled(text).replace("ARCH", std::env::consts::ARCH)).unwrap()
    };
    file("machines", "# those that we have\nssh://other i686-linux ; DIRECT ARCH-linux - 4 1 # ours\n");
    file("with blank/machines", "DIRECT ARCH-linux - 4 1\n");
    file("outer", "@DIR/machines\n");
    file("blanks", "DIRECT ARCH-linux\n  \n");
    file("itself", "DIRECT ARCH-linux\n@DIR/itself\n");
    file("there", "@DIR/back\n");
    file("back", "@DIR/there\n");
    for (builders, expected) in [
        // Fields.
        ("DIRECT ARCH-linux - 4 1 benchmark,big-parallel - -", Asks),
        ("DIRECT ARCH-linux", Asks),
        ("DIRECT ARCH-linux,i686-linux - - - - - -", Asks),
        ("DIRECT ARCH-linux - 04 0.5", Asks),
        ("DIRECT ARCH-linux - 4 0", Asks),
        ("DIRECT ARCH-linux - 0 1", Waits),
        ("DIRECT ARCH-linux - 4 1 - kvm", Refuses),
        ("DIRECT ARCH-linux - 4 1 kvm kvm", Refuses),
        ("DIRECT ARCH-linux - four", Refuses),
        ("DIRECT ARCH-linux - -4", Refuses),
        ("DIRECT ARCH-linux - 4 -1", Refuses),
        ("DIRECT ARCH-linux - 4 fast", Refuses),
        ("DIRECT ARCH-linux - 4 1 - - !!!", Refuses),
        ("DIRECT ARCH-linux /a b/key 4 1", Refuses),
        // Several, comments, addresses.
        ("ssh://other i686-linux ; DIRECT ARCH-linux", Asks),
        ("DIRECT ARCH-linux - 4 ; DIRECT ARCH-linux - 4", Asks),
        ("DIRECT ARCH-linux ; ssh://other i686-linux - some", Refuses),
        ("- ARCH-linux ; DIRECT ARCH-linux", Refuses),
        ("ssh-ng://localhost?remote-program=DIR/plain/x%2Ddarwin-vz-nix-connect ARCH-linux", Asks),
        ("ssh-ng://localhost?remote-program=DIR/with%20blank/x-darwin-vz-nix-connect ARCH-linux", Refuses),
        ("ssh-ng://localhost?remote-program=DIR/none/x-darwin-vz-nix-connect ARCH-linux", Refuses),
        // Files.
        ("@DIR/machines", Asks),
        ("@ DIR/machines", Asks),
        ("@DIR/with blank/machines", Asks),
        ("@DIR/outer", Asks),
        ("@DIR/none ;@DIR/outer", Asks),
        ("@DIR/none ; @DIR/outer", Refuses),
        ("@DIR/blanks", Refuses),
        ("@DIR/none", Refuses),
        ("@DIR/itself", Refuses),
        ("@DIR/there", Refuses),
        ("@DIR/etc", Refuses),
        // The ssh door.
        ("ssh-ng://builder@darwin-vz-builder ARCH-linux KEY 4 1", Asks),
        ("builder@darwin-vz-builder ARCH-linux KEY 4 1", Asks),
        ("ssh-ng://builder@darwin-vz-builder ARCH-linux KEY 0 1", Waits),
    ] {
        let builders = host.filled(builders).replace("ARCH", std::env::consts::ARCH);
        assert_eq!(host.nix(&builders), expected, "{builders}");
        let (outcome, evidence) = host.doctor(&builders);
        assert_eq!(outcome == "ok", expected == Asks, "{builders}: {outcome}: {evidence}");
    }
}

/// Nix asks the machine and then gets no answer that it can use.
#[test]
fn doctor_does_not_call_fine_what_nix_asks_in_vain() {
    let host = Host::new();
    for (builders, said) in [
        (
            "ssh://localhost?remote-program=DIR/plain/x-darwin-vz-nix-connect ARCH-linux",
            "the direct door requires ssh-ng",
        ),
        ("ssh-ng://builder@darwin-vz-builder ARCH-linux DIR/none 4 1", "which is missing"),
        ("ssh-ng://builder@darwin-vz-builder ARCH-linux KEY 4 1 - - c3NoLWVkMjU1MTkgQUFBQQ==", "a host key other"),
    ] {
        let builders = host.filled(builders).replace("ARCH", std::env::consts::ARCH);
        assert_eq!(host.nix(&builders), Asks, "{builders}");
        let (outcome, evidence) = host.doctor(&builders);
        assert!(outcome == "failed" && evidence.contains(said), "{builders}: {outcome}: {evidence}");
    }
    let fine = host.filled("DIRECT ARCH-linux\nbuild-hook =").replace("ARCH", std::env::consts::ARCH);
    assert_eq!(host.nix(&fine), Refuses);
    let (outcome, evidence) = host.doctor(&fine);
    assert!(outcome == "failed" && evidence.contains("build-hook is empty"), "{evidence}");
}

/// Nix merges its settings; `doctor` checks the result.
#[test]
fn the_setting_counts_wherever_it_stands() {
    let host = Host::new();
    let line = host.filled("DIRECT ARCH-linux - 4 1").replace("ARCH", std::env::consts::ARCH);
    fs::write(host.path("etc/more.conf"), format!("builders = {line} # ours\n")).unwrap();
    fs::write(host.path("etc/none.conf"), "builders =\n").unwrap();
    for (rest, expected) in [
        (format!("builders = {line} # ours"), "ok"),
        ("include DIR/etc/more.conf".to_owned(), "ok"),
        ("!include DIR/etc/more.conf\n!include DIR/etc/missing.conf".to_owned(), "ok"),
        ("include DIR/etc/none.conf\ninclude DIR/etc/more.conf".to_owned(), "ok"),
        ("include DIR/etc/more.conf\ninclude DIR/etc/none.conf".to_owned(), "warning"),
    ] {
        // The last line for a setting wins, so only these lines matter.
        let (outcome, evidence) = host.doctor(&format!("none i686-linux\n{}", host.filled(&rest)));
        assert_eq!(outcome, expected, "{rest}: {evidence}");
    }
}
