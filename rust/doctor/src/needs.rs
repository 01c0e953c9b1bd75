//! What several checks need before they can look.

use super::{finding::Finding, subject::Subject};
use dvn_config::MachineSettings;

/// For checks that are about a setting: they have nothing to look at while the settings are wrong.
pub fn settings(subject: &Subject) -> Result<&MachineSettings, Finding> {
    subject.settings.as_ref().map_err(|_| Finding::not_applicable("the settings are wrong: see the check settings"))
}
