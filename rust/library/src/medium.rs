//! What an installation medium is for: an ISO image, and the architectures that its boot loaders are made for.
//!
//! Firmware starts `EFI/BOOT/BOOTX64.EFI` or `BOOTAA64.EFI` from a FAT file system, to which the ISO's boot catalog (El Torito)
//! points. Its root directories are not walked here: the short names of FAT stand in the image as they are, so they are searched
//! for in its first bytes.

use dvn_host::regular_file;
use dvn_types::{Arch, Kind, Report};
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

const SECTOR: u64 = 2048;

/// The volume descriptors begin here, the one of the boot catalog is the second.
const PRIMARY: u64 = 16;
const BOOT_RECORD: u64 = 17;

/// The platform of firmware by EFI in a boot catalog.
const EFI: u8 = 0xef;

/// So much of a FAT file system is searched: directories of the loaders are at its front.
const SEARCHED: usize = 16 << 20;

/// The architecture of a machine that is installed from this medium: the wanted one, or the first that it and the host have.
///
/// # Errors
/// `Config`: the file is no ISO image, or its boot loaders are for other architectures.
pub fn choose(path: &Path, wanted: Option<Arch>, host: &[Arch]) -> Result<Arch, Report> {
    let cannot = |e: io::Error| {
        Report::new(Kind::Config, format!("the medium cannot be read: {}: {e}", path.display()))
            .hint("correct the path, or the permissions of the file")
    };
    let file = regular_file::open(path).map_err(cannot)?;
    if !is_iso(&file).map_err(cannot)? {
        return Err(Report::new(Kind::Config, format!("{} is no ISO image", path.display()))
            .hint("give an image that installs a system; a disk image can be attached with run --disk"));
    }
    let found = architectures(&file).map_err(cannot)?;
    let fits = |arch: &Arch| found.is_empty() || found.contains(arch);
    let chosen = match wanted {
        Some(arch) => Some(arch).filter(fits),
        None => host.iter().copied().find(fits),
    };
    chosen.ok_or_else(|| {
        let list = |archs: &[Arch]| archs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let wanted = wanted.map_or_else(|| list(host), |arch| arch.to_string());
        let why = format!("{} boots on {}, and a machine for {wanted} was wanted", path.display(), list(&found));
        Report::new(Kind::Config, why).hint("download the image for the other architecture")
    })
}

fn is_iso(file: &File) -> io::Result<bool> {
    Ok(sector(file, PRIMARY)?.is_some_and(|sector| &sector[1..6] == b"CD001"))
}

/// The architectures that the medium's EFI boot loaders are for; empty if it has none that can be found.
fn architectures(file: &File) -> io::Result<Vec<Arch>> {
    let Some(record) = sector(file, BOOT_RECORD)?.filter(|it| it[7..].starts_with(b"EL TORITO SPECIFICATION")) else {
        return Ok(vec![]);
    };
    let catalog = u32::from_le_bytes([record[0x47], record[0x48], record[0x49], record[0x4a]]);
    let Some(catalog) = sector(file, catalog.into())? else { return Ok(vec![]) };
    let mut found = vec![];
    for place in efi_images(&catalog) {
        let mut image = vec![0; SEARCHED];
        let read = read_some(file, &mut image, u64::from(place) * SECTOR)?;
        for (arch, name) in [(Arch::X86_64, b"BOOTX64 EFI"), (Arch::Aarch64, b"BOOTAA64EFI")] {
            if !found.contains(&arch) && contains(&image[..read], name) {
                found.push(arch);
            }
        }
    }
    Ok(found)
}

/// The sectors at which the catalog's images for EFI begin. An entry has 32 bytes; a header tells the platform of those after it.
fn efi_images(catalog: &[u8]) -> Vec<u32> {
    let mut platform = catalog[1];
    let mut images = vec![];
    for entry in catalog.chunks_exact(32).skip(1) {
        match entry[0] {
            // A section's header, the last one or not.
            0x90 | 0x91 => platform = entry[1],
            0x88 if platform == EFI => images.push(u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]])),
            0 => break,
            _ => {}
        }
    }
    images
}

