//! The name of the record of known paths.

use dvn_config::BuilderConfig;
use dvn_host::{files::write_atomic, regular_file};
use dvn_types::{Kind, Report};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Names the record of paths that this machine's guests know. A guest's disk stores the name, and the guest forgets
/// paths from another record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The name.
    pub record: String,
    store_dir: PathBuf,
    store_daemon: PathBuf,
}

impl Identity {
    /// Reads the file. `None` if it is missing or damaged.
    pub fn read(file: &Path) -> Option<Identity> {
        serde_json::from_slice(&regular_file::read(file).ok()?).ok()
    }

    /// A new name.
    pub fn new(config: &BuilderConfig) -> Identity {
        Identity {
            record: format!("{:032x}", rand::random::<u128>()),
            store_dir: config.store_dir.clone(),
            store_daemon: config.store_daemon.clone(),
        }
    }

    /// Whether the record belongs to the configured store.
    pub fn is_of(&self, config: &BuilderConfig) -> bool {
        (&self.store_dir, &self.store_daemon) == (&config.store_dir, &config.store_daemon)
    }

    /// Replaces the file.
    pub fn write(&self, file: &Path) -> Result<(), Report> {
        let text = serde_json::to_vec(self).map_err(|e| Report::new(Kind::Internal, e.to_string()))?;
        write_atomic(file, &text, 0o600)
    }
}
