//! Errors of a data disk in use, for example when the host's own disk is full.
//!
//! Data that could not be written vanishes from the kernel's cache silently, Nix's database included; from then on
//! every build fails or, worse, succeeds with wrong data. The rule: after the first error the guest goes down at once,
//! without marking the disk clean. The next boot formats it.

use super::disks;
use crate::console::say;
use crate::pid1::{ending, shutdown};
use crate::threads::background;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

/// The kernel's log, one record a read.
const LOG: &str = "/dev/kmsg";

/// Longest record of the kernel.
const RECORD: usize = 8192;

/// Watches from now on. Earlier messages concern a disk that each boot checks, and formats if needed.
pub fn watch() {
    let Some(device) = disks().pop() else { return };
    let log = File::open(LOG).and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log));
    match log {
        Ok(log) => background("disk-trouble", move || follow(log, device.trim_start_matches("/dev/"))),
        Err(e) => say(format_args!("errors of the data disk will not be detected: {LOG}: {e}")),
    }
}

fn follow(mut log: File, device: &str) {
    let mut record = vec![0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => return,
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if let Some(trouble) = trouble(&text, device).filter(|_| !ending::begun()) {
                    say(format_args!("FAILED: the data disk cannot be relied on any more: {trouble}"));
                    shutdown::pull_the_plug();
                }
            }
            // Records were overwritten before they were read; the next read continues with the oldest.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) => return say(format_args!("errors of the data disk will not be detected: {LOG}: {e}")),
        }
    }
}

/// The part of a record that reports lost data on this disk, if it does. A failed discard loses nothing.
///
/// Records also contain process names, even at the start, and any user can choose one. So a record must begin with one
/// of the kernel's formats up to the disk's name, all of which are longer than a process name can be (15 bytes).
fn trouble<'a>(record: &'a str, device: &str) -> Option<&'a str> {
    let message = record.split_once(';')?.1.lines().next()?;
    let after = |form: String| message.strip_prefix(form.as_str());
    let request =
        after(format!("I/O error, dev {device}, ")).or(after(format!("blk_update_request: I/O error, dev {device}, ")));
    let fails = request.is_some_and(|rest| !rest.contains("(DISCARD)"))
        || after(format!("Buffer I/O error on dev {device}, ")).is_some()
        || after(format!("EXT4-fs error (device {device})")).is_some()
        || after(format!("EXT4-fs warning (device {device}): ")).is_some_and(|rest| rest.contains("I/O error"))
        || after(format!("EXT4-fs ({device}): I/O error while writing superblock")).is_some();
    fails.then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_lose_data_of_this_disk_count_and_nothing_else() {
        for bad in [
            "3,544,5025,-;I/O error, dev vdb, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
            "3,545,5026,-;Buffer I/O error on dev vdb, logical block 256, lost async page write\n SUBSYSTEM=block",
            "4,546,5027,-;EXT4-fs warning (device vdb): ext4_end_bio:343: I/O error 10 writing to inode 14 starting block 9)",
            "3,548,5029,-;blk_update_request: I/O error, dev vdb, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
            "3,549,5030,-;EXT4-fs (vdb): I/O error while writing superblock",
            "2,550,5031,-;EXT4-fs error (device vdb) in ext4_reserve_inode_write:5764: IO failure",
            "2,551,5032,-;EXT4-fs error (device vdb): ext4_lookup:1855: inode #2: comm (DISCARD): iget: checksum invalid",
            "2,547,5028,-;EXT4-fs error (device vdb): ext4_validate_block_bitmap:390: comm nix-daemon: bg 1: bad checksum",
        ] {
            assert_eq!(trouble(bad, "vdb"), bad.split_once(';').unwrap().1.lines().next(), "{bad}");
            assert_eq!(trouble(bad, "vda"), None, "it concerns another disk");
        }
        for fine in [
            "6,1,0,-;EXT4-fs (vdb): mounted filesystem without journal. Quota mode: none.",
            "3,2,0,-;I/O error, dev vdb, sector 8 op 0x3:(DISCARD) flags 0x0 phys_seg 1 prio class 2",
            "3,3,0,-;I/O error, dev vdba, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2",
            "3,4,0,-;Out of memory: Killed process 812 (vdb I/O error) total-vm:912kB, anon-rss:9kB, UID:30001",
            "6,5,0,-;vdb I/O error[812]: segfault at 0 ip 0000000000401000 sp 00007ffc0 error 4 in sh[401000+1000]",
            "6,6,0,-;I/O error, dev [812]: segfault at 0 ip 0000000000401000 error 4 in I/O error, dev vdb, sector[401000+1000]",
            "6,7,0,-;traps: EXT4-fs error ([812] general protection fault ip:401000 I/O error, dev vdb, sector 8",
            "4,8,0,-;Buffer I/O error on dev vda, logical block 1, lost page write for I/O error, dev vdb, sector 1",
            "4,9,0,-;EXT4-fs warning (device vdb): ext4_dirblock_csum_verify:406: inode #2: comm sh: No space for leaf checksum",
            "no record",
            "",
        ] {
            assert_eq!(trouble(fine, "vdb"), None, "{fine}");
        }
    }
}
