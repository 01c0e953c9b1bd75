//! The program as `tart`: Tart's verbs, flags, units, output and exit codes, over the same library.
//!
//! Called by a link of that name, or as `darwin-vz-nix tart`.

mod devices;
mod grammar;
mod views;

use crate::{
    commands::{exec, ip, run},
    context::Context,
    global::Global,
    launch, logging, output,
    runtime::{block_on, block_on_threads},
};
use clap::{Parser, error::ErrorKind};
use dvn_client::Client;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{CreateRequest, Role, SetRequest, State, StopRequest, Vm},
};
use grammar::{DiskFormat, Format, Tart, Verb};
use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};
use tokio::time::timeout;
use views::GB;

/// Exit code for a wrong command line.
const USAGE: u8 = 64;

/// Why a verb ends without success.
enum End {
    /// With this exit code, and nothing to say.
    Code(u8),
    /// There is no such machine, or it is not in the state that the verb needs: exit code 2.
    State(Report),
    /// Any other error: exit code 1.
    Error(Report),
    /// A wrong value on the command line: exit code 64.
    Usage(Report),
}

impl From<Report> for End {
    fn from(report: Report) -> End {
        match report.kind {
            Kind::NotFound => End::State(report),
            _ => End::Error(report),
        }
    }
}

/// Arguments of the verb `tart`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix tart list --format json
  ln -s \"$(command -v darwin-vz-nix)\" ~/bin/tart && tart --help")]
pub struct Arguments {
    /// A verb of Tart's with its arguments
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Arguments {
    /// Runs it. Returns its exit code.
    pub fn run(self, global: Global) -> ExitCode {
        main(std::iter::once("tart".into()).chain(self.arguments).collect(), global)
    }
}

/// Whether the program is called as `tart`; the arguments of Tart's command line then, with the program's name.
pub fn arguments() -> Option<Vec<OsString>> {
    let all: Vec<_> = std::env::args_os().collect();
    let program = all.first().map(Path::new)?;
    program.file_name().is_some_and(|name| name == "tart").then_some(all)
}

/// Runs a command line of Tart's. Returns its exit code.
pub fn main(arguments: Vec<OsString>, global: Global) -> ExitCode {
    let Tart { verb } = match Tart::try_parse_from(arguments) {
        Ok(tart) => tart,
        Err(error) => {
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked_for { 0 } else { USAGE });
        }
    };
    let ended = Context::new(global, vec![]).map_err(End::from).and_then(|context| {
        logging::for_a_client(&context)?;
        match verb {
            // Output continues while a command does not read its input.
            verb @ Verb::Exec(_) => block_on_threads(perform(verb, &context))?,
            verb => block_on(perform(verb, &context))?,
        }
    });
    let (code, report) = match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err(End::Code(code)) => return ExitCode::from(code),
        Err(End::State(report)) => (2, report),
        Err(End::Error(report)) => (1, report),
        Err(End::Usage(report)) => (USAGE, report),
    };
    output::explain(&report);
    ExitCode::from(code)
}

