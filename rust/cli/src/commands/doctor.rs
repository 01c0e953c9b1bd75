//! `doctor`: checks everything that a build depends on, and reports problems. The checks are in `dvn_doctor`; this file
//! selects them, starts a guest for those that need one, and prints the findings.

use crate::{
    context::{Context, this_program},
    global::Global,
    launch, logging,
    output::{self, colours},
    progress,
    runtime::block_on,
};
use clap::{Args, builder::PossibleValuesParser};
use comfy_table::{Table, presets};
use dvn_client::Client;
use dvn_daemon::views;
use dvn_doctor::{ALL, Check, Examined, Observer, Outcome, Subject};
use dvn_types::{
    Kind, MachineName, Report,
    wire::{BootTimeline, StartRequest, State, StopRequest},
};
use serde::Serialize;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// Time limit for the checks' own connections to end.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for a service manager to start the daemon.
const ACTIVATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darwin-vz-nix doctor
  darwin-vz-nix doctor --deep --fix")]
pub struct Doctor {
    /// Run only these checks
    #[arg(value_name = "CHECK", value_parser = names(), hide_possible_values = true)]
    checks: Vec<String>,
    /// List the checks
    #[arg(long)]
    list: bool,
    /// Also run the checks that need a running guest; starts a stopped one, and stops it again
    #[arg(long)]
    deep: bool,
    /// Repair what can be repaired without data loss, and report it
    #[arg(long)]
    fix: bool,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.iter().map(|check| check.name))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: &'static str,
    deep: bool,
    looks_at: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    machine: &'a MachineName,
    checks: &'a [Examined],
    /// Checks that need a guest and were not requested.
    not_run: &'a [&'static str],
}

/// The results of a run.
struct Results {
    machine: MachineName,
    examined: Vec<Examined>,
    /// Whether the guest and daemon that were started for it could be stopped again.
    ended: Result<(), Report>,
}

impl Doctor {
    /// Runs the checks. The exit code is 0, or that of the first failure's kind.
    pub fn run(self, global: Global) -> ExitCode {
        self.examine(global).unwrap_or_else(|report| output::fail(&report, self.json))
    }

    fn examine(&self, global: Global) -> Result<ExitCode, Report> {
        if self.list {
            self.show_list()?;
            return Ok(ExitCode::SUCCESS);
        }
        let (chosen, not_run) = self.chosen()?;
        let context = Context::new(global, Vec::new())?;
        logging::for_a_client(&context)?;
        let Results { machine, examined, ended } = block_on(self.run_checks(&context, &chosen))??;
        if self.json {
            output::print_json(&Shown { machine: &machine, checks: &examined, not_run: &not_run })?;
        } else {
            output::print(&summary(&examined, &not_run))?;
        }
        if let Err(report) = ended {
            // Only on stderr, since the findings are already on stdout.
            return Ok(output::fail(&report, false));
        }
        let failure = examined.iter().find_map(|one| one.finding.kind);
        Ok(failure.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code())))
    }

    /// The checks to run, and the names of those that are skipped because they need a guest.
    fn chosen(&self) -> Result<(Vec<&'static Check>, Vec<&'static str>), Report> {
        let named = |check: &&Check| self.checks.is_empty() || self.checks.iter().any(|name| name == check.name);
        let (chosen, left): (Vec<_>, Vec<_>) =
            ALL.iter().filter(named).partition(|check: &&Check| self.deep || !check.deep);
        let left: Vec<_> = left.into_iter().map(|check| check.name).collect();
        if !self.checks.is_empty() && !left.is_empty() {
            let what = format!("a running guest is needed for {}", left.join(", "));
            return Err(Report::new(Kind::Config, what).hint("allow it to be started: add --deep"));
        }
        Ok((chosen, left))
    }

    fn show_list(&self) -> Result<(), Report> {
        let list: Vec<_> =
            ALL.iter().map(|check| Listed { name: check.name, deep: check.deep, looks_at: check.looks_at }).collect();
        if self.json {
            return output::print_json(&list);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["CHECK", "RUNS", "LOOKS AT"]);
        for check in &list {
            table.add_row([check.name, if check.deep { "with --deep" } else { "always" }, check.looks_at]);
        }
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        output::print(&text)
    }

    async fn run_checks(&self, context: &Context, chosen: &[&'static Check]) -> Result<Results, Report> {
        let mut subject = subject(context).await?;
        let mut session = None;
        let mut examined = Vec::new();
        for (index, check) in chosen.iter().enumerate() {
            if check.deep && session.is_none() {
                session = Some(GuestSession::begin(context, &mut subject).await);
            }
            let place = format!("{} of {}", index + 1, chosen.len());
            let what = format!("check {place}: {}: {}", check.name, check.looks_at);
            let one = progress::with_notice(what, check.examine(&subject, self.fix)).await;
            if !self.json {
                output::print(&row(&one, colours(&std::io::stdout())))?;
            }
            examined.push(one);
        }
        let ended = match session {
            Some(session) => session.end(&subject).await,
            None => Ok(()),
        };
        Ok(Results { machine: subject.machine, examined, ended })
    }
}

