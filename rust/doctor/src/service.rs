//! The service that starts the daemon at the first connection: a launchd job, or a systemd socket unit with its
//! service.

use super::{finding::Finding, launchd::Job, needs, program::Said, subject::Subject};
use dvn_types::Kind;
use std::{collections::BTreeMap, net::SocketAddr};

/// The job of the nix-darwin module (`nix/darwin/names.nix`).
const LABEL: &str = "org.nixos.darwin-vz";

/// The check `service`.
pub async fn check(subject: &Subject) -> Finding {
    let listen = match needs::settings(subject) {
        Ok(settings) => settings.builder.listen,
        Err(finding) => return finding,
    };
    if let Some(launchctl) = subject.find("launchctl") {
        let said = launchctl.args(["print", &format!("system/{LABEL}")]).run().await;
        return said.map_or_else(Finding::warning, |said| judge_launchd(&said));
    }
    let Some(systemctl) = subject.find("systemctl") else {
        return Finding::not_applicable("there is neither launchd nor systemd");
    };
    let sockets = systemctl.clone().args(["list-sockets", "--all", "--full", "--plain", "--no-legend", "--no-pager"]);
    let said = match sockets.run().await {
        Ok(said) if said.succeeded() => said,
        Ok(said) => return Finding::not_applicable(format!("systemd does not run here: {}", said.complaint())),
        Err(why) => return Finding::not_applicable(why),
    };
    let Some((socket, service)) = units_of(&said.stdout, listen) else {
        return Finding::not_applicable(format!(
            "no unit of systemd listens on {listen}; the daemon is started by commands"
        ));
    };
    let properties = "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus";
    let mut shown = Vec::new();
    for unit in [&socket, &service] {
        match systemctl.clone().args(["show", unit, properties]).run().await {
            Ok(said) => shown.push((unit.as_str(), read_properties(&said.stdout))),
            Err(why) => return Finding::warning(why),
        }
    }
    judge_systemd(&shown)
}

fn judge_launchd(said: &Said) -> Finding {
    if !said.succeeded() {
        return match said.stderr.contains("Could not find service") {
            true => Finding::not_applicable(format!("launchd has no job {LABEL}; the daemon is started by commands")),
            false => Finding::warning(format!("launchd does not show its job {LABEL}: {}", said.complaint())),
        };
    }
    let Some(job) = Job::read(&said.stdout) else {
        return Finding::warning(format!("the output of launchctl for {LABEL} is not understood"));
    };
    match (job.pid, job.last_exit) {
        (Some(pid), _) => Finding::ok(format!("launchd's job {LABEL} runs, process {pid}")),
        (None, None | Some(0)) => Finding::ok(format!("launchd's job {LABEL} waits for a connection")),
        (None, Some(code)) => ended(&format!("launchd's job {LABEL} is {}, and", job.state), code)
            .hint(format!("start it by hand: sudo launchctl kickstart -p system/{LABEL}"))
            .hint("its log: sudo tail /var/lib/darwin-vz/launchd.log"),
    }
}

fn ended(name: &str, code: u8) -> Finding {
    let kind = Kind::ALL.into_iter().find(|kind| kind.exit_code() == code).unwrap_or(Kind::Host);
    Finding::failed(kind, format!("{name} last ended with exit code {code}"))
        .hint("the end of `darwin-vz-nix --help` explains the code")
}

/// The socket unit for that address, and the service that it starts: `LISTEN UNIT ACTIVATES`.
fn units_of(list: &str, listen: SocketAddr) -> Option<(String, String)> {
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?;
        (address == listen.to_string()).then_some(())?;
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    })
}

type Properties = BTreeMap<String, String>;

