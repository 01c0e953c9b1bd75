//! The manual pages: `darwin-vz-nix(1)` with all settings, and one for each verb. Installers of the program write them with
//! the program itself, so that they never tell of another version.

use super::reference;
use crate::exit_codes::EXIT_CODES;
use clap::{Args, Command};
use dvn_config::Key;
use dvn_types::{Kind, Report};
use std::{fmt::Write, fs, io, path::PathBuf};

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory, which is made if need be
    dir: PathBuf,
}

impl Man {
    /// Writes them.
    pub fn run(self, program: Command) -> Result<(), Report> {
        self.write(program).map_err(|e| {
            Report::new(Kind::Host, format!("cannot write the manual pages to {}: {e}", self.dir.display()))
                .hint("give a directory that this user may write")
        })
    }

    fn write(&self, program: Command) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        clap_mangen::generate_to(program, &self.dir)?;
        let page = self.dir.join("darwin-vz-nix.1");
        let text = fs::read_to_string(&page)? + &exit_status() + &settings();
        fs::write(page, text)
    }
}

fn exit_status() -> String {
    let mut text = String::from(".SH \"EXIT STATUS\"\n");
    for line in EXIT_CODES.lines().skip(1) {
        match line.trim_start().split_once("  ") {
            Some((code, meaning)) if code.parse::<u8>().is_ok() => {
                text.push_str(&format!(".TP\n\\fB{code}\\fR\n{}", roff(meaning)));
            }
            _ => text.push_str(&format!(".PP\n{}", roff(line))),
        }
    }
    text
}

/// The section on settings, which are more than the flags of one verb.
fn settings() -> String {
    let mut text = String::from(".SH SETTINGS\n");
    text.push_str(&roff(
        "A flag counts over an environment variable, that over the file, that over the default. In the file, settings at the \
         top are for every machine, those in a table [machines.NAME] for that one. NO_COLOR, CLICOLOR and CLICOLOR_FORCE count \
         as elsewhere, unless --color says otherwise.",
    ));
    for key in Key::ALL {
        let about = format!("{}; {}; by default {}", key.about(), key.form(), reference::default(key)).replace('`', "");
        let (name, variable, about) = (roff(key.name()), roff(&key.env()), roff(&about));
        // Writing to a string cannot fail.
        let _ = write!(text, ".TP\n\\fB{}\\fR, {variable}{about}", name.trim_end());
    }
    text
}

/// A line of roff that shows this text as it is.
fn roff(text: &str) -> String {
    format!("{}\n", text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(roff(r"a-b 'c' \d"), "a\\-b \\(aqc\\(aq \\ed\n");
    }
}
