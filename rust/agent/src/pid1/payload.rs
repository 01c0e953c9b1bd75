//! The boot payload: keys and `config.json`, which the host appended to the initramfs.
//!
//! It is moved from the initramfs, where anybody could read it, into a tmpfs that only root can enter.

use super::{Outcome, mounts};
use darwin_vz_agent::{GuestConfig, PAYLOAD_DIR, VERSION};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Where the payload is once the root has been switched.
pub const HOME: &str = "/darwin-vz";

/// What this boot needs to know.
pub struct Payload {
    /// `config.json`.
    pub config: GuestConfig,
}

/// Reads `config.json`.
pub fn parse_config(json: &[u8]) -> Outcome<GuestConfig> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } =
        serde_json::from_slice(json).map_err(|e| format!("config.json of the boot payload: {e}"))?;
    if version != VERSION {
        return Err(format!(
            "the host speaks version {version} and this guest {VERSION}: take a bundle made for this host"
        ));
    }
    serde_json::from_slice(json).map_err(|e| format!("config.json of the boot payload: {e}"))
}

/// Moves the payload from the initramfs to below the future root.
pub fn take(new_root: &str) -> Outcome<Payload> {
    let from = Path::new("/").join(PAYLOAD_DIR);
    let to = format!("{new_root}{HOME}");
    mounts::tmpfs(&to, "mode=0700,size=1m")?;
    let config = fs::read(from.join("config.json"))
        .map_err(|e| format!("the initrd holds no boot payload ({}/config.json: {e})", from.display()))?;
    let entries = fs::read_dir(&from).map_err(|e| format!("{}: {e}", from.display()))?;
    for entry in entries.flatten() {
        let copy = || {
            let content = fs::read(entry.path())?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(Path::new(&to).join(entry.file_name()))?;
            file.write_all(&content)
        };
        copy().map_err(|e: std::io::Error| format!("boot payload {}: {e}", entry.path().display()))?;
    }
    fs::remove_dir_all(&from).map_err(|e| format!("{}: {e}", from.display()))?;
    Ok(Payload { config: parse_config(&config)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_config_of_another_version_is_refused_by_its_version() {
        let why = parse_config(br#"{"version":9,"whatever":1}"#).unwrap_err();
        assert!(why.contains("version 9"), "{why}");
    }

    #[test]
    fn a_config_is_read() {
        let json = br#"{"version":1,"token":"t","hostName":"builder","unixSeconds":7,
            "shares":[{"tag":"a","mountPoint":"/mnt/a","readOnly":true}]}"#;
        let config = parse_config(json).unwrap();
        assert_eq!((config.host_name.as_str(), config.unix_seconds, config.shares.len()), ("builder", 7, 1));
    }

    proptest! {
        #[test]
        fn no_payload_panics(json in any::<Vec<u8>>()) {
            let _ = parse_config(&json);
        }
    }
}
