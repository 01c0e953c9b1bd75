//! The jobs that make a guest stand still and go on.
//!
//! The rule that holds here: each ends as one piece of news, within a bounded time, that tells for certain whether the guest
//! runs. Where the hypervisor leaves that open, the guest counts as lost.

use super::{actor::Done, boot::guarded, events::News, reports};
use crate::{error::Report, guest::agent::Agent, hypervisor::Guest, spec::MachineName};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the hypervisor may take: it has only to halt processors.
pub(super) const HALT_WITHIN: Duration = Duration::from_secs(10);

/// How long the clock of a guest that goes on may keep those who wait for it.
const CLOCK_WITHIN: Duration = Duration::from_secs(3);

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
pub(super) async fn resume(name: MachineName, guest: Arc<dyn Guest>, agent: Option<Agent>, epoch: u64) -> Done {
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

async fn set_clock(name: &MachineName, agent: Option<Agent>) {
    let Some(agent) = agent else { return };
    let failed: Report = match timeout(CLOCK_WITHIN, agent.set_clock()).await {
        Ok(Ok(())) => return,
        Ok(Err(report)) => report,
        Err(_) => reports::no_answer("set the clock of", CLOCK_WITHIN),
    };
    tracing::warn!(machine = %name, "the guest's clock may be as slow as it stood still: {}", failed.message);
}
