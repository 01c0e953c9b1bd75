//! Words for a machine's state, and for how its guest ended.

use dvn_types::{
    Report,
    wire::{State, Stopped},
};

/// A state in one word.
pub fn state(state: &State, waits: bool) -> &'static str {
    match state {
        State::Stopped { .. } | State::Failed { .. } if waits => "waiting",
        State::Stopped { .. } => "stopped",
        State::Suspended => "suspended",
        State::Elsewhere { .. } => "elsewhere",
        State::Starting => "starting",
        State::Running { .. } => "running",
        State::Paused { .. } => "paused",
        State::Stopping { restart: false } => "stopping",
        State::Stopping { restart: true } => "restarting",
        State::Failed { .. } => "failed",
        State::Broken { .. } => "broken",
    }
}

/// An error's hints, one a line.
pub fn hints(cause: &Report) -> String {
    cause.hints.iter().map(|hint| format!("  hint: {hint}\n")).collect()
}

/// How a machine was stopped, as the end of a sentence that says that it is.
pub fn stopped(how: &Stopped, forced: bool) -> String {
    match how.exit.as_deref() {
        _ if how.discarded => "; its saved state is discarded".to_owned(),
        None => String::new(),
        Some("powered-off") => "; it powered itself off".to_owned(),
        Some("killed") if forced => "; it was forced off".to_owned(),
        Some("killed") => "; it was killed, as it did not power itself off in time".to_owned(),
        Some(crashed) => format!("; it {crashed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_says_how_the_guest_ended() {
        let how = |exit: Option<&str>| Stopped { exit: exit.map(str::to_owned), discarded: false };
        for (how, forced, words) in [
            (how(Some("powered-off")), false, "; it powered itself off"),
            (how(Some("killed")), true, "; it was forced off"),
            (how(Some("killed")), false, "; it was killed, as it did not power itself off in time"),
            (how(Some("crashed: QEMU died")), false, "; it crashed: QEMU died"),
            (Stopped { exit: None, discarded: true }, false, "; its saved state is discarded"),
            (how(None), false, ""),
        ] {
            assert_eq!(stopped(&how, forced), words);
        }
    }
}
