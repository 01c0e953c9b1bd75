//! The guest's boot, and its clock. Commands run in the guest through `ssh`.

use super::{
    finding::Finding,
    shell::{Shell, TIMEOUT},
    subject::Subject,
};
use dvn_types::{Kind, Report, wire::BootTimeline};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The check `guest`.
pub async fn boots(subject: &Subject) -> Finding {
    judge_boot(subject.guest.as_ref())
}

fn judge_boot(guest: Option<&Result<BootTimeline, Report>>) -> Finding {
    match guest {
        None => Finding::not_applicable("no deep checks were requested"),
        Some(Err(report)) => report.clone().into(),
        Some(Ok(boot)) => {
            let took = boot.phases.last().map_or(0, |phase| phase.at_ms);
            Finding::ok(format!(
                "it runs Linux {}; its boot took {:.1} s",
                boot.kernel,
                Duration::from_millis(took).as_secs_f64()
            ))
        }
    }
}

/// A shell in the guest, for the checks that need one. Without a guest they do not apply.
pub async fn shell(subject: &Subject) -> Result<Shell, Finding> {
    match &subject.guest {
        Some(Ok(_)) => Shell::open(subject).await.map_err(|why| Finding::failed(Kind::Guest, why)),
        _ => Err(Finding::not_applicable("no guest runs: see the check guest")),
    }
}

/// Rounds of question and answer; the quickest counts.
const ROUNDS: usize = 5;
/// The largest accepted difference in seconds. A larger one makes file times and certificates wrong.
const TOLERANCE: f64 = 1.0;

/// One round: the host's clock before and after, the guest's in between, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Round {
    before: f64,
    guest: f64,
    after: f64,
    /// Resolution of the guest's clock.
    step: f64,
}

impl Round {
    /// How far the guest's clock is ahead, and the uncertainty of that.
    fn skew(self) -> (f64, f64) {
        let middle = f64::midpoint(self.before, self.after);
        (self.guest + self.step / 2.0 - middle, (self.after - self.before) / 2.0 + self.step / 2.0)
    }
}

/// The check `clock`.
pub async fn clock(subject: &Subject) -> Finding {
    let mut shell = match shell(subject).await {
        Ok(shell) => shell,
        Err(finding) => return finding,
    };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = now();
        // The first form has a resolution of a microsecond, where the guest's shell supports it.
        let answer = shell.run(r#"echo "${EPOCHREALTIME:-$(date +%s)}""#, TIMEOUT).await;
        let after = now();
        let answered = answer.and_then(|output| {
            let guest =
                output.text.parse().map_err(|_| format!("the guest's clock cannot be read: {:?}", output.text))?;
            Ok(Round { before, guest, after, step: if output.text.contains('.') { 0.0 } else { 1.0 } })
        });
        match answered {
            Ok(round) => rounds.push(round),
            Err(why) => return Finding::failed(Kind::Guest, why),
        }
    }
    judge_clock(&rounds)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn judge_clock(rounds: &[Round]) -> Finding {
    let skews = rounds.iter().map(|round| round.skew());
    let Some((skew, doubt)) = skews.min_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Finding::not_applicable("the guest was not asked");
    };
    let way = if skew < 0.0 { "behind" } else { "ahead" };
    let evidence = format!("the guest's is {:.3} s {way}, give or take {doubt:.3} s", skew.abs());
    if skew.abs() <= TOLERANCE + doubt {
        return Finding::ok(evidence);
    }
    Finding::failed(Kind::Guest, evidence)
        .hint("the agent should set it at each connection; restart the guest: `darwin-vz-nix stop`")
        .hint("see `darwin-vz-nix logs` for why it did not")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_types::wire::TimelinePhase;

    #[test]
    fn a_guest_runs_or_says_why_not() {
        let phases = vec![TimelinePhase { name: "ssh banner".to_owned(), at_ms: 2345 }];
        let boot = BootTimeline { demand_unix_ms: 0, phases, data_disk: "kept".to_owned(), kernel: "6.1.0".to_owned() };
        assert_eq!(judge_boot(Some(&Ok(boot))), Finding::ok("it runs Linux 6.1.0; its boot took 2.3 s"));
        let report = Report::new(Kind::Boot, "the kernel panicked").hint("see the console");
        assert_eq!(judge_boot(Some(&Err(report.clone()))), Finding::from(report));
        assert_eq!(judge_boot(None).outcome, Outcome::NotApplicable);
    }

    fn round(guest: f64, took: f64) -> Round {
        Round { before: 1000.0, guest: 1000.0 + guest, after: 1000.0 + took, step: 0.0 }
    }

    #[test]
    fn the_quickest_answer_counts() {
        let finding = judge_clock(&[round(9.0, 20.0), round(0.01, 0.02)]);
        assert_eq!(finding, Finding::ok("the guest's is 0.000 s ahead, give or take 0.010 s"));
    }

    #[test]
    fn a_clock_that_is_wrong_either_way_fails_but_not_for_slow_answers() {
        for (guest, way) in [(-3600.0, "3600.010 s behind"), (1.2, "1.190 s ahead")] {
            let finding = judge_clock(&[round(guest, 0.02)]);
            assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Guest)));
            assert!(finding.evidence.contains(way), "{finding:?}");
        }
        assert_eq!(judge_clock(&[round(0.0, 3.0)]).outcome, Outcome::Ok, "a slow answer explains the difference");
        let seconds = Round { before: 1000.9, guest: 1000.0, after: 1000.9, step: 1.0 };
        assert_eq!(judge_clock(&[seconds]).outcome, Outcome::Ok, "a clock with a resolution of a second is not behind");
        assert_eq!(judge_clock(&[]).outcome, Outcome::NotApplicable);
    }
}