fn read_properties(text: &str) -> Properties {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn judge_systemd(units: &[(&str, Properties)]) -> Finding {
    let mut states = Vec::new();
    for (unit, properties) in units {
        let of = |key: &str| properties.get(key).map_or("", String::as_str);
        let journal = format!("see why: journalctl -u {unit}");
        if of("ActiveState") == "failed" {
            return match of("ExecMainStatus").parse() {
                Ok(code) if code != 0 => ended(&format!("systemd's unit {unit}"), code),
                _ => Finding::failed(Kind::Host, format!("systemd's unit {unit} failed: {}", of("Result"))),
            }
            .hint(journal)
            .hint(format!("then start it again: systemctl reset-failed {unit}"));
        }
        if of("LoadState") != "loaded" {
            return Finding::failed(Kind::Host, format!("systemd's unit {unit} is {}", of("LoadState"))).hint(journal);
        }
        states.push(format!("{unit} is {} ({})", of("ActiveState"), of("SubState")));
    }
    Finding::ok(states.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn said(code: i32, stdout: &str, stderr: &str) -> Said {
        Said { code: Some(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    #[test]
    fn a_job_of_launchd_runs_waits_or_has_failed() {
        let print =
            |fields: &str| judge_launchd(&said(0, &format!("system/org.nixos.darwin-vz = {{\n{fields}}}\n"), ""));
        let running = print("\tstate = running\n\tpid = 7\n\tlast exit code = 8\n");
        assert_eq!(running, Finding::ok("launchd's job org.nixos.darwin-vz runs, process 7"));
        let waiting = print("\tstate = not running\n\tlast exit code = (never exited)\n");
        assert_eq!((waiting.outcome, waiting.evidence.contains("waits for a connection")), (Outcome::Ok, true));
        let failed = print("\tstate = not running\n\tlast exit code = 9\n");
        assert_eq!((failed.outcome, failed.kind), (Outcome::Failed, Some(Kind::State)));
        assert_eq!(print("\tstate = spawn scheduled\n\tlast exit code = 78: EX_CONFIG\n").kind, Some(Kind::Host));
        assert_eq!(print("").outcome, Outcome::Warning);
    }

    #[test]
    fn a_job_that_launchd_does_not_know_is_no_fault() {
        let unknown = "Bad request.\nCould not find service \"org.nixos.darwin-vz\" in domain for system\n";
        assert_eq!(judge_launchd(&said(113, "", unknown)).outcome, Outcome::NotApplicable);
        assert_eq!(judge_launchd(&said(5, "", "Could not print: 5: Input/output error")).outcome, Outcome::Warning);
    }

    #[test]
    fn systemds_units_are_found_by_the_address() {
        let list = "/run/udev/control systemd-udevd-control.socket systemd-udevd.service\n\
                    127.0.0.1:31122 darwin-vz-nix.socket darwin-vz-nix.service\n\
                    [::]:22 ssh.socket ssh.service\n";
        let units = units_of(list, "127.0.0.1:31122".parse().unwrap());
        assert_eq!(units, Some(("darwin-vz-nix.socket".to_owned(), "darwin-vz-nix.service".to_owned())));
        assert_eq!(units_of(list, "127.0.0.1:3112".parse().unwrap()), None);
    }

    #[test]
    fn a_unit_of_systemd_is_loaded_and_has_not_failed() {
        let unit = |text: &str| read_properties(text);
        let socket = unit("LoadState=loaded\nActiveState=active\nSubState=listening\nResult=success\n");
        let waiting = unit("LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\n");
        let failed =
            unit("LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=9\n");
        let limit = unit("LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=start-limit-hit\n");
        let gone = unit("LoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        let judged = |service| judge_systemd(&[("a.socket", socket.clone()), ("a.service", service)]);
        assert_eq!(judged(waiting), Finding::ok("a.socket is active (listening), a.service is inactive (dead)"));
        let finding = judged(failed);
        assert_eq!((finding.kind, finding.hints[1].as_str()), (Some(Kind::State), "see why: journalctl -u a.service"));
        assert!(judged(limit).evidence.contains("start-limit-hit"));
        assert_eq!(judged(gone).evidence, "systemd's unit a.service is not-found");
    }
}
