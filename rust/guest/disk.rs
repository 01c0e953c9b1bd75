//! The data disk's image: a sparse raw file, a cache. The guest formats it, and formats it anew after an unclean stop; here
//! it is only made and grown. It never shrinks: an image larger than the setting, because one start asked for more or the setting
//! became smaller, is used as it is.

use crate::{
    error::{Kind, Report},
    machine_dir::{self, MachineDir, state_error},
};
use bytesize::ByteSize;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Free space below which a boot is refused: a guest on a full volume fails in its first build, and less clearly.
pub const LEAST_FREE: u64 = 256 << 20;

/// What takes less is no help against [`LEAST_FREE`].
const WORTH_TELLING: u64 = 16 << 20;

/// The unit of `st_blocks`, whatever the file system's own is.
const BLOCK: u64 = 512;

/// The size of the image there is, in bytes, or the configured one if that is larger or there is none.
pub fn size(path: &Path, configured: u64) -> u64 {
    fs::metadata(path).map_or(configured, |meta| meta.len().max(configured))
}

/// Makes the image, or grows it: to the size `asked` for by this start, or else to the configured one. Returns its size, which
/// is larger than configured if it was before; a start that asks for less than there is fails. On an error the old image, or
/// none, is there. All in bytes.
pub fn ensure(path: &Path, configured: u64, asked: Option<u64>, minimum: u64) -> Result<u64, Report> {
    let size = asked.unwrap_or_else(|| size(path, configured));
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
        return Err(no_room(&MachineDir::at(dir), free));
    }
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(path, size),
        Err(e) => Err(state_error(path, "cannot read the disk", &e)),
        Ok(meta) if meta.len() > size => Err(Report::new(
            Kind::Config,
            format!("the data disk is {} already, and a disk cannot shrink to {}", show(meta.len()), show(size)),
        )
        .hint(format!("ask for {} or more, or leave the size out", show(meta.len())))
        .hint("or make a new, empty one: darwin-vz-nix destroy --keep-keys")),
        Ok(meta) if meta.len() < size => {
            let grow = || OpenOptions::new().write(true).open(path)?.set_len(size);
            grow().map_err(|e| cannot_size(path, size, &e))
        }
        Ok(_) => Ok(()),
    }?;
    Ok(size)
}

/// Throws the image away, if there is one.
pub fn discard(path: &Path) -> Result<(), Report> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(state_error(path, "cannot remove the disk", &e)),
        _ => Ok(()),
    }
}

/// Why a guest cannot start with so little free space, what takes it, and which command gives it back. Nothing is given back
/// unasked: the disk is a cache, but somebody may want what is in it.
pub fn no_room(machine: &MachineDir, free: u64) -> Report {
    let missing = LEAST_FREE.saturating_sub(free);
    let mut uses = [
        (
            taken(&machine.data_disk()),
            "the data disk, which the next boot makes anew",
            "`darwin-vz-nix destroy --keep-keys --keep-generations` deletes it, and what is in it",
        ),
        (
            taken(&machine.generations()),
            "guest systems built from recipes",
            "`darwin-vz-nix generations` lists them, `darwin-vz-nix generations delete N` deletes one",
        ),
    ];
    uses.sort_by_key(|(taken, ..)| std::cmp::Reverse(*taken));
    let message = format!(
        "{} has only {} free, and a guest needs {} to start with: {} are missing",
        machine.root().display(),
        show(free),
        show(LEAST_FREE),
        show(missing),
    );
    let mut report = Report::new(Kind::State, message);
    for (taken, what, remedy) in uses.into_iter().filter(|(taken, ..)| *taken >= WORTH_TELLING) {
        report = report.hint(format!("{} are {what}: {remedy}", show(taken)));
    }
    let elsewhere = if report.hints.is_empty() { "free" } else { "or free" };
    report
        .hint(format!("{elsewhere} {} of something else on that volume, or choose another --state-dir", show(missing)))
}

/// What a file or all in a directory takes on its volume, in bytes. A sparse file takes less than its length.
fn taken(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let within: u64 = match meta.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| taken(&entry.path())).sum(),
        false => 0,
    };
    within.saturating_add(meta.blocks().saturating_mul(BLOCK))
}

fn make(path: &Path, size: u64) -> Result<(), Report> {
    let make = || -> io::Result<File> {
        let image = machine_dir::unfinished(path, 0o600)?;
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
    use std::{io::Write, os::unix::fs::PermissionsExt};

    const GIB: u64 = 1 << 30;

    #[test]
    fn it_is_made_sparse_and_grows() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data.img");
        assert_eq!(size(&path, GIB), GIB);
        assert_eq!(ensure(&path, 100 * GIB, None, 0).unwrap(), 100 * GIB);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.permissions().mode() & 0o777), (100 * GIB, 0, 0o600));
        assert_eq!(ensure(&path, 200 * GIB, None, 0).unwrap(), 200 * GIB);
        assert_eq!(fs::metadata(&path).unwrap().len(), 200 * GIB);
    }

    #[test]
    fn a_full_volume_is_told_with_what_takes_it_and_what_frees_it() {
        let tmp = tempfile::tempdir().unwrap();
        let machine = MachineDir::at(tmp.path());
        let told = |free| {
            let report = no_room(&machine, free);
            format!("{}\n{}", report.message, report.hints.join("\n")).replace(tmp.path().to_str().unwrap(), "[DIR]")
        };
        File::create(machine.data_disk()).unwrap().set_len(100 * GIB).unwrap();
        insta::assert_snapshot!(told(1 << 20), @r"
        [DIR] has only 1.0 MiB free, and a guest needs 256.0 MiB to start with: 255.0 MiB are missing
        free 255.0 MiB of something else on that volume, or choose another --state-dir
        ");
        let fill = |path: &Path, mebibytes: usize| {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
            file.write_all(&vec![1; mebibytes << 20]).unwrap();
            file.sync_all().unwrap();
        };
        fill(&machine.data_disk(), 20);
        fs::create_dir_all(machine.generations().join("1")).unwrap();
        fill(&machine.generations().join("1/store.erofs"), 32);
        let text = told(0);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("32") && lines[1].contains("generations delete N"), "the largest first: {text}");
        assert!(lines[2].starts_with("20") && lines[2].contains("destroy --keep-keys --keep-generations"), "{text}");
        assert_eq!(fs::metadata(machine.data_disk()).unwrap().len(), 100 * GIB, "nothing is given back unasked");
    }

    #[test]
    fn a_larger_one_is_used_as_it_is_unless_a_start_asks_for_less() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data.img");
        assert_eq!(ensure(&path, 20 * GIB, Some(40 * GIB), 0).unwrap(), 40 * GIB);
        assert_eq!(ensure(&path, 20 * GIB, None, 30 * GIB).unwrap(), 40 * GIB, "as the next connection finds it");
        assert_eq!(size(&path, 20 * GIB), 40 * GIB);
        let error = ensure(&path, 20 * GIB, Some(30 * GIB), 0).unwrap_err();
        assert!(error.kind == Kind::Config && error.message.contains("cannot shrink to 30.0 GiB"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 40 * GIB);
    }

    #[test]
    fn a_size_below_the_bundles_need_or_beyond_the_file_system_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data.img");
        assert_eq!(ensure(&path, GIB, None, 2 * GIB).unwrap_err().kind, Kind::Config);
        let error = ensure(&path, u64::MAX / 2, None, 0).unwrap_err();
        assert_eq!(error.kind, Kind::State);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
