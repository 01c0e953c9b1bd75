//! The result of a check.

use super::repair::Repair;
use dvn_types::{Kind, Report};
use serde::{Serialize, Serializer};

/// How severe a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works now, but may fail later.
    Warning,
    /// It does not work.
    Failed,
    /// The check does not apply here.
    NotApplicable,
}

impl Outcome {
    /// Its name in output and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "failed",
            Outcome::NotApplicable => "-",
        }
    }
}

/// An outcome with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The outcome.
    pub outcome: Outcome,
    /// For a failure: the kind, which decides the exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// What the check saw.
    pub evidence: String,
    /// What the user can do about it, one step each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// The repairs that `--fix` would make, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "described")]
    pub repairs: Vec<Repair>,
}

fn described<S: Serializer>(repairs: &[Repair], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(repairs.iter().map(Repair::intent))
}

impl Finding {
    fn new(outcome: Outcome, evidence: impl Into<String>) -> Finding {
        Finding { outcome, kind: None, evidence: evidence.into(), hints: Vec::new(), repairs: Vec::new() }
    }

    /// As it should be.
    pub fn ok(evidence: impl Into<String>) -> Finding {
        Finding::new(Outcome::Ok, evidence)
    }

    /// It works now, but may fail later.
    pub fn warning(evidence: impl Into<String>) -> Finding {
        Finding::new(Outcome::Warning, evidence)
    }

    /// It does not work.
    pub fn failed(kind: Kind, evidence: impl Into<String>) -> Finding {
        Finding { kind: Some(kind), ..Finding::new(Outcome::Failed, evidence) }
    }

    /// The check does not apply, for this reason.
    pub fn not_applicable(why: impl Into<String>) -> Finding {
        Finding::new(Outcome::NotApplicable, why)
    }

    /// Adds a step that the user can take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hints.push(hint.into());
        self
    }

    /// Adds a repair that this program can make.
    #[must_use]
    pub fn repair(mut self, repair: Repair) -> Finding {
        self.repairs.push(repair);
        self
    }
}

impl From<Report> for Finding {
    fn from(report: Report) -> Finding {
        Finding { hints: report.hints, ..Finding::failed(report.kind, report.message) }
    }
}
