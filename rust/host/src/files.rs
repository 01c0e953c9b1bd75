//! Creates and removes files and directories of the state directory: complete, and inaccessible to other users.
//!
//! ```text
//!  unfinished (locked) ── written, synced ──▶ under its final name
//!        └── its process died ──▶ removed by the next daemon
//! ```

use crate::{quoting::for_shell, regular_file::NotRegular, trust};
use dvn_types::{Kind, Report};
use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Prefix of unfinished files' names.
pub const UNFINISHED: &str = ".unfinished-";

/// Writes a file atomically: readers see the old or the new contents, also after a crash. Replaces a pipe, a link and
/// the like, and moves a directory aside.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<(), Report> {
    let write = || -> io::Result<()> {
        let file = whole_file(path, contents, mode)?;
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            let aside = move_aside(path)?;
            tracing::warn!("{} was a directory, which is {} now", path.display(), aside.display());
        }
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e| state_error(path, "cannot write", &e))
}

/// Like [`write_atomic`], but only if there is no file of that name; false if there is one.
pub fn write_new(path: &Path, contents: &[u8], mode: u32) -> Result<bool, Report> {
    let write = || -> io::Result<bool> {
        match whole_file(path, contents, mode)?.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e.error),
        }
    };
    write().map_err(|e| state_error(path, "cannot write", &e))
}

fn whole_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file = unfinished(path, mode)?;
    file.write_all(contents)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    let owner = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    if rustix::process::geteuid().is_root() && owner.uid() != 0 {
        // Otherwise its owner could not read it.
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// Creates an empty, locked file beside `path`, to be renamed to it. The lock lets [`sweep`] distinguish a file in
/// progress from one whose process died.
pub fn unfinished(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let file =
        tempfile::Builder::new().prefix(UNFINISHED).permissions(Permissions::from_mode(mode)).tempfile_in(dir)?;
    // On a file system without locks no second daemon can run either.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Removes abandoned files made by [`unfinished`] below `dir`: a killed process cannot do it itself, and such a file
/// may hold a private key. Leaves files that cannot be read or removed, with a warning: nothing depends on them.
pub(super) fn sweep(dir: &Path) {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) => {
                tracing::warn!("cannot look for unfinished files in {}: {e}", dir.display());
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(path),
                Ok(kind)
                    if kind.is_file() && entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) =>
                {
                    if let Err(e) = remove_abandoned(&path) {
                        tracing::warn!("cannot remove the unfinished file {}: {e}", path.display());
                    }
                }
                _ => {}
            }
        }
    }
}

fn remove_abandoned(path: &Path) -> io::Result<()> {
    let removed = File::open(path).and_then(|file| match file.try_lock() {
        Ok(()) => fs::remove_file(path),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => Err(e),
    });
    // A missing file has been renamed to its final name.
    unless_missing(removed)
}

/// Treats "not found" as success.
pub fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Moves a file or a directory aside, to a new name beside the old one. Returns the new path.
pub fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let is_dir = fs::symlink_metadata(path)?.is_dir();
    for number in 1.. {
        let mut aside = path.to_owned().into_os_string();
        aside.push(format!(".aside-{number}"));
        let aside = PathBuf::from(aside);
        // A hard link never replaces a file of the new name. Directories cannot have one, and never replace a file.
        let moved = match is_dir {
            true if fs::symlink_metadata(&aside).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            true => fs::rename(path, &aside),
            false => fs::hard_link(path, &aside).and_then(|()| fs::remove_file(path)),
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            moved => return moved.map(|()| aside),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Turns an I/O error in the state directory into a report with the path.
pub fn state_error(path: &Path, what: &str, error: &io::Error) -> Report {
    let report = Report::new(Kind::State, format!("{what} {}: {error}", path.display()));
    if let Some(found) = NotRegular::behind(error) {
        let report = report.hint(format!("move it away, since it does not belong there: {}", away(path)));
        return match found {
            NotRegular::Link => report.hint("to keep the state on another volume, name a directory there: --state-dir"),
            _ => report,
        };
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => report.hint("run as the user who owns it, or choose another --state-dir"),
        io::ErrorKind::StorageFull => report.hint("free some space on that volume, or choose another --state-dir"),
        io::ErrorKind::ReadOnlyFilesystem => report.hint("choose a --state-dir on a volume that can be written"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            report.hint("move away what is in its place, or choose another --state-dir")
        }
        _ => report.hint("check that path and its volume, or choose another --state-dir"),
    }
}

/// The shell command that moves a path away.
fn away(path: &Path) -> String {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".aside");
    // There is a file with that name, so it has no NUL.
    let words = for_shell(["mv".as_ref(), path.as_os_str(), &aside]).unwrap_or_default();
    String::from_utf8_lossy(&words).into_owned()
}

/// Creates a directory if it is missing. Refuses one that other users can read, that another user owns, or whose path
/// another user can redirect.
pub fn private_dir(path: &Path) -> Result<(), Report> {
    trust::check(path)?;
    if let Err(e) = DirBuilder::new().recursive(true).mode(0o700).create(path) {
        return Err(state_error(path, "cannot make the directory", &e));
    }
    let meta = fs::metadata(path).map_err(|e| state_error(path, "cannot read", &e))?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return Err(Report::new(
            Kind::State,
            format!(
                "{} belongs to user {}, and this is user {me}: it may hold that user's keys",
                path.display(),
                meta.uid()
            ),
        )
        .hint("run as that user, or choose another --state-dir"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(Report::new(
            Kind::State,
            format!(
                "{} is open to other users (mode {:04o}), and it holds private keys",
                path.display(),
                meta.permissions().mode() & 0o7777
            ),
        )
        .hint(format!("close it: chmod 700 {}", path.display())));
    }
    Ok(())
}

/// Removes a file, or a directory with its contents, if it exists.
pub fn remove_all(path: &Path) -> Result<(), Report> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(state_error(path, "cannot remove", &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_is_being_made_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let below = tmp.path().join("machines/builder");
        fs::create_dir_all(&below).unwrap();
        for path in [tmp.path().join("api-token"), below.join("id_ed25519")] {
            write_atomic(&path, b"kept", 0o600).unwrap();
            // As after a kill: the file is closed, so its lock is gone, and no process removes it.
            drop(unfinished(&path, 0o600).unwrap().keep().unwrap());
        }
        let being_made = unfinished(&below.join("data.img"), 0o600).unwrap();
        sweep(tmp.path());
        let names = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        assert_eq!(names(tmp.path()).len(), 2, "{:?}", names(tmp.path()));
        assert_eq!(names(&below).len(), 2, "{:?}", names(&below));
        being_made.persist(below.join("data.img")).unwrap();
        assert!(below.join("data.img").exists() && below.join("id_ed25519").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        write_atomic(&path, b"old", 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        fs::create_dir(tmp.path().join("d")).unwrap();
        assert!(write_atomic(&tmp.path().join("d/no/such"), b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
