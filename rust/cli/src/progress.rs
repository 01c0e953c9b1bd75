//! Progress of a command that waits: a spinner on a terminal, plain lines elsewhere. On stderr, so it never mixes with
//! results.

use crate::output;
use dvn_client::Client;
use dvn_types::{
    MachineName, Report,
    wire::{DaemonStatus, State},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

/// Time limit of a request that waits for the next change of the status.
const POLL: Duration = Duration::from_secs(60);

/// A wait longer than this is shown.
const NOTICE_DELAY: Duration = Duration::from_secs(2);

/// The progress line.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new() -> Progress {
        Progress { bar: None, last: String::new() }
    }

    /// Shows a text, unless it is already shown.
    pub fn show(&mut self, text: String) {
        if text == self.last {
            return;
        }
        if output::can_redraw(&io::stderr()) {
            self.bar.get_or_insert_with(spinner).set_message(text.clone());
        } else {
            // A closed stderr must not end the command.
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

/// Waits for an operation, and shows `text` if it takes longer than `NOTICE_DELAY`.
pub async fn with_notice<T>(text: impl Into<String>, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    match tokio::time::timeout(NOTICE_DELAY, &mut waiting).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let mut progress = Progress::new();
            progress.show(text.into());
            waiting.await
        }
    }
}

/// Runs a request, and shows the machine's state meanwhile.
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
            let status = match generation {
                0 => client.status().await?,
                generation => client.status_after(generation, POLL).await?,
            };
            Ok::<_, Report>((status.generation, known(client, &status, machine).await))
        };
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            news = news => match news {
                Ok((seen, activity)) => {
                    // Zero means that no status is known yet, and requests one without waiting.
                    generation = seen.max(1);
                    if let Some(text) = activity {
                        progress.show(text);
                    }
                }
                // The request itself will report the error.
                Err(_) => return call.await,
            },
        }
    }
}

/// What the machine does, a builder or one of the library.
async fn known(client: &Client, status: &DaemonStatus, machine: &MachineName) -> Option<String> {
    if let Some(status) = status.machines.iter().find(|status| status.name == *machine) {
        return activity(machine, status.waits_for.as_deref(), &status.state);
    }
    let vm = client.machine(machine).await.ok()?;
    activity(machine, vm.waits_for.as_deref(), &vm.state)
}

/// The machine's activity, while it is in transition.
fn activity(name: &MachineName, waits_for: Option<&str>, state: &State) -> Option<String> {
    if let Some(reason) = waits_for {
        return Some(format!("{name}: waits for {reason}"));
    }
    match state {
        State::Starting => Some(format!("{name}: starting")),
        State::Paused { resuming: true, .. } => Some(format!("{name}: resuming")),
        State::Stopping { restart: false } => Some(format!("{name}: stopping")),
        State::Stopping { restart: true } => Some(format!("{name}: stopping, then starting again")),
        State::Stopped { .. }
        | State::Suspended
        | State::Elsewhere { .. }
        | State::Running { .. }
        | State::Paused { .. }
        | State::Failed { .. }
        | State::Broken { .. } => None,
    }
}