async fn perform(verb: Verb, context: &Context) -> Result<(), End> {
    if let Some(absent) = absent(&verb) {
        return Err(End::Error(absent));
    }
    if let Verb::Fqn(verb) = &verb {
        return Ok(output::print(&format!("{}\n", name(&verb.name)?))?);
    }
    let client = launch::ensure(context).await?;
    match verb {
        Verb::Create(verb) => create(&client, verb).await,
        Verb::Clone(verb) => {
            let (from, to) = (existing(&client, &verb.source_name).await?.name, name(&verb.new_name)?);
            Ok(client.clone_machine(&from, to).await.map(drop)?)
        }
        Verb::Run(verb) => start(&client, *verb).await,
        Verb::Set(verb) => set(&client, verb).await,
        Verb::Get(verb) => get(&client, &verb).await,
        Verb::List(verb) => list(&client, &verb).await,
        Verb::Ip(verb) => address(&client, &verb).await,
        Verb::Exec(verb) => {
            let name = running(&client, &verb.name).await?.name;
            match exec::attached(
                &client,
                &name,
                verb.command,
                (verb.interactive, verb.tty),
                context.terminal.as_deref(),
            )
            .await?
            {
                0 => Ok(()),
                code => Err(End::Code(code)),
            }
        }
        Verb::Rename(verb) => {
            let (from, to) = (existing(&client, &verb.name).await?.name, name(&verb.new_name)?);
            Ok(client.rename(&from, to).await.map(drop)?)
        }
        Verb::Stop(verb) => stop(&client, &verb).await,
        Verb::Suspend(verb) => {
            let name = running(&client, &verb.name).await?.name;
            Ok(client.suspend(&name).await?)
        }
        Verb::Delete(verb) => {
            for given in verb.name {
                let name = existing(&client, &given).await?.name;
                client.delete(&name).await?;
            }
            Ok(())
        }
        Verb::Fqn(_)
        | Verb::Login(_)
        | Verb::Logout(_)
        | Verb::Pull(_)
        | Verb::Push(_)
        | Verb::Import(_)
        | Verb::Export(_)
        | Verb::Prune(_) => Ok(()),
    }
}

/// The error of a verb that is not here yet.
fn absent(verb: &Verb) -> Option<Report> {
    let what = match verb {
        Verb::Login(_) | Verb::Logout(_) | Verb::Pull(_) | Verb::Push(_) | Verb::Prune(_) => {
            "images of registries are not supported yet"
        }
        Verb::Import(_) | Verb::Export(_) => "archives of machines are not supported yet",
        _ => return None,
    };
    Some(Report::new(Kind::Config, what).hint("make machines with `create --linux`, and copy them with `clone`"))
}

fn name(given: &str) -> Result<MachineName, End> {
    if given.contains('/') {
        return Err(End::Error(
            Report::new(Kind::Config, format!("{given} is an image of a registry, which is not supported yet"))
                .hint("clone a machine of this computer: `tart list` shows them"),
        ));
    }
    given.parse().map_err(|why: String| End::Usage(Report::new(Kind::Config, why)))
}

async fn existing(client: &Client, given: &str) -> Result<Vm, End> {
    Ok(client.machine(&name(given)?).await?)
}

async fn running(client: &Client, given: &str) -> Result<Vm, End> {
    let vm = existing(client, given).await?;
    match views::runs(&vm) {
        true => Ok(vm),
        false => Err(End::State(Report::new(Kind::Busy, format!("{given} does not run")).hint("start it: tart run"))),
    }
}

async fn create(client: &Client, verb: grammar::Create) -> Result<(), End> {
    if !verb.linux {
        return Err(End::Error(
            Report::new(Kind::Host, "macOS guests are not supported yet").hint("make a machine with --linux"),
        ));
    }
    if verb.disk_format == DiskFormat::Asif {
        return Err(End::Error(
            Report::new(Kind::Host, "disks of the format asif are not supported yet").hint("leave --disk-format out"),
        ));
    }
    let request = CreateRequest {
        name: name(&verb.name)?,
        disk_size: Some(u64::from(verb.disk_size) * GB),
        medium: None,
        arch: None,
        cores: None,
        memory: None,
    };
    Ok(client.create(&request).await.map(drop)?)
}

async fn start(client: &Client, verb: grammar::Run) -> Result<(), End> {
    let vm = existing(client, &verb.name).await?;
    if views::runs(&vm) {
        return Err(End::State(Report::new(Kind::Busy, format!("{} runs already", verb.name))));
    }
    let cwd = std::env::current_dir().map_err(|e| Report::new(Kind::Host, e.to_string()))?;
    let request = devices::request(&verb, &cwd).map_err(End::Usage)?;
    Ok(run::attached(client, &vm.name, &request).await?)
}

