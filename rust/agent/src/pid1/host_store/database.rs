//! The guest's Nix database: lists its paths and removes some. Nix itself reads and changes it.
//!
//! These commands work on the upper layer alone. So Nix does not query the gate, read a lower layer, or leave a
//! whiteout, and deletes files in the layer that holds them.

use crate::pid1::{children, tasks::Outcome};
use std::{collections::BTreeSet, process::Command, thread, time::Duration};

/// The database with the upper layer.
const STORE: &str = "local?real=/data/nix/store";

/// Nix deletes no path that a process holds, and the process of a client that has just gone may still be ending.
const TRIES: u32 = 5;
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Prefix of each store path.
pub const PREFIX: &str = "/nix/store/";

/// Invalidates these paths and everything that refers to them, and deletes their files in the upper layer.
pub fn forget(paths: &[String]) -> Outcome<()> {
    if let Some(strange) = paths.iter().find(|path| !is_store_path(path)) {
        return Err(format!("{strange:?} is not a store path"));
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
                thread::sleep(RETRY_INTERVAL);
            }
            done => return done.map(drop),
        }
    }
}

/// Invalidates everything that is not among these names of the guest's own layers, and all that refers to it.
pub fn forget_all_but(own: &BTreeSet<String>) -> Outcome<()> {
    let known = known()?;
    let foreign = known.iter().filter(|path| path.strip_prefix(PREFIX).is_some_and(|name| !own.contains(name)));
    forget(&foreign.cloned().collect::<Vec<_>>())
}

/// All valid paths, in whichever layer their files are.
pub fn known() -> Outcome<BTreeSet<String>> {
    let mut nix = tool("/usr/bin/nix");
    nix.args(["--extra-experimental-features", "nix-command", "path-info", "--all", "--store", STORE]);
    Ok(set(&children::ask(&mut nix, "")?))
}

/// Paths that no collection may delete: permanent roots, paths that processes use, and those that Nix's own processes
/// hold. Some may not be valid yet.
pub fn roots() -> Outcome<BTreeSet<String>> {
    Ok(targets(&nix_store(&["--gc", "--print-roots"], "")?))
}

/// These valid paths and everything they refer to.
pub fn closure(paths: &[String]) -> Outcome<BTreeSet<String>> {
    query("--requisites", paths).map(|all| set(&all))
}

/// These paths, valid or not, and everything that refers to them.
pub fn referrers(paths: &[String]) -> Outcome<Vec<String>> {
    query("--referrers-closure", paths).map(|all| all.lines().map(str::to_owned).collect())
}

/// Deletes these paths, which must be dead, with everything that refers to them. Nix stops with an error at the first
/// live one.
pub fn delete(paths: &[String]) -> Outcome<()> {
    // Otherwise a derivation would live on with its result, which is alive for another reason.
    let keep = ["--option", "keep-derivations", "false", "--option", "keep-outputs", "false"];
    nix_store(&[&["--delete", "--stdin"], &keep[..]].concat(), &lines(paths)).map(drop)
}

fn query(what: &str, paths: &[String]) -> Outcome<String> {
    if paths.is_empty() { Ok(String::new()) } else { nix_store(&["--query", what, "--stdin"], &lines(paths)) }
}

/// The paths in a list of roots, one `WHERE -> PATH` per line.
fn targets(roots: &str) -> BTreeSet<String> {
    roots.lines().filter_map(|line| line.rsplit_once(" -> ")).map(|(_, path)| path.to_owned()).collect()
}

fn set(lines: &str) -> BTreeSet<String> {
    lines.lines().map(str::to_owned).collect()
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
pub fn is_store_path(path: &str) -> bool {
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
    fn a_root_is_what_the_arrow_points_at() {
        let hash = "ab3li50xq0nl4q5lxdyinb8w8y13my9s";
        let roots = format!("/tmp/a -> b -> /nix/store/{hash}-x\n{{temp:12}} -> /nix/store/{hash}-y\nno root\n");
        let found: Vec<_> = targets(&roots).into_iter().collect();
        assert_eq!(found, ["x", "y"].map(|name| format!("/nix/store/{hash}-{name}")));
    }

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
