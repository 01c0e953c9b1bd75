//! A guest of the other architecture: the one that a Mac boots, on Linux.

use crate::lab::{Door, Lab, path_from_env, stdout_of};

#[test]
fn an_aarch64_guest_boots_builds_and_powers_off() {
    let bundle = path_from_env("DVN_TEST_BUNDLE_aarch64");
    let lab = Lab::running(&format!("bundle = {bundle:?}\ncores = 2"));
    assert_eq!(lab.ssh("uname -m").trim(), "aarch64");
    let mut nix = lab.nix("nix-build", Door::Direct);
    let builder = r#"derivation { name = "arm"; system = "aarch64-linux"; builder = "/bin/sh"; args = [ "-c" "uname -m > $out" ]; PATH = "/bin"; }"#;
    nix.args(["--no-out-link", "-E", builder]);
    let path = stdout_of(&nix.output().unwrap(), "an aarch64 build");
    assert_eq!(std::fs::read_to_string(lab.result(&path)).unwrap().trim(), "aarch64");
    lab.ok(&["stop"]);
    assert_eq!(lab.status()["lastExit"], "powered-off");
}
