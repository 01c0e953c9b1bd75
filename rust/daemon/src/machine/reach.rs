//! Whether clients reach the guest, judged by their attempts.
//!
//! ```text
//!   an attempt fails ─┬─ the guest ends meanwhile ─────────────────────────────▶ the client gets the next guest
//!                     ├─ its agent is silent, too ──────────▶ killed ──────────▶ the client gets the next guest
//!                     ├─ the third in a row, no build runs ─▶ stopped ─────────▶ the client gets the next guest
//!                     └─ otherwise ────────────────────────────────────────────▶ an error that says what is known
//! ```
//!
//! A guest whose agent answers may still accept no connection: its vsock device fails, or no process accepts on the port.
//! Running builds keep such a guest, because they may succeed; clients get an error meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Failed attempts in a row after which a guest that does not build is replaced. Each of them takes seconds, so they are not
/// caused by one burst of connections.
pub(super) const ENOUGH: u32 = 3;

/// Failed attempts to reach one guest.
#[derive(Default)]
pub(super) struct Reach(Mutex<Failures>);

#[derive(Default)]
struct Failures {
    /// The guest's boot.
    epoch: u64,
    in_a_row: u32,
    /// When the last counted attempt failed.
    last: Option<Instant>,
}

impl Reach {
    /// Notes a successful attempt.
    pub(super) fn succeeded(&self, epoch: u64) {
        *self.of(epoch) = Failures { epoch, ..Failures::default() };
    }

    /// Notes a failed attempt that began at `began`. Returns how many have failed in a row; concurrent ones count as one.
    pub(super) fn failed(&self, epoch: u64, began: Instant) -> u32 {
        let mut failures = self.of(epoch);
        if failures.last.is_none_or(|last| last <= began) {
            failures.in_a_row = failures.in_a_row.saturating_add(1);
            failures.last = Some(Instant::now());
        }
        failures.in_a_row
    }

    fn of(&self, epoch: u64) -> MutexGuard<'_, Failures> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.epoch != epoch {
            *failures = Failures { epoch, ..Failures::default() };
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn attempts_in_turn_count_and_concurrent_ones_do_not() {
        let reach = Reach::default();
        let began = Instant::now();
        advance(Duration::from_secs(3)).await;
        for _ in 0..100 {
            assert_eq!(reach.failed(1, began), 1, "they all began before the first had failed");
        }
        let began = Instant::now();
        advance(Duration::from_secs(3)).await;
        assert_eq!(reach.failed(1, began), 2);
        reach.succeeded(1);
        assert_eq!(reach.failed(1, Instant::now()), 1, "a success ends the row");
        assert_eq!(reach.failed(2, Instant::now()), 1, "another guest, another row");
    }
}
