//! The states of a lifecycle, as plain data. What they mean for each other is [`machine`](super::machine)'s to say.

use dvn_hypervisor::Exit;
use dvn_types::Report;
use std::time::Duration;
use tokio::time::Instant;

/// How often the power button is pressed until the guest goes or is killed: presses get lost while a guest is busy.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// After so many kills without effect, whoever waits is told that the guest does not go. The killing goes on.
pub const STUCK_AFTER: u32 = 3;

/// How often a guest is asked whether its builds are done, while they alone keep it: each answer costs a wake-up.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a guest may take to say what it builds before it counts as idle.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// How much longer an unused guest is kept when another machine waits for what it takes: builds that follow on each other
/// have pauses.
pub const GIVE_WAY: Duration = Duration::from_secs(10);

/// The times that the lifecycle keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Stop a guest without leases and builds after this long; `None` never.
    pub idle: Option<Duration>,
    /// How long a guest may take to power off before it is killed, and how long until it is killed again. Zero kills
    /// without asking.
    pub grace: Duration,
    /// How long a boot may take, from the demand (or the end of the guest before) to readiness.
    pub boot_timeout: Duration,
    /// After the second failed boot in a row, connections are refused for this long; doubles with every further one. One
    /// failure may be chance (somebody killed the guest), and the next connection may try at once.
    pub backoff: Duration,
    /// The longest back-off.
    pub backoff_max: Duration,
}

impl Policy {
    /// These times, and a back-off from 5 seconds to 5 minutes, from the second failure in a row on.
    pub fn new(idle: Option<Duration>, grace: Duration, boot_timeout: Duration) -> Policy {
        let (backoff, backoff_max) = (Duration::from_secs(5), Duration::from_secs(300));
        Policy { idle, grace, boot_timeout, backoff, backoff_max }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Policy {
    /// Nothing happens because of a time.
    pub const TIMELESS: Policy = Policy {
        idle: None,
        grace: Duration::ZERO,
        boot_timeout: Duration::MAX,
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };
}

/// A machine's lifecycle, complete: two equal values behave alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Boots begun. The number of the last one is the *epoch* which its leases and its news carry.
    pub boots: u64,
    /// Boots failed in a row.
    pub failures: u32,
    /// Where it stands.
    pub state: State,
}

impl Default for Machine {
    /// At rest, never booted.
    fn default() -> Self {
        Machine { boots: 0, failures: 0, state: State::Stopped { last: None } }
    }
}

/// Where a lifecycle stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No guest, and none on the way.
    Stopped {
        /// How the last guest ended.
        last: Option<Exit>,
    },
    /// The host prepares and the hypervisor starts a guest. It can be cancelled, but its answer is always awaited.
    Starting {
        /// Demands to answer; never 0.
        waiters: u32,
        /// When the boot is given up.
        deadline: Instant,
    },
    /// There is a guest; it does not answer yet.
    Booting {
        /// Demands to answer; never 0.
        waiters: u32,
        /// When the boot is given up.
        deadline: Instant,
    },
    /// The guest answers.
    Running {
        /// Leases of this epoch that are held.
        leases: u32,
        /// Set exactly while nobody holds a lease and the policy has an idle time.
        idle: Option<Idle>,
    },
    /// The guest stands still, or is about to, or is about to go on. No time counts.
    Paused {
        /// Leases of this epoch that are held.
        leases: u32,
        /// Demands to answer once it goes on; none while it stands still.
        waiters: u32,
        /// How far it is.
        halt: Halt,
    },
    /// The guest, or the boot that would bring one, is on its way out.
    Stopping {
        /// What is on its way out.
        what: Going,
        /// When the power button is pressed again, if that is how it goes.
        ask_at: Option<Instant>,
        /// When it is killed, or killed again.
        kill_at: Instant,
        /// Kills after a `kill_at` so far, up to [`STUCK_AFTER`].
        kills: u32,
        /// What follows.
        then: Then,
    },
    /// No guest, because the last boot failed.
    Failed {
        /// Why.
        cause: Report,
        /// When a demand boots again.
        retry_at: Instant,
    },
}

/// A running guest that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It is left alone until its builds are asked for.
    Until {
        /// When.
        at: Instant,
    },
    /// It was asked for its builds.
    Asked {
        /// When it counts as idle without an answer.
        until: Instant,
    },
}

/// How far a pause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The hypervisor was told to pause the guest, and its answer is awaited.
    Pausing,
    /// The guest stands still.
    Still,
    /// The hypervisor was told to let it go on, and its answer is awaited.
    Resuming,
}

/// What a Stopping machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// The answer of a boot.
    Boot,
    /// The answer of a pause, after which the guest goes on, for one that stands still hears no power button.
    Pausing,
    /// The guest going on. Then its power button is pressed.
    Resuming,
    /// The end of a guest.
    Guest,
}

/// What follows Stopping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Stopped.
    Rest,
    /// A boot, because somebody asked for one meanwhile.
    Restart {
        /// Demands to answer; never 0.
        waiters: u32,
    },
    /// Failed, for this cause.
    Fail(Report),
}