async fn subject(context: &Context) -> Result<Subject, Report> {
    let machine = context.machine()?;
    let settings = context.settings().and_then(|mut settings| {
        let found = settings.machines.remove(&machine);
        found.ok_or_else(|| Report::new(Kind::NotFound, format!("there is no machine {machine}")))
    });
    let (backend, accelerator) = match &settings {
        Ok(settings) => (settings.backend, settings.accelerator.as_deref()),
        Err(_) => (None, None),
    };
    let client = context.client();
    let daemon = client.status().await;
    let by_the_daemon = match &daemon {
        // A daemon of an older version does not know this route.
        Ok(_) => client.capabilities(&machine).await.ok(),
        Err(_) => None,
    };
    let observer = if by_the_daemon.is_some() { Observer::Daemon } else { Observer::Command };
    let capabilities = dvn_hypervisor::for_this_host(backend, &context.search_path, accelerator)
        .map(|hypervisor| hypervisor.capabilities().clone());
    let by_this_command = || {
        let can = capabilities.as_ref().map_err(Clone::clone)?;
        Ok(views::backend_view(can, &can.features, context.search_path.to_string_lossy().into_owned()))
    };
    Ok(Subject {
        state_dir: context.state_dir(),
        api_listen: context.config.api_listen(),
        backend: by_the_daemon.map_or_else(by_this_command, Ok),
        capabilities,
        observer,
        daemon,
        client,
        program: this_program()?,
        flags: context.flags(),
        search_path: context.search_path.clone(),
        user: rustix::process::geteuid().as_raw(),
        guest: None,
        machine,
        settings,
    })
}

/// A guest for the checks that need one. Afterwards, daemon and guest are stopped if they were not running before.
struct GuestSession {
    daemon_ran: bool,
    guest_ran: bool,
}

impl GuestSession {
    async fn begin(context: &Context, subject: &mut Subject) -> GuestSession {
        let session = GuestSession {
            daemon_ran: subject.daemon.is_ok(),
            guest_ran: subject.status().is_some_and(|status| !at_rest(&status.state)),
        };
        if !session.daemon_ran {
            activate(subject).await;
        }
        let boot = GuestSession::boot(context, &subject.machine).await;
        subject.daemon = subject.client.status().await;
        subject.guest = Some(boot);
        session
    }

    async fn boot(context: &Context, machine: &MachineName) -> Result<BootTimeline, Report> {
        let client = launch::ensure(context).await?;
        progress::during(&client, machine, client.start(machine, &StartRequest::default())).await?;
        let status = client.status().await?.machines.into_iter().find(|status| status.name == *machine);
        status.and_then(|status| status.last_boot).ok_or_else(|| {
            Report::new(Kind::Boot, format!("{machine} was started, but does not run any more"))
                .hint("see `darwin-vz-nix logs`")
        })
    }

    /// A guest that others use by now is not stopped, nor is a daemon with such a guest.
    async fn end(self, subject: &Subject) -> Result<(), Report> {
        let (client, machine) = (&subject.client, &subject.machine);
        match self {
            GuestSession { daemon_ran: true, guest_ran: false } if unused(client, |name| name == machine).await => {
                progress::during(client, machine, client.stop(machine, &StopRequest::default())).await.map(drop)
            }
            GuestSession { daemon_ran: false, .. } if unused(client, |_| true).await => {
                progress::during(client, machine, client.shut_down()).await
            }
            _ => Ok(()),
        }
    }
}

