//! Opens regular files, and nothing else that may be at their path.
//!
//! Opening a pipe blocks, opening a device may have effects, and a link leads out of the checked directory. So the path
//! is checked first, then opened without blocking and without following a link, and the open file is checked again.

use rustix::fs::OFlags;
use std::{
    fmt,
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// What is at the path of an expected regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRegular {
    /// A directory.
    Directory,
    /// A symbolic link, with any target.
    Link,
    /// A named pipe.
    Pipe,
    /// A Unix socket.
    Socket,
    /// A device, or any other type.
    Device,
}

impl fmt::Display for NotRegular {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotRegular::Directory => "it is a directory, not a regular file",
            NotRegular::Link => "it is a symbolic link, not a regular file",
            NotRegular::Pipe => "it is a pipe, not a regular file",
            NotRegular::Socket => "it is a socket, not a regular file",
            NotRegular::Device => "it is a device, not a regular file",
        })
    }
}

impl std::error::Error for NotRegular {}

impl From<NotRegular> for io::Error {
    fn from(what: NotRegular) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, what)
    }
}

impl NotRegular {
    /// The variant for a file type; `None` for a regular file.
    pub fn of(kind: FileType) -> Option<NotRegular> {
        match kind {
            _ if kind.is_file() => None,
            _ if kind.is_dir() => Some(NotRegular::Directory),
            _ if kind.is_symlink() => Some(NotRegular::Link),
            _ if kind.is_fifo() => Some(NotRegular::Pipe),
            _ if kind.is_socket() => Some(NotRegular::Socket),
            _ => Some(NotRegular::Device),
        }
    }

    /// The variant in an error of this module.
    pub fn behind(error: &io::Error) -> Option<NotRegular> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// The path's own metadata. An error if it is not a regular file.
pub fn look(path: &Path) -> io::Result<Metadata> {
    regular(fs::symlink_metadata(path)?)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(path, OpenOptions::new().read(true))
}

/// Opens a file with these options.
pub fn open_as(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    match look(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open_in_time(path, how, OFlags::NOFOLLOW)
}

/// Like [`open`], but follows links: a bundle in a Nix store may have some.
pub fn open_through_links(path: &Path) -> io::Result<File> {
    regular(fs::metadata(path)?)?;
    open_in_time(path, OpenOptions::new().read(true), OFlags::empty())
}

/// The whole contents.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The whole contents as text.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens without blocking. Only a regular file can answer "try again" to that: another process holds a lease on it
/// (`fcntl`, `F_SETLEASE`), as file servers do, and gets time to release it.
fn open_in_time(path: &Path, how: &mut OpenOptions, more: OFlags) -> io::Result<File> {
    let flags = |flags: OFlags| (flags | OFlags::NOCTTY | more).bits() as i32;
    // On an open regular file NONBLOCK has no effect, so it may stay.
    match how.custom_flags(flags(OFlags::NONBLOCK)).open(path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            opened(how.custom_flags(flags(OFlags::empty())).open(path)?)
        }
        file => opened(file?),
    }
}

fn opened(file: File) -> io::Result<File> {
    regular(file.metadata()?)?;
    Ok(file)
}

fn regular(meta: Metadata) -> io::Result<Metadata> {
    match NotRegular::of(meta.file_type()) {
        None => Ok(meta),
        Some(what) => Err(what.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrong_files::{KINDS, assert_nothing_lost, make};

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_nothing_blocks() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        for kind in KINDS {
            make(kind, &path);
            for error in [open(&path).unwrap_err(), read(&path).unwrap_err()] {
                assert!(NotRegular::behind(&error).is_some(), "{kind}: {error}");
            }
            let append = open_as(&path, fs::File::options().append(true).create(true)).unwrap_err();
            assert!(NotRegular::behind(&append).is_some(), "{kind}: {append}");
            assert_nothing_lost(kind, &path);
        }
        make("link", &path);
        assert_eq!(open_through_links(&path).unwrap().metadata().unwrap().len(), 9);
        make("pipe", &path);
        assert!(open_through_links(&path).is_err());
        crate::files::remove_all(&path).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
