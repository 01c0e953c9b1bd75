//! Preconditions shared by several checks.

use super::{finding::Finding, subject::Subject};
use dvn_config::MachineConfig;

/// For checks of a setting: they do not apply while the settings are wrong.
pub fn settings(subject: &Subject) -> Result<&MachineConfig, Finding> {
    subject.settings.as_ref().map_err(|_| Finding::not_applicable("the settings are wrong: see the check settings"))
}
