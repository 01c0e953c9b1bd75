//! The results of the actor's jobs.
//!
//! Invariant: a job ends, even when the code it calls panics.

use super::{
    command::{Answer, Lease},
    events::News,
    provider::Ready,
    reports,
};
use dvn_hypervisor::Guest;
use dvn_types::{MachineName, Report};
use futures_util::FutureExt;
use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// How long the hypervisor may take to press a power button or to kill; the machine repeats both anyway.
const VERB_TIMEOUT: Duration = Duration::from_secs(5);

/// How a job ended: news for the machine, and what the actor itself needs.
pub(super) enum Done {
    Up {
        epoch: u64,
        up: Up,
    },
    Ready {
        epoch: u64,
        ready: Ready,
    },
    News {
        epoch: u64,
        news: News,
    },
    /// The explained cause of a failed boot, for the machine and for the waiters.
    Explained {
        epoch: u64,
        cause: Report,
        waiters: Vec<Waiter>,
    },
    /// Another job reports the outcome.
    Nothing,
}

/// An unanswered demand, and when it arrived.
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) reply: Answer<Lease>,
}

/// A guest that the hypervisor runs.
pub(super) struct Up {
    pub(super) guest: Arc<dyn Guest>,
    pub(super) cores: u32,
    pub(super) memory: u64,
    pub(super) prepared: Instant,
    pub(super) booted: Instant,
}

/// Calls a method of the guest whose success shows elsewhere, in the guest's exit.
pub(super) async fn bounded(what: &str, name: &MachineName, verb: impl Future<Output = Result<(), Report>>) {
    match timeout(VERB_TIMEOUT, guarded(verb)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(report)) | Err(report)) => tracing::warn!(machine = %name, "{what} failed: {report}"),
        Err(_) => tracing::warn!(machine = %name, "{what} had no answer within {VERB_TIMEOUT:?}"),
    }
}

/// Turns a panic into an error. Pass an async block, so that a panic before the first await is caught too.
pub(super) async fn guarded<T>(future: impl Future<Output = T>) -> Result<T, Report> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| panicked(panic.as_ref()))
}

fn panicked(panic: &(dyn Any + Send)) -> Report {
    let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    reports::panicked(what.unwrap_or("a panic without a message"))
}