/// Connects to the machine's port if it is in use while no daemon runs: a service manager may hold it and start the
/// daemon on a connection, which this user may not be permitted to do. If another program holds it, the connection has
/// no effect.
async fn activate(subject: &Subject) {
    let Ok(settings) = &subject.settings else { return };
    if std::net::TcpListener::bind(settings.listen).is_ok() {
        return;
    }
    let Ok(_connection) = TcpStream::connect(settings.listen).await else { return };
    let begun = Instant::now();
    while subject.client.health().await.is_err() && begun.elapsed() < ACTIVATION_TIMEOUT {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether a daemon answers and these machines have no connections. Waits for the checks' own connections to end.
async fn unused(client: &Client, these: impl Fn(&MachineName) -> bool) -> bool {
    let begun = Instant::now();
    loop {
        let Ok(status) = client.status().await else { return false };
        let used = |state: &State| !matches!(state, State::Running { leases: 0, .. }) && !at_rest(state);
        if !status.machines.iter().any(|machine| these(&machine.name) && used(&machine.state)) {
            return true;
        }
        if begun.elapsed() >= DISCONNECT_TIMEOUT {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn at_rest(state: &State) -> bool {
    matches!(state, State::Stopped { .. } | State::Failed { .. } | State::Broken { .. })
}

/// A check's line, with its repairs and hints below.
fn row(one: &Examined, coloured: bool) -> String {
    let finding = &one.finding;
    let colour = match finding.outcome {
        _ if !coloured => "",
        Outcome::Ok => "\x1b[32m",
        Outcome::Warning => "\x1b[33m",
        Outcome::Failed => "\x1b[1;31m",
        Outcome::NotApplicable => "\x1b[2m",
    };
    let plain = if coloured { "\x1b[0m" } else { "" };
    let width = ALL.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let evidence = finding.evidence.replace('\n', " ");
    let mut text = format!("{colour}{:<7}{plain}  {:<width$}  {evidence}\n", finding.outcome.as_str(), one.name);
    let mut below = |what: &str, line: &str| text.push_str(&format!("{:9}{what}: {line}\n", ""));
    one.repaired.iter().for_each(|done| below("repaired", done));
    finding.hints.iter().for_each(|hint| below("hint", hint));
    finding.repairs.iter().for_each(|repair| below("--fix would", &repair.intent()));
    text
}

fn summary(examined: &[Examined], not_run: &[&str]) -> String {
    let count = |outcome| examined.iter().filter(|one| one.finding.outcome == outcome).count();
    let mut parts = Vec::new();
    for (outcome, what) in [
        (Outcome::Ok, "ok"),
        (Outcome::Warning, "with a warning"),
        (Outcome::Failed, "failed"),
        (Outcome::NotApplicable, "not applicable here"),
    ] {
        let count = count(outcome);
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let all = if examined.len() == 1 { "1 check".to_owned() } else { format!("{} checks", examined.len()) };
    let mut text = format!("\n{all}: {}\n", parts.join(", "));
    if !not_run.is_empty() {
        text.push_str(&format!("not run, as they need a running guest: {}; add --deep\n", not_run.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_doctor::{Finding, Repair};

    fn examined(name: &'static str, finding: Finding) -> Examined {
        Examined { name, finding, repaired: Vec::new() }
    }

    #[test]
    fn each_finding_is_shown_with_what_to_do() {
        let repair = Repair::Close { path: "/s/id_ed25519".into(), mode: 0o600 };
        let failed = Finding::failed(Kind::State, "others can\nread it").hint("close it").repair(repair);
        let repaired = vec!["set the mode".to_owned()];
        let all = [
            examined("settings", Finding::ok("4 cores")),
            examined("keys", failed),
            Examined { name: "known-hosts", finding: Finding::ok("it is pinned"), repaired },
            examined("rosetta", Finding::not_applicable("not used")),
        ];
        let mut text: String = all.iter().map(|one| row(one, false)).collect();
        text.push_str(&summary(&all, &["clock", "build"]));
        insta::assert_snapshot!(text, @r"
        ok       settings         4 cores
        failed   keys             others can read it
                 hint: close it
                 --fix would: chmod 600 /s/id_ed25519
        ok       known-hosts      it is pinned
                 repaired: set the mode
        -        rosetta          not used

        4 checks: 2 ok, 1 failed, 1 not applicable here
        not run, as they need a running guest: clock, build; add --deep
        ");
        assert!(row(&all[1], true).starts_with("\x1b[1;31mfailed \x1b[0m  keys"));
    }
}
