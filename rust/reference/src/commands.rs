//! `docs/cli.md`: the command line, from its definition in clap.

use super::heading::head;
use clap::{Arg, Command};

/// The page.
pub(super) fn page(mut program: Command) -> String {
    program.build();
    let mut text = format!(
        "{}\n{}. Settings are in [config.md](config.md), exit codes in [errors.md](errors.md).\n\n## Options of every command\n\n{}",
        head("Command line"),
        program.get_about().map(ToString::to_string).unwrap_or_default(),
        options(program.get_arguments()),
    );
    for verb in program.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        text.push_str(&section(verb, "##"));
    }
    text
}

fn section(verb: &Command, heading: &str) -> String {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let own = options(verb.get_arguments().filter(|arg| !arg.is_global_set()));
    let own = if own.is_empty() { own } else { format!("\n{own}") };
    let name = usage.split_whitespace().skip(1).take_while(|word| !word.starts_with(['[', '<'])).collect::<Vec<_>>();
    let mut text = format!("\n{heading} {}\n\n{about}.\n\n```text\n{usage}\n```\n{own}", name.join(" "));
    for part in verb.get_subcommands().filter(|part| !part.is_hide_set() && part.get_name() != "help") {
        text.push_str(&section(part, &format!("{heading}#")));
    }
    text
}

fn options<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = String::new();
    for arg in args.filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())) {
        let mut names: Vec<String> = Vec::new();
        names.extend(arg.get_short().map(|short| format!("-{short}")));
        names.extend(arg.get_long().map(|long| format!("--{long}")));
        let takes = arg.get_action().takes_values();
        let value = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
        let name = match (names.is_empty(), takes) {
            (true, _) => value,
            (false, true) => format!("{} {value}", names.join(", ")),
            (false, false) => names.join(", "),
        };
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let choices: Vec<String> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if takes && !choices.is_empty() {
            help.push_str(&format!(": {}", choices.join(", ")));
        }
        if let Some(default) = arg.get_default_values().first().filter(|_| takes) {
            help.push_str(&format!("; by default `{}`", default.to_string_lossy()));
        }
        text.push_str(&format!("* `{name}`: {help}\n"));
    }
    text
}
