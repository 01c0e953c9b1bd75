//! The boot payload: keys and configuration for one boot, as a second cpio archive appended to the bundle's initrd.
//! Secrets are never in a shared directory, where every user of the guest could read them.

use crate::ssh::keys::Keys;
use cpio::{NewcBuilder, newc};
use dvn_host::files::state_error;
use dvn_protocol::{GuestConfig, PAYLOAD_DIR};
use dvn_types::Report;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Alignment of a further archive: the kernel skips zeros between archives up to a multiple of four.
const ALIGNMENT: u64 = 4;

const DIRECTORY: u32 = 0o040_700;
const FILE: u32 = 0o100_600;

/// Writes `to`: the bundle's initrd followed by this boot's payload. Only the owner can read it.
pub fn append(initrd: &Path, to: &Path, config: &GuestConfig, keys: &Keys) -> Result<(), Report> {
    let mut archive = Vec::new();
    write(&mut archive, config, keys).map_err(|e| state_error(to, "cannot make the boot payload", &e))?;
    let copy = || -> io::Result<()> {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let length = io::copy(&mut File::open(initrd)?, &mut out)?;
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        out.write_all(&vec![0; padding as usize])?;
        out.write_all(&archive)
    };
    copy().map_err(|e| state_error(to, "cannot write the initrd", &e))
}

fn write(out: &mut Vec<u8>, config: &GuestConfig, keys: &Keys) -> io::Result<()> {
    let config = serde_json::to_string(config)?;
    let authorized = format!("{}\n", keys.user_public);
    let files = [
        ("authorized_keys", authorized.as_str()),
        ("ssh_host_ed25519_key", keys.host_private.as_str()),
        ("config.json", config.as_str()),
    ];
    NewcBuilder::new(PAYLOAD_DIR).ino(1).nlink(2).mode(DIRECTORY).write(&mut *out, 0).finish()?;
    for (ino, (name, contents)) in (2..).zip(files) {
        let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let entry = NewcBuilder::new(&format!("{PAYLOAD_DIR}/{name}")).ino(ino).nlink(1).mode(FILE);
        let mut file = entry.write(&mut *out, size);
        file.write_all(contents.as_bytes())?;
        file.finish()?;
    }
    newc::trailer(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_protocol::HostPorts;
    use std::{collections::BTreeMap, fs, io::Read, os::unix::fs::PermissionsExt};

    fn keys() -> Keys {
        Keys { host_private: "host private".into(), host_public: "host public".into(), user_public: "user".into() }
    }

    fn config() -> GuestConfig {
        GuestConfig {
            version: 1,
            token: "t".into(),
            host_name: "h".into(),
            unix_seconds: 7,
            host_ports: HostPorts::HIGH,
            shares: vec![],
            store_record: None,
            cache_disk: None,
        }
    }

    #[test]
    fn the_archive_holds_three_root_only_files_and_stands_aligned_behind_the_initrd() {
        let tmp = tempfile::tempdir().unwrap();
        let (initrd, to) = (tmp.path().join("initrd"), tmp.path().join("out"));
        fs::write(&initrd, "12345").unwrap();
        append(&initrd, &to, &config(), &keys()).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        let whole = fs::read(&to).unwrap();
        assert_eq!(&whole[..8], b"12345\0\0\0");
        let mut rest = &whole[8..];
        let mut found = BTreeMap::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.gid()), (0, 0));
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            found.insert(name, (mode, text));
            rest = reader.finish().unwrap();
        }
        assert_eq!(found["darwin-vz"].0, DIRECTORY);
        assert_eq!(found["darwin-vz/authorized_keys"], (FILE, "user\n".into()));
        assert_eq!(found["darwin-vz/ssh_host_ed25519_key"], (FILE, "host private".into()));
        assert_eq!(serde_json::from_str::<GuestConfig>(&found["darwin-vz/config.json"].1).unwrap(), config());
        assert_eq!(found.len(), 4);
    }
}
