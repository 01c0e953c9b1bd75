//! Directories of the host, over VirtioFS.

use super::mounts;
use crate::console::{say, since_kernel};
use crate::pid1::tasks::Outcome;
use dvn_protocol::ShareMount;
use rustix::mount::MountFlags;
use std::{
    fs, io,
    path::{Component, Path},
};

/// Mounts shares. A failed mount is reported, does not stop the boot, and is left out of the result.
pub fn mount_all(shares: &[ShareMount]) -> Vec<ShareMount> {
    let mounted = shares.iter().filter(|share| {
        mount(share, "").inspect_err(|why| say(format_args!("share {:?} is missing: {why}", share.tag))).is_ok()
    });
    mounted.cloned().collect()
}

/// Mounts one share, below this root.
pub fn mount(share: &ShareMount, root: &str) -> Outcome<()> {
    let target = &share.mount_point;
    if !is_plain(target) {
        return Err(format!("{target:?} is not an absolute path below / without . and .."));
    }
    let target = format!("{root}{target}");
    if !Path::new(&target).is_dir() {
        mounts::directory(&target, 0o755, (0, 0))?;
    }
    mounts::mount(&share.tag, &target, "virtiofs", flags(share), "")
}

fn flags(share: &ShareMount) -> MountFlags {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if share.read_only { flags | MountFlags::RDONLY } else { flags }
}

/// Whether a path is absolute, below the root, and free of `.` and `..`.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let named = |part| matches!(part, Component::Normal(_));
    !path.contains('\0')
        && parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(named)
}

/// Drops cached names of the shares, above all of missing files.
pub fn refresh(shares: &[ShareMount]) -> Outcome<()> {
    shares.iter().try_for_each(|share| mounts::refresh(&share.mount_point, flags(share)))
}

/// Makes each share answer a request that the guest cannot serve from a cache. A share that hangs blocks the caller.
pub fn probe(shares: &[ShareMount]) -> Outcome<()> {
    for share in shares {
        let name = Path::new(&share.mount_point).join(format!(".darwin-vz-probe-{}", since_kernel()));
        match fs::symlink_metadata(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("the share {:?} fails: {e}", share.tag))?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_a_plain_path() {
        for good in ["/mnt/src", "/nix/.host", "/a"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "/", "mnt", "/mnt/../etc", "/..", "/a\0b"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
