//! The host's store in the guest, with a real Nix on both sides: which paths are copied, and which are visible.

mod collection;
mod hostile;
mod space;
mod trouble;

use crate::{
    inputs::{SUM, add, add_text, build, many_inputs, sent, sum_of_many},
    lab::{Door, Lab, stdout_of, wait},
};
use std::{fs, os::unix::fs::MetadataExt, process::Stdio};

/// Descriptors that the host holds for the share.
fn descriptors(lab: &Lab) -> usize {
    fs::read_dir(format!("/proc/{}/fd", lab.children("virtiofsd")[0])).unwrap().count()
}

/// The content of the guest's own layer.
fn in_guest(lab: &Lab) -> Vec<String> {
    lab.ssh("ls /data/nix/store").lines().map(|name| format!("/nix/store/{name}")).collect()
}

#[test]
fn nothing_is_copied_that_the_host_has() {
    let lab = Lab::sharing("");
    lab.ok(&["start"]);
    // They are added after the boot, and the guest has already looked up one of them in vain.
    let late = add_text(&lab, "late", "late\n");
    stdout_of(&lab.host_nix("nix-store").args(["--delete", &late]).output().unwrap(), "nix-store --delete");
    assert_eq!(lab.ssh(&format!("cat {late} 2>/dev/null || echo absent")), "absent\n");
    assert_eq!(add_text(&lab, "late", "late\n"), late);
    assert_eq!(build(&lab, Door::Ssh, "late-build", std::slice::from_ref(&late), "cat $inputs >$out"), "late\n");
    let inputs = many_inputs(&lab);
    assert!(inputs.len() > 1000);
    let size: u64 = inputs.iter().map(|path| fs::metadata(lab.result(path)).unwrap().size()).sum();
    assert!(size > 500_000_000);

    let before = sent(&lab);
    let expected = sum_of_many();
    assert_eq!(build(&lab, Door::Direct, "first-build", &inputs, SUM), expected);
    let first = sent(&lab) - before;
    assert_eq!(build(&lab, Door::Direct, "other-build", &inputs, SUM), expected);
    let second = sent(&lab) - before - first;
    assert_eq!(first, second, "bytes through the door, when the guest had seen nothing and when it had seen all of it");
    let copied: Vec<_> = in_guest(&lab).into_iter().filter(|path| inputs.contains(path)).collect();
    assert_eq!(copied, [""; 0], "inputs in the guest's own layer");
    let store = &lab.status()["store"];
    assert!(store["sharing"] == "on" && store["sharedBytes"].as_u64().unwrap() >= size, "{store}");
    assert!(lab.ok(&["status"]).contains("paths of the host's store used in place"));
}

#[test]
fn the_share_is_read_only_and_its_files_are_given_back() {
    const FILES: usize = 12_000;
    let lab = Lab::sharing("");
    let tree = lab.dir.path().join("tree");
    for n in 0..FILES {
        let dir = tree.join((n / 1000).to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), "").unwrap();
    }
    let tree = add(&lab, &tree);
    let shared = tree.replace("/nix/store", "/mnt/nix-store");
    let try_to_write = format!("rm -rf {shared} 2>/dev/null; touch /mnt/nix-store/x 2>/dev/null && echo written");
    assert_eq!(lab.ssh(&format!("{try_to_write}; id -un")), "builder\n");

    // While a program reads more files than the guest may keep, and keeps using the guest.
    let look = format!("ls -lR {shared} | grep -c '^-'; sleep 60");
    let mut user = lab.program(&["ssh", "--", &look]).stdout(Stdio::null()).spawn().unwrap();
    wait("the guest to keep many files", || descriptors(&lab) > 8192);
    // Those that it reads after that stay, for they are fewer.
    wait("the guest to give them back", || descriptors(&lab) < FILES - 8192 + 100);
    let _ = user.kill();
    let _ = user.wait();

    // Below that number, the next connection frees them.
    assert_eq!(lab.ssh(&format!("ls -l {shared}/3 | grep -c '^-'")).trim(), "1000");
    assert!(descriptors(&lab) > 1000);
    lab.ssh("true");
    assert!(descriptors(&lab) < 100);
}
