//! Releases the paths of the host's store that are held for a guest, once nothing in the guest relies on them.

use super::activity::Activities;
use dvn_lifecycle::Handle;

/// Runs until the machine is removed. `rest` releases the paths if its argument returns true at that moment.
pub(super) async fn let_go(handle: Handle, mut activities: Activities, rest: impl Fn(&dyn Fn() -> bool)) {
    loop {
        let uses = match activities.wait_for(|now| now.settled).await {
            Ok(now) => now.uses,
            Err(_) => return,
        };
        // A connection gets its lease before paths are held for it. So no path of a new connection is released.
        rest(&|| handle.snapshot().counters.uses == uses);
        if activities.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::watched::Watched, *};
    use crate::machine::activity::Activity;
    use dvn_hypervisor::sim_agent;
    use std::sync::{Arc, Mutex};
    use tokio::{sync::watch, task::yield_now};
    use tokio_util::task::AbortOnDropHandle;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_just_come_keeps_what_is_held() {
        let Watched { handle, tasks: _tasks, .. } = Watched::timeless(sim_agent::detached());
        let (activity, activities) = watch::channel(Activity { settled: true, uses: 0, ..Activity::default() });
        let _lease = handle.acquire().await.unwrap();
        let lets_go = Arc::new(Mutex::new(vec![]));
        let theirs = Arc::clone(&lets_go);
        let task = let_go(handle, activities, move |unused| theirs.lock().unwrap().push(unused()));
        let _task = AbortOnDropHandle::new(tokio::spawn(task));
        yield_now().await;
        assert_eq!(*lets_go.lock().unwrap(), [false], "the monitor has not seen it yet");
        activity.send_modify(|activity| (activity.settled, activity.uses) = (false, 1));
        yield_now().await;
        activity.send_modify(|activity| activity.settled = true);
        yield_now().await;
        assert_eq!(*lets_go.lock().unwrap(), [false, true]);
    }
}
