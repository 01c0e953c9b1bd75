//! Finds the cause of a failed boot in a guest's console: the lines that state it, wherever they are, and then the last
//! ones.
//!
//! A guest that gives up powers off, and a panicking kernel prints its registers; so the last lines seldom state the
//! cause. The lines that do have a few known forms: the agent's own, the kernel's, and those of systemd and of NixOS's
//! first stage.

use dvn_host::log_file;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes read from a console's end: a whole boot with systemd's messages.
const END: u64 = 512 << 10;

/// Lines that are repeated, of those that state the cause and of those at the end.
const LINES: usize = 3;

/// Longest line that is repeated, in characters.
const LONGEST: usize = 300;

/// Verdicts on the whole boot. The last ones count.
const VERDICTS: &[&str] = &[
    "darwin-vz-agent: FAILED: ",
    "Kernel panic - not syncing",
    "stage 1 of the boot process",
    "You are in emergency mode",
    "You are in rescue mode",
];

/// Possible causes. The first ones count, for each tends to cause the next.
const CAUSES: &[&str] = &[
    "darwin-vz-agent: panic: ",
    "Initramfs unpacking failed",
    "invalid magic at start of compressed",
    "VFS: ",
    "No working init found",
    "Failed to execute /init",
    "Unable to handle kernel",
    "Oops",
    "BUG: ",
    "general protection fault",
    "Out of memory",
    "Killed process",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs (",
    "SQUASHFS error",
    "erofs (",
    "erofs: ",
    "beyond end of device",
    "No space left on device",
    "failed command",
    "[FAILED]",
    "[DEPEND]",
    "Failed to mount",
    "Failed to start",
    "Dependency failed",
    "Timed out waiting for device",
];

/// Harmless lines that contain one of the above.
const HARMLESS: &[&str] = &["mounted filesystem", "re-mounted", "unmounting filesystem", "I/O error handling"];

/// The console's explanation of a failed boot, to be appended to the cause that the host knows. An unreadable console
/// counts as empty. Blocks.
pub fn summary(console: &Path) -> String {
    judged(&log_file::lines(&end_of(console).unwrap_or_default()))
}

fn end_of(console: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(console)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn judged(lines: &[String]) -> String {
    let has = |line: &str, marks: &[&str]| marks.iter().any(|mark| line.contains(mark));
    let verdict = |index: &usize| has(&lines[*index], VERDICTS);
    let cause = |index: &usize| has(&lines[*index], CAUSES) && !has(&lines[*index], HARMLESS);

    let mut verdicts: Vec<usize> = (0..lines.len()).rev().filter(verdict).collect();
    verdicts.dedup_by_key(|index| bare(&lines[*index]));
    verdicts.truncate(LINES - 1);
    let mut why = verdicts;
    for index in (0..lines.len()).filter(cause) {
        if why.len() < LINES && !why.iter().any(|other| bare(&lines[*other]) == bare(&lines[index])) {
            why.push(index);
        }
    }
    why.sort_unstable();
    let shown_above = |index: &usize| why.iter().any(|other| bare(&lines[*other]) == bare(&lines[*index]));
    let last = lines.len().saturating_sub(LINES)..lines.len();
    let mut last: Vec<usize> = last.filter(|index| !shown_above(index)).collect();
    last.dedup_by_key(|index| bare(&lines[*index]));
    let shown =
        |indices: &[usize]| indices.iter().map(|index| short(bare(&lines[*index]))).collect::<Vec<_>>().join(" / ");
    match (why.is_empty(), last.is_empty()) {
        (true, true) => "nothing was seen on its console".to_owned(),
        (true, false) => format!("the console said last: {}", shown(&last)),
        (false, true) => format!("the console says why: {}", shown(&why)),
        (false, false) => format!("the console says why: {}; the console said last: {}", shown(&why), shown(&last)),
    }
}

/// The line without the kernel's time, so that equal lines compare equal.
fn bare(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match rest {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line,
    }
}

fn short(line: &str) -> String {
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(console: &str) -> String {
        judged(&log_file::lines(console.as_bytes()))
    }

    #[test]
    fn a_guest_that_gives_up_is_explained_by_its_own_message_and_not_by_its_power_off() {
        let text = of("[    0.1] Linux version 6.1\n\
             [    1.2] EXT4-fs (vda): bad geometry: block count 9 exceeds size of device (4 blocks)\n\
             darwin-vz-agent: FAILED: /dev/vda cannot be mounted on /sysroot: Invalid argument\n\
             [    1.3] ACPI: PM: Preparing to enter system sleep state S5\n\
             [    1.3] reboot: Power down\n");
        assert_eq!(
            text,
            "the console says why: EXT4-fs (vda): bad geometry: block count 9 exceeds size of device (4 blocks) / \
             darwin-vz-agent: FAILED: /dev/vda cannot be mounted on /sysroot: Invalid argument; \
             the console said last: ACPI: PM: Preparing to enter system sleep state S5 / reboot: Power down"
        );
    }

    #[test]
    fn a_panic_is_reported_with_its_causes_and_without_the_registers_below_it() {
        let registers = "[    0.9] RAX: 0000000000000000\n".repeat(40);
        let text = of(&format!(
            "[    0.5] Initramfs unpacking failed: invalid magic at start of compressed archive\n\
             [    0.6] VFS: Cannot open root device \"(null)\" or unknown-block(0,0): error -6\n\
             [    0.7] VFS: Unable to mount root fs on unknown-block(0,0)\n\
             [    0.8] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n{registers}"
        ));
        assert!(text.starts_with("the console says why: Initramfs unpacking failed"), "{text}");
        assert!(text.contains(" / Kernel panic - not syncing: VFS: Unable to mount root fs"), "{text}");
        assert!(text.contains("; the console said last: RAX"), "{text}");
    }

    #[test]
    fn a_repeated_error_is_shown_once_and_the_verdict_always() {
        let errors = "[   1.5] I/O error, dev vda, sector 8 op 0x0\n".repeat(500);
        let more: String = (0..50).map(|n| format!("[   2.5] EXT4-fs error (device vda): inode {n}\n")).collect();
        let text = of(&format!("{errors}{more}darwin-vz-agent: FAILED: sshd cannot be started\n{errors}"));
        assert_eq!(text.matches("I/O error").count(), 1, "{text}");
        assert!(text.contains("FAILED: sshd cannot be started"), "{text}");
    }

    #[test]
    fn a_console_without_a_cause_is_reported_by_its_end() {
        assert_eq!(of("a\nb\nc\nd\n"), "the console said last: b / c / d");
        assert_eq!(of(""), "nothing was seen on its console");
        assert!(
            of("[ 1.0] EXT4-fs (vdb): mounted filesystem without journal\nlogin:\n")
                .starts_with("the console said last")
        );
        let long = "x".repeat(5000);
        assert!(of(&long).chars().count() < 400);
    }
}
