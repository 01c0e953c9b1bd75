//! What a command shows while it waits: a moving line on a terminal, plain lines elsewhere. On stderr, so that it never mixes with results.

use crate::output;
use dvn_client::Client;
use dvn_types::{
    MachineName, Report,
    wire::{MachineStatus, State},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

/// One asks for the status this often even if nothing changes.
const POLL: Duration = Duration::from_secs(60);

/// Whoever waits longer is shown what for.
const SILENCE: Duration = Duration::from_secs(2);

/// The line.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Nothing, until there is something to show.
    pub fn new() -> Progress {
        Progress { bar: None, last: String::new() }
    }

    /// Shows a state, unless it is shown already.
    pub fn show(&mut self, text: String) {
        if text == self.last {
            return;
        }
        if output::paints(&io::stderr()) {
            self.bar.get_or_insert_with(spinner).set_message(text.clone());
        } else {
            // Who reads stderr may be gone; that is no reason to end.
            let _ = writeln!(io::stderr(), "{text}");
        }
        self.last = text;
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for what mostly takes no time, and says so if it does.
pub async fn patiently<T>(text: impl Into<String>, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    match tokio::time::timeout(SILENCE, &mut waiting).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let mut progress = Progress::new();
            progress.show(text.into());
            waiting.await
        }
    }
}

/// Runs a call, and shows meanwhile what becomes of the machine.
pub async fn during<T>(
    client: &Client,
    machine: &MachineName,
    call: impl Future<Output = Result<T, Report>>,
) -> Result<T, Report> {
    let mut progress = Progress::new();
    let mut call = pin!(call);
    let mut generation = 0;
    loop {
        let news = async {
            match generation {
                0 => client.status().await,
                generation => client.status_after(generation, POLL).await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            status = news => match status {
                Ok(status) => {
                    // Zero asks for the status at once, so it cannot stand for one that is known.
                    generation = status.generation.max(1);
                    let found = status.machines.iter().find(|status| status.name == *machine);
                    if let Some(text) = found.and_then(doing) {
                        progress.show(text);
                    }
                }
                // The call itself will tell what is wrong.
                Err(_) => return call.await,
            },
        }
    }
}

/// What a machine is doing, if that is worth waiting for.
fn doing(status: &MachineStatus) -> Option<String> {
    let name = &status.name;
    if let Some(reason) = &status.waits_for {
        return Some(format!("{name}: waits for {reason}"));
    }
    match status.state {
        State::Starting => Some(format!("{name}: starting")),
        State::Paused { resuming: true, .. } => Some(format!("{name}: going on after its pause")),
        State::Stopping { restart: false } => Some(format!("{name}: stopping")),
        State::Stopping { restart: true } => Some(format!("{name}: stopping, then starting again")),
        State::Stopped { .. }
        | State::Running { .. }
        | State::Paused { .. }
        | State::Failed { .. }
        | State::Broken { .. } => None,
    }
}
