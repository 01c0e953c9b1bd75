//! The boot payload. The first part of the input is `config.json` as the agent might find it; the others are the texts
//! from which the host makes a payload: token, host name, tag and mount point of a share, record, host key, user's key,
//! initrd.
//!
//! * The kernel unpacks what the host writes: one directory and three files, for root alone, behind the unchanged
//!   initrd.
//! * The agent reads the values that the host meant.
//! * The agent accepts no other version, and its refusal does not contain the token.

#![no_main]

use darwin_vz_nix_fuzz::{part, scratch};
use dvn_guest::{payload, ssh::keys::Keys};
use dvn_protocol::{GuestConfig, HostPorts, STORE_PORT, ShareMount, VERSION};
use libfuzzer_sys::fuzz_target;
use std::{fs, os::unix::fs::PermissionsExt};

fuzz_target!(|data: &[u8]| {
    read_by_the_agent(part(data, 0));
    made_by_the_host(data);
});

fn read_by_the_agent(json: &[u8]) {
    match GuestConfig::parse(json) {
        Ok(config) => {
            assert_eq!(config.version, VERSION);
            let again = serde_json::to_vec(&config).expect("JSON");
            assert_eq!(GuestConfig::parse(&again), Ok(config));
        }
        Err(why) => {
            assert!(!why.trim().is_empty());
            let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
            // A short token occurs in any sentence.
            let token = value["token"].as_str().filter(|token| token.len() > 12).unwrap_or("\0");
            let elsewhere = String::from_utf8_lossy(json).matches(token).count() > 1;
            assert!(elsewhere || !why.contains(token), "{why}");
        }
    }
}

fn made_by_the_host(data: &[u8]) {
    let text = |number| String::from_utf8_lossy(part(data, number)).into_owned();
    let config = GuestConfig {
        version: VERSION,
        token: text(1),
        host_name: text(2),
        unix_seconds: data.len() as u64,
        host_ports: HostPorts { agent: data.len() as u32, store: STORE_PORT },
        shares: vec![ShareMount { tag: text(3), mount_point: text(4), read_only: data.len().is_multiple_of(2) }],
        store_record: Some(text(5)).filter(|record| !record.is_empty()),
        cache_disk: Some(text(9)).filter(|serial| !serial.is_empty()),
    };
    let keys = Keys { host_private: text(6), host_public: String::new(), user_public: text(7) };
    let (initrd, to) = (scratch().join("initrd"), scratch().join("made"));
    fs::write(&initrd, part(data, 8)).expect("an initrd");
    payload::append(&initrd, &to, &config, &keys).expect("a payload");
    let made = fs::read(&to).expect("a payload");
    assert_eq!(fs::metadata(&to).expect("a payload").permissions().mode() & 0o777, 0o600);
    fs::remove_file(&to).expect("a payload");

    let (before, archive) = made.split_at(part(data, 8).len().next_multiple_of(4));
    let (same, zeros) = before.split_at(part(data, 8).len());
    assert!(same == part(data, 8) && zeros.iter().all(|byte| *byte == 0));
    let entries = unpack(archive);
    let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.mode)).collect();
    let file = 0o100_600;
    assert_eq!(
        names,
        [
            ("darwin-vz", 0o040_700),
            ("darwin-vz/authorized_keys", file),
            ("darwin-vz/ssh_host_ed25519_key", file),
            ("darwin-vz/config.json", file)
        ]
    );
    assert_eq!(entries[1].contents, format!("{}\n", keys.user_public).as_bytes());
    assert_eq!(entries[2].contents, keys.host_private.as_bytes());
    assert_eq!(GuestConfig::parse(entries[3].contents), Ok(config));
}

struct Entry<'a> {
    name: String,
    mode: u32,
    contents: &'a [u8],
}

/// Follows Linux's init/initramfs.c: a header of hexadecimal numbers, a name and contents, each padded to a multiple of
/// four.
fn unpack(mut archive: &[u8]) -> Vec<Entry<'_>> {
    const HEADER: usize = 110;
    let mut entries = Vec::new();
    loop {
        let header = std::str::from_utf8(&archive[..HEADER]).expect("a header");
        assert!(header.starts_with("070701"), "{header}");
        let number = |index: usize| {
            let at = 6 + 8 * index;
            u32::from_str_radix(&header[at..at + 8], 16).expect("a number")
        };
        let [mode, uid, gid, size, name_size] = [1, 2, 3, 6, 11].map(number);
        assert_eq!((uid, gid), (0, 0));
        let name_end = HEADER + name_size as usize;
        let name = archive[HEADER..name_end].strip_suffix(b"\0").expect("the end of a name");
        let name = String::from_utf8(name.to_vec()).expect("a name");
        let begin = name_end.next_multiple_of(4);
        let end = begin + size as usize;
        if name == "TRAILER!!!" {
            assert!(archive[end..].iter().all(|byte| *byte == 0));
            return entries;
        }
        entries.push(Entry { name, mode, contents: &archive[begin..end] });
        archive = &archive[end.next_multiple_of(4)..];
    }
}
