//! The boot payload: keys and `config.json`, which the host appended to the initramfs.
//!
//! It is moved from the initramfs, where any user could read it, to a tmpfs that only root can enter.

use super::mounts;
use crate::pid1::tasks::Outcome;
use dvn_protocol::{GuestConfig, PAYLOAD_DIR};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Where the payload is once the root has been switched.
pub const HOME: &str = "/darwin-vz";

/// The data of this boot.
pub struct Payload {
    /// `config.json`.
    pub config: GuestConfig,
}

/// Moves the payload from the initramfs to a directory below the future root.
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
    Ok(Payload { config: GuestConfig::parse(&config)? })
}
