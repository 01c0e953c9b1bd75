//! The daemon: the lock of the state directory says whether one runs, the API whether it answers.

use super::{finding::Finding, subject::Subject};
use dvn_host::machine_dir::{Holder, lock_holder};
use dvn_types::{Kind, Report};

/// The check `daemon`.
pub async fn check(subject: &Subject) -> Finding {
    let answer = subject.daemon.as_ref().map(|status| (status.version.as_str(), status.pid));
    judge(answer, &lock_holder(&subject.state_dir), env!("CARGO_PKG_VERSION"))
}

fn judge(answer: Result<(&str, u32), &Report>, holder: &Holder, ours: &str) -> Finding {
    match (answer, holder) {
        (Ok((theirs, pid)), _) if theirs != ours => {
            Finding::warning(format!("process {pid} is version {theirs}, and this program is {ours}"))
                .hint("restart it: `darwin-vz-nix stop --daemon`, and the next build starts this version")
        }
        (Ok((_, pid)), Holder::Free) => {
            Finding::failed(Kind::State, format!("process {pid} answers, but does not hold the state directory's lock"))
                .hint("the directory was replaced while it ran: end that process, and start the daemon again")
        }
        (Ok((version, pid)), _) => Finding::ok(format!("process {pid} answers, version {version}")),
        (Err(report), Holder::Unknown(_)) if report.kind == Kind::Host => report.clone().into(),
        (Err(_), Holder::Free) => Finding::ok("none runs; a build or `start` starts one"),
        (Err(report), Holder::Process(pid)) => {
            Finding::failed(Kind::NotRunning, format!("process {pid} holds the state directory, but {report}"))
                .hint("its log may say why: `darwin-vz-nix logs`")
                .hint(format!("end it: kill {pid}"))
        }
        (Err(_), Holder::Unknown(why)) => {
            Finding::warning(format!("no daemon answers, and the lock cannot be examined: {why}"))
                .hint("run this as the user whose daemon it is, or as root")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    #[test]
    fn lock_and_answer_belong_together() {
        let silent = Report::new(Kind::NotRunning, "no daemon answers");
        let closed = Report::new(Kind::Host, "this user may not");
        let held = Holder::Process("7".to_owned());
        let unknown = Holder::Unknown("denied".to_owned());
        for (answer, holder, outcome, evidence) in [
            (Ok(("1.0", 7)), &held, Outcome::Ok, "process 7 answers, version 1.0"),
            (Err(&silent), &Holder::Free, Outcome::Ok, "none runs"),
            (Ok(("0.9", 7)), &held, Outcome::Warning, "version 0.9, and this program is 1.0"),
            (Ok(("1.0", 7)), &Holder::Free, Outcome::Failed, "does not hold"),
            (Err(&silent), &held, Outcome::Failed, "process 7 holds the state directory, but no daemon answers"),
            (Err(&silent), &unknown, Outcome::Warning, "denied"),
            (Err(&closed), &unknown, Outcome::Failed, "may not"),
        ] {
            let finding = judge(answer, holder, "1.0");
            assert_eq!(finding.outcome, outcome, "{finding:?}");
            assert!(finding.evidence.contains(evidence), "{evidence}: {finding:?}");
        }
    }
}