async fn set(client: &Client, verb: grammar::Set) -> Result<(), End> {
    if verb.random_serial || verb.disk.is_some() {
        let flag = if verb.disk.is_some() { "--disk" } else { "--random-serial" };
        return Err(End::Error(Report::new(Kind::Config, format!("{flag} is not supported yet"))));
    }
    let name = existing(client, &verb.name).await?.name;
    let refit = match (verb.display_refit, verb.no_display_refit) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let request = SetRequest {
        cores: verb.cpu,
        memory: verb.memory.map(|mib| mib << 20),
        disk_size: verb.disk_size.map(|gb| u64::from(gb) * GB),
        display: verb.display,
        display_refit: refit,
        random_mac: verb.random_mac,
    };
    Ok(client.set(&name, &request).await.map(drop)?)
}

async fn get(client: &Client, verb: &grammar::Get) -> Result<(), End> {
    let vm = existing(client, &verb.name).await?;
    let Some(got) = views::got(&vm) else {
        let why = match vm.state {
            State::Broken { cause } => cause,
            _ => Report::new(Kind::State, "the machine cannot be read"),
        };
        return Err(End::Error(why));
    };
    match verb.format {
        Format::Json => Ok(output::print_json(&got)?),
        Format::Text => {
            let head = ["OS", "CPU", "Memory", "Disk", "Size", "Display", "State"].map(str::to_owned).to_vec();
            let row = vec![
                got.os.to_owned(),
                got.cpu.to_string(),
                format!("{} MB", got.memory),
                got.disk.to_string(),
                got.size,
                got.display,
                got.state.to_owned(),
            ];
            Ok(output::print(&views::table(&[head, row]))?)
        }
    }
}

async fn list(client: &Client, verb: &grammar::List) -> Result<(), End> {
    let machines = match verb.source {
        Some(grammar::Source::Oci) => vec![],
        _ => client.machines(!verb.quiet).await?.machines,
    };
    let listed: Vec<_> =
        machines.iter().filter(|vm| vm.role == Role::Library).filter_map(|vm| Some((vm, views::listed(vm)?))).collect();
    if verb.quiet {
        let names: String = listed.iter().map(|(_, row)| format!("{}\n", row.name)).collect();
        return Ok(output::print(&names)?);
    }
    if verb.format == Format::Json {
        let rows: Vec<_> = listed.into_iter().map(|(_, row)| row).collect();
        return Ok(output::print_json(&rows)?);
    }
    let mut rows = vec![["Source", "Name", "Disk", "Size", "Accessed", "State"].map(str::to_owned).to_vec()];
    for (vm, row) in listed {
        let used = vm.hardware.as_ref().and_then(|it| it.started_unix_ms.or(it.created_unix_ms)).unwrap_or(0);
        let (disk, size) = (row.disk.to_string(), row.size.to_string());
        rows.push(vec![row.source.to_owned(), row.name, disk, size, views::ago(used), row.state.to_owned()]);
    }
    Ok(output::print(&views::table(&rows))?)
}

async fn address(client: &Client, verb: &grammar::Ip) -> Result<(), End> {
    let name = running(client, &verb.name).await?.name;
    let found = ip::addresses(client, &name, Duration::from_secs(verb.wait.into())).await.map_err(End::Error)?;
    let first = found.addresses.first().cloned().unwrap_or_default();
    Ok(output::print(&format!("{first}\n"))?)
}

/// By the power button first. Tart cuts the power at once, which the guest's file systems take for a crash.
async fn stop(client: &Client, verb: &grammar::Stop) -> Result<(), End> {
    let vm = existing(client, &verb.name).await?;
    if views::state(&vm.state) == "stopped" {
        return Err(End::State(Report::new(Kind::Busy, format!("{} does not run", verb.name))));
    }
    let gently = client.stop(&vm.name, &StopRequest { force: false });
    match timeout(Duration::from_secs(verb.timeout), gently).await {
        Ok(stopped) => Ok(stopped.map(drop)?),
        Err(_) => Ok(client.stop(&vm.name, &StopRequest { force: true }).await.map(drop)?),
    }
}
