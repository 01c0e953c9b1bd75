//! Checks the contents of a bundle's files against the contract: a kernel that the hypervisor can start, an initrd to
//! which the boot payload can be appended, and a complete system image.
//!
//! A guest may have built them. So only headers are read, and no more of them than a real file has.

use super::error::BundleError;
use dvn_host::regular_file::open_through_links;
use dvn_protocol::superblock::{self, HEAD};
use dvn_types::Arch;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// Offset of `ARM\x64` in an arm64 `Image` (Documentation/arch/arm64/booting.rst).
pub(super) const ARM64_MAGIC: usize = 0x38;
/// Offset of `HdrS` in an x86 `bzImage` (Documentation/arch/x86/boot.rst).
pub(super) const X86_SETUP_MAGIC: usize = 0x202;
/// Offset and values of `e_machine` in an ELF header.
pub(super) const ELF_MACHINE: usize = 18;
const ELF_X86_64: [u8; 2] = [62, 0];

/// Refuses a kernel that a hypervisor cannot start.
pub(super) fn check_kernel(path: &Path, arch: Arch) -> Result<(), BundleError> {
    let unread = |error| BundleError::File { path: path.to_owned(), error };
    let mut head = Vec::with_capacity(1024);
    let file = open_through_links(path).map_err(unread)?;
    (&file).take(1024).read_to_end(&mut head).map_err(unread)?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let is_arm64_image = at(ARM64_MAGIC, b"ARM\x64");
    let is_x86_elf = at(0, b"\x7fELF") && at(ELF_MACHINE, &ELF_X86_64);
    let is_bzimage = at(X86_SETUP_MAGIC, b"HdrS");
    let has_pvh = is_x86_elf && has_pvh_note(&file, &head).map_err(unread)?;
    let (fits, needed) = match arch {
        Arch::Aarch64 => (is_arm64_image, "an uncompressed arm64 Image"),
        Arch::X86_64 => (has_pvh || is_bzimage, "an x86_64 vmlinux with a PVH note or bzImage"),
    };
    if fits {
        return Ok(());
    }
    let found = if is_arm64_image {
        "an arm64 Image"
    } else if is_x86_elf && arch == Arch::X86_64 {
        "a vmlinux without a PVH note (CONFIG_PVH)"
    } else if is_x86_elf || is_bzimage {
        "an x86 kernel"
    } else if let Some(compressed) = compression(&head) {
        compressed
    } else if at(0, b"MZ") && at(4, b"zimg") {
        "a self-extracting EFI image (zboot)"
    } else if at(0, b"\x7fELF") {
        "an ELF file for another processor"
    } else {
        "in an unknown format"
    };
    Err(BundleError::Kernel { path: path.to_owned(), arch, found, needed })
}

fn compression(head: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 7] = [
        (&[0x1f, 0x8b], "compressed with gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed with xz"),
        (&[0x02, 0x21, 0x4c, 0x18], "compressed with lz4"),
        (&[0x04, 0x22, 0x4d, 0x18], "compressed with lz4"),
        (b"BZh", "compressed with bzip2"),
        (&[0x5d, 0, 0], "compressed with lzma"),
    ];
    known.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

/// Type of the note with the entry point for hypervisors without a boot loader, and its owner.
const PVH_NOTE: u32 = 18;
const PVH_OWNER: &[u8] = b"Xen\0";
const PROGRAM_NOTE: u32 = 4;
/// Most program headers, and most bytes of notes, that are read: a kernel has five, and some hundred bytes.
const MOST_HEADERS: usize = 64;
const MOST_NOTES: u64 = 64 << 10;

