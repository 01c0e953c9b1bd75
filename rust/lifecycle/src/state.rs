//! The states of a lifecycle, as plain data. [`machine`](super::machine) has the transitions between them.

use dvn_hypervisor::Exit;
use dvn_types::Report;
use std::time::Duration;
use tokio::time::Instant;

/// How often the power button is pressed until the guest has ended or is killed: a busy guest can miss a press.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// After so many kills without effect, all waiters get an error. The kills continue.
pub const STUCK_AFTER: u32 = 3;

/// How often a guest is asked whether its builds are done, while only they keep it running: each answer costs a wake-up.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a guest may take to report its builds before it counts as idle.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The idle time of an unused guest while another machine waits for its memory. It is not zero, because a client that
/// builds one thing after another pauses in between.
pub const GIVE_WAY: Duration = Duration::from_secs(10);

/// The timeouts of a lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Stop a guest without leases and builds after this long; `None`: never.
    pub idle: Option<Duration>,
    /// How long a guest may take to power off before it is killed, and how long until it is killed again. Zero: kill it
    /// without pressing the power button.
    pub grace: Duration,
    /// How long a boot may take, from the demand (or the end of the guest before) to readiness.
    pub boot_timeout: Duration,
    /// After the second failed boot in a row, connections are refused for this long; doubles with every further failure. One
    /// failure may be chance (the guest was killed), so the next connection boots at once.
    pub backoff: Duration,
    /// The longest back-off.
    pub backoff_max: Duration,
}

impl Policy {
    /// These timeouts, with a back-off of 5 seconds to 5 minutes from the second failure in a row.
    pub fn new(idle: Option<Duration>, grace: Duration, boot_timeout: Duration) -> Policy {
        let (backoff, backoff_max) = (Duration::from_secs(5), Duration::from_secs(300));
        Policy { idle, grace, boot_timeout, backoff, backoff_max }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Policy {
    /// No timer ever expires.
    pub const TIMELESS: Policy = Policy {
        idle: None,
        grace: Duration::ZERO,
        boot_timeout: Duration::MAX,
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };
}

/// A machine's complete lifecycle: two equal values behave alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Boots begun. The number of the last one is the *epoch* that its leases and its news carry.
    pub boots: u64,
    /// Boots failed in a row.
    pub failures: u32,
    /// The current state.
    pub state: State,
}

impl Default for Machine {
    /// Stopped, never booted.
    fn default() -> Self {
        Machine { boots: 0, failures: 0, state: State::Stopped { last: None } }
    }
}

/// The state of a lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No guest, and no boot.
    Stopped {
        /// How the last guest ended.
        last: Option<Exit>,
    },
    /// The host prepares a guest, then the hypervisor starts it. This can be cancelled, but its answer is always awaited.
    Starting {
        /// Demands to answer; never 0.
        waiters: u32,
        /// When the boot times out.
        deadline: Instant,
    },
    /// The hypervisor runs a guest that does not answer yet.
    Booting {
        /// Demands to answer; never 0.
        waiters: u32,
        /// When the boot times out.
        deadline: Instant,
    },
    /// The guest answers.
    Running {
        /// Leases of this epoch that are held.
        leases: u32,
        /// Set exactly while no lease is held and the policy has an idle time.
        idle: Option<Idle>,
    },
    /// The guest is paused, being paused, or being resumed. No timer runs.
    Paused {
        /// Leases of this epoch that are held.
        leases: u32,
        /// Demands to answer once it runs again; 0 while it is paused.
        waiters: u32,
        /// The stage of the pause.
        stage: PauseStage,
    },
    /// The guest is being stopped, or the boot is being cancelled.
    Stopping {
        /// What has to end first.
        what: Leaving,
        /// When the power button is pressed again; `None` if it is not used.
        ask_at: Option<Instant>,
        /// When the guest is killed, or killed again.
        kill_at: Instant,
        /// Kills after a `kill_at` so far, up to [`STUCK_AFTER`].
        kills: u32,
        /// The state that follows.
        then: AfterStop,
    },
    /// No guest, because the last boot failed.
    Failed {
        /// Why it failed.
        cause: Report,
        /// From when on a demand boots again.
        retry_at: Instant,
    },
}

impl State {
    /// Whether a demand of now leads to a boot. One that does not insist is refused within the back-off.
    pub fn needs_boot(&self, insist: bool, now: Instant) -> bool {
        match self {
            State::Stopped { .. } | State::Stopping { .. } => true,
            State::Failed { retry_at, .. } => insist || now >= *retry_at,
            State::Starting { .. } | State::Booting { .. } | State::Running { .. } | State::Paused { .. } => false,
        }
    }
}

/// The idle timer of a running guest without a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The idle time runs.
    Until {
        /// When the guest is asked for its builds.
        at: Instant,
    },
    /// The guest was asked for its builds.
    Asked {
        /// When it counts as idle if it has not answered.
        until: Instant,
    },
}

/// The stage of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseStage {
    /// The hypervisor is pausing the guest and has not answered yet.
    Pausing,
    /// The guest is paused.
    Paused,
    /// The hypervisor is resuming the guest and has not answered yet.
    Resuming,
}

/// What a Stopping machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The answer to a boot.
    Boot,
    /// The answer to a pause. The guest is resumed then, because a paused guest does not react to its power button.
    Pausing,
    /// The answer to a resumption. The power button is pressed then.
    Resuming,
    /// The end of a guest.
    Guest,
}

/// The state that follows Stopping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterStop {
    /// Stopped.
    Rest,
    /// A boot, because a demand came in while the machine was stopping.
    Restart {
        /// Demands to answer; never 0.
        waiters: u32,
    },
    /// Failed, for this cause.
    Fail(Report),
}
