//! `screenshot`: the screen of a running machine, as a PNG.

use crate::{
    context::Context,
    output::{self, shell_word},
};
use clap::Args;
use dvn_types::{Kind, MachineName, Report};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write, stdout},
    path::{Path, PathBuf},
};

/// Flags of `screenshot`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix screenshot web
  darwin-vz-nix screenshot web - | display")]
pub struct Screenshot {
    /// Machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// File to write [default: NAME.png]; - is stdout
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

impl Screenshot {
    /// Writes the file, and prints its path.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let file = self.file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.png", self.name)));
        if file == Path::new("-") {
            if stdout().is_terminal() {
                return Err(Report::new(Kind::Config, "an image is not printed on a terminal")
                    .hint("give a file, or a pipe: darwin-vz-nix screenshot NAME - | display"));
            }
            return output::print_bytes(&context.client().screenshot(&self.name).await?);
        }
        if !self.force && fs::symlink_metadata(&file).is_ok() {
            return Err(self.taken(&file));
        }
        let image = context.client().screenshot(&self.name).await?;
        self.write(&file, &image)?;
        output::print(&format!("{}\n", file.display()))
    }

    fn write(&self, file: &Path, image: &[u8]) -> Result<(), Report> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => self.taken(file),
            _ => Report::new(Kind::Host, format!("cannot write {}: {error}", file.display()))
                .hint("give another file: darwin-vz-nix screenshot NAME FILE"),
        };
        let mut open = OpenOptions::new();
        open.write(true);
        let open = if self.force { open.create(true).truncate(true) } else { open.create_new(true) };
        let write = |mut file: File| file.write_all(image);
        open.open(file).and_then(write).map_err(failed)
    }

    fn taken(&self, file: &Path) -> Report {
        let again = format!("darwin-vz-nix screenshot --force {}", shell_word(self.name.as_str()));
        Report::new(Kind::Config, format!("{} exists already", file.display()))
            .hint(format!("give another file, or replace it: `{again}`"))
    }
}
