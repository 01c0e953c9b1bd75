//! A machine that the daemon could not open.

use super::{finding::Finding, subject::Subject};
use dvn_types::{
    Report,
    wire::{MachineStatus, State},
};

/// The check `machine`.
pub async fn check(subject: &Subject) -> Finding {
    judge(subject.daemon.is_ok(), subject.status(), subject.machine.as_str())
}

/// Why the daemon could not open the machine, if it could not.
pub fn cause(status: &MachineStatus) -> Option<&Report> {
    match &status.state {
        State::Broken { cause } => Some(cause),
        _ => None,
    }
}

fn judge(runs: bool, status: Option<&MachineStatus>, name: &str) -> Finding {
    match status {
        Some(status) => match cause(status) {
            Some(cause) => cause.clone().into(),
            None => Finding::ok("the daemon has it"),
        },
        None if runs => Finding::warning(format!("the daemon that runs has no machine {name}"))
            .hint("start it anew, so that it takes the settings: `darwin-vz-nix stop --daemon`"),
        None => Finding::not_applicable("no daemon runs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_types::{Kind, wire::StoreStatus};

    fn status(state: State) -> MachineStatus {
        MachineStatus {
            name: "builder".parse().unwrap(),
            backend: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            state,
            waits_for: None,
            since_unix_ms: 0,
            boots: 0,
            listen: vec![],
            cores: 1,
            memory: 1,
            disk_size: 1,
            last_boot: None,
            generations: None,
            store: StoreStatus::default(),
        }
    }

    #[test]
    fn a_broken_machine_is_found_with_its_reason_and_hints() {
        let report = Report::new(Kind::Busy, "another program has that port").hint("end it");
        let finding = judge(true, Some(&status(State::Broken { cause: report })), "builder");
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Busy)));
        assert!(finding.evidence.contains("another program") && finding.hints == ["end it"], "{finding:?}");
        assert_eq!(judge(true, Some(&status(State::Starting)), "builder").outcome, Outcome::Ok);
        assert_eq!(judge(true, None, "builder").outcome, Outcome::Warning);
        assert_eq!(judge(false, None, "builder").outcome, Outcome::NotApplicable);
    }
}
