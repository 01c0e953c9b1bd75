//! The events that a machine receives, and the effects that it has the actor perform.

use dvn_hypervisor::Exit;
use dvn_types::Report;

/// An input of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A caller needs the guest.
    Demand {
        /// Whether the back-off is ignored.
        insist: bool,
    },
    /// A lease was dropped.
    Release {
        /// The epoch in which it was granted.
        epoch: u64,
    },
    /// A lease that was deactivated is active again. There is no answer.
    Reacquire {
        /// The epoch in which the lease was granted.
        epoch: u64,
    },
    /// A caller stops the guest.
    Stop {
        /// Kill it instead of pressing the power button.
        force: bool,
    },
    /// Another machine waits for the guest's memory.
    GiveWay,
    /// A caller pauses the guest.
    Pause,
    /// News of a boot or of its guest. News of another epoch than the present one is ignored.
    News {
        /// The boot's number.
        epoch: u64,
        /// The news.
        news: News,
    },
    /// Time has passed: a [`deadline`](super::machine::deadline) may be due.
    Tick,
}

/// The result of a job about a boot or its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The hypervisor runs a guest.
    Up,
    /// The boot failed or was cancelled, for this reason. There is no guest.
    BootFailed(Report),
    /// The boot was not begun, because there is no room for its guest, for this reason. The guest is not at fault.
    NoRoom(Report),
    /// The guest answers.
    Ready,
    /// The guest will never answer, for this reason.
    NotReady(Report),
    /// The number of builds that run in the guest; 0 also if it did not answer.
    Builds(u32),
    /// The guest is paused.
    Paused,
    /// The hypervisor did not pause the guest, for this reason. The guest still runs.
    PauseRefused(Report),
    /// The guest runs again.
    Resumed,
    /// A pause or a resumption has failed, for this reason, so that it is unknown whether the guest runs.
    Wedged(Report),
    /// The guest is gone.
    Exited(Exit),
    /// The explained cause of this boot's failure.
    Explained(Report),
}

/// An action that the actor must perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begin the boot whose epoch is the machine's present `boots`. Answered by `Up`, `BootFailed` or `NoRoom`.
    Boot,
    /// Wait until the new guest is ready. Answered by `Ready` or `NotReady`, unless the guest is killed.
    AwaitReady,
    /// Ask the guest for its builds. Answered by `Builds`.
    AskBuilds,
    /// Press the power button.
    RequestStop,
    /// Pause the guest. Answered by `Paused`, `PauseRefused` or `Wedged`.
    Pause,
    /// Resume the guest and set its clock. Answered by `Resumed` or `Wedged`.
    Resume,
    /// Cancel the boot, or kill the guest.
    Kill,
    /// Give all waiters, this many, a lease of the present epoch.
    Grant(u32),
    /// Refuse all waiters.
    Deny(Report),
    /// Refuse all waiters with the cause of a failed boot, once it has been explained.
    DenyExplained(Report),
    /// Answer all pause requests: the guest is paused.
    PauseDone,
    /// Refuse all pause requests.
    PauseDenied(Report),
    /// Answer all stop requests: the guest is gone.
    Rested,
    /// Answer all stop requests with this error: the guest does not end.
    Stuck(Report),
}
