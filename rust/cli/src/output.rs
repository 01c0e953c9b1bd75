//! What is printed: errors, colours, times.

use clap::ColorChoice;
use dvn_types::{Kind, Report};
use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

/// When to colour, as `--color` said; set once, before anything is printed.
static WHEN: OnceLock<ColorChoice> = OnceLock::new();

/// Goes by `--color` from now on.
pub fn colour(when: ColorChoice) {
    // Only `main` says it, and once.
    let _ = WHEN.set(when);
}

/// Whether a stream gets colours: what `--color` says, then the variables that others go by.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let when = WHEN.get().copied().unwrap_or(ColorChoice::Auto);
    coloured(when, |name| std::env::var_os(name), stream.is_terminal())
}

/// NO_COLOR outranks CLICOLOR_FORCE, as in clap's own messages. A variable that is empty is not set.
fn coloured(when: ColorChoice, variable: impl Fn(&str) -> Option<OsString>, terminal: bool) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match when {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR").is_some() => false,
        ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|force| force != "0") => true,
        ColorChoice::Auto => {
            terminal && set("CLICOLOR").is_none_or(|wish| wish != "0") && set("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

/// Whether lines can be painted over there: a terminal that knows how.
pub fn paints(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Prints an error, in JSON on stdout as well if so asked, and gives the exit code of its kind.
pub fn fail(report: &Report, json: bool) -> ExitCode {
    if json {
        // Who reads stdout may be gone; stderr and the exit code still tell.
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

/// Writes to stdout. A reader that has had enough (`| head`) ends the program quietly, as it ends others.
pub fn print(text: &str) -> Result<(), Report> {
    print_bytes(text.as_bytes())
}

/// As [`print()`], for what may be no text.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Report> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Report::new(Kind::Host, format!("stdout cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// JSON for people and programs alike.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Report> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Report::new(Kind::Internal, error.to_string()))?;
    print(&format!("{text}\n"))
}

/// A time, short: its two largest units.
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

/// A time of a boot.
pub fn milliseconds(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{:02} s", ms / 1000, ms % 1000 / 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_for_whoever_insists() {
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
