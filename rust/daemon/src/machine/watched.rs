//! A machine in memory with its monitor, for tests of the monitor's subscribers.

use super::{
    activity::{Activities, Activity, Uses},
    asked::Overheard,
    hang,
    monitor::Monitor,
};
use dvn_hypervisor::{
    GuestAgent,
    sim::{Script, Sim},
};
use dvn_lifecycle::{Handle, InMemory, Policy};
use dvn_types::MachineName;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};

pub(super) fn name() -> MachineName {
    "builder".parse().unwrap()
}

pub(super) struct Watched {
    pub(super) handle: Handle,
    pub(super) activities: Activities,
    pub(super) tasks: JoinSet<()>,
}

impl Watched {
    pub(super) fn new(script: Script, agent: Arc<dyn GuestAgent>, policy: Policy, limit: Option<Duration>) -> Watched {
        let activity = Arc::new(watch::Sender::<Activity>::default());
        let activities = activity.subscribe();
        let provider = Arc::new(Overheard::new(Arc::new(InMemory::with(agent)), Arc::clone(&activity)));
        let handle = dvn_lifecycle::spawn(name(), Arc::new(Sim::new(script)), provider, policy);
        let mut tasks = JoinSet::new();
        tasks.spawn(Monitor { name: name(), handle: handle.clone(), activity, hang_timeout: limit }.run());
        tasks.spawn(hang::watch(name(), handle.clone(), activities.clone(), limit));
        Watched { handle, activities, tasks }
    }

    /// Without timeouts, and without a limit for hung guests.
    pub(super) fn timeless(agent: Arc<dyn GuestAgent>) -> Watched {
        Watched::new(Script::default(), agent, Policy::TIMELESS, None)
    }

    pub(super) fn uses(&self) -> Uses {
        Uses::of(self.activities.clone())
    }

    /// The current activity.
    pub(super) fn activity(&self) -> Activity {
        self.activities.borrow().clone()
    }
}
