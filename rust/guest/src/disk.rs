//! The data disk's image: a sparse raw file that serves as a cache. The host creates and grows it; the guest formats
//! it. It never shrinks: an image larger than the setting, because one start asked for more or the setting became
//! smaller, is used unchanged.
//!
//! An image that the guest would reformat, because it is damaged or was not unmounted cleanly, is recreated here before
//! the boot, by the same rules (`dvn_protocol::superblock`) and one more: an image shorter than its file system was cut
//! off. Only the host can check that, because it grows the image before the guest sees it.
//!
//! Functions that create, replace or remove an image take a [`CacheDisk`], of which each builder has one file.

use bytesize::ByteSize;
use dvn_host::{files::state_error, machine_dir::MachineDir, regular_file};
use dvn_hypervisor::disks::CacheDisk;
use dvn_protocol::superblock::{self, HEAD, Verdict};
use dvn_types::{Kind, Report};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Minimum free space for a boot, in bytes: on a full volume a guest would fail in its first build, and less clearly.
pub const LEAST_FREE: u64 = 256 << 20;

/// Smaller items are not mentioned: removing them would not help against [`LEAST_FREE`].
const WORTH_TELLING: u64 = 16 << 20;

/// The unit of `st_blocks`, independent of the file system's block size.
const BLOCK: u64 = 512;

/// The size of the present image in bytes, or the configured one if that is larger or there is no image.
pub fn size(path: &Path, configured: u64) -> u64 {
    fs::metadata(path).map_or(configured, |meta| meta.len().max(configured))
}

/// The image, ready for a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its size in bytes.
    pub size: u64,
    /// Why the previous image was replaced by an empty one, if it was.
    pub rebuilt: Option<String>,
}

