//! Starts a daemon for a command that needs one, and waits until it serves.

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

/// How long a daemon may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks, and only while one is awaited.
const PERIOD: Duration = Duration::from_millis(10);

/// The daemon that runs, or one that does from now on.
pub async fn ensure(context: &Context) -> Result<Client, Report> {
    let client = context.client();
    match client.health().await {
        Err(report) if report.kind == Kind::NotRunning => {}
        known => return known.map(|()| client),
    }
    let child = spawn(context)?;
    progress::patiently("starting the daemon", until_it_serves(client, child)).await
}

async fn until_it_serves(client: Client, mut child: Child) -> Result<Client, Report> {
    let begun = Instant::now();
    let mut ended = None;
    loop {
        if client.health().await.is_ok() {
            return Ok(client);
        }
        if ended.is_none() {
            ended = last_words(&mut child);
        }
        match &ended {
            // Another command was quicker, and its daemon will serve in a moment.
            Some(report) if report.kind == Kind::Busy && begun.elapsed() < PATIENCE => {}
            Some(report) => return Err(report.clone()),
            None if begun.elapsed() >= PATIENCE => {
                let report = Report::new(
                    Kind::NotRunning,
                    format!("the daemon was started but does not serve after {PATIENCE:?}"),
                );
                return Err(report.hint("its log says why: `darwin-vz-nix logs`"));
            }
            None => {}
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn spawn(context: &Context) -> Result<Child, Report> {
    // A mistake in the settings is told here, by the command that was given them.
    let settings = context.settings()?;
    let failed = |error: std::io::Error| Report::new(Kind::Host, format!("the daemon cannot be started: {error}"));
    let log = StateDir::open(&settings.state_dir)?.daemon_log();
    let log = log_file::open(&log).map_err(|error| state_error(&log, "cannot write", &error))?;
    Command::new(this_program()?)
        .args(context.flags())
        .args(["run", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What is not logged but printed: a panic, a library's complaint.
        .stderr(log)
        .spawn()
        .map_err(failed)
}

/// Why the daemon ended, once it has.
fn last_words(child: &mut Child) -> Option<Report> {
    let status = child.try_wait().ok().flatten()?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // A child that ended has closed it, so this does not block; what it said may be nothing.
        let _ = stdout.read_to_string(&mut text);
    }
    let unsaid = || {
        Report::new(Kind::Internal, format!("the daemon ended at once, with {status}"))
            .hint("its log says why: `darwin-vz-nix logs`")
    };
    Some(serde_json::from_str(&text).unwrap_or_else(|_| unsaid()))
}
