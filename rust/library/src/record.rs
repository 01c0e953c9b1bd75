//! A machine's `machine.json`: what this program knows of a machine beside Tart's `config.json`.

use dvn_types::{Kind, Report, unix_ms};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// Where a machine came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// An empty disk.
    Blank,
    /// An empty disk, to be installed from this image.
    Iso {
        /// The image on the host.
        path: PathBuf,
    },
    /// A clone of a machine of this library, by the name that it had.
    Clone {
        /// That machine.
        of: String,
    },
    /// Its directory was there without a `machine.json`: Tart made it.
    Tart,
}

/// What is kept of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// 32 hexadecimal digits, random; the same for as long as the machine exists, whatever its name. A clone has its own.
    pub id: String,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Where it came from.
    pub origin: Origin,
    /// The image from which it is being installed. It is attached until the guest has powered itself off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<PathBuf>,
    /// When it was last started, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// What Virtualization calls the machine, in base64. A saved state can only be restored under the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_identifier: Option<String>,
}

impl Record {
    /// That of a machine which is made now.
    pub fn new(origin: Origin) -> Record {
        Record {
            version: VERSION,
            id: format!("{:032x}", rand::random::<u128>()),
            created_unix_ms: unix_ms(),
            medium: match &origin {
                Origin::Iso { path } => Some(path.clone()),
                _ => None,
            },
            started_unix_ms: None,
            origin,
            machine_identifier: None,
        }
    }

    /// Whether the machine may have started once. Until then the firmware has made no variable store.
    pub fn has_started(&self) -> bool {
        self.started_unix_ms.is_some() || self.origin == Origin::Tart
    }

    /// Reads a `machine.json`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Record, Report> {
        let damaged = |why: String| Report::new(Kind::State, format!("{} cannot be used: {why}", path.display()));
        let record: Record = serde_json::from_slice(bytes).map_err(|e| {
            damaged(e.to_string()).hint("delete the file: the machine is then taken for one that Tart made")
        })?;
        match record.version {
            VERSION if record.id.len() == 32 && record.id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(record),
            VERSION => Err(damaged("its id is not 32 hexadecimal digits".to_owned())
                .hint("delete the file: the machine is then taken for one that Tart made")),
            other => Err(damaged(format!("it has version {other} of the format, and this program reads version 1"))
                .hint("a newer version of this program may read it")),
        }
    }

    /// The file's text.
    pub fn text(&self) -> Result<Vec<u8>, Report> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| Report::new(Kind::Internal, format!("cannot write a machine.json: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_being_written_and_two_machines_have_different_ones() {
        let one = Record::new(Origin::Clone { of: "base".into() });
        assert_eq!(Record::parse(&one.text().unwrap(), Path::new("m")).unwrap(), one);
        assert_ne!(one.id, Record::new(Origin::Blank).id);
    }

    #[test]
    fn a_damaged_or_newer_record_is_refused_with_its_path() {
        let newer = r#"{"version":2,"id":"","created_unix_ms":0,"origin":{"from":"blank"}}"#;
        let escaping = r#"{"version":1,"id":"..","created_unix_ms":0,"origin":{"from":"blank"}}"#;
        for (text, says) in [("", "EOF"), ("{}", "version"), (newer, "version 2"), (escaping, "32 hexadecimal")] {
            let error = Record::parse(text.as_bytes(), Path::new("/m/machine.json")).unwrap_err();
            assert!(error.message.starts_with("/m/machine.json") && error.message.contains(says), "{error}");
        }
    }
}
