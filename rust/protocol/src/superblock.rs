//! Judges a disk by its first bytes. The agent does so before it mounts a disk, and the host before it boots a guest
//! with one.

/// Bytes from the start of a disk that [`judge`] and [`image`] need.
pub const HEAD: usize = 64 * 1024;

/// Whether a data disk can be used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever written to it.
    Blank,
    /// It was left clean.
    Clean {
        /// Size of its file system.
        bytes: u64,
    },
    /// It must be formatted again, for this reason.
    Unusable(&'static str),
}

/// Where the superblock begins, and its length.
const AT: usize = 1024;
const LENGTH: usize = 1024;

const EXT4_MAGIC: u16 = 0xEF53;
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;
const STATE_VALID: u16 = 1;
const STATE_ERROR: u16 = 2;
const COMPAT_HAS_JOURNAL: u32 = 4;
const INCOMPAT_RECOVER: u32 = 4;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

struct Superblock<'a>(&'a [u8; LENGTH]);

impl<'a> Superblock<'a> {
    fn of(head: &'a [u8]) -> Option<Self> {
        head.get(AT..AT + LENGTH)?.try_into().ok().map(Superblock)
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
    fn is_ext4(&self) -> bool {
        self.u16(0x38) == EXT4_MAGIC
    }
    fn state(&self) -> u16 {
        self.u16(0x3A)
    }
    fn has(&self, word: usize, feature: u32) -> bool {
        self.u32(word) & feature != 0
    }
    /// Size of the file system; `None` if the numbers are impossible.
    fn bytes(&self) -> Option<u64> {
        let high = if self.has(0x60, INCOMPAT_64BIT) { self.u32(0x150) } else { 0 };
        let blocks = u64::from(self.u32(0x04)) | u64::from(high) << 32;
        let block = 1024u64.checked_shl(self.u32(0x18)).filter(|size| (1024..=65536).contains(size))?;
        blocks.checked_mul(block).filter(|bytes| *bytes > 0)
    }
    /// Whether the superblock is as the kernel wrote it.
    fn intact(&self) -> bool {
        !self.has(0x64, RO_COMPAT_METADATA_CSUM) || self.u32(0x3FC) == crc32c(&self.0[..0x3FC])
    }
}

/// CRC-32C as ext4 uses it: seeded with all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Judges a data disk by its first bytes.
pub fn judge(head: &[u8]) -> Verdict {
    let Some(sb) = Superblock::of(head) else { return Verdict::Unusable("it is too small to hold a file system") };
    if head.iter().all(|byte| *byte == 0) {
        return Verdict::Blank;
    }
    if !sb.is_ext4() {
        return Verdict::Unusable("it holds no ext4 file system");
    }
    if !sb.intact() {
        return Verdict::Unusable("its superblock is damaged");
    }
    // With a journal the mark stays set while mounted, and so would be useless.
    if sb.has(0x5C, COMPAT_HAS_JOURNAL) || sb.has(0x60, INCOMPAT_RECOVER) {
        return Verdict::Unusable("its file system has a journal, so darwin-vz-nix did not make it");
    }
    if sb.state() & STATE_ERROR != 0 {
        return Verdict::Unusable("the kernel found errors on it");
    }
    if sb.state() & STATE_VALID == 0 {
        return Verdict::Unusable("the last stop did not leave it clean");
    }
    match sb.bytes() {
        Some(bytes) => Verdict::Clean { bytes },
        None => Verdict::Unusable("its superblock gives an impossible size"),
    }
}

/// The file system of a system image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, as `mount` has it.
    pub kind: &'static str,
    /// Its size; none if the numbers are impossible.
    pub bytes: Option<u64>,
}

