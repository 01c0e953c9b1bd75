//! A guest bundle. The input is `guest.json` and, in further parts, the first bytes of its kernel, its initrd and its
//! system image; a fifth part makes `guest.json` exceed its limit.
//!
//! * Every named file exists and is inside the bundle.
//! * An accepted initrd begins and ends with a cpio archive, so that the payload behind it is found.
//! * Text for command lines and ssh's configuration cannot inject anything.
//! * A refusal has a hint, and is no longer than the refused text.

#![no_main]

use darwin_vz_nix_fuzz::{BETWEEN, assert_informative, part, scratch};
use dvn_guest::bundle::Bundle;
use dvn_types::{Arch, Kind, Report};
use libfuzzer_sys::fuzz_target;
use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

fuzz_target!(|data: &[u8]| {
    let dir = directory();
    let long = data.iter().filter(|byte| **byte == BETWEEN).count() > 3;
    let mut manifest = part(data, 0).to_vec();
    if long {
        manifest.resize(manifest.len() + (2 << 20), b' ');
    }
    fs::write(dir.join("guest.json"), &manifest).expect("a manifest");
    for (number, file, fit) in
        [(1, "Image", fit_for_both as fn() -> Vec<u8>), (2, "initrd", archive), (3, "system.img", erofs)]
    {
        let given = part(data, number);
        fs::write(dir.join(file), if given.is_empty() { fit() } else { given.to_vec() }).expect("a file");
    }
    match Bundle::open(dir, &[Arch::X86_64, Arch::Aarch64]) {
        Ok(bundle) => {
            assert!(!long, "a manifest without end is read");
            accepted(dir, &bundle);
            assert_eq!(Bundle::open(dir, &[bundle.arch]).ok(), Some(bundle));
        }
        Err(error) => {
            let report = Report::from(error);
            assert_informative(&report);
            assert!(report.kind == Kind::Bundle && !report.hints.is_empty(), "{report:?}");
            assert!(report.message.len() < 1000 + 12 * part(data, 0).len(), "{report:?}");
        }
    }
});

fn accepted(dir: &Path, bundle: &Bundle) {
    let images = bundle.images.iter().map(|image| &image.path);
    for path in [&bundle.kernel, &bundle.initrd].into_iter().chain(images) {
        let inside: &Path = path.strip_prefix(dir).unwrap_or_else(|_| panic!("{} is outside", path.display()));
        assert!(inside.components().all(|part| matches!(part, Component::Normal(_))), "{}", inside.display());
        assert!(fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0), "{}", inside.display());
    }
    let initrd = fs::read(&bundle.initrd).expect("an initrd");
    let rest = initrd.iter().rposition(|byte| *byte != 0).map_or(&[][..], |last| &initrd[..=last]);
    assert!(rest.starts_with(b"070701") && rest.ends_with(b"TRAILER!!!"), "{:?}", String::from_utf8_lossy(rest));
    let user = &bundle.ssh_user;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    assert!((1..=32).contains(&user.len()) && !user.starts_with('-') && user.chars().all(plain), "{user:?}");
    assert!(bundle.cmdline.len() <= 2048 && !bundle.cmdline.contains(char::is_control), "{:?}", bundle.cmdline);
}

/// The bundle, with a file beside it that does not belong to it.
fn directory() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch().join("bundle");
        fs::create_dir_all(dir.join("sub")).expect("a directory");
        for file in ["outside", "bundle/sub/data.img"] {
            fs::write(scratch().join(file), "x").expect("a file");
        }
        fs::write(dir.join("empty"), "").expect("a file");
        dir
    })
}

/// The magic numbers of an arm64 `Image` and of a `bzImage` stand at different places.
fn fit_for_both() -> Vec<u8> {
    let mut kernel = vec![0; 1024];
    kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel
}

/// The contract's minimum for an initrd: two entries, `init` and the archive's end.
fn archive() -> Vec<u8> {
    let mut archive = Vec::new();
    for name in ["init", "TRAILER!!!"] {
        archive.extend_from_slice(b"070701");
        let fields = [1, 0o100_755, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() + 1, 0];
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// The beginning of a system image of one block.
fn erofs() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    (image[1024 + 0x0C], image[1024 + 0x24]) = (12, 1);
    image
}
