//! Programs of the host, looked up along a path that is handed in: no module here reads `PATH`.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The first program of that name along `path`, which is written as `PATH` is, and then in `more` directories.
pub fn find(name: &str, path: &OsStr, more: &[&str]) -> Option<PathBuf> {
    std::env::split_paths(path)
        .chain(more.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
