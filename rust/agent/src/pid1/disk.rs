//! Disks: the system image is the first; the data disk is the one of the serial number that the host names, and where it names none,
//! the last. No other is ever written to.
//!
//! The data disk is a cache with an ext4 file system *without a journal*: nothing on it is worth the writes of a
//! journal. Without one, the kernel keeps the file system's "valid" mark cleared while it is mounted for writing. So on
//! an unmounted disk the mark says exactly whether it was left clean. The rule: only a clean disk is mounted; any other
//! is formatted again.

pub mod trouble;

use super::{children, mounts};
use crate::console::say;
use crate::pid1::tasks::Outcome;
use dvn_protocol::{
    messages::DataDisk,
    superblock::{self, HEAD, Verdict},
};
use rustix::{fs::OFlags, ioctl, mount::MountFlags};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

/// Where the data disk is mounted.
pub const DATA: &str = "/data";

/// Smallest growth that is worth a resize: the size of one ext4 block group.
const GROWTH: u64 = 128 << 20;

/// The data disk, mounted.
pub struct Data {
    /// Its state at this boot.
    pub fate: DataDisk,
}

/// The device of the system image. Waits briefly, as drivers may still be probing.
pub fn system() -> Outcome<String> {
    for _ in 0..500 {
        if let Some(first) = disks().into_iter().next() {
            return Ok(first);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err("no disk appeared within 5 s: the bundle's system image should be the first virtio disk".into())
}

/// The virtio disks, in the host's order.
fn disks() -> Vec<String> {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    in_order(names.collect()).into_iter().map(|name| format!("/dev/{name}")).collect()
}

/// Whole virtio disks among device names; `vdz` comes before `vdaa`.
fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| {
        name.strip_prefix("vd").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_lowercase()))
    });
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// Which file system a read-only image holds.
pub fn image_kind(device: &str) -> Outcome<&'static str> {
    superblock::image(&head(device)?)
        .map(|image| image.kind)
        .ok_or_else(|| format!("the system image {device} holds neither ext4 nor erofs: the bundle is damaged"))
}

fn head(device: &str) -> Outcome<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(device)
        .and_then(|disk| disk.take(HEAD as u64).read_to_end(&mut head))
        .map_err(|e| format!("{device} cannot be read: {e}"))?;
    Ok(head)
}

/// Mounts the data disk at [`DATA`], after formatting it unless it was left clean. `named` is its serial number, if the
/// host names one.
pub fn prepare(named: Option<&str>) -> Outcome<Data> {
    let device = match named {
        Some(serial) => wait_for(serial)?,
        None => {
            let mut disks = disks();
            let last = disks.pop().filter(|_| !disks.is_empty());
            last.ok_or("there is no data disk: it should be the last virtio disk")?
        }
    };
    let fate = match superblock::judge(&head(&device)?) {
        Verdict::Blank => {
            make(&device)?;
            DataDisk::Formatted
        }
        Verdict::Clean { bytes } => match keep(&device, bytes) {
            Ok(()) => DataDisk::Kept,
            Err(why) => rebuild(&device, &why)?,
        },
        Verdict::Unusable(why) => rebuild(&device, why)?,
    };
    Ok(Data { fate })
}

