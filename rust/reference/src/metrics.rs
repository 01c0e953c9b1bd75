//! `docs/metrics.md`: the metrics, from the registry's output for a sample machine.

use super::heading::head;
use dvn_daemon::specimen;
use dvn_types::Report;
use std::collections::{BTreeMap, BTreeSet};

const INTRODUCTION: &str = "
`GET /v1/metrics` answers with them, as OpenMetrics text for Prometheus ([api.md](api.md#watching) says when a guest is asked for
its numbers, [the guide](guides/metrics.md) how to collect them). Counters start at the daemon's start. A counter's name ends in
`_total`; a histogram has the series `_bucket`, `_sum` and `_count`; times are seconds, amounts bytes. Every series has the label
`machine`.

| name | type | other labels | meaning |
|---|---|---|---|
";

/// One metric.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// The page.
pub(super) fn page() -> Result<String, Report> {
    let mut text = head("Metrics");
    text.push_str(INTRODUCTION);
    for Family { name, kind, help, labels } in families(&specimen::metrics()?) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels: Vec<String> = labels.into_iter().map(|(label, values)| shown(&label, values)).collect();
        text.push_str(&format!("| `{name}{suffix}` | {kind} | {} | {help} |\n", labels.join("; ")));
    }
    Ok(text)
}

/// A label with its values.
fn shown(label: &str, values: BTreeSet<String>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| format!("`{value}`")).collect();
    format!("`{label}`: {}", values.join(", "))
}

/// Parses the text format of OpenMetrics, as the registry writes it.
fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.push(Family { name: name.to_owned(), help: help.to_owned(), ..Family::default() });
            continue;
        }
        let Some(family) = families.last_mut() else { continue };
        if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut family.kind);
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) {
            for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                // Every series has the machine; the bounds of a histogram are not listed.
                if !["machine", "le"].contains(&label) {
                    family.labels.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    families
}
