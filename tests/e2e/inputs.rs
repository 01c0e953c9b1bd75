//! Builds whose inputs are on the host, for tests and benchmarks.

use crate::lab::{Door, Lab, stderr, stdout_of, wait};
use std::{fs, os::unix::fs::FileExt, path::Path};

/// The number of paths: the build gets all of them, and reads them.
pub const SMALL: usize = 1000;
/// Files of this many bytes.
pub const LARGE: u64 = 64 << 20;
pub const LARGE_ONES: usize = 8;

/// Adds a file or a directory to the host's store.
pub fn add(lab: &Lab, path: &Path) -> String {
    stdout_of(&lab.host_nix("nix").args(["store", "add"]).arg(path).output().unwrap(), "nix store add")
        .trim()
        .to_owned()
}

/// Adds a text.
pub fn add_text(lab: &Lab, name: &str, text: &str) -> String {
    let file = lab.dir.path().join(name);
    fs::write(&file, text).unwrap();
    add(lab, &file)
}

/// A build through a door whose inputs are paths of the host's store; the script has them in `$inputs`.
pub fn build(lab: &Lab, door: Door, name: &str, inputs: &[String], script: &str) -> String {
    let paths: String = inputs.iter().map(|path| format!(" (builtins.storePath {path})")).collect();
    let expression = format!(
        "derivation {{ name = {name:?}; system = \"{}-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" {script:?} ]; PATH = \"/bin\"; inputs = [{paths} ]; }}",
        std::env::consts::ARCH
    );
    let file = lab.dir.path().join(format!("{name}.nix"));
    fs::write(&file, expression).unwrap();
    let mut nix = lab.nix("nix", door);
    nix.args(["build", "--print-build-logs", "--no-link", "--print-out-paths", "--impure", "--file"]).arg(file);
    let output = nix.output().unwrap();
    let path = stdout_of(&output, name);
    assert!(stderr(&output).contains("on 'ssh-ng://"), "built in the guest: {}", stderr(&output));
    fs::read_to_string(lab.result(&path)).unwrap()
}

/// Bytes that clients have sent through the doors, once all connections have ended.
pub fn sent(lab: &Lab) -> u64 {
    wait("the connections to end", || lab.leases() == 0);
    lab.status()["store"]["copiedBytes"].as_u64().unwrap()
}

/// More than a thousand paths and half a gigabyte on the host.
pub fn many_inputs(lab: &Lab) -> Vec<String> {
    let texts = format!(
        "builtins.concatStringsSep \"\\n\" (builtins.genList (n: builtins.toFile \"small-${{toString n}}\" \"${{toString n}}\\n\") {SMALL})"
    );
    let small = stdout_of(&lab.host_nix("nix").args(["eval", "--raw", "--expr", &texts]).output().unwrap(), "nix eval");
    let mut inputs: Vec<_> = small.lines().map(str::to_owned).collect();
    for n in 0..LARGE_ONES {
        let file = lab.dir.path().join(format!("large-{n}"));
        let large = fs::File::create(&file).unwrap();
        large.set_len(LARGE).unwrap();
        large.write_at(n.to_string().as_bytes(), LARGE / 2).unwrap();
        inputs.push(add(lab, &file));
        fs::remove_file(file).unwrap();
    }
    inputs
}

/// A script for [`build`] over [`many_inputs`]: reads all of the small ones, a byte from the middle of the large ones,
/// and one of them completely.
pub const SUM: &str = "n=0; for f in $inputs; do case $f in *-small-*) read i <$f ;; *) i=$(dd if=$f bs=1 skip=33554432 count=1 2>/dev/null) ;; esac; n=$((n + i)); done; echo $n $(wc -c <$f) >$out";

/// The result of [`SUM`].
pub fn sum_of_many() -> String {
    format!("{} {LARGE}\n", (0..SMALL).sum::<usize>() + (0..LARGE_ONES).sum::<usize>())
}
