//! Measured series, the figures computed from them, and their output.

use serde_json::json;
use std::{fmt::Write, time::Duration};

/// One row: the measured value and its limit.
pub struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    target: f64,
    lower_is_better: bool,
    /// Ours and the reference, where there is one, in `detail_unit`.
    ours: f64,
    reference: Option<f64>,
    detail_unit: &'static str,
    /// Smallest and largest of the pairs' ratios.
    spread: Option<(f64, f64)>,
}

impl Figure {
    /// A figure without a reference; lower is better.
    pub fn without_reference(name: &'static str, value: f64, unit: &'static str, target: f64) -> Figure {
        let lower_is_better = true;
        Figure {
            name,
            value,
            unit,
            target,
            lower_is_better,
            ours: value,
            reference: None,
            detail_unit: unit,
            spread: None,
        }
    }

    fn meets_target(&self) -> bool {
        if self.lower_is_better { self.value <= self.target } else { self.value >= self.target }
    }
}

/// Times of ours and of the reference, taken in turns.
#[derive(Default)]
pub struct Series {
    pub ours: Vec<Duration>,
    pub reference: Vec<Duration>,
}

impl Series {
    /// The median of the turns' ratios of time; lower is better.
    pub fn ratio(&self, name: &'static str, target: f64, higher: bool) -> Figure {
        let pairs = self.ours.iter().zip(&self.reference).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        let (value, spread) = middle(pairs);
        let (ours, reference) = (median_ms(&self.ours), median_ms(&self.reference));
        Figure {
            name,
            value,
            unit: "ratio",
            target,
            lower_is_better: !higher,
            ours,
            reference: Some(reference),
            detail_unit: "ms",
            spread: Some(spread),
        }
    }

    /// The median of the turns' ratios of speed, for `amount` of something; higher is better.
    pub fn rate_ratio(&self, name: &'static str, target: f64, amount: f64, detail_unit: &'static str) -> Figure {
        let pairs = self.ours.iter().zip(&self.reference).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()).collect();
        let (value, spread) = middle(pairs);
        let rate = |times: &[Duration]| amount / (median_ms(times) / 1000.0);
        let (ours, reference) = (rate(&self.ours), Some(rate(&self.reference)));
        let spread = Some(spread);
        Figure { name, value, unit: "ratio", target, lower_is_better: false, ours, reference, detail_unit, spread }
    }

    /// Our median in milliseconds, beside the reference's; lower is better.
    pub fn milliseconds(&self, name: &'static str, target: f64) -> Figure {
        let ours = median_ms(&self.ours);
        Figure { reference: Some(median_ms(&self.reference)), ..Figure::without_reference(name, ours, "ms", target) }
    }
}

fn median_ms(times: &[Duration]) -> f64 {
    middle(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect()).0
}

/// Median, and the smallest and the largest.
fn middle(mut values: Vec<f64>) -> (f64, (f64, f64)) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], (values[0], values[values.len() - 1]))
}

/// For humans.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<22}{:>10}{:>10}  {:<5}{:>24}{:>16}\n",
        "figure", "value", "target", "met", "ours / reference", "min … max"
    );
    for figure in figures {
        let sign = if figure.lower_is_better { "≤" } else { "≥" };
        let detail = match figure.reference {
            Some(reference) => format!("{:.1} / {reference:.1} {}", figure.ours, figure.detail_unit),
            None => figure.unit.to_owned(),
        };
        let spread = figure.spread.map_or(String::new(), |(low, high)| format!("{low:.2} … {high:.2}"));
        let target = format!("{sign} {}", figure.target);
        let met = if figure.meets_target() { "yes" } else { "NO" };
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "{:<22}{:>10.3}{target:>10}  {met:<5}{detail:>24}{spread:>16}", figure.name, figure.value);
    }
    text
}

/// For programs.
pub fn json(figures: &[Figure]) -> String {
    let rows: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name, "value": figure.value, "unit": figure.unit, "target": figure.target,
                "better": if figure.lower_is_better { "lower" } else { "higher" },
                "ours": figure.ours, "reference": figure.reference,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(rows))
}
