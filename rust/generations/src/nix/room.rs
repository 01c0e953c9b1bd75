//! Room on the host's volume for what is fetched.

use bytesize::ByteSize;
use dvn_types::{Kind, Report};
use std::path::{Path, PathBuf};

/// Room to leave on the host's volume, in bytes.
pub(super) const LEAST_FREE: u64 = dvn_guest::disk::LEAST_FREE;

/// The size in a line `PATH SIZE`; none where a Nix says it otherwise.
pub(super) fn announced(line: &str) -> Option<u64> {
    line.split_whitespace().next_back()?.parse().ok()
}

/// A directory that is there, on the volume on which `place` is to be made.
pub(super) fn volume_of(place: &Path) -> PathBuf {
    place.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Bytes that are free on the volume of a directory.
pub(super) fn free(dir: &Path) -> Result<u64, Report> {
    let unread = |e: rustix::io::Errno| dvn_host::files::state_error(dir, "cannot read the free space of", &e.into());
    let volume = rustix::fs::statvfs(dir).map_err(unread)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Refuses what does not fit on the host's volume, before it is filled.
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
