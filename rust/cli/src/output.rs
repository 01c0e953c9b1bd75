//! Output: errors, colours, times.

use bytesize::ByteSize;
use clap::ColorChoice;
use dvn_config::{MIB, Size};
use dvn_host::quoting::for_shell;
use dvn_types::{Kind, Report};
use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::OnceLock,
    time::{Duration, UNIX_EPOCH},
};

/// The end of the year 9999 in Unix milliseconds. RFC 3339 cannot represent later times.
const LATEST: u64 = 253_402_300_799_000;

/// The value of `--color`. Set once, before anything is printed.
static COLOR_CHOICE: OnceLock<ColorChoice> = OnceLock::new();

/// Sets when to use colours.
pub fn colour(when: ColorChoice) {
    // Only `main` calls this, and once.
    let _ = COLOR_CHOICE.set(when);
}

/// Whether to use colours on a stream: by `--color`, else by the usual environment variables.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let when = COLOR_CHOICE.get().copied().unwrap_or(ColorChoice::Auto);
    coloured(when, |name| std::env::var_os(name), stream.is_terminal())
}

/// NO_COLOR overrides CLICOLOR_FORCE, as in clap's messages. An empty variable counts as unset.
fn coloured(when: ColorChoice, variable: impl Fn(&str) -> Option<OsString>, terminal: bool) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match when {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR").is_some() => false,
        ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|force| force != "0") => true,
        ColorChoice::Auto => {
            terminal
                && set("CLICOLOR").is_none_or(|value| value != "0")
                && set("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

/// Whether lines can be redrawn on a stream: it is a terminal that supports it.
pub fn can_redraw(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Prints an error on stderr, and with `json` also on stdout. Returns the exit code of its kind.
pub fn fail(report: &Report, json: bool) -> ExitCode {
    if json {
        // The reader of stdout may be gone. stderr and the exit code still report the error.
        let _ = print(&format!("{}\n", serde_json::to_string(report).unwrap_or_default()));
    }
    let (red, blue, plain) =
        if colours(&io::stderr()) { ("\x1b[1;31m", "\x1b[1;34m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {}\n", report.message);
    for hint in &report.hints {
        text.push_str(&format!("  {blue}hint:{plain} {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(report.kind.exit_code())
}

/// Writes to stdout. Ends the program quietly if the reader has closed it (`| head`).
pub fn print(text: &str) -> Result<(), Report> {
    print_bytes(text.as_bytes())
}

/// Like [`print()`], for bytes that need not be UTF-8.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Report> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Report::new(Kind::Host, format!("cannot write to stdout: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Report> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Report::new(Kind::Internal, error.to_string()))?;
    print(&format!("{text}\n"))
}

/// A duration in its two largest units.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A duration in milliseconds or seconds.
pub fn milliseconds(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{:02} s", ms / 1000, ms % 1000 / 10) }
}

/// A time, to the second.
pub fn time(unix_ms: u64) -> String {
    let unix_ms = unix_ms.min(LATEST);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

/// A size that was chosen, exactly, in the units in which it can be given: `8G`, `512M`, `50GB`.
pub fn chosen_size(bytes: u64) -> String {
    const MB: u64 = 1_000_000;
    match bytes {
        bytes if bytes % MIB == 0 || bytes % MB != 0 => Size(bytes).to_string(),
        bytes if bytes % (1000 * MB) == 0 => format!("{}GB", bytes / (1000 * MB)),
        bytes => format!("{}MB", bytes / MB),
    }
}

/// A size that was measured, rounded: `1.9 GiB`.
pub fn measured_size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A word as a shell reads it, for commands in messages.
pub fn shell_word(word: &str) -> String {
    let quoted = for_shell([OsStr::new(word)]).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    quoted.unwrap_or_else(|| word.to_owned())
}

/// Prints a line on stderr, for a person: what a command that prints something else does meanwhile.
pub fn notice(text: &str) {
    // A closed stderr must not end the command.
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_unless_forced() {
        use ColorChoice::{Always, Auto, Never};
        let decided = |when, variables: &[(&str, &str)], terminal| {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            coloured(when, variable, terminal)
        };
        for (when, variables, at_terminal, in_pipe) in [
            (Auto, &[][..], true, false),
            (Auto, &[("NO_COLOR", "1")], false, false),
            (Auto, &[("NO_COLOR", "")], true, false),
            (Auto, &[("TERM", "dumb")], false, false),
            (Auto, &[("CLICOLOR", "0")], false, false),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], true, false),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
            (Always, &[("NO_COLOR", "1"), ("TERM", "dumb")], true, true),
            (Never, &[("CLICOLOR_FORCE", "1")], false, false),
        ] {
            let found = (decided(when, variables, true), decided(when, variables, false));
            assert_eq!(found, (at_terminal, in_pipe), "{when:?} {variables:?}");
        }
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3 * 3600 + 60, "3h 1m"), (90_000, "1d 1h")] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!((milliseconds(7), milliseconds(2345)), ("7 ms".to_owned(), "2.34 s".to_owned()));
    }
    #[test]
    fn sizes_are_exact_where_they_were_chosen() {
        for (bytes, text) in [
            (8 << 30, "8G"),
            (512 << 20, "512M"),
            (50_000_000_000, "50GB"),
            (1_500_000_000, "1500MB"),
            (48 << 10, "48K"),
            (1_000_000_513, "1000000513B"),
        ] {
            assert_eq!((chosen_size(bytes), text.parse()), (text.to_owned(), Ok(Size(bytes))));
        }
        assert_eq!(measured_size(2_000_000_000), "1.9 GiB");
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_divide_it() {
        assert_eq!(shell_word("ci-1"), "ci-1");
        assert_eq!(shell_word("My VM"), "'My VM'");
    }
}
