//! `logs`: the daemon's log, a guest's console, the outcome of boots, or the log of a recipe's build. Works also after
//! the daemon has ended, when the log is most needed.
//!
//! Guests and builds control what they write. On a terminal control characters are removed; in a pipe the output is
//! unchanged.

use crate::{commands::boots, context::Context, output};
use clap::Args;
use dvn_guest::boots as kept;
use dvn_host::{
    files::state_error,
    log_file::ForTerminal,
    machine_dir::StateDir,
    tail::{Start, tail},
};
use dvn_types::{Kind, MachineName, Report};
use futures_util::StreamExt;
use std::{
    io::{self, IsTerminal, Write, stdout},
    path::PathBuf,
    pin::pin,
};

/// How many lines `-f` begins with, unless `-n` is given.
const RECENT: usize = 10;

/// Flags of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix logs --follow
  darwin-vz-nix logs --console --follow web
  darwin-vz-nix logs --console --boot -1")]
pub struct Logs {
    /// Machine, of the library or not, whose console to show [default: that of --machine]
    #[arg(value_name = "NAME")]
    name: Option<MachineName>,
    /// Show the guest's serial console instead of the daemon's log
    #[arg(long)]
    console: bool,
    /// Show a boot's console: 0 is the last, -1 the one before, or a number of --boots
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with_all = ["build", "boots"])]
    boot: Option<i64>,
    /// List the last boots with their outcome and its reason
    #[arg(long, conflicts_with_all = ["console", "build", "follow", "lines"])]
    boots: bool,
    /// Show the log of the recipe's last build
    #[arg(long, conflicts_with = "console")]
    build: bool,
    /// Continue to print new output
    #[arg(short, long)]
    follow: bool,
    /// Print only the last N lines [default: all; with --follow 10]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
}

impl Logs {
    /// Prints it.
    pub async fn run(mut self, context: &Context) -> Result<(), Report> {
        if self.boots {
            return output::print(&boots::table(&boots::of(context, &self.machine(context)?).await?));
        }
        // The daemon's log is not a machine's.
        self.console |= self.name.is_some() && !self.build;
        if let Some(boot) = self.boot {
            self.console = true;
            // On stderr, since stdout is only for the guest's output. A missing boot is reported below.
            if let Some(record) =
                boots::of(context, &self.machine(context)?).await.ok().and_then(|boots| boots::find(boots, boot))
            {
                let _ = io::stderr().write_all(boots::describe(&record).as_bytes());
            }
        }
        let lines = self.lines.or(self.follow.then_some(RECENT));
        let client = context.client();
        let text = match (self.console, self.build) {
            (true, _) => client.console_of(&self.machine(context)?, self.boot.unwrap_or(0), self.follow, lines).await,
            (_, true) => client.build_log(&self.machine(context)?, self.follow, lines).await,
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
            Err(report) if report.kind == Kind::NotRunning => self.read_files(context, lines, report).await,
            Err(report) => Err(report),
        }
    }

    fn machine(&self, context: &Context) -> Result<MachineName, Report> {
        context.named_or_chosen(self.name.as_ref())
    }

    /// Reads the file, for a daemon that does not run.
    async fn read_files(&self, context: &Context, lines: Option<usize>, report: Report) -> Result<(), Report> {
        let Some(file) = self.file(context)? else { return Err(report) };
        let mut stream = pin!(tail(file.clone(), lines.map_or(Start::Whole, Start::Lines), self.follow));
        let mut printer = Printer::new(stdout().is_terminal());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| state_error(&file, "cannot read", &error))?;
            output::print_bytes(&printer.form(chunk))?;
        }
        Ok(())
    }

    /// The file, if it exists. Creates nothing.
    fn file(&self, context: &Context) -> Result<Option<PathBuf>, Report> {
        let root = context.state_dir();
        if !root.is_dir() {
            return Ok(None);
        }
        let dir = StateDir::open(&root)?;
        let file = match (self.console, self.build) {
            (true, _) => kept::console(&dir.machine(&self.machine(context)?), self.boot.unwrap_or(0))?,
            (_, true) => dir.machine(&self.machine(context)?).build_log(),
            _ => dir.daemon_log(),
        };
        Ok(file.exists().then_some(file))
    }
}

/// Prepares a log for its destination.
pub struct Printer(Option<ForTerminal>);

impl Printer {
    /// For a terminal, or for a pipe or file.
    pub fn new(terminal: bool) -> Printer {
        Printer(terminal.then(ForTerminal::default))
    }

    /// Of a piece, what is printed.
    pub fn form(&mut self, piece: Vec<u8>) -> Vec<u8> {
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
    fn control_characters_are_removed_only_on_a_terminal() {
        let title = b"\x1b]0;owned\x07 boot\r\n";
        assert_eq!(Printer::new(true).form(title.to_vec()), b"]0;owned boot\n");
        assert_eq!(Printer::new(false).form(title.to_vec()), title);
    }
}
