//! Kills a guest that should answer but has not for too long.

use super::activity::Activities;
use dvn_lifecycle::Handle;
use dvn_types::MachineName;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Watches the guest until the machine is removed. A guest that is still booting, or is paused, is not considered hung. Without
/// a limit no guest is.
pub(super) async fn watch(name: MachineName, handle: Handle, mut activities: Activities, limit: Option<Duration>) {
    let Some(limit) = limit else { return };
    loop {
        let (boot, since) = match activities.wait_for(|now| now.silent_since.is_some()).await {
            Ok(now) => (now.boot, now.silent_since),
            Err(_) => return,
        };
        // A time that cannot be represented never comes.
        let Some(due) = since.and_then(|since: Instant| since.checked_add(limit)) else { return };
        let answers = activities.wait_for(|now| (now.boot, now.silent_since) != (boot, since));
        match timeout_at(due, answers).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        tracing::warn!(machine = %name, "the guest has not answered for {limit:?} and is killed");
        if let Err(report) = handle.end(boot, true).await {
            tracing::warn!(machine = %name, "{report}");
        }
        // Waits for the end of this silence: it has been handled.
        if activities.wait_for(|now| (now.boot, now.silent_since) != (boot, since)).await.is_err() {
            return;
        }
    }
}
