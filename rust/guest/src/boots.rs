//! Records of the last boots, and the consoles of those that had a guest.
//!
//! ```text
//!  begin ──▶ boots/N.json: starting ─ is ready ─▶ running ─ its guest ended ─▶ ended: how
//!    │                          └──── failed ───────────────────────────────▶ failed: why
//!    └─ the previous boot's console: console.log ──▶ boots/N-1.console.log; old ones are removed
//! ```
//!
//! Rules: records never prevent a boot (a failed write is a warning), and their number is limited: see [`kept`]. A boot
//! whose daemon ended without writing its end is *lost*.

use dvn_host::{
    files::{private_dir, unless_missing, write_atomic},
    log_file,
    machine_dir::MachineDir,
    regular_file::{self, NotRegular},
};
use dvn_types::{
    Kind, Report, unix_ms,
    wire::{BootOutcome, BootRecord},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many of the newest boots with a console are kept, and how many of those that failed before they had one.
const KEPT: usize = 5;

/// The records of one machine's boots. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Boots {
    dir: MachineDir,
    known: Arc<Mutex<Known>>,
    /// Held while a record is written, so that of two that come at once the later state is what is written last. It is not the
    /// lock of what is known: those who tell of a boot take that one, and wait for no disk.
    writing: Arc<Mutex<()>>,
}

/// Boots of this daemon.
#[derive(Debug, Default)]
struct Known {
    current: u64,
    records: BTreeMap<u64, BootRecord>,
}

/// The parameters of a boot.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// The bundle.
    pub bundle: Option<PathBuf>,
    /// Number of processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
}

impl Boots {
    /// The boots in a directory, which need not exist. Marks boots that an earlier daemon left unfinished as lost.
    /// Blocks.
    pub fn of(dir: &MachineDir) -> Boots {
        for record in left(dir) {
            if stored(dir, record.number).is_some_and(|stored| stored.outcome != record.outcome) {
                write(dir, &record);
            }
        }
        Boots { dir: dir.clone(), known: Arc::default(), writing: Arc::default() }
    }

    /// Records a boot that begins, and renames the previous boot's console. Returns the boot's number. Blocks.
    pub fn begin(&self, tried: Tried) -> u64 {
        let numbers = numbers(&self.dir);
        let number = numbers.last().map_or(1, |newest| newest.saturating_add(1));
        if let Err(error) = self.set_aside(&numbers) {
            tracing::warn!("cannot keep the console of the previous boot: {error}");
        }
        let record = BootRecord {
            number,
            begun_unix_ms: unix_ms(),
            ready_unix_ms: None,
            ended_unix_ms: None,
            outcome: BootOutcome::Starting,
            bundle: tried.bundle,
            cores: tried.cores,
            memory: tried.memory,
            console_bytes: None,
        };
        // Creates only this directory: a state directory that was deleted is not recreated for a record.
        let made = if self.dir.root().is_dir() { private_dir(&self.dir.boots()) } else { Ok(()) };
        match made {
            Ok(()) => write(&self.dir, &record),
            Err(report) => tracing::warn!("cannot record the boot: {report}"),
        }
        let mut known = self.known();
        known.current = number;
        known.records.insert(number, record);
        while known.records.len() > KEPT {
            known.records.pop_first();
        }
        number
    }

    /// The records, newest first. Blocks.
    pub fn list(&self) -> Vec<BootRecord> {
        let mut records = read(&self.dir);
        let known = self.known();
        for record in &mut records {
            match known.records.get(&record.number) {
                // Newer than the file.
                Some(newer) => *record = BootRecord { console_bytes: record.console_bytes, ..newer.clone() },
                None => mark_lost(record),
            }
        }
        records
    }

    /// The number of the last boot.
    pub fn current(&self) -> u64 {
        self.known().current
    }

    /// Records that the guest answers.
    pub fn ready(&self) {
        self.change(self.current(), |record| {
            record.ready_unix_ms = Some(unix_ms());
            record.outcome = BootOutcome::Running;
        });
    }

    /// Records that there is no guest, or that it does not answer. The first failure counts.
    pub fn failed(&self, why: &Report) {
        self.change(self.current(), |record| {
            record.ended_unix_ms.get_or_insert_with(unix_ms);
            if !matches!(record.outcome, BootOutcome::Failed { .. }) {
                record.outcome = BootOutcome::Failed { why: why.clone() };
            }
        });
    }

    /// Adds to the reason of a failed boot.
    pub fn explained(&self, number: u64, why: &Report) {
        self.change(number, |record| record.outcome = BootOutcome::Failed { why: why.clone() });
    }

    /// Records that the guest is gone.
    pub fn ended(&self, exit: String) {
        self.change(self.current(), |record| {
            record.ended_unix_ms.get_or_insert_with(unix_ms);
            if !matches!(record.outcome, BootOutcome::Failed { .. }) {
                record.outcome = BootOutcome::Ended { exit };
            }
        });
    }

