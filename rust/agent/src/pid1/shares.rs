//! Directories of the host, over VirtioFS.

use super::{Outcome, console::say, mounts};
use darwin_vz_agent::ShareMount;
use rustix::mount::{MountFlags, mount_remount};
use std::path::{Component, Path};

/// Mounts shares. One that does not mount is reported, does not stop the boot, and is left out of what is returned.
pub fn mount_all(mut shares: Vec<ShareMount>) -> Vec<ShareMount> {
    shares.retain(|share| {
        mount(share).inspect_err(|why| say(format_args!("share {:?} is missing: {why}", share.tag))).is_ok()
    });
    shares
}

fn mount(share: &ShareMount) -> Outcome<()> {
    let target = &share.mount_point;
    if !is_plain(target) {
        return Err(format!("{target:?} is no absolute path below /, without . and .."));
    }
    if !Path::new(target).is_dir() {
        mounts::directory(target, 0o755, (0, 0))?;
    }
    mounts::mount(&share.tag, target, "virtiofs", flags(share), "")
}

fn flags(share: &ShareMount) -> MountFlags {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if share.read_only { flags | MountFlags::RDONLY } else { flags }
}

/// Whether a path is absolute, below the root, and leads nowhere else than it says.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let named = |part| matches!(part, Component::Normal(_));
    !path.contains('\0')
        && parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(named)
}

/// Forgets what was looked up on the shares, names that were not there above all.
///
/// A remount drops the mount's cached names and nothing else in the system.
pub fn refresh(shares: &[ShareMount]) -> Outcome<()> {
    for share in shares {
        mount_remount(share.mount_point.as_str(), flags(share), c"")
            .map_err(|e| format!("the share {:?} cannot be remounted: {e}", share.tag))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_leads_where_it_says() {
        for good in ["/mnt/src", "/nix/.host", "/a"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "/", "mnt", "/mnt/../etc", "/..", "/a\0b"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