fn sector(file: &File, number: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; SECTOR as usize];
    let read = read_some(file, &mut bytes, number.saturating_mul(SECTOR))?;
    Ok((read == bytes.len()).then_some(bytes))
}

/// Reads until the buffer is full or the file ends.
fn read_some(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

fn contains(bytes: &[u8], name: &[u8; 11]) -> bool {
    // Entries of a FAT directory have 32 bytes, and begin with the name.
    bytes.chunks_exact(32).any(|entry| entry.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image with a boot catalog whose EFI section points to a file system with these names.
    fn iso(names: &[&[u8; 11]]) -> Vec<u8> {
        let mut image = vec![0; 24 * 2048];
        let at = |sector: usize| sector * 2048;
        image[at(16) + 1..][..5].copy_from_slice(b"CD001");
        image[at(17) + 7..][..23].copy_from_slice(b"EL TORITO SPECIFICATION");
        image[at(17) + 0x47] = 18;
        let catalog = at(18);
        // For BIOS first, then a section for EFI.
        image[catalog] = 1;
        image[catalog + 32] = 0x88;
        image[catalog + 32 + 8] = 23;
        image[catalog + 64] = 0x91;
        image[catalog + 65] = EFI;
        image[catalog + 96] = 0x88;
        image[catalog + 96 + 8] = 20;
        for (index, name) in names.iter().enumerate() {
            image[at(20) + 64 + 32 * index..][..11].copy_from_slice(*name);
        }
        image
    }

    fn chosen(image: &[u8], wanted: Option<Arch>, host: &[Arch]) -> Result<Arch, Report> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        choose(file.path(), wanted, host)
    }

    #[test]
    fn a_medium_is_for_the_architectures_of_its_boot_loaders() {
        let (x86, arm) = (b"BOOTX64 EFI", b"BOOTAA64EFI");
        let both = [Arch::X86_64, Arch::Aarch64];
        assert_eq!(chosen(&iso(&[x86]), None, &both).unwrap(), Arch::X86_64);
        assert_eq!(chosen(&iso(&[arm]), None, &both).unwrap(), Arch::Aarch64);
        assert_eq!(chosen(&iso(&[x86, arm]), Some(Arch::Aarch64), &both).unwrap(), Arch::Aarch64);
        assert_eq!(chosen(&iso(&[]), None, &[Arch::Aarch64]).unwrap(), Arch::Aarch64, "it may boot in another way");
        for (wanted, host) in [(None, vec![Arch::Aarch64]), (Some(Arch::Aarch64), both.to_vec())] {
            let refused = chosen(&iso(&[x86]), wanted, &host).unwrap_err();
            assert!(refused.kind == Kind::Config && refused.message.contains("boots on x86_64"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_its_path() {
        for bytes in [&b""[..], b"no image", &vec![0; 40 * 2048]] {
            let refused = chosen(bytes, None, &[Arch::X86_64]).unwrap_err();
            assert!(refused.message.ends_with("is no ISO image") && !refused.hints.is_empty(), "{refused}");
        }
        let missing = choose(Path::new("/nowhere.iso"), None, &[Arch::X86_64]).unwrap_err();
        assert!(missing.kind == Kind::Config && missing.message.contains("/nowhere.iso"), "{missing}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_catalog_makes_the_reader_panic(at in 0usize..2048, byte: u8, cut in 0usize..24 * 2048) {
            let mut image = iso(&[b"BOOTX64 EFI"]);
            image[18 * 2048 + at] = byte;
            let _ = chosen(&image, None, &[Arch::X86_64]);
            image.truncate(cut);
            let _ = chosen(&image, None, &[Arch::X86_64]);
        }
    }
}
