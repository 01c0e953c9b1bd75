//! Free space on the host's volume for fetched bundles.

use bytesize::ByteSize;
use dvn_types::{Kind, Report};
use std::path::{Path, PathBuf};

/// Space to keep free on the host's volume, in bytes.
pub(super) const LEAST_FREE: u64 = dvn_guest::disk::LEAST_FREE;

/// The size in a line `PATH SIZE`. None if this Nix uses another format.
pub(super) fn announced(line: &str) -> Option<u64> {
    line.split_whitespace().next_back()?.parse().ok()
}

/// An existing directory on the volume where `place` will be created.
pub(super) fn volume_of(place: &Path) -> PathBuf {
    place.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Free bytes on a directory's volume.
pub(super) fn free(dir: &Path) -> Result<u64, Report> {
    let unread = |e: rustix::io::Errno| dvn_host::files::state_error(dir, "cannot read the free space of", &e.into());
    let volume = rustix::fs::statvfs(dir).map_err(unread)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Refuses a bundle that does not fit on the host's volume.
pub(super) fn refuse_too_large(size: u64, place: &Path) -> Result<(), Report> {
    let dir = volume_of(place);
    let free = free(&dir)?;
    if size.saturating_add(LEAST_FREE) <= free {
        return Ok(());
    }
    let show = |bytes| ByteSize(bytes).display().iec().to_string();
    let message = format!("{} has {} free, and the new guest takes {}", dir.display(), show(free), show(size));
    Err(Report::new(Kind::State, message)
        .hint("free some space on that volume, or delete old ones: `darwin-vz-nix generations delete N`"))
}
