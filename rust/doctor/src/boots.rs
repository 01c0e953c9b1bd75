//! The results of the last boots. A failed boot is reported even after later ones succeeded, until its record expires.

use super::{finding::Finding, subject::Subject};
use dvn_guest::boots;
use dvn_types::wire::BootRecord;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The check `boots`.
pub async fn check(subject: &Subject) -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The daemon's records are newer than its files.
    let listed = if subject.daemon.is_ok() { subject.client.boots(&subject.machine).await.ok() } else { None };
    judge(&listed.map_or_else(|| boots::left(&subject.dir()), |listed| listed.boots), now)
}

fn judge(newest_first: &[BootRecord], now: Duration) -> Finding {
    let Some(last) = newest_first.first() else {
        return Finding::not_applicable("there is no record of a boot");
    };
    let failure = newest_first.iter().enumerate().find_map(|(back, record)| Some((back, record, record.went_wrong()?)));
    let Some((back, record, why)) = failure else {
        return Finding::ok(match newest_first.len() {
            1 => format!("boot {}, the last one, went well", last.number),
            many => format!("the last {many} went well, up to boot {}", last.number),
        });
    };
    let ago = now.saturating_sub(Duration::from_millis(record.begun_unix_ms)).as_secs();
    let evidence = format!("boot {}, begun {} ago: {}", record.number, span(ago), why.message);
    let finding = match back {
        0 => Finding::warning(evidence),
        _ => Finding::ok(format!("boot {} went well; {evidence}", last.number)),
    };
    let see =
        format!("see what its guest printed: `darwin-vz-nix logs --boot {}`; all boots: `logs --boots`", record.number);
    match back {
        0 => why.hints.into_iter().fold(finding, Finding::hint).hint(see),
        _ => finding.hint(see),
    }
}

/// A duration for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_types::{Kind, Report, wire::BootOutcome};

    fn boot(number: u64, outcome: BootOutcome) -> BootRecord {
        let (ready_unix_ms, ended_unix_ms, bundle, console_bytes) = Default::default();
        let begun_unix_ms = number * 60_000;
        let (cores, memory) = (1, 1 << 30);
        BootRecord {
            number,
            begun_unix_ms,
            ready_unix_ms,
            ended_unix_ms,
            outcome,
            bundle,
            cores,
            memory,
            console_bytes,
        }
    }

    #[test]
    fn the_last_failure_is_reported_with_its_present_weight() {
        let now = Duration::from_secs(600);
        assert_eq!(judge(&[], now).outcome, Outcome::NotApplicable);
        let good = || BootOutcome::Ended { exit: "powered-off".to_owned() };
        assert_eq!(
            judge(&[boot(2, BootOutcome::Running), boot(1, good())], now).evidence,
            "the last 2 went well, up to boot 2"
        );

        let why = Report::new(Kind::Boot, "the kernel panicked").hint("see the console");
        let failed = || boot(3, BootOutcome::Failed { why: why.clone() });
        let finding = judge(&[failed(), boot(2, good())], now);
        assert_eq!(finding.outcome, Outcome::Warning);
        assert_eq!(finding.evidence, "boot 3, begun 7 min ago: the kernel panicked");
        assert!(finding.hints[0] == "see the console" && finding.hints[1].contains("logs --boot 3"), "{finding:?}");

        let finding = judge(&[boot(4, BootOutcome::Running), failed()], now);
        assert_eq!((finding.outcome, finding.hints.len()), (Outcome::Ok, 1), "{finding:?}");
        assert!(finding.evidence.contains("boot 4 went well; boot 3"), "{finding:?}");

        let crashed = boot(5, BootOutcome::Ended { exit: "crashed: virtiofsd ended: no".to_owned() });
        assert!(judge(&[crashed], now).evidence.contains("virtiofsd ended: no"));
        assert_eq!(judge(&[boot(5, BootOutcome::Lost)], now).outcome, Outcome::Warning);
    }
}
