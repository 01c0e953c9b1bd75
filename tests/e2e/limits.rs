//! Which of a client's own limits reach a build in the guest, by docs/guides/builds.md, and the guest's own limit.

use crate::lab::{Door, Lab, bundle, derivation, stderr};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The guest's limit, in seconds of silence, instead of two hours.
const LIMIT: u32 = 12;

/// Longer than the clients' limits in these tests, and shorter than the guest's.
const SILENCE: u32 = 4;

fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("debugfs").args(["-w", "-R", request]).arg(image).output().unwrap();
    assert!(output.status.success(), "{request}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The bundle under test with a short limit and an additional feature; and its Nix's configuration.
fn with_short_limit(dir: &Path) -> (PathBuf, String) {
    let copy = dir.join("with_short_limit");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(bundle()).unwrap().flatten() {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let image = copy.join("system.img");
    let mut writable = fs::metadata(&image).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o644);
    fs::set_permissions(&image, writable).unwrap();
    let conf = debugfs(&image, "cat /etc/nix/nix.conf");
    let changed = dir.join("nix.conf");
    fs::write(&changed, format!("{conf}max-silent-time = {LIMIT}\nextra-experimental-features = ca-derivations\n"))
        .unwrap();
    debugfs(&image, "rm /etc/nix/nix.conf");
    debugfs(&image, &format!("write {} /etc/nix/nix.conf", changed.display()));
    (copy, conf)
}

/// Builds a derivation whose path depends on its content, with or without the feature in the machine's line.
fn content_addressed(lab: &mut Lab, named: bool) -> (bool, String) {
    lab.nix_settings = "experimental-features = nix-command ca-derivations".to_owned();
    let expression = derivation("content-addressed", "echo >$out");
    let floating = "outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\"; __contentAddressed = true; }";
    let expression = format!("{} {floating}", expression.strip_suffix('}').unwrap());
    let mut nix = lab.nix("nix", Door::Direct);
    if named {
        let config =
            nix.get_envs().find(|(key, _)| *key == "NIX_CONFIG").unwrap().1.unwrap().to_str().unwrap().to_owned();
        nix.env("NIX_CONFIG", config.replace("big-parallel", "big-parallel,ca-derivations"));
    }
    let output = nix.args(["build", "--no-link", "--impure", "--expr", &expression]).output().unwrap();
    (output.status.success(), stderr(&output))
}

#[test]
fn the_guests_limit_counts_through_both_doors_and_the_clients_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, conf) = with_short_limit(dir.path());
    assert!(conf.lines().any(|line| line == "max-silent-time = 7200"), "{conf}");
    let mut lab = Lab::running(&format!("bundle = {bundle:?}"));
    for (door, protocol) in [(Door::Direct, "ssh-ng"), (Door::Ssh, "ssh-ng"), (Door::Ssh, "ssh")] {
        let build = |what: &str, script: &str| {
            let mut nix = lab.build(door, &format!("{what}-{door:?}-{protocol}"), script);
            let config = nix.get_envs().find(|(key, _)| *key == "NIX_CONFIG").unwrap().1.unwrap().to_owned();
            nix.env("NIX_CONFIG", config.to_str().unwrap().replace("ssh-ng://", &format!("{protocol}://")));
            nix
        };
        let hangs = build("hangs", "sleep 600; echo >$out").output().unwrap();
        let said = stderr(&hangs);
        assert!(
            !hangs.status.success() && said.contains(&format!("timed out after {LIMIT} seconds of silence")),
            "{said}"
        );

        let mut patient = build("silent", &format!("sleep {SILENCE}; echo with $NIX_BUILD_CORES cores; echo >$out"));
        let limits = ["--timeout", "2", "--max-silent-time", "2", "--cores", "7"];
        let output = patient.args(limits).output().unwrap();
        let said = stderr(&output);
        assert!(output.status.success() && said.contains("with 1 cores"), "nothing of it reaches the guest: {said}");

        let failed = build("fails", "echo left >file; exit 1").arg("--keep-failed").output().unwrap();
        assert!(!failed.status.success(), "{}", stderr(&failed));
        assert_eq!(lab.ssh("ls /tmp"), "", "nothing is kept in the guest: {}", stderr(&failed));
    }

    // A build in the guest itself keeps its directory.
    let fails = derivation("kept", "echo left >file; exit 1");
    let script = "find /tmp -name file -exec cat {} +; ls -lR /tmp >&2";
    let kept = lab.cli(&["ssh", "--", &format!("nix-build --no-out-link --keep-failed -E '{fails}'; {script}")]);
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "left\n", "{}", stderr(&kept));

    let (built, said) = content_addressed(&mut lab, true);
    assert!(built, "line and guest have the feature: {said}");
}

#[test]
fn content_addressed_derivations_are_refused_with_the_features_name() {
    let mut lab = Lab::running("");
    let (built, said) = content_addressed(&mut lab, false);
    assert!(!built && said.contains("required (system, features)") && said.contains("[ca-derivations]"), "{said}");
    let (built, said) = content_addressed(&mut lab, true);
    assert!(!built && said.contains("experimental Nix feature 'ca-derivations' is disabled"), "{said}");
}
