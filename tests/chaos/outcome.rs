//! The outcome of a fault, and the table of all of them.

use crate::faults::Fault;
use comfy_table::{Table as Lines, presets};
use std::{collections::BTreeMap, fmt, time::Duration};

/// The outcome of one fault.
#[derive(Default)]
pub struct Outcome {
    /// Why this computer cannot have the fault.
    pub absent: Option<String>,
    /// Why the round itself failed.
    pub broken: Option<String>,
    /// Concurrent builds that succeeded, and that failed.
    pub built: usize,
    pub failed: usize,
    /// The time of the next build, or why it failed.
    pub next: Option<Result<Duration, String>>,
    /// Outputs of finished builds that are missing or wrong.
    pub lost: Vec<String>,
    /// Leftover processes, files, sockets, leases, and roots in the host's store.
    pub left: Vec<String>,
    /// The time of its parts, including the checks.
    pub took: Vec<(&'static str, Duration)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.absent {
            return write!(f, "not here: {why}");
        }
        if let Some(why) = &self.broken {
            return write!(f, "THE ROUND BROKE: {why}");
        }
        write!(f, "{} built, {} failed, next ", self.built, self.failed)?;
        match &self.next {
            Some(Ok(time)) => write!(f, "{:.1} s", time.as_secs_f32())?,
            Some(Err(why)) => write!(f, "FAILED: {why}")?,
            None => f.write_str("not tried")?,
        }
        let all: Duration = self.took.iter().map(|(_, time)| *time).sum();
        write!(f, ", {:.1} s in all (", all.as_secs_f32())?;
        for (n, (part, time)) in self.took.iter().enumerate() {
            write!(f, "{}{part} {:.1}", if n == 0 { "" } else { ", " }, time.as_secs_f32())?;
        }
        f.write_str(")")?;
        self.lost.iter().try_for_each(|what| write!(f, "; LOST: {what}"))?;
        self.left.iter().try_for_each(|what| write!(f, "; LEFT: {what}"))
    }
}

#[derive(Default)]
struct Row {
    times: usize,
    absent: usize,
    broken: usize,
    built: usize,
    failed: usize,
    next_failed: usize,
    slowest: Duration,
    lost: usize,
    left: usize,
}

/// Faults × outcomes.
#[derive(Default)]
pub struct Table(BTreeMap<&'static str, Row>);

impl Table {
    /// Adds one.
    pub fn record(&mut self, fault: Fault, outcome: &Outcome) {
        self.add(fault.name(), outcome);
    }

    /// Adds a result that belongs to no single fault.
    pub fn add(&mut self, name: &'static str, outcome: &Outcome) {
        let row = self.0.entry(name).or_default();
        row.times += 1;
        row.absent += usize::from(outcome.absent.is_some());
        row.broken += usize::from(outcome.broken.is_some());
        row.built += outcome.built;
        row.failed += outcome.failed;
        match &outcome.next {
            Some(Ok(time)) => row.slowest = row.slowest.max(*time),
            Some(Err(_)) => row.next_failed += 1,
            None => {}
        }
        row.lost += outcome.lost.len();
        row.left += outcome.left.len();
    }

    /// Every round finished, nothing was lost or left over, and every next build succeeded.
    pub fn is_clean(&self) -> bool {
        self.0.values().all(|row| row.broken + row.lost + row.left + row.next_failed == 0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Lines::new();
        lines.load_preset(presets::ASCII_MARKDOWN);
        lines.set_header([
            "fault",
            "times",
            "not here",
            "broken",
            "builds under way: done",
            "failed",
            "next failed",
            "slowest next",
            "lost",
            "left over",
        ]);
        let mut all = Row::default();
        let line = |name: &str, row: &Row| {
            let slowest = format!("{:.1} s", row.slowest.as_secs_f32());
            let numbers =
                [row.times, row.absent, row.broken, row.built, row.failed, row.next_failed].map(|n| n.to_string());
            let mut cells = vec![name.to_owned()];
            cells.extend(numbers);
            cells.extend([slowest, row.lost.to_string(), row.left.to_string()]);
            cells
        };
        for (name, row) in &self.0 {
            lines.add_row(line(name, row));
            all.times += row.times;
            all.absent += row.absent;
            all.broken += row.broken;
            all.built += row.built;
            all.failed += row.failed;
            all.next_failed += row.next_failed;
            all.slowest = all.slowest.max(row.slowest);
            all.lost += row.lost;
            all.left += row.left;
        }
        lines.add_row(line("all", &all));
        write!(f, "{lines}")
    }
}
