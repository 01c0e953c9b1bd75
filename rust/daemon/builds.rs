//! Counts the builds in a guest, for the events and metrics.
//!
//! The rule: it looks only while somebody holds a lease, so a guest at rest is not woken. A build that goes on without a
//! connection is told by the lifecycle, which asks before it stops a guest as idle. So these numbers are of the last look: a
//! build that is shorter than [`LOOK`] may never be seen.

use super::chronicle::Chronicle;
use crate::{
    spec::MachineName,
    supervisor::{Handle, Phase},
};
use darwin_vz_agent::protocol::{Answer, Ask};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How often a guest in use is asked.
pub const LOOK: Duration = Duration::from_secs(5);

/// Counts for as long as the machine's supervisor lives.
pub async fn count(name: MachineName, handle: Handle, chronicle: Arc<Chronicle>) {
    let mut snapshots = handle.watch();
    let mut next = Instant::now();
    loop {
        let phase = snapshots.borrow_and_update().phase.clone();
        let in_use = matches!(phase, Phase::Running { leases: 1.., .. });
        match phase {
            // As the lifecycle has heard. Before it has asked it knows of none, which is no news.
            Phase::Running { leases: 0, builds: builds @ 1.., .. } => chronicle.builds(&name, builds),
            Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting => {}
            Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Failed { .. } => chronicle.builds(&name, 0),
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = sleep_until(next), if in_use => {
                if let Some(running) = ask(&name, &handle).await {
                    chronicle.builds(&name, running);
                }
                next = Instant::now() + LOOK;
            }
        }
    }
}

async fn ask(name: &MachineName, handle: &Handle) -> Option<u32> {
    match handle.agent()?.ask(Ask::Builds).await {
        Ok(Answer::Builds { running }) => Some(running),
        Ok(other) => {
            tracing::debug!(machine = %name, "the guest was asked for its builds and answered {other:?}");
            None
        }
        Err(report) => {
            tracing::debug!(machine = %name, "the guest did not say what it builds: {report}");
            None
        }
    }
}
