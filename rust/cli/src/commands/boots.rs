//! The last boots for `logs`: the outcome of each, and why those that failed did.

use crate::{context::Context, output};
use comfy_table::{Table, presets};
use dvn_guest::boots;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{BootOutcome, BootRecord},
};

/// The records of a machine's boots, the newest first. Reads files if no daemon runs.
pub async fn of(context: &Context, machine: &MachineName) -> Result<Vec<BootRecord>, Report> {
    match context.client().boots(machine).await {
        Ok(list) => Ok(list.boots),
        Err(report) if report.kind == Kind::NotRunning => {
            let left = boots::left(&dvn_host::machine_dir::MachineDir::of(&context.state_dir(), machine));
            if left.is_empty() { Err(report) } else { Ok(left) }
        }
        Err(report) => Err(report),
    }
}

/// The record that `--boot` selects.
pub fn find(newest_first: Vec<BootRecord>, boot: i64) -> Option<BootRecord> {
    let number = boots::meant(newest_first.iter().map(|record| record.number), boot)?;
    newest_first.into_iter().find(|record| record.number == number)
}

/// A table of the boots, and below it why some failed.
pub fn table(newest_first: &[BootRecord]) -> String {
    if newest_first.is_empty() {
        return "there is no record of a boot\n".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["BOOT", "BACK", "BEGUN", "READY AFTER", "OUTCOME", "CONSOLE"]);
    for (back, record) in newest_first.iter().enumerate() {
        let back = if back == 0 { "0".to_owned() } else { format!("-{back}") };
        let ready = record.ready_unix_ms.map(|ready| ready.saturating_sub(record.begun_unix_ms));
        let ready = ready.map_or_else(|| "-".to_owned(), output::milliseconds);
        let console = record.console_bytes.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} B"));
        table.add_row([
            record.number.to_string(),
            back,
            output::time(record.begun_unix_ms),
            ready,
            outcome(record).to_owned(),
            console,
        ]);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    for record in newest_first {
        if record.went_wrong().is_some() {
            text.push_str(&describe(record));
        }
    }
    text
}

/// Describes a boot in a few lines: its time, configuration, outcome and error.
pub fn describe(record: &BootRecord) -> String {
    let bundle = record.bundle.as_ref().map_or_else(|| "no bundle".to_owned(), |bundle| bundle.display().to_string());
    let memory = dvn_config::Size(record.memory);
    let configuration = format!("{bundle}, {} of memory, cores: {}", memory, record.cores);
    let mut text = format!(
        "boot {}, {}: {} ({configuration})\n",
        record.number,
        output::time(record.begun_unix_ms),
        outcome(record)
    );
    if let Some(why) = record.went_wrong() {
        text.push_str(&format!("  {}\n", why.message));
        text.extend(why.hints.iter().map(|hint| format!("  hint: {hint}\n")));
    }
    text
}

fn outcome(record: &BootRecord) -> &str {
    match &record.outcome {
        BootOutcome::Starting => "starting",
        BootOutcome::Running => "running",
        BootOutcome::Ended { exit } => exit.split(':').next().unwrap_or(exit),
        BootOutcome::Failed { .. } => "failed",
        BootOutcome::Lost => "lost",
    }
}
