use super::{
    contents::{ARM64_MAGIC, X86_SETUP_MAGIC},
    fixture::{erofs, initrd, vmlinux},
    *,
};
use dvn_types::{Kind, Report};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;

fn arm64_image() -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    kernel[ARM64_MAGIC..ARM64_MAGIC + 4].copy_from_slice(b"ARM\x64");
    kernel
}

fn manifest() -> Value {
    json!({"version": 1, "arch": "aarch64", "kernel": "Image", "initrd": "initrd", "cmdline": "quiet",
           "images": [{"file": "system.img", "role": "system", "readOnly": true}], "toplevel": null,
           "ssh": {"vsockPort": 22, "user": "builder"}, "nix": {"vsockPort": 24}, "agent": {"protocol": 1}, "minimumDisk": 1 << 30, "features": ["host-store"]})
}

fn bundle(manifest: &Value, kernel: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("guest.json"), manifest.to_string()).unwrap();
    fs::write(dir.path().join("Image"), kernel).unwrap();
    fs::write(dir.path().join("initrd"), initrd(&["dev", "init"])).unwrap();
    fs::write(dir.path().join("system.img"), erofs(4096)).unwrap();
    dir
}

fn refusal(manifest: &Value, kernel: &[u8]) -> Report {
    let dir = bundle(manifest, kernel);
    Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_err().into()
}

#[test]
fn a_whole_bundle_opens() {
    let dir = bundle(&manifest(), &arm64_image());
    let bundle = Bundle::open(dir.path(), &[Arch::X86_64, Arch::Aarch64]).unwrap();
    assert_eq!(bundle.kernel, dir.path().join("Image"));
    assert_eq!((bundle.minimum_disk, bundle.ssh_user.as_str()), (1 << 30, "builder"));
    assert!(bundle.images[0].read_only && bundle.host_store);
    let mut older = manifest();
    older["features"] = json!(["rosetta"]);
    let dir = self::bundle(&older, &arm64_image());
    assert!(!Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap().host_store);
}

#[test]
fn each_fault_is_named() {
    let with = |key: &str, value: Value| {
        let mut m = manifest();
        m[key] = value;
        m
    };
    let image = arm64_image();
    let cases = [
        (with("version", json!(2)), image.clone(), "version 2"),
        (with("version", json!("1")), image.clone(), "damaged"),
        (with("arch", json!("x86_64")), image.clone(), "is for x86_64"),
        (with("arch", json!("mips")), image.clone(), "damaged"),
        (with("agent", json!({"protocol": 9})), image.clone(), "protocol 9"),
        (with("kernel", json!("/etc/passwd")), image.clone(), "not a file of the bundle"),
        (with("kernel", json!("../Image")), image.clone(), "not a file of the bundle"),
        (with("initrd", json!("none")), image.clone(), "No such file"),
        (with("ssh", json!({"user": "builder@evil"})), image.clone(), "not an account name"),
        (with("ssh", json!({"user": "-oProxyCommand=x"})), image.clone(), "not an account name"),
        (with("cmdline", json!("quiet\0init=/bin/sh")), image.clone(), "not a single line"),
        (with("cmdline", json!("x".repeat(2000))), image.clone(), "not a single line"),
        (with("toplevel", json!(" ".repeat(1 << 20))), image.clone(), "longer than 1 MiB"),
        (manifest(), vec![], "empty"),
        (manifest(), [&[0x1f, 0x8b][..], &[0; 2000]].concat(), "compressed with gzip"),
        (manifest(), [&b"MZ\0\0zimg"[..], &[0; 2000]].concat(), "zboot"),
        (manifest(), vec![7; 2000], "unknown format"),
    ];
    for (manifest, kernel, expected) in cases {
        let report = refusal(&manifest, &kernel);
        assert_eq!(report.kind, Kind::Bundle);
        assert!(report.message.contains(expected) && !report.hints.is_empty(), "{expected}: {report:?}");
    }
    let missing: Report = Bundle::open(Path::new("/nonexistent"), &[]).unwrap_err().into();
    assert!(missing.message.contains("no guest bundle at /nonexistent"), "{missing}");
}

