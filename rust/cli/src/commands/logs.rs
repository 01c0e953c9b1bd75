//! `logs`: the daemon's log, a guest's console, what became of boots, or the log of a recipe's build. Also of a daemon that has ended, which is when one wants to read it.
//!
//! Guests and builds write what they like. On a terminal it is shown without control characters; in a pipe it is as it was
//! written.

use crate::{commands::boots, context::Context, output};
use clap::Args;
use dvn_guest::boots as kept;
use dvn_host::{
    files::state_error,
    log_file::ForTerminal,
    machine_dir::StateDir,
    tail::{Start, tail},
};
use dvn_types::{Kind, Report};
use futures_util::StreamExt;
use std::{
    io::{self, IsTerminal, Write, stdout},
    path::PathBuf,
    pin::pin,
};

/// What `-f` begins with, unless `-n` says otherwise.
const RECENT: usize = 10;

/// Flags of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix logs --follow
  darwin-vz-nix logs --console --lines 50
  darwin-vz-nix logs --boots
  darwin-vz-nix logs --console --boot -1")]
pub struct Logs {
    /// The guest's serial console instead of the daemon's log
    #[arg(long)]
    console: bool,
    /// The console of a boot: 0 the last, -1 the one before, or a number of --boots
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with_all = ["build", "boots"])]
    boot: Option<i64>,
    /// What became of the last boots, and why
    #[arg(long, conflicts_with_all = ["console", "build", "follow", "lines"])]
    boots: bool,
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
    pub async fn run(mut self, context: &Context) -> Result<(), Report> {
        if self.boots {
            return output::print(&boots::table(&boots::of(context).await?));
        }
        if let Some(boot) = self.boot {
            self.console = true;
            // On stderr: stdout is what the guest printed. Who asks for one that there is not is told so below.
            if let Some(record) = boots::of(context).await.ok().and_then(|boots| boots::find(boots, boot)) {
                let _ = io::stderr().write_all(boots::story(&record).as_bytes());
            }
        }
        let lines = self.lines.or(self.follow.then_some(RECENT));
        let client = context.client();
        let text = match (self.console, self.build) {
            (true, _) => client.console_of(&context.machine()?, self.boot.unwrap_or(0), self.follow, lines).await,
            (_, true) => client.build_log(&context.machine()?, self.follow, lines).await,
            _ => client.logs(self.follow, lines).await,
        };
        match text {
            Ok(mut text) => {
                let mut printer = Printer::new(stdout().is_terminal());
                while let Some(chunk) = text.chunk().await? {
                    output::print_bytes(&printer.form(chunk.into()))?;
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
        let mut printer = Printer::new(stdout().is_terminal());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| state_error(&file, "cannot read", &error))?;
            output::print_bytes(&printer.form(chunk))?;
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
            (true, _) => kept::console(&dir.machine(&context.machine()?), self.boot.unwrap_or(0))?,
            (_, true) => dir.machine(&context.machine()?).build_log(),
            _ => dir.daemon_log(),
        };
        Ok(file.exists().then_some(file))
    }
}

/// Gives a log the form for where it goes.
struct Printer(Option<ForTerminal>);

impl Printer {
    fn new(terminal: bool) -> Printer {
        Printer(terminal.then(ForTerminal::default))
    }

    fn form(&mut self, piece: Vec<u8>) -> Vec<u8> {
        match &mut self.0 {
            Some(terminal) => terminal.clean(&piece).into_bytes(),
            None => piece,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_kept_from_control_characters() {
        let title = b"\x1b]0;owned\x07 boot\r\n";
        assert_eq!(Printer::new(true).form(title.to_vec()), b"]0;owned boot\n");
        assert_eq!(Printer::new(false).form(title.to_vec()), title);
    }
}
