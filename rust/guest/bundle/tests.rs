use super::*;
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
           "ssh": {"vsockPort": 22, "user": "builder"}, "agent": {"protocol": 1}, "minimumDisk": 1 << 30, "features": ["host-store"]})
}

fn bundle(manifest: &Value, kernel: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("guest.json"), manifest.to_string()).unwrap();
    fs::write(dir.path().join("Image"), kernel).unwrap();
    fs::write(dir.path().join("initrd"), "x").unwrap();
    fs::write(dir.path().join("system.img"), "x").unwrap();
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
        (with("ssh", json!({"user": "builder@evil"})), image.clone(), "no name of an account"),
        (with("ssh", json!({"user": "-oProxyCommand=x"})), image.clone(), "no name of an account"),
        (with("cmdline", json!("quiet\0init=/bin/sh")), image.clone(), "no line"),
        (with("cmdline", json!("x".repeat(2000))), image.clone(), "no line"),
        (with("toplevel", json!(" ".repeat(1 << 20))), image.clone(), "longer than 1 MiB"),
        (manifest(), vec![], "empty"),
        (manifest(), [&[0x1f, 0x8b][..], &[0; 2000]].concat(), "compressed with gzip"),
        (manifest(), [&b"MZ\0\0zimg"[..], &[0; 2000]].concat(), "zboot"),
        (manifest(), vec![7; 2000], "not known"),
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
    let mut elf = vec![0; 1024];
    elf[..4].copy_from_slice(b"\x7fELF");
    elf[ELF_MACHINE] = 62;
    let mut bz = vec![0; 1024];
    bz[X86_SETUP_MAGIC..X86_SETUP_MAGIC + 4].copy_from_slice(b"HdrS");
    for kernel in [elf, bz] {
        Bundle::open(bundle(&m, &kernel).path(), &[Arch::X86_64]).unwrap();
    }
    let error = Bundle::open(bundle(&m, &arm64_image()).path(), &[Arch::X86_64]).unwrap_err();
    assert!(error.to_string().contains("is an arm64 Image"), "{error}");
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