#[test]
fn an_x86_kernel_is_an_elf_or_a_bzimage() {
    let mut m = manifest();
    m["arch"] = json!("x86_64");
    let elf = vmlinux(b"Xen\0", 18);
    let mut bz = vec![0; 1024];
    bz[X86_SETUP_MAGIC..X86_SETUP_MAGIC + 4].copy_from_slice(b"HdrS");
    for kernel in [elf, bz] {
        Bundle::open(bundle(&m, &kernel).path(), &[Arch::X86_64]).unwrap();
    }
    let error = Bundle::open(bundle(&m, &arm64_image()).path(), &[Arch::X86_64]).unwrap_err();
    assert!(error.to_string().contains("is an arm64 Image"), "{error}");
}

#[test]
fn an_x86_elf_without_the_note_that_starts_it_is_refused() {
    let mut m = manifest();
    m["arch"] = json!("x86_64");
    let mut bare = vmlinux(b"Xen\0", 18);
    bare[56] = 0;
    let mut far = vmlinux(b"Xen\0", 18);
    far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    for kernel in [vmlinux(b"Xen\0", 17), vmlinux(b"GNU\0", 18), bare, far, vmlinux(b"Xen\0", 18)[..540].to_vec()] {
        let error = Bundle::open(bundle(&m, &kernel).path(), &[Arch::X86_64]).unwrap_err();
        assert!(error.to_string().contains("without a PVH note"), "{error}");
    }
}

