//! Connections from a guest that have not presented their token yet.
//!
//! Any program in the guest can dial a port of the host and send nothing, also a build in Nix's sandbox. So connections
//! without a token wait concurrently, up to a time limit and a maximum number; beyond that number a new connection
//! evicts the oldest. The agent sends its token at once, so silent connections cannot keep it out or delay it.

use std::{collections::VecDeque, time::Duration};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Unauthenticated connections. `T` is what an authenticated connection becomes.
#[derive(Debug)]
pub struct Unauthenticated<T> {
    capacity: usize,
    time_limit: Duration,
    greetings: JoinSet<Option<T>>,
    /// The pending greetings, the oldest first.
    waiting: VecDeque<AbortHandle>,
}

impl<T: Send + 'static> Unauthenticated<T> {
    /// Holds up to `capacity` connections at once, each for up to `time_limit`.
    pub fn new(capacity: usize, time_limit: Duration) -> Self {
        Unauthenticated { capacity, time_limit, greetings: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Adds a connection. `greeting` reads and checks its first message; `None` means that the check failed.
    pub fn add(&mut self, greeting: impl Future<Output = Option<T>> + Send + 'static) {
        self.waiting.retain(|greeting| !greeting.is_finished());
        if self.waiting.len() >= self.capacity
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.abort();
        }
        let time_limit = self.time_limit;
        self.waiting.push_back(self.greetings.spawn(async move { timeout(time_limit, greeting).await.ok().flatten() }));
    }

    /// The next result: `Some(Some(_))` for an authenticated connection, `Some(None)` for one that failed, timed out or
    /// was evicted. Returns `None` at once if no connection is pending. Cancel-safe.
    pub async fn next(&mut self) -> Option<Option<T>> {
        Some(self.greetings.join_next().await?.ok().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_evicted_and_none_waits_for_ever() {
        let mut unauthenticated = Unauthenticated::new(2, Duration::from_secs(10));
        let began = tokio::time::Instant::now();
        assert_eq!(unauthenticated.next().await, None);
        let (first, silent) = tokio::sync::oneshot::channel::<u8>();
        unauthenticated.add(async { silent.await.ok() });
        unauthenticated.add(pending());
        unauthenticated.add(ready(Some(7)));
        let mut known = vec![unauthenticated.next().await, unauthenticated.next().await];
        known.sort();
        assert_eq!(known, [Some(None), Some(Some(7))]);
        assert!(first.is_closed() && began.elapsed().is_zero(), "the oldest was evicted at once");
        assert_eq!(unauthenticated.next().await, Some(None), "its time is over");
        assert_eq!(unauthenticated.next().await, None);
    }
}
