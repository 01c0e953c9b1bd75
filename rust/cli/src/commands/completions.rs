//! `completions`: prints a script with which a shell completes this command line. The script contains verbs and flags,
//! and calls `complete` for names of machines and numbers of generations.

use crate::output;
use clap::{Arg, Args, Command, ValueHint, builder::PossibleValuesParser};
use clap_complete::Shell;
use dvn_config::Key;
use dvn_types::{Kind, Report};

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(darwin-vz-nix completions bash)
  darwin-vz-nix completions fish > ~/.config/fish/completions/darwin-vz-nix.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Replaces the generated completion function, which it calls for everything else.
const BASH: &str = r#"
_darwin_vz_nix_names() {
    local cur="${COMP_WORDS[COMP_CWORD]}" what='' name quoted
    case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
        *' generations rollback '* | *' generations delete '*) [[ $cur == -* ]] || what=generations ;;
        *' delete '*) [[ $cur == -* ]] || what=machines ;;
    esac
    case "$3" in
        --machine) what=machines ;;
        start | stop | pause | resume | logs | --console | run | suspend | exec | ip | screenshot | get | set | rename | clone)
            [[ $cur == -* ]] || what=machines
            ;;
    esac
    if [[ $what ]]; then
        # Not compgen -W, which would expand what a name contains.
        COMPREPLY=()
        while IFS= read -r name; do
            printf -v quoted %q "$name"
            if [[ $name == "$cur"* || $quoted == "$cur"* ]]; then COMPREPLY+=("$quoted"); fi
        done < <("$1" complete "$what" 2>/dev/null)
    else
        _darwin__vz__nix "$@"
    fi
}
complete -F _darwin_vz_nix_names -o bashdefault -o default darwin-vz-nix
"#;

const ZSH: &str = r#"
_darwin-vz-nix_machines() {
    local -a names; names=(${(f)"$(darwin-vz-nix complete machines 2>/dev/null)"})
    # What follows a colon would be a description.
    names=(${names//:/\\:})
    _describe -t machines machine names
}
_darwin-vz-nix_generations() {
    local -a names; names=(${(f)"$(darwin-vz-nix complete generations 2>/dev/null)"})
    _describe -t generations generation names
}

"#;

const FISH: &str = r"
complete -c darwin-vz-nix -l machine -x -a '(darwin-vz-nix complete machines 2>/dev/null)'
complete -c darwin-vz-nix -n '__fish_seen_subcommand_from start stop pause resume logs run suspend exec ip screenshot get set rename clone delete; and not __fish_seen_subcommand_from generations' -f -a '(darwin-vz-nix complete machines 2>/dev/null)'
complete -c darwin-vz-nix -n '__fish_seen_subcommand_from generations; and __fish_seen_subcommand_from rollback delete' -f -a '(darwin-vz-nix complete generations 2>/dev/null)'
";

impl Completions {
    /// Prints it.
    pub fn run(self, program: Command) -> Result<(), Report> {
        let (mut program, mut script) = (with_value_hints(program), Vec::new());
        clap_complete::generate(self.shell, &mut program, "darwin-vz-nix", &mut script);
        let script = String::from_utf8(script).map_err(|error| Report::new(Kind::Internal, error.to_string()))?;
        output::print(&match self.shell {
            // clap_complete 4.6 spells a program name with hyphens in two ways, and then does not find subcommands.
            Shell::Bash => script.replace("darwin__subcmd__vz__subcmd__nix", "darwin__vz__nix") + BASH,
            Shell::Fish => script + FISH,
            Shell::Zsh => zsh(&script),
            _ => script,
        })
    }
}

/// The command line, with possible values and value hints for settings.
fn with_value_hints(command: Command) -> Command {
    let values = |arg: Arg| match arg.get_long().and_then(Key::named) {
        Some(key) if !key.choices().is_empty() => arg.value_parser(PossibleValuesParser::new(key.choices())),
        Some(key) => arg.value_hint(match key.placeholder() {
            "DIR" => ValueHint::DirPath,
            "FILE" | "DRV" => ValueHint::FilePath,
            _ => ValueHint::Other,
        }),
        None => arg,
    };
    command.mut_args(values).mut_subcommands(with_value_hints)
}

/// How zsh's lines begin for arguments that are machines. A new name is none.
const MACHINES: [&str; 6] =
    ["'--machine=", "':name -- ", "'::name -- ", "'*::names -- ", "':source -- ", "':old_name -- "];

/// Sets the completion function at the end of an argument's line, and inserts the functions before the final call.
fn zsh(script: &str) -> String {
    let line = |line: &str| {
        let completer = match line {
            _ if MACHINES.iter().any(|begin| line.starts_with(begin)) => "machines",
            _ if line.starts_with("'::to -- ") || line.starts_with("'*::numbers -- ") => "generations",
            _ => return format!("{line}\n"),
        };
        format!("{}\n", line.replacen(":_default'", &format!(":_darwin-vz-nix_{completer}'"), 1))
    };
    let script: String = script.lines().map(line).collect();
    let (functions, call) = script.split_once("if [ \"$funcstack[1]\"").unwrap_or((&script, ""));
    match call {
        "" => script,
        call => format!("{}\n{}if [ \"$funcstack[1]\"{call}", functions.trim_end(), ZSH.trim_start_matches('\n')),
    }
}
