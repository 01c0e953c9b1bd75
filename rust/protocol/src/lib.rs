//! The contract between host and guest: vsock ports, the boot payload, the agent protocol, and how a disk's first bytes
//! are judged.
//!
//! Once ready, the guest dials the host on the agent's port ([`HostPorts`]), keeps that one connection open, and dials
//! again if it breaks. Both sides write JSON objects, one per line, at most [`messages::MAX_LINE`] bytes with the
//! newline. The guest's first message on a connection is [`messages::FromAgent::Ready`]; after it the host sends
//! [`messages::Request`]s, and the guest answers each with one [`messages::FromAgent::Reply`] of the same id, in any
//! order. A line that is not a request gets an error as its reply if it has an id, and is skipped otherwise; on the
//! host an invalid line ends the connection.
//!
//! [`service`] is another protocol, of the agent that runs as a service in a guest with its own operating system.

use serde::{Deserialize, Serialize};

pub mod messages;
pub mod service;
pub mod superblock;

/// Version of everything in this crate. Host and guest refuse a peer of another version.
pub const VERSION: u32 = 1;

/// vsock port of the *host* on which the supervisor expects the agent, unless `config.json` names another.
pub const AGENT_PORT: u32 = 1024;

/// vsock port of the *host* where the guest's Nix queries the host's store, unless `config.json` names another. A
/// connection begins with one line, [`StoreGreeting`], followed by Nix's worker protocol.
pub const STORE_PORT: u32 = 1025;

/// vsock ports of the *host* that the guest dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPorts {
    /// The agent protocol.
    pub agent: u32,
    /// The gate to the host's store.
    pub store: u32,
}

impl HostPorts {
    /// The ports of a host that names none.
    pub const FIRST: HostPorts = HostPorts { agent: AGENT_PORT, store: STORE_PORT };

    /// The ports that this program uses. They are out of reach of vhost-device-vsock, which numbers its own connections
    /// to the guest from 0 and opens no more once it reaches a number that is taken (0.3.0).
    pub const HIGH: HostPorts = HostPorts { agent: (1 << 31) + AGENT_PORT, store: (1 << 31) + STORE_PORT };
}

impl Default for HostPorts {
    fn default() -> Self {
        HostPorts::FIRST
    }
}

/// vsock port of the *guest* where sshd answers.
pub const SSH_PORT: u32 = 22;

/// vsock port of the *guest* that connects to the running nix-daemon, as a trusted user.
pub const NIX_PORT: u32 = 24;

/// The payload's directory in the initramfs.
pub const PAYLOAD_DIR: &str = "darwin-vz";

/// VirtioFS tag of the host store's share.
pub const STORE_TAG: &str = "nix-store";

/// Serial number of the one disk that the agent may format. At most 20 bytes.
pub const CACHE_DISK: &str = "dvn-cache";

/// `config.json` of the boot payload: the settings of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestConfig {
    /// [`VERSION`] of the host.
    pub version: u32,
    /// Proves to the host that a connection to the agent's port comes from the agent: only root in the guest can read
    /// it.
    pub token: String,
    /// The guest's host name.
    pub host_name: String,
    /// Seconds since 1970 on the host when the payload was written. A guest whose clock is behind sets it.
    pub unix_seconds: u64,
    /// The host's ports.
    #[serde(default)]
    pub host_ports: HostPorts,
    /// Directories of the host to mount.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
    /// Build on the host's store, whose share is [`STORE_TAG`]. The text identifies the host's record of the paths that
    /// this machine's guests know; paths from another record must be removed from the guest's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_record: Option<String>,
    /// Serial number of the data disk: the guest formats no other. A host that names none has it as the last virtio disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_disk: Option<String>,
}

impl GuestConfig {
    /// Parses `config.json`. The error is a sentence. Of another version's file it reads nothing but the version.
    pub fn parse(json: &[u8]) -> Result<GuestConfig, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |e: serde_json::Error| format!("config.json of the boot payload: {e}");
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version != VERSION {
            return Err(format!(
                "the host speaks version {version} and this guest {VERSION}: use a bundle made for this host"
            ));
        }
        serde_json::from_slice(json).map_err(unreadable)
    }
}

/// One VirtioFS share and where the guest mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareMount {
    /// VirtioFS tag.
    pub tag: String,
    /// Absolute path in the guest.
    pub mount_point: String,
    /// Mount it read-only.
    pub read_only: bool,
}

/// First line of a connection to the gate's port, at most 4,096 bytes with the newline. The agent writes it, as other
/// programs in the guest don't know the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreGreeting {
    /// As in [`GuestConfig::token`].
    pub token: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_config_of_another_version_is_refused_by_its_version() {
        let why = GuestConfig::parse(br#"{"version":9,"whatever":1}"#).unwrap_err();
        assert!(why.contains("version 9"), "{why}");
    }

    #[test]
    fn a_config_is_read() {
        let json = br#"{"version":1,"token":"t","hostName":"builder","unixSeconds":7,
            "shares":[{"tag":"a","mountPoint":"/mnt/a","readOnly":true}]}"#;
        let config = GuestConfig::parse(json).unwrap();
        assert_eq!((config.host_name.as_str(), config.unix_seconds, config.shares.len()), ("builder", 7, 1));
        assert_eq!(config.host_ports, HostPorts::FIRST, "an older host names no ports");
        assert_eq!(config.cache_disk, None, "an older host names none");
        let json = br#"{"version":1,"token":"t","hostName":"b","unixSeconds":7,"hostPorts":{"agent":9,"store":10}}"#;
        assert_eq!(GuestConfig::parse(json).unwrap().host_ports, HostPorts { agent: 9, store: 10 });
    }

    proptest! {
        #[test]
        fn no_config_panics(json in any::<Vec<u8>>()) {
            let _ = GuestConfig::parse(&json);
        }
    }
}
