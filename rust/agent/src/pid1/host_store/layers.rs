//! The layers of `/nix/store`: the overlay, and its upper directory on the data disk.
//!
//! The rule: a path in the upper layer is complete. Its directory is marked opaque, so that a path of the same name
//! which the host gets later does not shine through. A *whiteout*, with which the overlay hides a path of a lower
//! layer, is useful only during a replacement: the database decides whether a path is valid, and a whiteout would hide
//! a path that the host has again.

use crate::pid1::{mounts, tasks::Outcome};
use rustix::{
    fs::{XattrFlags, lsetxattr},
    mount::{MountFlags, UnmountFlags},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime},
};

/// The guest's own layer.
pub const UPPER: &str = "/data/nix/store";

/// The overlay's scratch directory, on the same file system.
const WORK: &str = "/data/nix/work";

/// The paths of the guest's own system, where they are a layer of their own.
const IMAGE: &str = "/nix/.image";

/// The mount point of the combined store.
const STORE: &str = "/nix/store";

const FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID);

/// Whether the guest's system is a layer of its own.
pub fn has_image() -> bool {
    Path::new(IMAGE).is_dir()
}

/// Mounts the store, on top of one that is mounted already.
pub fn mount(host: Option<&str>) -> Outcome<()> {
    let lower: Vec<&str> = has_image().then_some(IMAGE).into_iter().chain(host).collect();
    if lower.is_empty() {
        return mounts::bind(UPPER, STORE);
    }
    mounts::directory(WORK, 0o700, (0, 0))?;
    // With redirect_dir the overlay marks new directories opaque.
    let options = format!("lowerdir={},upperdir={UPPER},workdir={WORK},redirect_dir=on", lower.join(":"));
    mounts::mount("overlay", STORE, "overlay", FLAGS, &options)
}

/// Detaches the store: later lookups no longer find it, present users keep it. This does not wait for a share that
/// hangs. Mounting on top would, as it locks a directory in which other lookups wait.
pub fn unmount() -> Outcome<()> {
    rustix::mount::unmount(STORE, UnmountFlags::DETACH).map_err(|e| format!("{STORE} cannot be unmounted: {e}"))
}

/// Whether this directory is a lower layer of the mounted store, possibly by its path before the root was switched.
pub fn has_lower(dir: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    lower_layers(&mounts).is_some_and(|lower| lower.split(':').any(|layer| layer.ends_with(dir)))
}

/// Whether the store is an overlay, not just the upper layer.
pub fn is_overlay() -> bool {
    lower_layers(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()).is_some()
}

/// The option `lowerdir` of the last mount at the store.
fn lower_layers(mounts: &str) -> Option<&str> {
    let last = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(STORE))?;
    let mut fields = last.split(' ').skip(2);
    (fields.next()? == "overlay").then_some(())?;
    fields.next()?.split(',').find_map(|option| option.strip_prefix("lowerdir="))
}

/// Drops the names that the overlay has cached.
pub fn refresh() -> Outcome<()> {
    mounts::refresh(STORE, FLAGS)
}

/// Marks every path of the upper layer opaque, whatever wrote it. Call it while the overlay is not mounted.
pub fn seal() -> Outcome<()> {
    drop_whiteouts(Duration::ZERO)?;
    for entry in entries(UPPER)? {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lsetxattr(entry.path(), "trusted.overlay.opaque", b"y", XattrFlags::empty())
                .map_err(|e| format!("{} cannot be marked: {e}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Removes whiteouts of at least this age.
pub fn drop_whiteouts(age: Duration) -> Outcome<()> {
    let now = SystemTime::now();
    for entry in entries(UPPER)? {
        if entry.file_type().is_ok_and(|kind| kind.is_char_device())
            && let Ok(meta) = entry.metadata()
            && meta.rdev() == 0
            && now.duration_since(changed(&meta)).is_ok_and(|passed| passed >= age)
        {
            fs::remove_file(entry.path()).map_err(|e| format!("{}: {e}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn changed(meta: &fs::Metadata) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs())
}

/// Names in the guest's own layers.
pub fn own_names() -> Outcome<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for layer in [Some(UPPER), has_image().then_some(IMAGE)].into_iter().flatten() {
        for entry in entries(layer)? {
            if !entry.file_type().is_ok_and(|kind| kind.is_char_device()) {
                names.extend(entry.file_name().into_string());
            }
        }
    }
    Ok(names)
}

/// Store paths, valid or not, with files in the upper layer, and when each was made, in seconds since 1970.
pub fn upper_paths() -> Outcome<BTreeMap<String, i64>> {
    let entries = entries(UPPER)?.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_char_device()));
    let named = entries.filter_map(|entry| Some((format!("{STORE}/{}", entry.file_name().to_str()?), entry)));
    // A path that has vanished meanwhile is skipped.
    Ok(named.filter_map(|(path, entry)| Some((path, entry.metadata().ok()?.ctime()))).collect())
}

fn entries(dir: &str) -> Outcome<impl Iterator<Item = fs::DirEntry>> {
    Ok(fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))?.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_overlay_that_is_on_top_counts() {
        let plain = "/dev/vdb /data ext4 rw 0 0\n/dev/vdb /nix/store ext4 rw 0 0\n";
        let overlay = "overlay /nix/store overlay rw,noatime,lowerdir=/sysroot/nix/.image:/sysroot/mnt/nix-store,upperdir=/u 0 0\n";
        assert_eq!(lower_layers(plain), None);
        assert_eq!(lower_layers(&[plain, overlay].concat()), Some("/sysroot/nix/.image:/sysroot/mnt/nix-store"));
        assert_eq!(lower_layers(&[overlay, plain].concat()), None);
    }
}
