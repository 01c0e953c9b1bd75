//! Nix's database of the guest, and what it must forget. Nix itself changes it.
//!
//! The store that Nix is told of here is the upper layer alone: nothing asks the gate, looks into a lower layer, or leaves a
//! whiteout; what is deleted is deleted where it was written.

use crate::pid1::{Outcome, children};
use std::{collections::BTreeSet, process::Command, thread, time::Duration};

/// The database with the upper layer.
const STORE: &str = "local?real=/data/nix/store";

/// Nix deletes nothing that a process holds, and one whose client has just gone may still be on its way out.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_millis(500);

/// Before the name of each path.
pub const PREFIX: &str = "/nix/store/";

/// Makes these paths and all that refers to them invalid, and deletes what the upper layer has of it.
pub fn forget(paths: &[String]) -> Outcome<()> {
    if let Some(strange) = paths.iter().find(|path| !is_store_path(path)) {
        return Err(format!("{strange:?} is no store path"));
    }
    if paths.is_empty() {
        return Ok(());
    }
    let doomed = nix_store(&["--query", "--referrers-closure", "--stdin"], &lines(paths))?;
    let delete = || nix_store(&["--delete", "--ignore-liveness", "--stdin"], &doomed);
    let mut tries = 1;
    loop {
        match delete() {
            Err(_) if tries < TRIES => {
                tries += 1;
                thread::sleep(AGAIN);
            }
            done => return done.map(drop),
        }
    }
}

/// Makes everything invalid that is not among these names of the guest's own layers, and all that refers to it.
pub fn forget_all_but(own: &BTreeSet<String>) -> Outcome<()> {
    let mut nix = tool("/usr/bin/nix");
    nix.args(["--extra-experimental-features", "nix-command", "path-info", "--all", "--store", STORE]);
    let known = children::ask(&mut nix, "")?;
    let foreign = known.lines().filter(|path| path.strip_prefix(PREFIX).is_some_and(|name| !own.contains(name)));
    forget(&foreign.map(str::to_owned).collect::<Vec<_>>())
}

fn nix_store(args: &[&str], input: &str) -> Outcome<String> {
    children::ask(tool("/usr/bin/nix-store").args(["--store", STORE]).args(args), input)
}

fn tool(program: &str) -> Command {
    let mut nix = Command::new(program);
    nix.env_clear().env("PATH", "/usr/sbin:/usr/bin").env("HOME", "/root").env("TMPDIR", "/tmp");
    nix
}

fn lines(paths: &[String]) -> String {
    paths.iter().flat_map(|path| [path.as_str(), "\n"]).collect()
}

/// Whether it is a hash and a name, directly in the store.
fn is_store_path(path: &str) -> bool {
    let Some((hash, name)) = path.strip_prefix(PREFIX).and_then(|name| name.split_once('-')) else { return false };
    hash.len() == 32
        && hash.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_store_paths_reach_nix() {
        let hash = "ab3li50xq0nl4q5lxdyinb8w8y13my9s";
        assert!(is_store_path(&format!("/nix/store/{hash}-a+b_1.0?x=y.drv")));
        for bad in ["", "--all", "/nix/store/", &format!("/nix/store/{hash}"), &format!("/nix/store/{hash}-a/b")] {
            assert!(!is_store_path(bad), "{bad:?}");
        }
        assert!(!is_store_path(&format!("/nix/store/{hash}-a\nb")) && !is_store_path(&format!("/tmp/{hash}-a")));
    }
}
