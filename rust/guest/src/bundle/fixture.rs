//! Bundle files for tests: the minimum that passes the checks.

use super::contents::ELF_MACHINE;
use cpio::{NewcBuilder, newc};
use std::{fs, path::Path};

/// Creates a complete bundle for x86_64 in a new directory.
pub fn x86_64(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let manifest = r#"{"version": 1, "arch": "x86_64", "kernel": "k", "initrd": "i", "cmdline": "",
        "images": [{"file": "s", "role": "system", "readOnly": true}],
        "ssh": {"vsockPort": 22, "user": "builder"}, "nix": {"vsockPort": 24}, "agent": {"protocol": 1}}"#;
    fs::write(dir.join("guest.json"), manifest).unwrap();
    fs::write(dir.join("k"), vmlinux(b"Xen\0", 18)).unwrap();
    fs::write(dir.join("i"), initrd(&["init"])).unwrap();
    fs::write(dir.join("s"), erofs(4096)).unwrap();
}

/// An archive of these files.
pub fn initrd(names: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    for name in names {
        NewcBuilder::new(name).mode(0o100_755).write(&mut archive, 0).finish().unwrap();
    }
    newc::trailer(&mut archive).unwrap();
    archive
}

/// The beginning of an erofs image of this size, and zeros to its end.
pub fn erofs(bytes: u32) -> Vec<u8> {
    let mut image = vec![0; bytes as usize];
    image[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    image[1024 + 0x0C] = 9;
    image[1024 + 0x24..1024 + 0x28].copy_from_slice(&(bytes / 512).to_le_bytes());
    image
}

/// An x86 kernel, as far as the checks read it: a note of this owner and type after its headers.
pub fn vmlinux(owner: &[u8], kind: u32) -> Vec<u8> {
    let mut elf = vec![0; 1024];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[ELF_MACHINE] = 62;
    elf[32] = 64; // program headers,
    elf[54] = 56; // of this length,
    elf[56] = 2; // two of them
    let header = 64 + 56;
    elf[header] = 4;
    elf[header + 8..header + 10].copy_from_slice(&512_u16.to_le_bytes());
    elf[header + 32] = 64;
    // Another note first: 5 bytes of owner, 3 of content, both padded.
    elf[512..516].copy_from_slice(&5_u32.to_le_bytes());
    elf[516..520].copy_from_slice(&3_u32.to_le_bytes());
    elf[520..524].copy_from_slice(&18_u32.to_le_bytes());
    elf[524..529].copy_from_slice(b"GNUs\0");
    let note = 524 + 8 + 4;
    elf[note..note + 4].copy_from_slice(&4_u32.to_le_bytes());
    elf[note + 4..note + 8].copy_from_slice(&8_u32.to_le_bytes());
    elf[note + 8..note + 12].copy_from_slice(&kind.to_le_bytes());
    elf[note + 12..note + 16].copy_from_slice(owner);
    elf
}
