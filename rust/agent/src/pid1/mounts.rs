//! Mounting, with errors that name source and target.

use crate::pid1::tasks::Outcome;
use rustix::mount::{self, MountFlags};
use std::{ffi::CString, fs, path::Path};

/// Mounts a file system; the mount point must exist.
pub fn mount(source: &str, target: &str, kind: &str, flags: MountFlags, options: &str) -> Outcome<()> {
    let data = CString::new(options).map_err(|_| format!("mount options {options:?} hold a zero byte"))?;
    mount::mount(source, target, kind, flags, data.as_c_str())
        .map_err(|e| format!("{kind} file system {source} cannot be mounted at {target}: {e}"))
}

/// Mounts a kernel file system, with setuid programs and devices disabled.
pub fn kernel_fs(kind: &str, target: &str, options: &str) -> Outcome<()> {
    mount(kind, target, kind, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, options)
}

/// Mounts a tmpfs.
pub fn tmpfs(target: &str, options: &str) -> Outcome<()> {
    mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)
}

/// Binds a directory of the data disk to another path.
pub fn bind(source: &str, target: &str) -> Outcome<()> {
    mount::mount_bind(source, target).map_err(|e| format!("{source} cannot be bound to {target}: {e}"))
}

/// Drops every unused cached name of a mounted file system, for present and for missing files. It keeps its flags.
pub fn refresh(target: &str, flags: MountFlags) -> Outcome<()> {
    mount::mount_remount(target, flags, c"").map_err(|e| format!("{target} cannot be remounted: {e}"))
}

/// Moves the mount at `target` on top of `/` and makes it the root directory of this process and its children.
///
/// `pivot_root` cannot replace the initramfs; it stays below, emptied. Later users of `pivot_root` (Nix's sandbox) find
/// a real mount as their root.
pub fn switch_root(target: &str) -> Outcome<()> {
    let why = |step: &str, e: rustix::io::Errno| format!("the root cannot be switched to {target}: {step}: {e}");
    rustix::process::chdir(target).map_err(|e| why("chdir", e))?;
    mount::mount_move(".", "/").map_err(|e| why("move", e))?;
    rustix::process::chroot(".").map_err(|e| why("chroot", e))?;
    rustix::process::chdir("/").map_err(|e| why("chdir /", e))
}

/// Makes a directory with exactly this mode and owner; it may exist.
pub fn directory(path: impl AsRef<Path>, mode: u32, owner: (u32, u32)) -> Outcome<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let path = path.as_ref();
    let made = || {
        fs::create_dir_all(path)?;
        chown(path, Some(owner.0), Some(owner.1))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    made().map_err(|e: std::io::Error| format!("directory {}: {e}", path.display()))
}
