//! The manual pages: `darwin-vz-nix(1)` with all settings, and one page for each verb.

use crate::{exit_codes::EXIT_CODES, settings};
use clap::Command;
use clap_mangen::Man;
use dvn_config::Key;
use std::{fmt::Write, io};

/// File names and contents.
pub(super) fn pages(program: Command) -> io::Result<Vec<(String, String)>> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    add(program, &mut pages)?;
    for (_, text) in pages.iter_mut().filter(|(name, _)| name == "darwin-vz-nix.1") {
        text.push_str(&exit_status());
        text.push_str(&all_settings());
    }
    Ok(pages)
}

fn add(command: Command, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        add(part.clone(), pages)?;
    }
    let (page, mut text) = (Man::new(command), Vec::new());
    page.render(&mut text)?;
    pages.push((page.get_filename(), String::from_utf8(text).map_err(io::Error::other)?));
    Ok(())
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

/// The section on settings, which no single verb's flags cover.
fn all_settings() -> String {
    let mut text = String::from(".SH SETTINGS\n");
    text.push_str(&roff(
        "A flag overrides an environment variable, which overrides the file, which overrides the default. In the file, settings \
         at the top apply to every machine, those in a table [machines.NAME] to that machine. NO_COLOR, CLICOLOR and CLICOLOR_FORCE \
         have their usual meaning, unless --color is given.",
    ));
    for key in Key::ALL {
        let about = format!("{}; {}; by default {}", key.about(), key.form(), settings::default(key)).replace('`', "");
        let (name, variable, about) = (roff(key.name()), roff(&key.env()), roff(&about));
        // Writing to a string cannot fail.
        let _ = write!(text, ".TP\n\\fB{}\\fR, {variable}{about}", name.trim_end());
    }
    text
}

/// A line of roff that shows this text literally.
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