    /// Changes a record at once, and writes it in the background: the caller does not wait for a disk.
    fn change(&self, number: u64, change: impl FnOnce(&mut BootRecord)) {
        if let Some(record) = self.known().records.get_mut(&number) {
            change(record);
        }
        let boots = self.clone();
        tokio::task::spawn_blocking(move || {
            let _writing = boots.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let record = boots.known().records.get(&number).cloned();
            // A machine that was deleted meanwhile has no records any more.
            if let Some(record) = record.filter(|_| path(&boots.dir, number).exists()) {
                write(&boots.dir, &record);
            }
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renames the newest boot's console to its own name, and removes old ones.
    fn set_aside(&self, numbers: &BTreeSet<u64>) -> io::Result<()> {
        let Some(newest) = numbers.last() else { return Ok(()) };
        let (from, to) = (self.dir.console_log(), set_aside_console(&self.dir, *newest));
        let kept = kept(&self.list());
        rename(&from, &to)?;
        rename(&log_file::older(&from), &log_file::older(&to))?;
        for number in numbers.iter().filter(|number| !kept.contains(number)) {
            let console = set_aside_console(&self.dir, *number);
            for file in [log_file::older(&console), console, path(&self.dir, *number)] {
                remove(&file)?;
            }
        }
        Ok(())
    }
}

/// The records to keep when another boot begins: the newest with a console, the newest without, and the newest that
/// failed with one, since a machine that is used a lot boots often.
fn kept(newest_first: &[BootRecord]) -> BTreeSet<u64> {
    // The boot that begins adds one more.
    let of = |with: bool, how_many: usize| {
        newest_first.iter().filter(move |record| record.console_bytes.is_some() == with).take(how_many)
    };
    let failed = newest_first.iter().find(|record| record.console_bytes.is_some() && record.went_wrong().is_some());
    of(true, KEPT - 1).chain(of(false, KEPT - 1)).chain(failed).map(|record| record.number).collect()
}

/// The records while no daemon runs. Blocks.
pub fn left(dir: &MachineDir) -> Vec<BootRecord> {
    let mut records = read(dir);
    records.iter_mut().for_each(mark_lost);
    records
}

/// Marks a boot that no daemon knows as over.
fn mark_lost(record: &mut BootRecord) {
    if matches!(record.outcome, BootOutcome::Starting | BootOutcome::Running) {
        record.outcome = BootOutcome::Lost;
    }
}

/// The stored records, newest first.
fn read(dir: &MachineDir) -> Vec<BootRecord> {
    let numbers = numbers(dir);
    let newest = numbers.last().copied();
    let mut records: Vec<_> = numbers.into_iter().rev().filter_map(|number| stored(dir, number)).collect();
    for record in &mut records {
        let console = console_of(dir, record.number, newest);
        record.console_bytes = regular_file::look(&console).ok().map(|meta| meta.len()).filter(|length| *length > 0);
    }
    records
}

/// Resolves a boot's number: 0 is the newest, -1 the one before, and a positive number is that boot's own.
pub fn meant(mut newest_first: impl Iterator<Item = u64>, boot: i64) -> Option<u64> {
    match usize::try_from(boot.unsigned_abs()) {
        Ok(back) if boot <= 0 => newest_first.nth(back),
        _ => newest_first.find(|number| i64::try_from(*number) == Ok(boot)),
    }
}

/// The console of a boot: 0 is the present or last one, -1 the one before, and a positive number is that boot's own.
/// Blocks.
pub fn console(dir: &MachineDir, boot: i64) -> Result<PathBuf, Report> {
    // Works without a record, too.
    if boot == 0 {
        return Ok(dir.console_log());
    }
    let numbers = numbers(dir);
    let Some(number) = meant(numbers.iter().rev().copied(), boot) else {
        let known = match (numbers.first(), numbers.last()) {
            (Some(first), Some(last)) => format!("of the boots {first} to {last} {} are kept", numbers.len()),
            _ => "it has not booted yet".to_owned(),
        };
        let report = Report::new(Kind::NotFound, format!("there is no record of boot {boot}: {known}"));
        return Err(report.hint("list them: `darwin-vz-nix logs --boots`"));
    };
    Ok(console_of(dir, number, numbers.last().copied()))
}

fn console_of(dir: &MachineDir, number: u64, newest: Option<u64>) -> PathBuf {
    if newest == Some(number) { dir.console_log() } else { set_aside_console(dir, number) }
}

fn set_aside_console(dir: &MachineDir, number: u64) -> PathBuf {
    dir.boots().join(format!("{number}.console.log"))
}

fn path(dir: &MachineDir, number: u64) -> PathBuf {
    dir.boots().join(format!("{number}.json"))
}

/// Numbers of the recorded boots, ascending.
fn numbers(dir: &MachineDir) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(dir.boots()) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect()
}

/// The stored record. `None` if it cannot be read.
fn stored(dir: &MachineDir, number: u64) -> Option<BootRecord> {
    let record: BootRecord = serde_json::from_slice(&regular_file::read(&path(dir, number)).ok()?).ok()?;
    Some(BootRecord { number, ..record })
}

fn write(dir: &MachineDir, record: &BootRecord) {
    let text = serde_json::to_vec(record).unwrap_or_default();
    if let Err(report) = write_atomic(&path(dir, record.number), &text, 0o600) {
        tracing::warn!("cannot record the boot: {report}");
    }
}

/// Leaves anything other than a regular file where it is: it is not a console.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match regular_file::look(from) {
        Ok(_) => unless_missing(fs::rename(from, to)),
        Err(error) if NotRegular::behind(&error).is_some() => Ok(()),
        Err(error) => unless_missing(Err(error)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(path))
}

#[cfg(test)]
mod tests;