/// A violation of each rule in the contract's table of `guest.json`.
#[test]
fn each_rule_of_the_contract_about_the_manifest_is_held() {
    let system = json!({"file": "system.img", "role": "system", "readOnly": true});
    let extra = json!({"file": "initrd", "role": "tools", "readOnly": true});
    let mut without_nix = manifest();
    without_nix.as_object_mut().unwrap().remove("nix");
    let with = |key: &str, value: Value| {
        let mut m = manifest();
        m[key] = value;
        m
    };
    for (what, manifest, expected) in [
        ("no image", with("images", json!([])), "role system"),
        ("the system is not the first", with("images", json!([extra, system])), "role system"),
        ("two systems", with("images", json!([system, system])), "role system"),
        ("no system", with("images", json!([extra])), "role system"),
        ("an image without a role", with("images", json!([{"file": "system.img", "readOnly": true}])), "role"),
        (
            "an image with a wrong role",
            with("images", json!([{"file": "system.img", "role": 7, "readOnly": true}])),
            "damaged",
        ),
        ("an image that may be neither", with("images", json!([{"file": "system.img", "role": "system"}])), "readOnly"),
        (
            "another ssh port",
            with("ssh", json!({"vsockPort": 2222, "user": "builder"})),
            "it is 2222, and the host connects to 22",
        ),
        ("no ssh port", with("ssh", json!({"user": "builder"})), "vsockPort"),
        ("a port that is none", with("ssh", json!({"vsockPort": -1, "user": "builder"})), "damaged"),
        ("another port of nix", with("nix", json!({"vsockPort": 22})), "it is 22, and the host connects to 24"),
        ("no port of nix", without_nix, "nix"),
        ("a console of its own", with("cmdline", json!("quiet console=ttyS0")), "console"),
        ("two lines", with("cmdline", json!("quiet\nro")), "not a single line"),
        ("a system that is no path", with("toplevel", json!("../x")), "not a path in a Nix store"),
        ("a disk of minus one byte", with("minimumDisk", json!(-1)), "damaged"),
        ("features that are no list", with("features", json!("host-store")), "damaged"),
        ("no name", with("kernel", json!("")), "not a file of the bundle"),
    ] {
        let report = refusal(&manifest, &arm64_image());
        assert_eq!(report.kind, Kind::Bundle, "{what}");
        assert!(report.message.contains(expected) && !report.hints.is_empty(), "{what}: {report:?}");
    }
    for good in [
        with("images", json!([system, extra])),
        with("toplevel", json!("/nix/store/00000000000000000000000000000000-nixos-system")),
        with("cmdline", json!("netconsole=off quiet")),
    ] {
        let dir = bundle(&good, &arm64_image());
        Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

/// Violations of each rule about the bundle's files; each error must name the file and the reason.
#[test]
fn each_rule_of_the_contract_about_the_files_is_held() {
    let archive = initrd(&["dev", "init"]);
    let mut huge = archive.clone();
    huge[54..62].copy_from_slice(b"FFFFFFFF");
    let mut nameless = archive.clone();
    nameless[94..102].copy_from_slice(b"00000000");
    let mut wordy = archive.clone();
    wordy[54..62].copy_from_slice(b"no hex! ");
    let gzip = [&[0x1f, 0x8b, 8, 0][..], &[7; 4000]].concat();
    for (what, file, content, expected) in [
        ("text", "initrd", b"#!/bin/sh\n".to_vec(), "not a cpio archive"),
        ("zeros", "initrd", vec![0; 4096], "not a cpio archive"),
        ("another format of cpio", "initrd", b"070707".repeat(100), "not a cpio archive"),
        ("gzip", "initrd", gzip.clone(), "compressed with gzip"),
        ("zstd", "initrd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 400]].concat(), "compressed with zstd"),
        ("gzip behind an archive", "initrd", [&archive[..], &[0; 64], &gzip].concat(), "compressed with gzip"),
        ("text behind an archive", "initrd", [&archive[..], b"text"].concat(), "not a cpio archive"),
        ("cut off in a header", "initrd", archive[..150].to_vec(), "cut off"),
        ("without its end", "initrd", archive[..archive.len() - 124].to_vec(), "not a cpio archive"),
        ("a file that does not end", "initrd", huge, "cut off"),
        ("a file without a name", "initrd", nameless, "no name"),
        ("a length in words", "initrd", wordy, "no numbers"),
        ("nothing to start", "initrd", initrd(&["dev", "sbin/init"]), "no /init"),
        ("nothing", "initrd", vec![], "empty"),
        ("text", "system.img", b"no file system".to_vec(), "neither ext4 nor erofs"),
        ("zeros", "system.img", vec![0; 8192], "neither ext4 nor erofs"),
        ("cut off", "system.img", erofs(8192)[..4096].to_vec(), "cut off: it has 4096 bytes, and its erofs 8192"),
        (
            "of no size",
            "system.img",
            erofs(8192).iter().map(|byte| if *byte == 9 { 99 } else { *byte }).collect(),
            "impossible size",
        ),
        ("nothing", "system.img", vec![], "empty"),
    ] {
        let dir = bundle(&manifest(), &arm64_image());
        fs::write(dir.path().join(file), content).unwrap();
        let report: Report = Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_err().into();
        assert!(report.message.contains(file) && report.message.contains(expected), "{file}, {what}: {report:?}");
        assert!(report.kind == Kind::Bundle && !report.hints.is_empty(), "{file}, {what}: {report:?}");
    }
    for (what, content) in [
        ("two archives", [&archive[..], &[0; 512], &archive].concat()),
        ("an early one for the processor", [&initrd(&["kernel/x86/microcode/x.bin"])[..], &[0; 4], &archive].concat()),
        ("names as find writes them", initrd(&[".", "./init"])),
    ] {
        let dir = bundle(&manifest(), &arm64_image());
        fs::write(dir.path().join("initrd"), content).unwrap();
        Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// A bundle may consist of links, as in a Nix store, but its files must be regular: reading a pipe would block for
/// ever.
#[test]
fn what_is_no_file_is_refused_and_nothing_hangs() {
    for file in ["guest.json", "Image", "initrd", "system.img"] {
        for kind in dvn_host::wrong_files::KINDS.into_iter().filter(|kind| !kind.ends_with("link")) {
            let dir = bundle(&manifest(), &arm64_image());
            dvn_host::wrong_files::make(kind, &dir.path().join(file));
            let report: Report = Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_err().into();
            assert!(report.message.contains(file) && !report.hints.is_empty(), "{file}, {kind}: {report:?}");
        }
        let dir = bundle(&manifest(), &arm64_image());
        let real = dir.path().join("real");
        fs::rename(dir.path().join(file), &real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join(file)).unwrap();
        Bundle::open(dir.path(), &[Arch::Aarch64]).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

proptest! {
    #[test]
    fn no_manifest_and_no_kernel_panics(text in ".{0,200}", kernel in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let dir = bundle(&manifest(), &kernel);
        let _ = Bundle::open(dir.path(), &[Arch::Aarch64]);
        fs::write(dir.path().join("guest.json"), text).unwrap();
        prop_assert!(Bundle::open(dir.path(), &[Arch::Aarch64]).is_err());
    }
}
