//! The data disk's image: a sparse raw file, a cache. The guest formats it, and formats it anew after an unclean stop; here
//! it is only made, grown and kept from being shrunk.

use crate::{
    error::{Kind, Report},
    machine_dir::state_error,
};
use bytesize::ByteSize;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Free space below which a boot is refused: a guest on a full volume fails in its first build, and less clearly.
pub const LEAST_FREE: u64 = 256 << 20;

/// Makes the image, or grows it to `size` bytes. On an error the old image, or none, is there.
pub fn ensure(path: &Path, size: u64, minimum: u64) -> Result<(), Report> {
    if size < minimum {
        return Err(Report::new(
            Kind::Config,
            format!("disk-size is {}, and the guest bundle needs at least {}", show(size), show(minimum)),
        )
        .hint(format!("set disk-size to {} or more", show(minimum))));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let volume = rustix::fs::statvfs(dir).map_err(|e| state_error(dir, "cannot read the free space of", &e.into()))?;
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    if free < LEAST_FREE {
        return Err(Report::new(
            Kind::State,
            format!(
                "{} has only {} free, and a guest needs {} to start with",
                dir.display(),
                show(free),
                show(LEAST_FREE)
            ),
        )
        .hint("free some space on that volume, or choose another --state-dir"));
    }
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(path, dir, size),
        Err(e) => Err(state_error(path, "cannot read the disk", &e)),
        Ok(meta) if meta.len() > size => Err(Report::new(
            Kind::Config,
            format!("the data disk is {} already, and a disk cannot shrink to {}", show(meta.len()), show(size)),
        )
        .hint(format!("set disk-size back to {}", show(meta.len())))
        .hint("or make a new, empty one: darwin-vz-nix destroy --keep-keys")),
        Ok(meta) if meta.len() < size => {
            let grow = || OpenOptions::new().write(true).open(path)?.set_len(size);
            grow().map_err(|e| cannot_size(path, size, &e))
        }
        Ok(_) => Ok(()),
    }
}

/// Throws the image away, if there is one.
pub fn discard(path: &Path) -> Result<(), Report> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(state_error(path, "cannot remove the disk", &e)),
        _ => Ok(()),
    }
}

fn make(path: &Path, dir: &Path, size: u64) -> Result<(), Report> {
    let make = || -> io::Result<File> {
        let image = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(dir)?;
        image.as_file().set_len(size)?;
        image.as_file().sync_all()?;
        Ok(image.persist(path)?)
    };
    make().map(drop).map_err(|e| cannot_size(path, size, &e))
}

fn cannot_size(path: &Path, size: u64, error: &io::Error) -> Report {
    let report = state_error(path, &format!("cannot make a disk of {} at", show(size)), error);
    match error.kind() {
        io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput => {
            report.hint("that volume's file system takes no file of this size: set a smaller disk-size")
        }
        _ => report,
    }
}

fn show(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const GIB: u64 = 1 << 30;

    #[test]
    fn it_is_made_sparse_grows_and_never_shrinks() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data.img");
        ensure(&path, 100 * GIB, 0).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.permissions().mode() & 0o777), (100 * GIB, 0, 0o600));
        ensure(&path, 200 * GIB, 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 200 * GIB);
        let error = ensure(&path, 50 * GIB, 0).unwrap_err();
        assert!(error.message.contains("cannot shrink to 50.0 GiB"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 200 * GIB);
    }

    #[test]
    fn a_size_below_the_bundles_need_or_beyond_the_file_system_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data.img");
        assert_eq!(ensure(&path, GIB, 2 * GIB).unwrap_err().kind, Kind::Config);
        let error = ensure(&path, u64::MAX / 2, 0).unwrap_err();
        assert_eq!(error.kind, Kind::State);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
