//! Starts a daemon for a command that needs one, and waits until it answers.

use crate::{
    context::{Context, this_program},
    progress,
};
use dvn_client::Client;
use dvn_host::{files::state_error, log_file, machine_dir::StateDir};
use dvn_types::{Kind, Report};
use std::{
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Time limit until a new daemon answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A client of the running daemon. Starts one if none runs.
pub async fn ensure(context: &Context) -> Result<Client, Report> {
    let client = context.client();
    match client.health().await {
        Err(report) if report.kind == Kind::NotRunning => {}
        known => return known.map(|()| client),
    }
    let child = spawn(context)?;
    progress::with_notice("starting the daemon", until_it_serves(client, child)).await
}

async fn until_it_serves(client: Client, mut child: Child) -> Result<Client, Report> {
    let begun = Instant::now();
    let mut ended = None;
    loop {
        if client.health().await.is_ok() {
            return Ok(client);
        }
        if ended.is_none() {
            ended = exit_report(&mut child);
        }
        match &ended {
            // Another command has started a daemon, which will answer soon.
            Some(report) if report.kind == Kind::Busy && begun.elapsed() < START_TIMEOUT => {}
            Some(report) => return Err(report.clone()),
            None if begun.elapsed() >= START_TIMEOUT => {
                let report = Report::new(
                    Kind::NotRunning,
                    format!("the daemon was started but does not answer after {START_TIMEOUT:?}"),
                );
                return Err(report.hint("its log says why: `darwin-vz-nix logs`"));
            }
            None => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn spawn(context: &Context) -> Result<Child, Report> {
    // Reports a mistake in the settings here, before a daemon is started.
    let settings = context.settings()?;
    let failed = |error: std::io::Error| Report::new(Kind::Host, format!("the daemon cannot be started: {error}"));
    let log = StateDir::open(&settings.state_dir)?.daemon_log();
    let log = log_file::open(&log).map_err(|error| state_error(&log, "cannot write", &error))?;
    Command::new(this_program()?)
        .args(context.flags())
        .args(["daemon", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // For output that is not logged, such as panics and messages of libraries.
        .stderr(log)
        .spawn()
        .map_err(failed)
}

/// Why the daemon ended, if it has.
fn exit_report(child: &mut Child) -> Option<Report> {
    let status = child.try_wait().ok().flatten()?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // The child has ended and closed the pipe, so this does not block. There may be no output.
        let _ = stdout.read_to_string(&mut text);
    }
    let unknown = || {
        Report::new(Kind::Internal, format!("the daemon ended at once, with {status}"))
            .hint("its log says why: `darwin-vz-nix logs`")
    };
    Some(serde_json::from_str(&text).unwrap_or_else(|_| unknown()))
}
