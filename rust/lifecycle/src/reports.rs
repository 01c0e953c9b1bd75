//! The error reports of the lifecycle: one for each of its own reasons to refuse a request or to fail.

use super::state::{Leaving, STUCK_AFTER};
use dvn_hypervisor::{Exit, advice};
use dvn_types::{Kind, Report};
use humantime::format_duration;
use std::time::Duration;

const LOOK_AT_LOG: &str = "look for what the hypervisor said: `darwin-vz-nix logs`";
const LOOK_AT_CONSOLE: &str = "see how far it came: `darwin-vz-nix logs --console`";

/// For demands that wait when the machine is stopped.
pub(super) fn being_stopped() -> Report {
    Report::new(Kind::Busy, "the machine is being stopped").hint("connect again to start it again")
}

/// For a pause or a resumption without a running guest.
pub(super) fn nothing_runs() -> Report {
    Report::new(Kind::Busy, "no guest runs").hint("start it: `darwin-vz-nix start`")
}

/// For a pause of a guest that a demand is resuming.
pub(super) fn being_resumed() -> Report {
    Report::new(Kind::Busy, "the guest is being resumed for a connection or a request").hint("try again in a moment")
}

/// The cause of a guest's end if the hypervisor does not answer.
pub(super) fn no_answer(what: &str, after: Duration) -> Report {
    Report::new(Kind::Guest, format!("the hypervisor did not {what} the guest within {}", format_duration(after)))
        .hint("the guest is killed; the next connection starts another one")
        .hint(LOOK_AT_LOG)
}

/// For all demands once the daemon is shutting down.
pub(super) fn shutting_down() -> Report {
    Report::new(Kind::Busy, "the daemon is shutting down").hint("start it again: `darwin-vz-nix start`")
}

/// For a demand for other sizes than those of the present boot.
pub(super) fn other_sizes() -> Report {
    Report::new(Kind::Busy, "the machine is up, or on its way up, with other sizes than those asked for")
        .hint("stop it first: `darwin-vz-nix stop`, then start it with the new sizes")
        .hint("or start it without sizes, to use it as it is")
}

/// For demands within the back-off after a failed boot; `wait` is the rest of the back-off.
pub(super) fn refused(cause: &Report, wait: Duration) -> Report {
    // Rounded up to a second, so that a client that waits this long is not refused again.
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    let wait = format_duration(Duration::from_secs(seconds));
    cause.clone().hint(format!("the next connection after {wait} tries again; `darwin-vz-nix start` tries at once"))
}

/// For stop requests whose guest does not end.
pub(super) fn stuck(what: Leaving) -> Report {
    let what = match what {
        Leaving::Boot => "the boot does not end, although it was cancelled",
        Leaving::Pausing | Leaving::Resuming | Leaving::Guest => "the guest does not end, although it was killed",
    };
    Report::new(Kind::Busy, format!("{what} {STUCK_AFTER} times"))
        .hint("it is killed again and again until it goes; `darwin-vz-nix status` shows when")
        .hint(LOOK_AT_LOG)
}

/// The cause of a boot that failed because the hypervisor did not answer in time.
pub(super) fn not_started(after: Duration) -> Report {
    let after = format_duration(after);
    Report::new(Kind::Boot, format!("the hypervisor had not started the guest after {after}")).hint(LOOK_AT_LOG)
}

/// The cause of a boot that failed because the guest did not answer in time.
pub(super) fn not_ready(after: Duration) -> Report {
    Report::new(Kind::Boot, format!("the guest was not ready within {}", format_duration(after)))
        .hint(LOOK_AT_CONSOLE)
        .hint("if it was only slow, raise the boot timeout in the configuration")
}

/// The cause of a boot that failed because its guest ended.
pub(super) fn gone_early(exit: &Exit) -> Report {
    let how = match exit {
        Exit::PoweredOff => "the guest powered itself off before it was ready".to_owned(),
        Exit::Killed => "the guest was killed before it was ready".to_owned(),
        Exit::Suspended => "the guest was suspended before it was ready".to_owned(),
        Exit::Crashed(why) => format!("the guest ended before it was ready: {why}"),
    };
    let report = Report::new(Kind::Boot, how).hint(LOOK_AT_CONSOLE);
    match exit {
        Exit::Crashed(why) if why.contains("ended with") || why.contains("was killed") => report.hint(advice::on(why)),
        _ => report,
    }
}

/// The result of a cancelled boot. No demand waits for it any more.
pub(super) fn cancelled() -> Report {
    Report::new(Kind::Busy, "the boot was cancelled").hint("start it again: `darwin-vz-nix start`")
}

/// The result of a cancelled boot whose preparation does not end.
pub(super) fn hangs() -> Report {
    Report::new(Kind::Host, "the boot was cancelled while its preparation waited for a file which did not come")
        .hint("see that the volume of the guest bundle answers: `darwin-vz-nix doctor bundle`")
}

/// A panic in a job.
pub(super) fn panicked(what: &str) -> Report {
    Report::new(Kind::Internal, format!("a fault of darwin-vz-nix: {what}"))
        .hint("please report it with what `darwin-vz-nix logs` shows")
}

pub(super) fn no_agent() -> Report {
    Report::new(Kind::Guest, "no agent runs in the guest, and this needs one")
}
