//! What a file really takes on disk, with the blocks apart that it shares with others.

use std::{fs::File, io, os::unix::fs::MetadataExt};

/// The space that a file takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    /// As the guest sees it: the file's length.
    pub apparent: u64,
    /// Blocks of this file alone: what deleting it frees. Where the file system cannot say, all of its blocks.
    pub own: u64,
    /// Blocks that other files use, too.
    pub shared: u64,
}

impl std::ops::Add for Space {
    type Output = Space;
    fn add(self, other: Space) -> Space {
        Space {
            apparent: self.apparent + other.apparent,
            own: self.own + other.own,
            shared: self.shared + other.shared,
        }
    }
}

/// Asks the file system about an open file.
pub fn of(file: &File) -> io::Result<Space> {
    let meta = file.metadata()?;
    let all = meta.blocks() * 512;
    let (own, shared) = blocks(file).unwrap_or((all, 0));
    Ok(Space { apparent: meta.len(), own, shared })
}

/// Own and shared bytes, where the file system tells them apart.
#[cfg(target_os = "linux")]
fn blocks(file: &File) -> Option<(u64, u64)> {
    fiemap::extents(file).ok().map(|extents| {
        extents.iter().fold((0, 0), |(own, shared), extent| match extent.is_shared() {
            true => (own, shared + extent.length),
            false => (own + extent.length, shared),
        })
    })
}

#[cfg(target_os = "macos")]
fn blocks(file: &File) -> Option<(u64, u64)> {
    let all = file.metadata().ok()?.blocks() * 512;
    private_size::of(file).map(|own| (own.min(all), all.saturating_sub(own)))
}

/// The extents of a file, from the ioctl `FS_IOC_FIEMAP` (linux/fiemap.h).
#[cfg(target_os = "linux")]
mod fiemap {
    use std::{fs::File, io, os::fd::AsRawFd};

    const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
    /// Write what is not on disk yet first: until then it has no place.
    const FIEMAP_FLAG_SYNC: u32 = 1;
    const FIEMAP_EXTENT_LAST: u32 = 1;
    const FIEMAP_EXTENT_SHARED: u32 = 0x2000;
    const AT_ONCE: usize = 256;

    /// One range of blocks.
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub struct Extent {
        logical: u64,
        physical: u64,
        /// Its length in bytes.
        pub length: u64,
        reserved64: [u64; 2],
        flags: u32,
        reserved: [u32; 3],
    }

    impl Extent {
        /// Whether another file uses the same blocks.
        pub fn is_shared(&self) -> bool {
            self.flags & FIEMAP_EXTENT_SHARED != 0
        }
    }

    #[repr(C)]
    struct Request {
        start: u64,
        length: u64,
        flags: u32,
        mapped_extents: u32,
        extent_count: u32,
        reserved: u32,
        extents: [Extent; AT_ONCE],
    }

    /// All extents of a file. Fails where the file system does not know the call.
    pub fn extents(file: &File) -> io::Result<Vec<Extent>> {
        let mut all = Vec::new();
        let mut start = 0;
        loop {
            let mut request = Request {
                start,
                length: u64::MAX - start,
                flags: FIEMAP_FLAG_SYNC,
                mapped_extents: 0,
                extent_count: AT_ONCE as u32,
                reserved: 0,
                extents: [Extent::default(); AT_ONCE],
            };
            // SAFETY: the descriptor is open for the call, and `request` is what the kernel's header lays down, with room for
            // the `extent_count` extents that it says it has.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut request) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            let mapped = &request.extents[..(request.mapped_extents as usize).min(AT_ONCE)];
            all.extend_from_slice(mapped);
            match mapped.last() {
                Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => start = last.logical + last.length,
                _ => return Ok(all),
            }
        }
    }
}

/// The bytes that deleting a file would free, from `fgetattrlist(2)`.
#[cfg(target_os = "macos")]
mod private_size {
    use std::{fs::File, os::fd::AsRawFd};

    #[repr(C, packed(4))]
    struct Answer {
        length: u32,
        returned: libc::attribute_set_t,
        private_size: i64,
    }

    /// `None` where the file system does not know it.
    pub fn of(file: &File) -> Option<u64> {
        let mut wanted = libc::attrlist {
            bitmapcount: libc::ATTR_BIT_MAP_COUNT,
            reserved: 0,
            commonattr: libc::ATTR_CMN_RETURNED_ATTRS,
            volattr: 0,
            dirattr: 0,
            fileattr: 0,
            forkattr: libc::ATTR_CMNEXT_PRIVATESIZE,
        };
        let nothing = libc::attribute_set_t { commonattr: 0, volattr: 0, dirattr: 0, fileattr: 0, forkattr: 0 };
        let mut answer = Answer { length: 0, returned: nothing, private_size: 0 };
        // SAFETY: the descriptor is open for the call; `wanted` and `answer` live through it, and the size is that of `answer`.
        let result = unsafe {
            libc::fgetattrlist(
                file.as_raw_fd(),
                (&raw mut wanted).cast(),
                (&raw mut answer).cast(),
                size_of::<Answer>(),
                libc::FSOPT_ATTR_CMN_EXTENDED,
            )
        };
        let told = answer.returned.forkattr & libc::ATTR_CMNEXT_PRIVATESIZE != 0;
        let size = answer.private_size;
        (result == 0 && told).then(|| u64::try_from(size).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sparse_file_takes_what_was_written_to_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 7 << 20).unwrap();
        let space = of(&file).unwrap();
        assert_eq!(space.apparent, 1 << 30);
        assert!((1 << 20..4 << 20).contains(&(space.own + space.shared)), "{space:?}");
    }

    #[test]
    fn more_extents_than_one_call_returns_are_all_counted() {
        let file = tempfile::tempfile().unwrap();
        for index in 0..600 {
            file.write_all_at(&[1; 4096], index * 3 * 4096).unwrap();
        }
        let space = of(&file).unwrap();
        assert!(space.own + space.shared >= 600 * 4096, "{space:?}");
    }
}
