//! Finds programs of the host in a given search path: nothing here reads `PATH`.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The first program of that name in `path`, in the format of `PATH`, and then in the directories `more`.
pub fn find(name: &str, path: &OsStr, more: &[&str]) -> Option<PathBuf> {
    std::env::split_paths(path)
        .chain(more.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