/// The disk of this serial number. Its driver may still be probing, so it is waited for briefly.
fn wait_for(serial: &str) -> Outcome<String> {
    for _ in 0..500 {
        if let Some(name) = of_serial(serial, serials(Path::new("/sys/block")))? {
            return Ok(format!("/dev/{name}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("no virtio disk has the serial number {serial}, which the host gave the data disk (is /sys mounted?)"))
}

/// Disks and their serial numbers; most have none.
fn serials(block: &Path) -> Vec<(String, String)> {
    let names = fs::read_dir(block).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let with_serial = |name: String| {
        let serial = fs::read_to_string(block.join(&name).join("serial")).ok()?;
        Some((name, serial.trim_end().to_owned()))
    };
    names.filter_map(with_serial).collect()
}

/// The name of the virtio disk with this serial number. Two of them are an error: one is not what the host meant.
fn of_serial(serial: &str, disks: Vec<(String, String)>) -> Outcome<Option<String>> {
    let marked = disks.into_iter().filter(|(_, own)| !own.is_empty() && own == serial).map(|(name, _)| name);
    let mut found = in_order(marked.collect());
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(format!("the disks {} have the same serial number {serial}: none is touched", found.join(" and "))),
    }
}

fn rebuild(device: &str, why: &str) -> Outcome<DataDisk> {
    say(format_args!("data disk: made anew: {why}"));
    // Still mounted if only growing it failed.
    let _ = rustix::mount::unmount(DATA, rustix::mount::UnmountFlags::empty());
    make(device)?;
    Ok(DataDisk::Rebuilt)
}

fn make(device: &str) -> Outcome<()> {
    // The inode tables are never zeroed (lazily here, not at all below): the kernel does not read what it has not
    // written, and zeroes would fill a sparse image on the host.
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", device]);
    children::run(&mut mke2fs)?;
    mount(device)
}

fn mount(device: &str) -> Outcome<()> {
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
    mounts::mount(device, DATA, "ext4", flags, "noinit_itable,discard,errors=remount-ro")
}

fn keep(device: &str, file_system: u64) -> Outcome<()> {
    let size = size(device)?;
    if size < file_system {
        return Err(format!("the disk has {size} bytes and its file system {file_system}"));
    }
    mount(device)?;
    if size - file_system >= GROWTH {
        grow(size).map_err(|e| format!("it cannot be grown from {file_system} to {size} bytes: {e}"))?;
        say(format_args!("data disk: grown from {file_system} to {size} bytes"));
    }
    Ok(())
}

fn size(device: &str) -> Outcome<u64> {
    const BLKGETSIZE64: ioctl::Opcode = ioctl::opcode::read::<usize>(0x12, 114);
    let asked = File::open(device).and_then(|disk| {
        // SAFETY: BLKGETSIZE64 writes one u64.
        let size = unsafe { ioctl::ioctl(&disk, ioctl::Getter::<BLKGETSIZE64, u64>::new()) }?;
        Ok(size)
    });
    asked.map_err(|e| format!("the size of {device} cannot be read: {e}"))
}

fn grow(bytes: u64) -> rustix::io::Result<()> {
    const EXT4_IOC_RESIZE_FS: ioctl::Opcode = ioctl::opcode::write::<u64>(b'f', 16);
    const BLOCK: u64 = 4096;
    let data = open_data()?;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64, the new number of blocks.
    unsafe { ioctl::ioctl(&data, ioctl::Setter::<EXT4_IOC_RESIZE_FS, u64>::new(bytes / BLOCK)) }
}

/// Discards unused blocks on the host; returns the number of bytes.
pub fn trim() -> rustix::io::Result<u64> {
    const FITRIM: ioctl::Opcode = ioctl::opcode::read_write::<[u64; 3]>(b'X', 121);
    let mut range = [0, u64::MAX, 0]; // start, length, shortest run
    let data = open_data()?;
    // SAFETY: FITRIM reads and writes a struct of three u64, and the kernel sets the second to the bytes trimmed.
    unsafe { ioctl::ioctl(&data, ioctl::Updater::<FITRIM, [u64; 3]>::new(&mut range))? };
    Ok(range[1])
}

fn open_data() -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::fs::open(DATA, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
}

/// Writes everything, then sets the mark that says so.
pub fn leave_clean() {
    rustix::fs::sync();
    for target in ["/tmp", "/nix/var", "/nix/store", DATA] {
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty());
    }
    // If a process still uses it, a read-only remount suffices: the kernel then marks the file system valid.
    match rustix::mount::mount_remount(DATA, MountFlags::RDONLY, c"") {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {} // not mounted, or not any more
        Err(e) => say(format_args!("data disk: not left clean, the next boot makes it anew: {e}")),
    }
    rustix::fs::sync();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_ordered_as_the_host_attached_them() {
        let names = ["vdaa", "vda1", "vdb", "sda", "vd", "vda", "vdz"].map(str::to_owned).to_vec();
        assert_eq!(in_order(names), ["vda", "vdb", "vdz", "vdaa"]);
    }
    #[test]
    fn the_data_disk_is_found_by_its_serial_number_alone() {
        let found = |serial: &str, disks: &[(&str, &str)]| {
            of_serial(serial, disks.iter().map(|(name, own)| ((*name).to_owned(), (*own).to_owned())).collect())
        };
        let others = [("vda", ""), ("vdc", "system"), ("sda", "dvn-cache"), ("vda1", "dvn-cache")];
        assert_eq!(
            found("dvn-cache", &others),
            Ok(None),
            "no virtio disk has it: none is formatted, not even the last"
        );
        assert_eq!(found("", &others), Ok(None), "no number is nobody's number");
        let with = |more: &[(&'static str, &'static str)]| [&others[..], more].concat();
        assert_eq!(
            found("dvn-cache", &with(&[("vdb", "dvn-cache")])),
            Ok(Some("vdb".into())),
            "though it is not the last"
        );
        let why = found("dvn-cache", &with(&[("vdb", "dvn-cache"), ("vdd", "dvn-cache")])).unwrap_err();
        assert!(why.contains("vdb and vdd"), "{why}");
    }
}
