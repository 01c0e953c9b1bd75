//! Copies of large files: shared blocks where the file system has them, else a copy that keeps holes.

use dvn_host::files::state_error;
use dvn_types::{Kind, Report};
use rustix::{
    fs::{SeekFrom, fstatvfs, seek},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

/// How many bytes are copied between two looks at [`Progress::is_cancelled`].
const PIECE: usize = 1 << 20;

/// Follows work that takes long, and may end it.
pub trait Progress {
    /// So many of so many bytes are done.
    fn bytes(&self, done: u64, total: u64);
    /// Whether the work is no longer wanted.
    fn is_cancelled(&self) -> bool;
}

/// Work that is not followed and runs to its end.
pub struct Unwatched;

impl Progress for Unwatched {
    fn bytes(&self, _done: u64, _total: u64) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// How a file was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The two files share their blocks until one of them is written.
    Shared,
    /// So many bytes were written; holes of the source are holes of the copy.
    Copied(u64),
}

/// Copies a regular file, with the time of its last write, to a path where nothing is yet. On an error nothing is left there.
pub fn file(from: &Path, to: &Path, progress: &dyn Progress) -> Result<How, Report> {
    let source = dvn_host::regular_file::open(from).map_err(|e| state_error(from, "cannot open", &e))?;
    let copied = share(&source, to).and_then(|shared| match shared {
        true => Ok(How::Shared),
        false => copy_data(&source, to, progress).map(How::Copied),
    });
    // A saved guest knows its disk by the time of its last write.
    let copied = copied.and_then(|how| {
        File::options().write(true).open(to)?.set_modified(source.metadata()?.modified()?)?;
        Ok(how)
    });
    copied.map_err(|e| {
        // It was made here, or is not there.
        let _ = std::fs::remove_file(to);
        match e.kind() {
            io::ErrorKind::Interrupted => {
                Report::new(Kind::Busy, format!("the copy of {} was cancelled", from.display()))
            }
            io::ErrorKind::StorageFull => no_room(&source, to, &e),
            _ => state_error(to, &format!("cannot copy {} to", from.display()), &e),
        }
    })
}

/// Says how much room is missing.
fn no_room(source: &File, to: &Path, error: &io::Error) -> Report {
    let needed = source.metadata().map_or(0, |meta| meta.blocks() * 512);
    let free = to.parent().and_then(|dir| File::open(dir).ok()).and_then(|dir| free_space(&dir).ok());
    let message = match free {
        Some(free) => format!(
            "there is not enough space for {}: the copy takes {needed} bytes, {free} are free, {} are missing",
            to.display(),
            needed.saturating_sub(free)
        ),
        None => format!("there is not enough space for {}: {error}", to.display()),
    };
    Report::new(Kind::State, message)
        .hint("delete machines that are no longer needed, or keep the library on a larger volume")
}

/// Free bytes on the file system of an open file, for users who are not root.
pub fn free_space(file: &File) -> io::Result<u64> {
    let stat = fstatvfs(file)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Has the copy share the source's blocks; false where the file system cannot.
#[cfg(target_os = "linux")]
fn share(source: &File, to: &Path) -> io::Result<bool> {
    let target = create(to)?;
    match rustix::fs::ioctl_ficlone(&target, source) {
        Ok(()) => {
            target.sync_all()?;
            Ok(true)
        }
        // Another file system, or one that shares no blocks.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
            drop(target);
            std::fs::remove_file(to)?;
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(target_os = "macos")]
fn share(source: &File, to: &Path) -> io::Result<bool> {
    match rustix::fs::fclonefileat(source, rustix::fs::CWD, to, rustix::fs::CloneFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::XDEV | Errno::NOTTY | Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn create(to: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to)
}

/// Copies the data between the holes, then sets the length. Returns the bytes that were copied.
fn copy_data(source: &File, to: &Path, progress: &dyn Progress) -> io::Result<u64> {
    let target = create(to)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; PIECE];
    let (mut at, mut copied) = (0, 0);
    while let Some((start, end)) = next_data(source, at, length)? {
        at = start;
        while at < end {
            if progress.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let read = source.read_at(&mut buffer[..wanted], at)?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was copied",
                ));
            }
            // Blocks of zeros need none in the copy.
            if buffer[..read].iter().any(|byte| *byte != 0) {
                target.write_all_at(&buffer[..read], at)?;
                copied += read as u64;
            }
            at += read as u64;
            progress.bytes(at, length);
        }
    }
    target.sync_all()?;
    progress.bytes(length, length);
    Ok(copied)
}

/// The next range of data at or after `at`, as the file system knows it.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, length))),
        Err(e) => return Err(e.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(length))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn sparse(path: &Path, length: u64, data: &[(u64, &[u8])]) {
        let file = create(path).unwrap();
        file.set_len(length).unwrap();
        data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_of_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let block = vec![7; 3 * PIECE + 11];
        sparse(&from, 1 << 30, &[(5 << 20, &block), ((1 << 30) - 3, b"end")]);
        file(&from, &to, &Unwatched).unwrap();
        let (copy, meta) = (File::open(&to).unwrap(), std::fs::metadata(&to).unwrap());
        assert_eq!(meta.len(), 1 << 30);
        assert!(meta.blocks() * 512 < 16 << 20, "{} bytes on disk", meta.blocks() * 512);
        let mut read = vec![0; block.len()];
        copy.read_exact_at(&mut read, 5 << 20).unwrap();
        assert_eq!(read, block);
        let mut end = [0; 3];
        copy.read_exact_at(&mut end, (1 << 30) - 3).unwrap();
        assert_eq!(&end, b"end");
    }

    #[test]
    fn a_copy_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&from, "new").unwrap();
        // What is there is not removed either.
        let there = dir.path().join("there");
        std::fs::write(&there, "old").unwrap();
        std::os::unix::fs::symlink(&there, &to).unwrap();
        assert!(create(&to).is_err());
        assert_eq!(std::fs::read_to_string(&there).unwrap(), "old");
    }

    #[test]
    fn a_cancelled_copy_leaves_nothing() {
        struct AfterOne(Cell<u32>);
        impl Progress for AfterOne {
            fn bytes(&self, _: u64, _: u64) {
                self.0.set(self.0.get() + 1);
            }
            fn is_cancelled(&self) -> bool {
                self.0.get() >= 1
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&from, vec![1; 4 * PIECE]).unwrap();
        match file(&from, &to, &AfterOne(Cell::new(0))) {
            Err(error) => {
                assert!(error.message.contains("cancelled"), "{error}");
                assert!(!to.exists());
            }
            // The file system shares blocks: there is nothing to cancel.
            Ok(how) => assert_eq!(how, How::Shared),
        }
    }

    #[test]
    fn an_empty_file_and_one_that_is_all_hole_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 10 << 20] {
            let (from, to) = (dir.path().join(format!("a{length}")), dir.path().join(format!("b{length}")));
            sparse(&from, length, &[]);
            file(&from, &to, &Unwatched).unwrap();
            assert_eq!(std::fs::metadata(&to).unwrap().len(), length);
        }
    }
}
