//! A small data disk and builds that leave garbage on it.

use crate::lab::{Door, Lab, derivation, stdout_of};
use std::fs;

/// Together they fill the free part of the disk more than once. Small, because Nix hashes each result.
const BUILDS: usize = 5;
const MEGABYTES: u64 = 24;
const LEFT: u64 = 90;

/// Paths of the host, among which a collection must find the guest's own.
const OF_THE_HOST: usize = 200;

/// Free megabytes of the data disk.
fn free(lab: &Lab) -> u64 {
    lab.ssh("df -Pk /data | tail -n 1 | awk '{print $4}'").trim().parse::<u64>().unwrap() >> 10
}

/// Leaves that many megabytes free, by another file of the right size.
fn fill(lab: &Lab, name: &str, left: u64) {
    let taken = free(lab).saturating_sub(left);
    lab.ssh(&format!("busybox fallocate -l {} /tmp/{name}", taken << 20));
}

/// A build whose result stays in the guest; its path.
fn build(lab: &Lab, door: Door, name: &str, script: &str) -> String {
    let mut nix = lab.nix_in_guest(door, "build");
    nix.args(["--no-link", "--print-out-paths", "--impure", "--expr", &derivation(name, script)]);
    stdout_of(&nix.output().unwrap(), name).trim().to_owned()
}

fn no_build_fails_for_want_of_space(lab: &Lab) {
    let kept = build(lab, Door::Direct, "kept", "echo kept >$out");
    lab.ssh(&format!("nix-store --realise {kept} --add-root /tmp/kept"));
    fill(lab, "taken", LEFT);
    for n in 0..BUILDS {
        let door = if n % 2 == 0 { Door::Direct } else { Door::Ssh };
        let large = format!("dd if=/dev/zero of=$out bs=1048576 count={MEGABYTES} 2>/dev/null");
        let path = build(lab, door, &format!("large-{n}"), &large);
        lab.ssh(&format!("test -s {path}"));
    }
    assert_eq!(lab.ssh(&format!("cat {kept}")), "kept\n", "a root stays");
    let console = fs::read_to_string(lab.machine().join("console.log")).unwrap();
    assert!(console.contains("store paths deleted"), "{console}");
    // Nix and the overlay agree on the content.
    let first = build(lab, Door::Direct, "large-0", "echo small now >$out");
    assert_eq!(lab.ssh(&format!("cat {first}")), "small now\n");
    assert_eq!(lab.boots(), 1);
    let known = lab.status()["store"]["sharedPaths"].as_u64().unwrap_or(0);
    assert!(known < OF_THE_HOST as u64 / 2, "a collection made {known} paths known to the guest that it does not need");
}

#[test]
fn repeated_large_builds_on_a_small_disk_find_room() {
    let lab = Lab::running("disk-size = \"1G\"");
    no_build_fails_for_want_of_space(&lab);

    // What fills the disk now is not garbage.
    fill(&lab, "more", 1);
    let doctor = lab.cli(&["doctor", "--deep", "data-disk"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(!doctor.status.success() && said.contains("hint: raise the setting disk-size"), "{said}");
    lab.ssh("rm /tmp/taken /tmp/more");
    lab.ok(&["doctor", "--deep", "data-disk"]);
}

#[test]
fn repeated_large_builds_on_a_small_disk_find_room_beside_the_hosts_store() {
    let lab = Lab::sharing("disk-size = \"1G\"");
    let texts =
        format!("map (n: builtins.toFile \"host-${{toString n}}\" \"\") (builtins.genList (n: n) {OF_THE_HOST})");
    stdout_of(&lab.host_nix("nix").args(["eval", "--json", "--expr", &texts]).output().unwrap(), "paths of the host's");
    no_build_fails_for_want_of_space(&lab);
}
