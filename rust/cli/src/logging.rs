//! Log output: stderr, and for the daemon a file that is rotated by size.

use crate::{context::Context, output::colours};
use dvn_host::{files::state_error, log_file::LogFile};
use dvn_types::{Kind, Report};
use std::{io, path::Path, sync::Mutex};
use tracing_subscriber::{
    filter::{Targets, filter_fn},
    fmt,
    layer::{Layer, SubscriberExt},
    util::SubscriberInitExt,
};

/// The daemon's log is rotated to `daemon.log.1` at this size in bytes.
const MAX_LOG: u64 = 10 * 1024 * 1024;

/// Target of the line that says why the daemon ended. A daemon in the foreground prints it on stderr like any command's
/// error, so it is not logged there.
pub const END: &str = "dvn_cli::end";

/// The filter for log lines. The levels `error`, `warn` and `info` apply to this program only, with its libraries at
/// `warn`; `debug` and `trace` apply to all.
fn filter(context: &Context, default: &str) -> Result<Targets, Report> {
    let level = match context.global.verbose {
        0 => context.config.log_level().unwrap_or(default),
        1 => "debug",
        _ => "trace",
    };
    let directives = match level {
        "error" | "warn" | "info" => format!("warn,dvn={level}"),
        other => other.to_owned(),
    };
    directives.parse().map_err(|error| Report::new(Kind::Config, format!("log-level cannot be {level:?}: {error}")))
}

/// Sets up logging for a command: to stderr, from level `warn`.
pub fn for_a_client(context: &Context) -> Result<(), Report> {
    let layer =
        fmt::layer().with_writer(io::stderr).with_ansi(colours(&io::stderr())).without_time().with_target(false);
    tracing_subscriber::registry().with(filter(context, "warn")?).with(layer).init();
    Ok(())
}

/// Sets up logging for the daemon: to its file, and also to stderr in the foreground.
pub fn for_the_daemon(context: &Context, log: &Path, foreground: bool) -> Result<(), Report> {
    let file = LogFile::append(log, MAX_LOG).map_err(|error| state_error(log, "cannot write", &error))?;
    let stderr = foreground.then(|| {
        let layer = fmt::layer().with_writer(io::stderr).with_ansi(colours(&io::stderr()));
        layer.with_filter(filter_fn(|line| line.target() != END))
    });
    tracing_subscriber::registry()
        .with(filter(context, "info")?)
        .with(fmt::layer().with_writer(Mutex::new(file)).with_ansi(false))
        .with(stderr)
        .init();
    Ok(())
}
