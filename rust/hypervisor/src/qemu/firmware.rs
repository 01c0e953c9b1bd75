//! UEFI firmware for QEMU: where distributions install it, and a machine's own variable store, a copy of the template.

use dvn_host::{files, regular_file};
use dvn_types::{Arch, Kind, Report};
use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Firmware without Secure Boot, in the format of QEMU's flash devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The code, shared by all machines.
    pub code: PathBuf,
    /// The initial variable store of a machine.
    pub template: PathBuf,
}

/// Code and template by absolute path, for Debian and Ubuntu, Arch, Fedora.
const PLACES: [(Arch, &str, &str); 6] = [
    (Arch::X86_64, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    (Arch::X86_64, "/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    (Arch::X86_64, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    (Arch::Aarch64, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    (Arch::Aarch64, "/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
    (Arch::Aarch64, "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
];

/// The firmware that QEMU itself installs, in `share/qemu` beside the `bin` with its programs: with Nix, Homebrew, or a
/// build from source.
const OF_QEMU: [(Arch, &str, &str); 2] = [
    (Arch::X86_64, "edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
    (Arch::Aarch64, "edk2-aarch64-code.fd", "edk2-arm-vars.fd"),
];

impl Firmware {
    /// Searches the paths of distributions, then beside the programs of `search_path`, which has the format of `PATH`.
    pub fn find(arch: Arch, search_path: &OsStr) -> Result<Firmware, Report> {
        Firmware::find_below(Path::new("/"), arch, search_path)
    }

    /// The same with another root directory.
    fn find_below(root: &Path, arch: Arch, search_path: &OsStr) -> Result<Firmware, Report> {
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let known = PLACES.iter().filter(|(of, ..)| *of == arch).map(|(_, code, vars)| (below(code), below(vars)));
        let beside =
            env::split_paths(search_path).filter_map(|bin| bin.parent().map(|prefix| prefix.join("share/qemu")));
        let brought = beside.flat_map(|share| {
            let names = OF_QEMU.iter().filter(|(of, ..)| *of == arch);
            names.map(move |(_, code, vars)| (share.join(code), share.join(vars)))
        });
        let mut all = known.chain(brought).map(|(code, template)| Firmware { code, template });
        let found = all.find(|firmware| firmware.code.is_file() && firmware.template.is_file());
        found.ok_or_else(|| {
            let what = format!("there is no UEFI firmware for {arch} guests, which this machine needs to boot");
            Report::new(Kind::Host, what).hint(how_to_get(arch))
        })
    }

    /// The size of the code in bytes. A saved state can only be restored with firmware of the same size.
    pub fn size(&self) -> Result<u64, Report> {
        let meta = self.code.metadata();
        meta.map(|meta| meta.len()).map_err(|e| files::state_error(&self.code, "cannot read the firmware", &e))
    }

    /// Creates a machine's variable store if it is missing: a sparse copy of the template. Blocks.
    pub fn ensure_variables(&self, path: &Path) -> Result<(), Report> {
        match regular_file::look(path) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(files::state_error(path, "cannot use the EFI variable store", &e)),
        }
        let make = || -> io::Result<()> {
            let mut store = files::unfinished(path, 0o600)?;
            copy_sparsely(File::open(&self.template)?, store.as_file_mut())?;
            store.as_file().sync_all()?;
            // Does not replace a store that has appeared meanwhile: it may contain a machine's boot entries.
            store.persist_noclobber(path)?;
            Ok(())
        };
        make().map_err(|e| files::state_error(path, "cannot make the EFI variable store", &e))
    }
}

/// The hint that names the package with the firmware.
pub fn how_to_get(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "install it: on Debian and Ubuntu the package ovmf, on Fedora and Arch edk2-ovmf",
        Arch::Aarch64 => {
            "install it: on Debian and Ubuntu the package qemu-efi-aarch64, on Fedora and Arch edk2-aarch64"
        }
    }
}

/// Copies a file; blocks of zeros become holes.
fn copy_sparsely(mut from: File, to: &mut File) -> io::Result<()> {
    let mut block = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let n = from.read(&mut block)?;
        if n == 0 {
            return to.set_len(length);
        }
        if block[..n].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(length))?;
            to.write_all(&block[..n])?;
        }
        length += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsString, fs, os::unix::fs::MetadataExt};

    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn firmware_is_found_where_distributions_and_qemu_put_it() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        let path: OsString = root.join("opt/bin").into();
        let missing = Firmware::find_below(root, Arch::X86_64, &path).unwrap_err();
        assert!(missing.kind == Kind::Host && missing.hints[0].contains("package ovmf"), "{missing:?}");
        let missing = Firmware::find_below(root, Arch::Aarch64, &path).unwrap_err();
        assert!(missing.hints[0].contains("qemu-efi-aarch64"), "{missing:?}");

        put(&root.join("opt/share/qemu/edk2-x86_64-code.fd"), b"code");
        assert!(Firmware::find_below(root, Arch::X86_64, &path).is_err(), "code without a template");
        put(&root.join("opt/share/qemu/edk2-i386-vars.fd"), b"vars");
        let found = Firmware::find_below(root, Arch::X86_64, &path).unwrap();
        assert_eq!(found.code, root.join("opt/share/qemu/edk2-x86_64-code.fd"));
        assert!(Firmware::find_below(root, Arch::Aarch64, &path).is_err(), "it is the other one's");

        put(&root.join("usr/share/OVMF/OVMF_CODE_4M.fd"), b"firmware");
        put(&root.join("usr/share/OVMF/OVMF_VARS_4M.fd"), b"vars");
        let found = Firmware::find_below(root, Arch::X86_64, &path).unwrap();
        assert_eq!((found.size().unwrap(), found.code), (8, root.join("usr/share/OVMF/OVMF_CODE_4M.fd")));
    }

    #[test]
    fn a_variable_store_is_made_once_and_takes_no_room_for_zeros() {
        let tmp = tempfile::tempdir().unwrap();
        let firmware = Firmware { code: tmp.path().join("code"), template: tmp.path().join("template") };
        let mut template = vec![0; 4 << 20];
        template[..4].copy_from_slice(b"_FVH");
        template[3 << 20] = 7;
        put(&firmware.template, &template);
        let store = tmp.path().join("vars.fd");
        firmware.ensure_variables(&store).unwrap();
        assert!(fs::read(&store).unwrap() == template);
        let meta = fs::metadata(&store).unwrap();
        assert!(meta.blocks() * 512 <= 256 << 10, "{} bytes on the disk", meta.blocks() * 512);
        assert_eq!(meta.mode() & 0o777, 0o600);

        fs::write(&store, "the machine's boot entries").unwrap();
        firmware.ensure_variables(&store).unwrap();
        assert_eq!(fs::read(&store).unwrap(), b"the machine's boot entries");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn what_is_no_regular_file_is_no_variable_store() {
        let tmp = tempfile::tempdir().unwrap();
        let firmware = Firmware { code: tmp.path().join("code"), template: tmp.path().join("template") };
        let store = tmp.path().join("vars.fd");
        fs::create_dir(&store).unwrap();
        assert_eq!(firmware.ensure_variables(&store).unwrap_err().kind, Kind::State);
    }
}
