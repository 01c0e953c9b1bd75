//! Notes every question for a guest's builds and its answer, from all callers: the monitor, the lifecycle at the end of the
//! idle time, and the code that decides whether to replace a guest.
//!
//! It wraps the lifecycle's provider, so every access to a guest's agent passes through it.

use super::activity::Activity;
use dvn_hypervisor::{Guest, GuestAgent, spec::MachineSpec};
use dvn_lifecycle::{BootEvent, GuestProvider, Ready};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{Report, Sizes};
use futures_util::future::BoxFuture;
use std::{fmt, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// A provider whose guests have an observed agent.
pub(super) struct Overheard {
    provider: Arc<dyn GuestProvider>,
    activity: Arc<watch::Sender<Activity>>,
}

impl Overheard {
    pub(super) fn new(provider: Arc<dyn GuestProvider>, activity: Arc<watch::Sender<Activity>>) -> Overheard {
        Overheard { provider, activity }
    }

    /// Wraps the agent of a new guest. Clears what was known of the earlier guest.
    fn overhear(&self, agent: Arc<dyn GuestAgent>) -> Arc<dyn GuestAgent> {
        let mut guest = 0;
        self.activity.send_modify(|activity| {
            guest = activity.guests + 1;
            *activity = Activity {
                boot: activity.boot,
                presence: activity.presence,
                uses: activity.uses,
                guests: guest,
                ..Activity::default()
            };
        });
        Arc::new(Agent { agent, guest, activity: Arc::clone(&self.activity) })
    }
}

impl GuestProvider for Overheard {
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        self.provider.prepare(sizes)
    }

    fn await_ready(&self, guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        Box::pin(async move {
            let ready = self.provider.await_ready(guest).await?;
            Ok(Ready { agent: ready.agent.map(|agent| self.overhear(agent)), ..ready })
        })
    }

    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        self.provider.explain(cause)
    }

    fn on_boot_event(&self, event: BootEvent) {
        self.provider.on_boot_event(event);
    }
}

/// The agent of one guest.
struct Agent {
    agent: Arc<dyn GuestAgent>,
    guest: u64,
    activity: Arc<watch::Sender<Activity>>,
}

impl GuestAgent for Agent {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Report>> {
        match ask {
            Ask::Builds => Box::pin(self.builds()),
            other => self.agent.ask(other),
        }
    }
}

impl Agent {
    async fn builds(&self) -> Result<Answer, Report> {
        // Subscribers are not notified of a question, only of an answer.
        self.note(|activity| {
            activity.asked = Some(Instant::now());
            false
        });
        let answer = self.agent.ask(Ask::Builds).await?;
        let builds = if let Answer::Builds { running } = answer { running } else { 0 };
        self.note(|activity| {
            let before = (activity.builds, activity.silent_since);
            (activity.builds, activity.silent_since) = (builds, None);
            before != (builds, None)
        });
        Ok(answer)
    }

    fn note(&self, change: impl FnOnce(&mut Activity) -> bool) {
        self.activity.send_if_modified(|activity| activity.guests == self.guest && change(activity));
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.agent.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_hypervisor::sim_agent;
    use dvn_lifecycle::InMemory;

    fn builds(running: u32) -> Arc<dyn GuestAgent> {
        sim_agent::that_says(move |ask| match ask {
            Ask::Builds => Answer::Builds { running },
            _ => Answer::Done,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_any_question_for_builds_is_noted_if_it_is_of_the_present_guest() {
        let (activity, mut seen) = watch::channel(Activity::default());
        let overheard = Overheard::new(Arc::new(InMemory::with(builds(0))), Arc::new(activity));
        let (first, second) = (overheard.overhear(builds(2)), overheard.overhear(builds(3)));
        seen.mark_unchanged();
        assert_eq!(first.builds().await, Ok(2), "the question is passed on");
        assert!(!seen.has_changed().unwrap(), "its guest is gone");
        second.set_clock().await.unwrap();
        assert_eq!(seen.borrow().asked, None, "another question does not count");
        assert_eq!(second.builds().await, Ok(3));
        let known = seen.borrow_and_update().clone();
        assert_eq!((known.builds, known.asked), (3, Some(Instant::now())));
        assert_eq!(second.builds().await, Ok(3));
        assert!(!seen.has_changed().unwrap(), "subscribers are notified of changes only");
    }
}
