//! `logs`: the daemon's log, the guest's console, or the log of a recipe's build. Also of a daemon that has ended, which is when one wants to read it.

use super::{context::Context, output};
use crate::{
    api::{Start, tail},
    error::{Kind, Report},
    machine_dir::StateDir,
};
use clap::Args;
use futures_util::StreamExt;
use std::{path::PathBuf, pin::pin};

/// What `-f` begins with, unless `-n` says otherwise.
const RECENT: usize = 10;

/// Flags of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix logs --follow
  darwin-vz-nix logs --console --lines 50")]
pub struct Logs {
    /// The guest's serial console instead of the daemon's log
    #[arg(long)]
    console: bool,
    /// What was said when the recipe was built last
    #[arg(long, conflicts_with = "console")]
    build: bool,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines [default: all; with --follow 10]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
}

impl Logs {
    /// Prints it.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let lines = self.lines.or(self.follow.then_some(RECENT));
        let client = context.client();
        let text = match (self.console, self.build) {
            (true, _) => client.console(&context.machine()?, self.follow, lines).await,
            (_, true) => client.build_log(&context.machine()?, self.follow, lines).await,
            _ => client.logs(self.follow, lines).await,
        };
        match text {
            Ok(mut text) => {
                while let Some(chunk) = text.chunk().await? {
                    output::print_bytes(&chunk)?;
                }
                Ok(())
            }
            Err(report) if report.kind == Kind::NotRunning => self.of_a_dead_daemon(context, lines, report).await,
            Err(report) => Err(report),
        }
    }

    async fn of_a_dead_daemon(&self, context: &Context, lines: Option<usize>, report: Report) -> Result<(), Report> {
        let Some(file) = self.file(context)? else { return Err(report) };
        let mut stream = pin!(tail(file.clone(), lines.map_or(Start::Whole, Start::Lines), self.follow));
        while let Some(chunk) = stream.next().await {
            let chunk = chunk
                .map_err(|error| Report::new(Kind::State, format!("{} cannot be read: {error}", file.display())))?;
            output::print_bytes(&chunk)?;
        }
        Ok(())
    }

    /// The file, if there is one. Nothing is made for its sake.
    fn file(&self, context: &Context) -> Result<Option<PathBuf>, Report> {
        let root = context.state_dir();
        if !root.is_dir() {
            return Ok(None);
        }
        let dir = StateDir::open(&root)?;
        let file = match (self.console, self.build) {
            (true, _) => dir.machine(&context.machine()?).console_log(),
            (_, true) => dir.machine(&context.machine()?).build_log(),
            _ => dir.daemon_log(),
        };
        Ok(file.exists().then_some(file))
    }
}
