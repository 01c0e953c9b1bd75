//! `delete`: deletes machines of the library with their disks.

use crate::{context::Context, launch, output, pattern};
use clap::Args;
use dvn_client::Client;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{Role, Vm},
};
use serde::Serialize;
use std::process::ExitCode;

/// Flags of `delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix delete web 'My VM'
  darwin-vz-nix delete 'ci-*'")]
pub struct Delete {
    /// Machines, by name or by a pattern with *, ? or [a-z] in quotes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Print what was deleted and what was not as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Default, Serialize)]
struct Deleted {
    deleted: Vec<MachineName>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    name: String,
    error: Report,
}

impl Delete {
    /// Returns the exit code: that of the first error.
    pub async fn run(self, context: &Context) -> Result<ExitCode, Report> {
        let client = launch::ensure(context).await?;
        let all = client.machines(false).await?.machines;
        let mut done = Deleted::default();
        for word in &self.names {
            match selected(word, &all) {
                Ok(names) => self.delete(&client, names, &mut done).await?,
                Err(error) => self.failed(word, error, &mut done),
            }
        }
        if self.json {
            output::print_json(&done)?;
        }
        Ok(ExitCode::from(done.failed.first().map_or(0, |failed| failed.error.kind.exit_code())))
    }

    async fn delete(&self, client: &Client, names: Vec<MachineName>, done: &mut Deleted) -> Result<(), Report> {
        for name in names {
            // Of two patterns that match it, the second finds it gone.
            if done.deleted.contains(&name) || done.failed.iter().any(|failed| failed.name == name.as_str()) {
                continue;
            }
            match client.delete(&name).await {
                Ok(()) if self.json => done.deleted.push(name),
                Ok(()) => {
                    output::print(&format!("{name} is deleted\n"))?;
                    done.deleted.push(name);
                }
                Err(error) => self.failed(name.as_str(), error, done),
            }
        }
        Ok(())
    }

    fn failed(&self, name: &str, error: Report, done: &mut Deleted) {
        output::fail(&error, false);
        done.failed.push(Failed { name: name.to_owned(), error });
    }
}

/// The machines that a word names. A machine's own name is never a pattern.
fn selected(word: &str, all: &[Vm]) -> Result<Vec<MachineName>, Report> {
    if let Some(vm) = all.iter().find(|vm| vm.name.as_str() == word) {
        return match vm.role {
            Role::Library => Ok(vec![vm.name.clone()]),
            Role::Builder => {
                let report =
                    Report::new(Kind::Config, format!("{word} is a builder, which the configuration declares"));
                Err(report.hint(format!("delete its disk and its keys: `darwin-vz-nix --machine {word} destroy`")))
            }
        };
    }
    let library = || all.iter().filter(|vm| vm.role == Role::Library).map(|vm| &vm.name);
    if !pattern::is_pattern(word) {
        let report = Report::new(Kind::NotFound, format!("there is no machine {word}"));
        return Err(report.hint("`darwin-vz-nix list` shows all machines"));
    }
    let matching: Vec<MachineName> = library().filter(|name| pattern::matches(word, name.as_str())).cloned().collect();
    match matching.is_empty() {
        true => Err(Report::new(Kind::NotFound, format!("no machine of the library matches {word}"))
            .hint("`darwin-vz-nix list` shows all machines")),
        false => Ok(matching),
    }
}