/// Creates the image, or grows it: to `asked`, the size that this start asks for, or else to the configured one. Keeps
/// a larger image; fails if `asked` is smaller than it. On an error the old state remains. All sizes in bytes.
pub fn ensure(disk: &CacheDisk, configured: u64, asked: Option<u64>, minimum: u64) -> Result<Image, Report> {
    let path = disk.path();
    let found = match regular_file::look(path) {
        Ok(meta) => Some(meta.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(state_error(path, "cannot use the data disk", &e)),
    };
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
    let Some(length) = found else {
        make(disk, size)?;
        return Ok(Image { size, rebuilt: None });
    };
    if let Some(why) = damage(path, length).map_err(|e| state_error(path, "cannot open the data disk", &e))? {
        make(disk, size)?;
        return Ok(Image { size, rebuilt: Some(why) });
    }
    match length {
        _ if length > size => Err(Report::new(
            Kind::Config,
            format!("the data disk is {} already, and a disk cannot shrink to {}", show(length), show(size)),
        )
        .hint(format!("ask for {} or more, or leave the size out", show(length)))
        .hint("or make a new, empty one: darwin-vz-nix destroy --keep-keys")),
        _ if length < size => {
            let grow = || regular_file::open_as(path, OpenOptions::new().write(true))?.set_len(size);
            grow().map_err(|e| cannot_size(path, size, &e))
        }
        _ => Ok(()),
    }?;
    Ok(Image { size, rebuilt: None })
}

/// Why a guest would reformat the image, if it would. Opens it as a backend does.
fn damage(path: &Path, length: u64) -> io::Result<Option<String>> {
    let image = regular_file::open_as(path, OpenOptions::new().read(true).write(true))?;
    if length == 0 {
        return Ok(Some("it is empty".to_owned()));
    }
    let mut head = Vec::with_capacity(HEAD);
    image.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(match superblock::judge(&head) {
        Verdict::Clean { bytes } if bytes > length => {
            Some(format!("it was cut off: it has {length} bytes, and its file system {bytes}"))
        }
        Verdict::Clean { .. } | Verdict::Blank => None,
        Verdict::Unusable(why) => Some(why.to_owned()),
    })
}

/// Removes the image, if there is one.
pub fn discard(disk: &CacheDisk) -> Result<(), Report> {
    let path = disk.path();
    match regular_file::look(path).and_then(|_| fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(state_error(path, "cannot remove the disk", &e)),
        _ => Ok(()),
    }
}

/// The report that free space is too small for a guest: what uses it, and which command frees it. Nothing is freed
/// automatically: the disk is a cache, but a user may want its contents.
pub fn no_room(machine: &MachineDir, free: u64) -> Report {
    let missing = LEAST_FREE.saturating_sub(free);
    let mut uses = [
        (
            taken(&machine.data_disk()),
            "the data disk, which the next boot recreates",
            "`darwin-vz-nix destroy --keep-keys --keep-generations` deletes it with its contents",
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

/// Bytes that a file or a directory's contents occupy on the volume. A sparse file occupies less than its length.
fn taken(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let within: u64 = match meta.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| taken(&entry.path())).sum(),
        false => 0,
    };
    within.saturating_add(meta.blocks().saturating_mul(BLOCK))
}

fn make(disk: &CacheDisk, size: u64) -> Result<(), Report> {
    let path = disk.path();
    let make = || -> io::Result<File> {
        let image = dvn_host::files::unfinished(path, 0o600)?;
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
            report.hint("that volume's file system does not allow files of this size: set a smaller disk-size")
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
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        let path = disk.path();
        assert_eq!(size(path, GIB), GIB);
        assert_eq!(ensure(&disk, 100 * GIB, None, 0).unwrap(), Image { size: 100 * GIB, rebuilt: None });
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.permissions().mode() & 0o777), (100 * GIB, 0, 0o600));
        assert_eq!(ensure(&disk, 200 * GIB, None, 0).unwrap(), Image { size: 200 * GIB, rebuilt: None });
        assert_eq!(fs::metadata(path).unwrap().len(), 200 * GIB);
    }

    #[test]
    fn a_full_volume_is_reported_with_its_users_and_how_to_free_it() {
        let tmp = tempfile::tempdir().unwrap();
        let machine = MachineDir::at(tmp.path());
        let report = |free| {
            let report = no_room(&machine, free);
            format!("{}\n{}", report.message, report.hints.join("\n")).replace(tmp.path().to_str().unwrap(), "[DIR]")
        };
        File::create(machine.data_disk()).unwrap().set_len(100 * GIB).unwrap();
        insta::assert_snapshot!(report(1 << 20), @r"
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
        let text = report(0);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("32") && lines[1].contains("generations delete N"), "the largest first: {text}");
        assert!(lines[2].starts_with("20") && lines[2].contains("destroy --keep-keys --keep-generations"), "{text}");
        assert_eq!(fs::metadata(machine.data_disk()).unwrap().len(), 100 * GIB, "nothing is freed automatically");
    }

    #[test]
    fn a_larger_one_is_used_as_it_is_unless_a_start_asks_for_less() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        let path = disk.path();
        assert_eq!(ensure(&disk, 20 * GIB, Some(40 * GIB), 0).unwrap().size, 40 * GIB);
        assert_eq!(ensure(&disk, 20 * GIB, None, 30 * GIB).unwrap().size, 40 * GIB, "as for the next connection");
        assert_eq!(size(path, 20 * GIB), 40 * GIB);
        let error = ensure(&disk, 20 * GIB, Some(30 * GIB), 0).unwrap_err();
        assert!(error.kind == Kind::Config && error.message.contains("cannot shrink to 30.0 GiB"), "{error}");
        assert_eq!(fs::metadata(path).unwrap().len(), 40 * GIB);
    }

    #[test]
    fn a_size_below_the_bundles_need_or_beyond_the_file_system_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        assert_eq!(ensure(&disk, GIB, None, 2 * GIB).unwrap_err().kind, Kind::Config);
        let error = ensure(&disk, u64::MAX / 2, None, 0).unwrap_err();
        assert_eq!(error.kind, Kind::State);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    /// The first bytes of a clean disk of this size from `mke2fs`, as far as they are read.
    fn clean(bytes: u64) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let blocks = u32::try_from(bytes / 4096).unwrap();
        head[1024 + 0x04..][..4].copy_from_slice(&blocks.to_le_bytes());
        head[1024 + 0x18] = 2;
        head[1024 + 0x38..][..2].copy_from_slice(&0xEF53u16.to_le_bytes());
        head[1024 + 0x3A] = 1;
        head
    }

    fn image(path: &Path, head: &[u8], length: u64) -> u64 {
        let mut file = File::create(path).unwrap();
        file.write_all(head).unwrap();
        file.set_len(length).unwrap();
        file.metadata().unwrap().ino()
    }

    /// Each damage that is visible from outside: the guest gets an empty disk of the full size, and the log the reason.
    #[test]
    fn a_visibly_damaged_disk_is_recreated_before_the_boot() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        let path = disk.path();
        let with = |at: usize, byte: u8| {
            let mut head = clean(4 * GIB);
            head[1024 + at] = byte;
            head
        };
        let mut garbage = vec![0xaa; HEAD];
        garbage[0] = 1;
        for (what, head, length, why) in [
            ("shorter than its file system", clean(4 * GIB), 4 * GIB - 4096, "cut off"),
            ("much shorter", clean(4 * GIB), 1 << 20, "cut off"),
            ("a superblock of another size", clean(8 * GIB), 4 * GIB, "cut off"),
            ("nothing in it", vec![], 0, "empty"),
            ("a few bytes", vec![0; 100], 100, "too small"),
            ("a garbage header", garbage, 4 * GIB, "no ext4"),
            ("a size that cannot be", with(0x18, 40), 4 * GIB, "impossible size"),
            ("mounted when the guest ended", with(0x3A, 0), 4 * GIB, "not leave it clean"),
            ("errors", with(0x3A, 3), 4 * GIB, "errors"),
            ("a journal", with(0x5C, 4), 4 * GIB, "journal"),
        ] {
            let before = image(path, &head, length);
            let ready = ensure(&disk, 4 * GIB, None, GIB).unwrap();
            assert!(ready.rebuilt.as_ref().is_some_and(|told| told.contains(why)), "{what}: {ready:?}");
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.len(), meta.blocks(), meta.mode() & 0o777), (4 * GIB, 0, 0o600), "{what}");
            assert!(meta.ino() != before || length == 0, "{what}: what still writes to the old one does no harm");
            assert_eq!(ensure(&disk, 4 * GIB, None, GIB).unwrap().rebuilt, None, "{what}: once");
        }
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_disk_that_a_guest_can_use_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        let path = disk.path();
        for (what, head, length, size) in [
            ("as it was left", clean(4 * GIB), 4 * GIB, 4 * GIB),
            ("longer than its file system", clean(2 * GIB), 4 * GIB, 4 * GIB),
            ("to be grown", clean(2 * GIB), 2 * GIB, 4 * GIB),
            ("larger than configured", clean(8 * GIB), 8 * GIB, 8 * GIB),
            ("never used", vec![], 4 * GIB, 4 * GIB),
        ] {
            let before = image(path, &head, length);
            assert_eq!(ensure(&disk, 4 * GIB, None, GIB).unwrap(), Image { size, rebuilt: None }, "{what}");
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.len(), meta.ino()), (size, before), "{what}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = CacheDisk::of(&MachineDir::at(tmp.path()));
        let path = disk.path();
        for kind in dvn_host::wrong_files::KINDS {
            dvn_host::wrong_files::make(kind, path);
            for error in [ensure(&disk, GIB, None, 0).unwrap_err(), discard(&disk).unwrap_err()] {
                assert!(error.kind == Kind::State && error.message.contains("not a regular file"), "{kind}: {error}");
                assert!(error.hints[0].starts_with("move it away"), "{kind}: {error:?}");
            }
            assert!(fs::symlink_metadata(path).is_ok(), "{kind}");
            dvn_host::wrong_files::assert_nothing_lost(kind, path);
        }
    }
}
