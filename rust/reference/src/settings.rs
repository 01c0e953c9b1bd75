//! `docs/config.md`: the settings from the table in `config`, and their flags from the command line.

use super::heading::head;
use clap::Command;
use dvn_config::{ENV_OF_THE_CLI, Key, default_value, range};

const INTRODUCTION: &str = r#"
A flag overrides an environment variable, which overrides the file, which overrides the default. `darwin-vz-nix config` shows the
effective values and their origins; `config --daemon` those of the running daemon, which reads them when it starts.

The file is TOML: the one named with `--config`; otherwise `/etc/darwin-vz-nix/config.toml` for root, and for others
`darwin-vz-nix/config.toml` in `$XDG_CONFIG_HOME`, or in `~/.config`. A setting at the top applies to the daemon or to every machine,
one in a table `[machines.NAME]` to that machine. Without such a table there is one machine, `builder`.

```toml
idle-timeout = "30m"
cores = 4

[machines.builder]
memory = "8G"
```

An unknown name is an error, in the file and among the variables. An empty variable counts as unset.
"#;

/// The page.
pub(super) fn page(mut program: Command) -> String {
    program.build();
    let mut text = head("Settings");
    text.push_str(INTRODUCTION);
    let [file, machine] = ENV_OF_THE_CLI;
    text.push_str(&format!(
        "Two variables correspond to flags that are not settings: `{file}` for `--config`, `{machine}` for\n`--machine`.\n"
    ));
    for key in Key::ALL {
        text.push_str(&section(&program, key));
    }
    text
}

fn section(program: &Command, key: Key) -> String {
    let mut about = key.about().to_owned();
    if let Some(first) = about.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let whose = if key.of_a_machine() { "each machine" } else { "the daemon" };
    let mut rows = vec![
        format!("value: {}", key.form()),
        format!("default: {}", default(key)),
        format!("variable: `{}`", key.env()),
        format!("flag: {}", flag(program, key)),
        format!("of: {whose}"),
    ];
    if let Some(range) = range(key) {
        rows.insert(1, format!("range: {range}"));
    }
    format!("\n## {key}\n\n{about}.\n\n* {}\n", rows.join("\n* "))
}

/// A description of the default.
pub(super) fn default(key: Key) -> String {
    match (default_value(key).as_deref(), key.default_of_the_host()) {
        (Some("-"), _) => "none".to_owned(),
        (Some(value), _) => format!("`{value}`"),
        (None, words) => words.unwrap_or_default().to_owned(),
    }
}

/// The commands that accept it as a flag.
fn flag(program: &Command, key: Key) -> String {
    let takes = |command: &Command| command.get_arguments().any(|arg| arg.get_long() == Some(key.name()));
    let verbs: Vec<String> = program
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && takes(verb))
        .map(|verb| format!("`{}`", verb.get_name()))
        .collect();
    match verbs.as_slice() {
        _ if takes(program) => format!("`--{key}` of every command"),
        [] => "none".to_owned(),
        verbs => format!("`--{key}` of {}", verbs.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_described_exactly_once() {
        for key in Key::ALL {
            let described = (default_value(key).is_some(), key.default_of_the_host().is_some());
            assert!(described.0 != described.1, "{key}: a fixed default and one in words: {described:?}");
        }
    }
}
