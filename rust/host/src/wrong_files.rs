//! For tests: each wrong kind of file at a regular file's path.

use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener, path::Path, process::Command};

/// Each wrong kind of file that a test can create, and a link without a target.
pub const KINDS: [&str; 7] = ["directory", "full directory", "link", "dangling link", "pipe", "socket", "device"];

/// Creates it at `path`, replacing what is there.
pub fn make(kind: &str, path: &Path) {
    crate::files::remove_all(path).unwrap();
    let target = path.with_file_name("somewhere-else");
    match kind {
        "directory" => fs::create_dir(path).unwrap(),
        "full directory" => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), "kept").unwrap();
        }
        "link" => {
            fs::write(&target, "untouched").unwrap();
            symlink(&target, path).unwrap();
        }
        "dangling link" => symlink("/nonexistent/file", path).unwrap(),
        "pipe" => {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }
        // The socket's file stays when the listener is dropped.
        "socket" => drop(short(path, |path| UnixListener::bind(path).unwrap())),
        // A link to a device, if the test may not create one.
        "device" => {
            let made = Command::new("mknod").arg(path).args(["c", "1", "3"]).output().unwrap();
            if !made.status.success() {
                symlink("/dev/null", path).unwrap();
            }
        }
        other => panic!("no kind {other}"),
    }
}

/// Binds by a short path: socket paths are limited, and a test's directory may be deep.
fn short<T>(path: &Path, make: impl FnOnce(&Path) -> T) -> T {
    let tmp = tempfile::tempdir().unwrap();
    let there = tmp.path().join("s");
    let made = make(&there);
    fs::rename(there, path).unwrap();
    made
}

/// Asserts that a link's target and a directory's contents are unchanged, wherever they are now.
pub fn assert_nothing_lost(kind: &str, path: &Path) {
    if kind == "link" {
        assert_eq!(fs::read_to_string(path.with_file_name("somewhere-else")).unwrap(), "untouched", "{path:?}");
    }
    if kind == "full directory" {
        let name = path.file_name().unwrap().to_str().unwrap();
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let mut kept = beside.filter(|other| other.file_name().unwrap().to_str().unwrap().starts_with(name));
        assert!(kept.any(|dir| dir.join("inside").exists()), "{path:?}");
    }
}
