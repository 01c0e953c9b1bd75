//! A check: its subject and its result.

use crate::{finding::Finding, subject::Subject};
use serde::Serialize;
use std::pin::Pin;

/// One check.
pub struct Check {
    /// Its name: words joined by dashes.
    pub name: &'static str,
    /// Its subject, as half a sentence.
    pub looks_at: &'static str,
    /// Needs a running guest, and may take a minute.
    pub deep: bool,
    pub(crate) run: for<'a> fn(&'a Subject) -> Looking<'a>,
}

type Looking<'a> = Pin<Box<dyn Future<Output = Finding> + 'a>>;

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Examined {
    /// The check's name.
    pub name: &'static str,
    /// The finding; with a repair, the one after it.
    #[serde(flatten)]
    pub finding: Finding,
    /// The repairs that were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
}

impl Check {
    /// Runs the check. With `fix`, repairs what can be repaired and runs it again.
    pub async fn examine(&self, subject: &Subject, fix: bool) -> Examined {
        let mut finding = (self.run)(subject).await;
        let mut repaired = Vec::new();
        if fix && !finding.repairs.is_empty() {
            let mut failures = Vec::new();
            for repair in &finding.repairs {
                match repair.apply() {
                    Ok(done) => repaired.extend(done),
                    Err(report) => {
                        failures.push(format!("it could not be repaired: {report}"));
                        failures.extend(report.hints);
                        // The next repair may depend on this one.
                        break;
                    }
                }
            }
            finding = (self.run)(subject).await;
            finding.hints.extend(failures);
        }
        Examined { name: self.name, finding, repaired }
    }
}
