//! The vocabulary of the lifecycle: what a machine hears, and what it has the actor do.

use dvn_hypervisor::Exit;
use dvn_types::Report;

/// What happens to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody needs the guest. `insist`: try even within the back-off.
    Demand {
        /// Whether the back-off is ignored.
        insist: bool,
    },
    /// A lease was dropped.
    Release {
        /// The epoch in which it was granted.
        epoch: u64,
    },
    /// Somebody who had given up a lease because nothing moved uses the guest again. Nobody waits for an answer.
    Retake {
        /// The epoch in which the lease was granted.
        epoch: u64,
    },
    /// Somebody wants the guest gone.
    Stop {
        /// Pull the plug instead of pressing the power button.
        force: bool,
    },
    /// Another machine waits for what the guest takes.
    GiveWay,
    /// Somebody wants the guest to stand still.
    Pause,
    /// News of a boot or of its guest. Those of another epoch than the present are ignored.
    News {
        /// Which boot.
        epoch: u64,
        /// What about it.
        news: News,
    },
    /// Time has passed: perhaps a [`deadline`](super::machine::deadline) is due.
    Tick,
}

/// What is heard of a boot and its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The hypervisor runs a guest.
    Up,
    /// There will be no guest: why. Also the answer to a boot that was cancelled.
    BootFailed(Report),
    /// The guest answers.
    Ready,
    /// The guest will never answer: why.
    NotReady(Report),
    /// So many builds go on in the guest; 0 also if it did not say.
    Builds(u32),
    /// The guest stands still.
    Paused,
    /// The hypervisor would not pause the guest, which goes on: why.
    PauseRefused(Report),
    /// The guest, which stood still, goes on.
    Resumed,
    /// A pause or its end has left the guest in a state in which it is of no use: why.
    Wedged(Report),
    /// The guest is gone.
    Exited(Exit),
    /// The cause of this boot's failure, with more to it.
    Explained(Report),
}

/// What the actor must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begin the boot whose epoch is the machine's present `boots`. Answered by `Up` or `BootFailed`.
    Boot,
    /// Wait for the new guest's readiness. Answered by `Ready` or `NotReady`, unless it is killed.
    AwaitReady,
    /// Ask the guest for its builds. Answered by `Builds`.
    AskBuilds,
    /// Press the power button.
    RequestStop,
    /// Have the guest stand still. Answered by `Paused`, `PauseRefused` or `Wedged`.
    Pause,
    /// Have the guest go on, with its clock set. Answered by `Resumed` or `Wedged`.
    Resume,
    /// Cancel the boot, or pull the guest's plug.
    Kill,
    /// Give each of this many waiters, which are all there are, a lease of the present epoch.
    Grant(u32),
    /// Refuse all waiters.
    Deny(Report),
    /// Refuse all waiters with the cause of a failed boot, once it has been explained.
    DenyExplained(Report),
    /// Tell all who asked for a pause that the guest stands still.
    PauseDone,
    /// Tell all who asked for a pause that there is none.
    PauseDenied(Report),
    /// Tell all who asked for a stop that the guest is gone.
    Rested,
    /// Tell all who asked for a stop that the guest does not go.
    Stuck(Report),
}