/// The file system of a system image, by its first bytes; `None` if no guest can use it as its system.
pub fn image(head: &[u8]) -> Option<Image> {
    let sb = Superblock::of(head)?;
    if sb.is_ext4() {
        Some(Image { kind: "ext4", bytes: sb.bytes() })
    } else if sb.u32(0) == EROFS_MAGIC {
        // A block has at least 512 bytes and at most a page.
        let block = 1u64.checked_shl(u32::from(sb.0[0x0C])).filter(|size| (512..=65536).contains(size));
        let bytes = block.map(|block| u64::from(sb.u32(0x24)) * block).filter(|bytes| *bytes > 0);
        Some(Image { kind: "erofs", bytes })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk as mke2fs makes it, in the fields that are read.
    fn clean() -> Vec<u8> {
        let mut head = vec![0; 64 * 1024];
        let sb = &mut head[AT..AT + LENGTH];
        sb[0x04..0x08].copy_from_slice(&262_144u32.to_le_bytes());
        sb[0x18] = 2; // 4096
        sb[0x38..0x3A].copy_from_slice(&EXT4_MAGIC.to_le_bytes());
        sb[0x3A] = 1;
        sb[0x64..0x68].copy_from_slice(&RO_COMPAT_METADATA_CSUM.to_le_bytes());
        seal(&mut head);
        head
    }

    fn seal(head: &mut [u8]) {
        let sum = crc32c(&head[AT..AT + 0x3FC]);
        head[AT + 0x3FC..AT + LENGTH].copy_from_slice(&sum.to_le_bytes());
    }

    fn changed(at: usize, to: u8) -> Verdict {
        let mut head = clean();
        head[AT + at] = to;
        seal(&mut head);
        judge(&head)
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn only_a_clean_disk_is_kept() {
        assert_eq!(judge(&clean()), Verdict::Clean { bytes: 1 << 30 });
        assert_eq!(judge(&vec![0; 64 * 1024]), Verdict::Blank);
        assert!(matches!(changed(0x3A, 0), Verdict::Unusable(why) if why.contains("not leave it clean")));
        assert!(matches!(changed(0x3A, 3), Verdict::Unusable(why) if why.contains("errors")));
        assert!(matches!(changed(0x5C, 4), Verdict::Unusable(why) if why.contains("journal")));
        assert!(matches!(changed(0x18, 40), Verdict::Unusable(why) if why.contains("size")));
        assert!(matches!(changed(0x38, 0), Verdict::Unusable(why) if why.contains("no ext4")));
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut head = clean();
        head[AT + 0x20] ^= 1;
        assert!(matches!(judge(&head), Verdict::Unusable(why) if why.contains("damaged")));
    }

    #[test]
    fn images_are_known_by_their_magic() {
        assert_eq!(image(&clean()), Some(Image { kind: "ext4", bytes: Some(1 << 30) }));
        let mut erofs = vec![0; 4096];
        erofs[AT..AT + 4].copy_from_slice(&EROFS_MAGIC.to_le_bytes());
        assert_eq!(image(&erofs), Some(Image { kind: "erofs", bytes: None }));
        erofs[AT + 0x0C] = 12;
        erofs[AT + 0x24..AT + 0x28].copy_from_slice(&300u32.to_le_bytes());
        assert_eq!(image(&erofs), Some(Image { kind: "erofs", bytes: Some(300 * 4096) }));
        assert_eq!(image(&[0; 4096]), None);
    }

    proptest! {
        #[test]
        fn any_disk_is_judged(head in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = image(&head);
            // Random bytes have no valid checksum and no magic: never used.
            let kept = matches!(judge(&head), Verdict::Clean { .. });
            prop_assert!(!kept);
        }

        #[test]
        fn any_superblock_is_judged(at in 0usize..0x3FC, with in prop::collection::vec(any::<u8>(), 1..64)) {
            let mut head = clean();
            let end = (at + with.len()).min(0x3FC);
            head[AT + at..AT + end].copy_from_slice(&with[..end - at]);
            seal(&mut head);
            let _ = judge(&head);
        }
    }
}
