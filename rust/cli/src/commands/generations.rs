//! `generations`: shows and changes the guest systems that a machine can boot.

use crate::{
    context::Context,
    output::{self, short},
    progress,
};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use dvn_types::{
    MachineName, Report,
    wire::{GenerationList, GenerationStatus, GenerationsStatus, Prospect, RollbackRequest, Verdict},
};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Flags of `generations`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix generations
  darwin-vz-nix generations rollback")]
pub struct Generations {
    #[command(flatten)]
    form: Form,
    #[command(subcommand)]
    what: Option<What>,
}

/// The output format. The flag is accepted before and after the subcommand.
#[derive(Clone, Copy, Debug, Args)]
struct Form {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// The subcommand. Without one, the generations are listed.
#[derive(Debug, Subcommand)]
enum What {
    /// Roll back to a generation that worked, until the recipe changes
    Rollback {
        /// Its number; 0 is the configured bundle [default: the previous one]
        #[arg(value_name = "N")]
        to: Option<u32>,
        #[command(flatten)]
        form: Form,
    },
    /// Build the recipe and try it, even if that has failed before
    Build {
        #[command(flatten)]
        form: Form,
    },
    /// Delete generations that are not in use
    Delete {
        /// Their numbers
        #[arg(required = true, value_name = "N")]
        numbers: Vec<u32>,
        #[command(flatten)]
        form: Form,
    },
}

impl Generations {
    /// Whether JSON is requested.
    pub fn json(&self) -> bool {
        let after = match &self.what {
            None => false,
            Some(What::Rollback { form, .. } | What::Build { form } | What::Delete { form, .. }) => form.json,
        };
        self.form.json || after
    }

