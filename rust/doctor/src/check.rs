//! A check: what it looks at, and what came of it.

use crate::{finding::Finding, subject::Subject};
use serde::Serialize;
use std::pin::Pin;

/// One thing that is looked at.
pub struct Check {
    /// Its name, in words with dashes.
    pub name: &'static str,
    /// What it looks at, in half a sentence.
    pub looks_at: &'static str,
    /// It needs a running guest, and may take a minute.
    pub deep: bool,
    pub(crate) run: for<'a> fn(&'a Subject) -> Looking<'a>,
}

type Looking<'a> = Pin<Box<dyn Future<Output = Finding> + 'a>>;

/// What came of a check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Examined {
    /// The check's name.
    pub name: &'static str,
    /// What was found; after the repair, if there was one.
    #[serde(flatten)]
    pub finding: Finding,
    /// What was done about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
}

impl Check {
    /// Looks, and with `fix` repairs what can be repaired and looks again.
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
                        // The next one may rely on this one.
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
