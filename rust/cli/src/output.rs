//! Output: errors, colours, times.

use clap::ColorChoice;
use dvn_types::{Kind, Report};
use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

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
}
