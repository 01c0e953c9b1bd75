//! Powers the guest off by its own means.

use super::programs::PATH;
use crate::console::say;
use std::{
    path::Path,
    process::{Child, Command},
};

/// A program that powers the guest off, while it runs.
pub struct Shutdown(Child);

/// Starts the program. The init system then ends all services, this one included.
pub fn begin() -> Result<Shutdown, String> {
    let mut command = command(Path::new("/run/systemd/system").is_dir());
    let name = command.get_program().to_string_lossy().into_owned();
    command.spawn().map(Shutdown).map_err(|e| format!("{name} cannot be started: {e}"))
}

impl Shutdown {
    /// Waits for the program, and reports its failure.
    pub fn watch(mut self) {
        match self.0.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => say(format_args!("the guest does not power off: {status}")),
            Err(e) => say(format_args!("the guest may not power off: {e}")),
        }
    }
}

fn command(systemd: bool) -> Command {
    let mut command = if systemd {
        let mut systemctl = Command::new("systemctl");
        systemctl.arg("poweroff");
        systemctl
    } else {
        Command::new("poweroff")
    };
    command.env("PATH", PATH);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_init_system_is_asked_in_its_own_way() {
        let words = |systemd| {
            let command = command(systemd);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(words(true), ["systemctl", "poweroff"]);
        assert_eq!(words(false), ["poweroff"]);
    }
}
