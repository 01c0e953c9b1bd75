//! Publishes a machine's changes as events.

use super::activity::Activities;
use crate::{events::Events, views};
use dvn_generations::Generations;
use dvn_lifecycle::Handle;
use dvn_types::MachineName;
use std::sync::Arc;
use tokio::time::Instant;

/// Publishes every change of the lifecycle.
pub(crate) async fn lifecycle(name: MachineName, handle: Handle, events: Arc<Events>) {
    let mut snapshots = handle.watch();
    // The supervisor ends when the last handle is dropped, so this task must not hold one.
    drop(handle);
    let first = snapshots.borrow_and_update().clone();
    let (mut before, mut last_boot) = (first.phase, first.last_boot);
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        events.changed();
        if std::mem::discriminant(&before) != std::mem::discriminant(&snapshot.phase) {
            let state = views::state(&snapshot, 0, Instant::now());
            tracing::info!(machine = %name, state = ?state, "moved");
            events.moved(&name, state);
        }
        if let Some(boot) = snapshot.last_boot.as_ref().filter(|boot| last_boot.as_ref() != Some(boot)) {
            events.booted(&name, boot);
        }
        (before, last_boot) = (snapshot.phase, snapshot.last_boot);
    }
}

/// Publishes the number of builds in the guest.
pub(super) async fn builds(name: MachineName, mut activities: Activities, events: Arc<Events>) {
    let mut alone = 0;
    loop {
        let now = activities.borrow_and_update().clone();
        events.builds(&name, now.builds);
        // The status shows these.
        if std::mem::replace(&mut alone, now.builds_alone()) != now.builds_alone() {
            events.changed();
        }
        if activities.changed().await.is_err() {
            return;
        }
    }
}

/// Publishes every change of the generations.
pub(super) async fn generations(name: MachineName, generations: Arc<Generations>, events: Arc<Events>) {
    let mut changes = generations.changes();
    let mut before = generations.status();
    while changes.changed().await.is_ok() {
        let status = generations.status();
        if let Some(status) = status.clone().filter(|_| status != before) {
            events.changed();
            events.generations(&name, status);
        }
        before = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_config::BuilderConfig;
    use dvn_guest::builder::BootSource;
    use dvn_host::machine_dir::StateDir;
    use dvn_types::wire::{GenerationsStatus, What};
    use tokio_util::task::AbortOnDropHandle;

    #[tokio::test]
    async fn a_change_of_a_generation_is_published_once() {
        let tmp = tempfile::tempdir().unwrap();
        let name: MachineName = "builder".parse().unwrap();
        let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&name).unwrap();
        let config = BuilderConfig { recipe: Some("/nix/store/r.drv".into()), ..BuilderConfig::sample() };
        let generations = Arc::new(Generations::open(&dir, config.into(), &[]).unwrap());
        let events = Arc::new(Events::default());
        let (mut seen, shown) = (events.subscribe(), *events.generation().borrow());
        let observer = super::generations(name, Arc::clone(&generations), Arc::clone(&events));
        let observer = AbortOnDropHandle::new(tokio::spawn(observer));
        tokio::task::yield_now().await;
        for _ in 0..2 {
            generations.bundle();
            tokio::task::yield_now().await;
        }
        let status = GenerationsStatus { current: 0, running: Some(0), prospect: None };
        assert_eq!(seen.try_recv().unwrap().what, What::Generations { status });
        assert!(seen.try_recv().is_err(), "the second boot changed nothing");
        assert_eq!(*events.generation().borrow(), shown + 1);
        drop(observer);
    }
}
