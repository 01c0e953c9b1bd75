//! Connections of a guest that have not shown yet who they are.
//!
//! Any program in the guest may dial a port of the host, a build in Nix's sandbox too, and say nothing. So those who have not
//! shown their token yet wait side by side, for a limited time and in a limited number, where the oldest gives way to the
//! newest: a crowd of strangers cannot keep out the agent, which shows the token at once, and nobody waits behind them.

use std::{collections::VecDeque, time::Duration};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// The waiting room. `T` is what a connection turns out to be.
#[derive(Debug)]
pub struct Strangers<T> {
    room: usize,
    patience: Duration,
    greetings: JoinSet<Option<T>>,
    /// Those who wait, the oldest first.
    waiting: VecDeque<AbortHandle>,
}

impl<T: Send + 'static> Strangers<T> {
    /// For so many at once, each for so long.
    pub fn new(room: usize, patience: Duration) -> Self {
        Strangers { room, patience, greetings: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Lets one wait. `greeting` reads what it says first: `None` if it is none of ours.
    pub fn add(&mut self, greeting: impl Future<Output = Option<T>> + Send + 'static) {
        self.waiting.retain(|greeting| !greeting.is_finished());
        if self.waiting.len() >= self.room
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.abort();
        }
        let patience = self.patience;
        self.waiting.push_back(self.greetings.spawn(async move { timeout(patience, greeting).await.ok().flatten() }));
    }

    /// The next who is a stranger no more: what it turned out to be, or `None` if it was sent away. `None` at once while nobody
    /// waits. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Option<T>> {
        Some(self.greetings.join_next().await?.ok().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_and_nobody_waits_for_ever() {
        let mut strangers = Strangers::new(2, Duration::from_secs(10));
        let began = tokio::time::Instant::now();
        assert_eq!(strangers.next().await, None);
        let (first, silent) = tokio::sync::oneshot::channel::<u8>();
        strangers.add(async { silent.await.ok() });
        strangers.add(pending());
        strangers.add(ready(Some(7)));
        let mut known = vec![strangers.next().await, strangers.next().await];
        known.sort();
        assert_eq!(known, [Some(None), Some(Some(7))]);
        assert!(first.is_closed() && began.elapsed().is_zero(), "the oldest gave way at once");
        assert_eq!(strangers.next().await, Some(None), "its time is over");
        assert_eq!(strangers.next().await, None);
    }
}
