//! Limits how many questions a guest may ask per second, over all its connections together, so that more connections
//! gain nothing.
//!
//! The generic cell rate algorithm: each question moves the time at which the next one is due by one step, and may come
//! as early as the burst allows. Nothing is refused; a guest that asks faster waits.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// A limit on questions per second.
#[derive(Debug)]
pub struct RateLimit {
    step: Duration,
    burst: Duration,
    due: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Allows `per_second` questions a second, after a burst of one second's worth. 0 counts as 1.
    pub fn new(per_second: u32) -> RateLimit {
        RateLimit {
            step: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(1),
            due: Mutex::default(),
        }
    }

    /// Waits until this many more questions are allowed.
    pub async fn acquire(&self, questions: usize) {
        let now = Instant::now();
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let questions = u32::try_from(questions).unwrap_or(u32::MAX);
            let next = due.unwrap_or(now).max(now) + self.step.saturating_mul(questions);
            *due = Some(next);
            next
        };
        // Awaiting even a past time would cost a turn of the runtime.
        if let Some(early) = due.checked_sub(self.burst).filter(|at| *at > now) {
            sleep_until(early).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_what_is_faster_waits_however_many_ask() {
        let rate_limit = Arc::new(RateLimit::new(100));
        let began = Instant::now();
        rate_limit.acquire(100).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let askers: Vec<_> = (0..10)
            .map(|_| {
                let rate_limit = Arc::clone(&rate_limit);
                tokio::spawn(async move {
                    for _ in 0..20 {
                        rate_limit.acquire(1).await;
                    }
                })
            })
            .collect();
        futures_util::future::join_all(askers).await;
        assert_eq!(began.elapsed().as_millis().div_ceil(100), 20, "two hundred at a hundred a second");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let later = Instant::now();
        rate_limit.acquire(100).await;
        assert_eq!(later.elapsed(), Duration::ZERO, "a pause earns one burst");
        rate_limit.acquire(50).await;
        assert_eq!(later.elapsed(), Duration::from_millis(500), "and no more");
    }
}