/// Whether a 64-bit ELF file has the note that QEMU needs to start it.
fn has_pvh_note(mut file: &File, head: &[u8]) -> io::Result<bool> {
    let number = |at: usize, length: usize| little(head.get(at..at + length)?);
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return Ok(false);
    };
    let is_64_bit = head.get(4..6) == Some(&[2, 1]);
    if !is_64_bit || size < 56 {
        return Ok(false);
    }
    for index in 0..count.min(MOST_HEADERS as u64) {
        let Some(at) = table.checked_add(index * size) else { return Ok(false) };
        let mut header = [0; 56];
        // An offset beyond the end, or beyond any possible file, has no header.
        if file.seek(SeekFrom::Start(at)).is_err() || file.read_exact(&mut header).is_err() {
            return Ok(false);
        }
        let field = |at: usize, length: usize| little(&header[at..at + length]).unwrap_or(0);
        if field(0, 4) != u64::from(PROGRAM_NOTE) {
            continue;
        }
        let mut notes = Vec::new();
        if file.seek(SeekFrom::Start(field(8, 8))).is_err() {
            return Ok(false);
        }
        file.take(field(32, 8).min(MOST_NOTES)).read_to_end(&mut notes)?;
        if notes_have_pvh(&notes) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The format of a note: lengths of owner and content, a type, the owner, the content; both padded to four bytes.
fn notes_have_pvh(mut notes: &[u8]) -> bool {
    let padded = |length: u64| usize::try_from(length.next_multiple_of(4)).unwrap_or(usize::MAX);
    while let Some((head, rest)) = notes.split_at_checked(12) {
        let word = |at: usize| little(&head[at..at + 4]).unwrap_or(0);
        let (owner, content) = (word(0), padded(word(4)));
        let Some((name, rest)) = rest.split_at_checked(padded(owner)) else { return false };
        if word(8) == u64::from(PVH_NOTE) && name.starts_with(PVH_OWNER) {
            return true;
        }
        let Some((_, rest)) = rest.split_at_checked(content) else { return false };
        notes = rest;
    }
    false
}

fn little(bytes: &[u8]) -> Option<u64> {
    let mut whole = [0; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(whole))
}

/// Length of a header of a cpio archive in the format newc, and its magic number.
const CPIO_HEADER: usize = 110;
const CPIO_MAGIC: &[u8] = b"070701";
/// Name of an archive's last entry.
const CPIO_END: &[u8] = b"TRAILER!!!";
/// Limits for entries, length of a name, and zeros between archives.
const MOST_ENTRIES: usize = 1_000_000;
const LONGEST_NAME: u64 = 4096;
const MOST_ZEROS: u64 = 1 << 20;

/// Refuses an initrd after which the kernel would not find the boot payload: it must consist of complete, uncompressed
/// cpio archives, one of which has the program that the kernel starts.
pub(super) fn check_initrd(path: &Path) -> Result<(), BundleError> {
    let unfit = |error| BundleError::File { path: path.to_owned(), error };
    let file = open_through_links(path).map_err(unfit)?;
    let length = file.metadata().map_err(unfit)?.len();
    let mut archive = Archive { file: BufReader::new(file), at: 0, length };
    archive.examine().map_err(unfit)
}

fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

struct Archive {
    file: BufReader<File>,
    at: u64,
    length: u64,
}

impl Archive {
    fn examine(&mut self) -> io::Result<()> {
        let (mut has_init, mut ended) = (false, false);
        for _ in 0..MOST_ENTRIES {
            if ended && self.skip_zeros()? {
                return if has_init { Ok(()) } else { Err(damaged("it has no /init for the kernel to start")) };
            }
            let name = self.entry()?;
            ended = name == CPIO_END;
            has_init |= [&b"init"[..], b"./init", b"/init"].contains(&&name[..]);
        }
        Err(damaged("it has too many files"))
    }

    /// The next entry's name. Moves to the entry's end.
    fn entry(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; CPIO_HEADER];
        let there = self.length.saturating_sub(self.at).min(CPIO_HEADER as u64) as usize;
        self.file.read_exact(&mut header[..there])?;
        if !header.starts_with(CPIO_MAGIC) {
            let what = match compression(&header[..there]) {
                Some(compressed) => format!("it is {compressed}, and must not be compressed"),
                None => "it is not a cpio archive (newc)".to_owned(),
            };
            return Err(damaged(what));
        }
        let cut = || damaged("it was cut off: an archive in it is incomplete");
        let field = |index: usize| {
            let digits = str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        if there < CPIO_HEADER {
            return Err(cut());
        }
        let (Some(size), Some(name_length)) = (field(6), field(11)) else {
            return Err(damaged("it is not a cpio archive (newc): a header has no numbers"));
        };
        if !(1..=LONGEST_NAME).contains(&name_length) {
            return Err(damaged("it is not a cpio archive (newc): a file in it has no name"));
        }
        let contents = (self.at + CPIO_HEADER as u64 + name_length).next_multiple_of(4);
        let end = contents + size;
        if end > self.length {
            return Err(cut());
        }
        let mut name = vec![0; name_length as usize];
        self.file.read_exact(&mut name)?;
        // The last entry may lack its padding.
        let next = end.next_multiple_of(4).min(self.length);
        self.file.seek_relative(
            i64::try_from(next - self.at).unwrap_or(i64::MAX) - (CPIO_HEADER as i64) - name_length as i64,
        )?;
        self.at = next;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        if name == CPIO_END && (size, name_length) != (0, CPIO_END.len() as u64 + 1) {
            return Err(damaged("it is not a cpio archive (newc): its last entry is not empty"));
        }
        Ok(name)
    }

    /// Skips zeros between archives, as the kernel does. True at the end of the file.
    fn skip_zeros(&mut self) -> io::Result<bool> {
        let mut skipped = 0;
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let all = zeros == bytes.len();
            self.file.consume(zeros);
            self.at += zeros as u64;
            skipped += zeros as u64;
            if !all {
                return Ok(false);
            }
            if skipped > MOST_ZEROS {
                return Err(damaged("it ends in more than a megabyte of zeros"));
            }
        }
    }
}

/// Refuses a system image without a known file system, or one that is incomplete.
pub(super) fn check_system(path: &Path) -> Result<(), BundleError> {
    let unfit = |error| BundleError::File { path: path.to_owned(), error };
    let file = open_through_links(path).map_err(unfit)?;
    let length = file.metadata().map_err(unfit)?.len();
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head).map_err(unfit)?;
    match superblock::image(&head) {
        None => Err(unfit(damaged("it holds neither ext4 nor erofs, and the system image must"))),
        Some(superblock::Image { bytes: None, .. }) => Err(unfit(damaged("its superblock gives an impossible size"))),
        Some(superblock::Image { bytes: Some(bytes), kind }) if bytes > length => {
            Err(unfit(damaged(format!("it was cut off: it has {length} bytes, and its {kind} {bytes}"))))
        }
        Some(_) => Ok(()),
    }
}