    /// Sends the request to the daemon, and prints the list.
    pub async fn run(self, context: &Context) -> Result<(), Report> {
        let (client, machine) = (context.client(), context.machine()?);
        let json = self.json();
        let asked = async {
            match self.what {
                None => {}
                Some(What::Rollback { to, .. }) => client.roll_back(&machine, &RollbackRequest { to }).await?,
                Some(What::Build { .. }) => client.build_generation(&machine).await?,
                Some(What::Delete { numbers, .. }) => {
                    for number in numbers {
                        client.delete_generation(&machine, number).await?;
                    }
                }
            }
            Ok::<_, Report>(())
        };
        progress::with_notice(format!("{machine}: changing its generations"), asked).await?;
        let list = client.generations(&machine).await?;
        if json {
            return output::print_json(&list);
        }
        output::print(&table(&machine, &list, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// The table, and below it notes.
fn table(machine: &MachineName, list: &GenerationList, unix_now: Duration) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["GENERATION", "STATE", "BUILT", "FROM"]);
    for generation in &list.generations {
        table.add_row([
            generation.number.to_string(),
            state(generation, &list.status),
            generation.built_unix_ms.map_or_else(dash, |at| format!("{} ago", since(at, unix_now))),
            generation.recipe.as_deref().or(generation.bundle.as_deref()).map_or_else(dash, name),
        ]);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let wanted = list.status.prospect.as_ref();
    for generation in &list.generations {
        // The recipe's own is in the note below.
        if let Verdict::Bad { why } = &generation.verdict
            && !matches!(wanted, Some(Prospect::Bad { number, .. }) if *number == generation.number)
        {
            text.push_str(&format!("{machine}: generation {}: {}\n", generation.number, why.message));
        }
    }
    if list.held {
        text.push_str(&format!("{machine}: rolled back to generation {}", list.status.current));
        text.push_str(" until the recipe changes; `darwin-vz-nix generations build` ends that\n");
    }
    text + &note(machine, &list.status, unix_now)
}

fn state(generation: &GenerationStatus, status: &GenerationsStatus) -> String {
    let (current, running) = (status.current == generation.number, status.running == Some(generation.number));
    let verdict = match &generation.verdict {
        _ if current => "current",
        Verdict::Untried => "untried",
        Verdict::Good => "good",
        Verdict::Bad { .. } => "bad",
    };
    if running { format!("{verdict}, running") } else { verdict.to_owned() }
}

/// The recipe's progress in one or a few lines. Empty if the recipe's generation is the one that boots.
pub fn note(machine: &MachineName, status: &GenerationsStatus, unix_now: Duration) -> String {
    let Some(prospect) = &status.prospect else { return String::new() };
    let hints = |why: &Report| why.hints.iter().map(|hint| format!("  hint: {hint}\n")).collect::<String>();
    let text = match prospect {
        Prospect::Building { number, since_unix_ms } => {
            format!("building generation {number} for {}\n", since(*since_unix_ms, unix_now))
        }
        Prospect::Waiting { number } => {
            format!("generation {number} is built, and will be tried when the guest is not in use\n")
        }
        Prospect::Trying { number, since_unix_ms } => {
            format!("trying generation {number} for {}\n", since(*since_unix_ms, unix_now))
        }
        Prospect::Postponed { why, until_unix_ms } => {
            let wait = Duration::from_millis(*until_unix_ms).saturating_sub(unix_now);
            format!("will retry the recipe in {}: {}\n{}", short(wait), why.message, hints(why))
        }
        Prospect::GivenUp { why } => {
            format!("the recipe was given up, so generation {} boots: {}\n{}", status.current, why.message, hints(why))
        }
        Prospect::Bad { number, why } => format!(
            "generation {number} does not work, so generation {} boots: {}\n{}",
            status.current,
            why.message,
            hints(why)
        ),
    };
    format!("{machine}: {text}")
}

fn since(unix_ms: u64, unix_now: Duration) -> String {
    short(unix_now.saturating_sub(Duration::from_millis(unix_ms)))
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_types::Kind;
    use insta::assert_snapshot;

    fn generation(number: u32, verdict: Verdict) -> GenerationStatus {
        GenerationStatus {
            number,
            bundle: Some("/bundle".into()),
            recipe: (number > 0).then(|| format!("/nix/store/{number}.drv").into()),
            output: None,
            built_unix_ms: (number > 0).then_some(1_000_000),
            verdict,
        }
    }

    fn why() -> Report {
        Report::new(Kind::Boot, "the kernel panicked").hint("look at it")
    }

    #[test]
    fn each_generation_has_its_row_and_each_problem_its_line() {
        let list = GenerationList {
            status: GenerationsStatus {
                current: 2,
                running: Some(1),
                prospect: Some(Prospect::Bad { number: 4, why: why() }),
            },
            recipe: Some("/nix/store/4.drv".into()),
            held: true,
            generations: vec![
                generation(0, Verdict::Good),
                generation(1, Verdict::Good),
                generation(2, Verdict::Good),
                generation(3, Verdict::Bad { why: why() }),
                generation(4, Verdict::Bad { why: why() }),
                generation(5, Verdict::Untried),
            ],
        };
        assert_snapshot!(table(&"builder".parse().unwrap(), &list, Duration::from_secs(1_065)), @r"
        GENERATION  STATE          BUILT      FROM
        0           good           -          /bundle
        1           good, running  1m 5s ago  /nix/store/1.drv
        2           current        1m 5s ago  /nix/store/2.drv
        3           bad            1m 5s ago  /nix/store/3.drv
        4           bad            1m 5s ago  /nix/store/4.drv
        5           untried        1m 5s ago  /nix/store/5.drv
        builder: generation 3: the kernel panicked
        builder: rolled back to generation 2 until the recipe changes; `darwin-vz-nix generations build` ends that
        builder: generation 4 does not work, so generation 2 boots: the kernel panicked
          hint: look at it
        ");
    }

    #[test]
    fn each_prospect_has_its_sentence() {
        let prospects = [
            Prospect::Building { number: 1, since_unix_ms: 1_000_000 },
            Prospect::Waiting { number: 1 },
            Prospect::Trying { number: 1, since_unix_ms: 1_000_000 },
            Prospect::Postponed { why: why(), until_unix_ms: 1_095_000 },
            Prospect::GivenUp { why: why() },
        ];
        let text = |prospect| {
            let status = GenerationsStatus { current: 0, running: None, prospect: Some(prospect) };
            note(&"builder".parse().unwrap(), &status, Duration::from_secs(1_065))
        };
        assert_snapshot!(prospects.map(text).concat(), @r"
        builder: building generation 1 for 1m 5s
        builder: generation 1 is built, and will be tried when the guest is not in use
        builder: trying generation 1 for 1m 5s
        builder: will retry the recipe in 30s: the kernel panicked
          hint: look at it
        builder: the recipe was given up, so generation 0 boots: the kernel panicked
          hint: look at it
        ");
    }
}
