//! The jobs that pause, resume and power off a guest.
//!
//! Invariant: a pause or a resumption ends within a bounded time, with one piece of news that says whether the guest runs. If
//! the hypervisor leaves that open, the guest counts as wedged.

use super::{
    events::News,
    job::{Done, bounded, guarded},
    reports,
};
use dvn_hypervisor::{Guest, GuestAgent};
use dvn_protocol::messages::Ask;
use dvn_types::{MachineName, Report};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the hypervisor may take to pause or to resume: it only has to stop the virtual processors.
pub(super) const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long waiters wait for the clock of a resumed guest.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the agent may take to answer a shutdown. The power button is pressed at the same time.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the guest to power off, by its agent and by its power button. One of the two is enough: a guest that has just
/// started may not react to its button yet, and one whose agent hangs reacts to nothing else.
pub(super) async fn request_stop(name: MachineName, guest: Arc<dyn Guest>, agent: Option<Arc<dyn GuestAgent>>) -> Done {
    let asked = async {
        let Some(agent) = agent else { return };
        // The guest's end may come before the answer.
        match timeout(SHUTDOWN_TIMEOUT, guarded(async { agent.ask(Ask::ShutDown).await })).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(report)) | Err(report)) => {
                tracing::debug!(machine = %name, "the agent did not agree to shut down: {report}")
            }
            Err(_) => {
                tracing::debug!(machine = %name, "the agent did not agree to shut down within {SHUTDOWN_TIMEOUT:?}")
            }
        }
    };
    tokio::join!(asked, bounded("the power button", &name, async { guest.request_stop().await }));
    Done::Nothing
}

/// Pauses the guest.
pub(super) async fn pause(guest: Arc<dyn Guest>, epoch: u64) -> Done {
    let news = match timeout(PAUSE_TIMEOUT, guarded(async { guest.pause().await })).await {
        Ok(Ok(Ok(()))) => News::Paused,
        Ok(Ok(Err(why))) => News::PauseRefused(why),
        Ok(Err(panic)) => News::Wedged(panic),
        Err(_) => News::Wedged(reports::no_answer("pause", PAUSE_TIMEOUT)),
    };
    Done::News { epoch, news }
}

/// Resumes the guest. Its clock is set before the first waiter gets its lease.
pub(super) async fn resume(
    name: MachineName,
    guest: Arc<dyn Guest>,
    agent: Option<Arc<dyn GuestAgent>>,
    epoch: u64,
) -> Done {
    let why = match timeout(PAUSE_TIMEOUT, guarded(async { guest.resume().await })).await {
        Ok(Ok(Ok(()))) => {
            set_clock(&name, agent).await;
            return Done::News { epoch, news: News::Resumed };
        }
        Ok(Ok(Err(why)) | Err(why)) => why,
        Err(_) => reports::no_answer("resume", PAUSE_TIMEOUT),
    };
    tracing::error!(machine = %name, "the guest could not be resumed: {why}");
    Done::News { epoch, news: News::Wedged(why) }
}

async fn set_clock(name: &MachineName, agent: Option<Arc<dyn GuestAgent>>) {
    let Some(agent) = agent else { return };
    let failed: Report = match timeout(CLOCK_TIMEOUT, guarded(async { agent.set_clock().await })).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(report)) | Err(report)) => report,
        Err(_) => reports::no_answer("set the clock of", CLOCK_TIMEOUT),
    };
    tracing::warn!(machine = %name, "the guest's clock may be late by the length of its pause: {}", failed.message);
}
