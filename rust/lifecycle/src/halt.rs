//! The jobs that make a guest stand still and go on, and the one that has it power off.
//!
//! The rule that holds here: a job about a pause ends as one piece of news, within a bounded time, that tells for certain whether
//! the guest runs. Where the hypervisor leaves that open, the guest counts as lost.

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

/// How long the hypervisor may take: it has only to halt processors.
pub(super) const HALT_WITHIN: Duration = Duration::from_secs(10);

/// How long the clock of a guest that goes on may keep those who wait for it.
const CLOCK_WITHIN: Duration = Duration::from_secs(3);

/// How long the agent may take to say that it shuts down. The power button does not wait for it.
const AGREES_WITHIN: Duration = Duration::from_secs(5);

/// Has the guest power off: its agent is asked, and the power button is pressed. One of the two is enough. A guest that has
/// only just begun to run may not hear its button yet, and one whose agent hangs may hear nothing else.
pub(super) async fn request_stop(name: MachineName, guest: Arc<dyn Guest>, agent: Option<Arc<dyn GuestAgent>>) -> Done {
    let asked = async {
        let Some(agent) = agent else { return };
        // The guest's end may come before the answer.
        match timeout(AGREES_WITHIN, guarded(async { agent.ask(Ask::ShutDown).await })).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(report)) | Err(report)) => {
                tracing::debug!(machine = %name, "the agent did not agree to shut down: {report}")
            }
            Err(_) => tracing::debug!(machine = %name, "the agent did not agree to shut down within {AGREES_WITHIN:?}"),
        }
    };
    tokio::join!(asked, bounded("the power button", &name, async { guest.request_stop().await }));
    Done::Nothing
}

/// Makes the guest stand still.
pub(super) async fn pause(guest: Arc<dyn Guest>, epoch: u64) -> Done {
    let news = match timeout(HALT_WITHIN, guarded(async { guest.pause().await })).await {
        Ok(Ok(Ok(()))) => News::Paused,
        Ok(Ok(Err(why))) => News::PauseRefused(why),
        Ok(Err(panic)) => News::Wedged(panic),
        Err(_) => News::Wedged(reports::no_answer("pause", HALT_WITHIN)),
    };
    Done::News { epoch, news }
}

/// Lets the guest go on. Its clock is right before anybody gets to it.
pub(super) async fn resume(
    name: MachineName,
    guest: Arc<dyn Guest>,
    agent: Option<Arc<dyn GuestAgent>>,
    epoch: u64,
) -> Done {
    let why = match timeout(HALT_WITHIN, guarded(async { guest.resume().await })).await {
        Ok(Ok(Ok(()))) => {
            set_clock(&name, agent).await;
            return Done::News { epoch, news: News::Resumed };
        }
        Ok(Ok(Err(why)) | Err(why)) => why,
        Err(_) => reports::no_answer("resume", HALT_WITHIN),
    };
    tracing::error!(machine = %name, "the guest does not go on after its pause: {why}");
    Done::News { epoch, news: News::Wedged(why) }
}

async fn set_clock(name: &MachineName, agent: Option<Arc<dyn GuestAgent>>) {
    let Some(agent) = agent else { return };
    let failed: Report = match timeout(CLOCK_WITHIN, guarded(async { agent.set_clock().await })).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(report)) | Err(report)) => report,
        Err(_) => reports::no_answer("set the clock of", CLOCK_WITHIN),
    };
    tracing::warn!(machine = %name, "the guest's clock may be as slow as it stood still: {}", failed.message);
}
