//! Whether clients reach the guest, as far as their attempts tell.
//!
//! ```text
//!   an attempt fails ─┬─ the guest ends meanwhile ─────────────────────────────▶ the client gets the next guest
//!                     ├─ its agent is silent, too ──────────▶ killed ──────────▶ the client gets the next guest
//!                     ├─ the third in a row, no build runs ─▶ stopped ─────────▶ the client gets the next guest
//!                     └─ otherwise ────────────────────────────────────────────▶ an error that says what is known
//! ```
//!
//! A guest whose agent answers may still let no connection in: its vsock device fails, or nothing accepts on the port. Builds
//! that run keep such a guest, as they may end well; what asks for it meanwhile gets an error.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Failed attempts in a row after which a guest that does not build is replaced. Each of them takes seconds: they do not come from one
/// crowd that was too large for a moment.
pub(super) const ENOUGH: u32 = 3;

/// Failed attempts to reach one guest.
#[derive(Default)]
pub(super) struct Reach(Mutex<Failures>);

#[derive(Default)]
struct Failures {
    /// The guest's boot.
    epoch: u64,
    in_a_row: u32,
    /// When the last of them that counts had failed.
    last: Option<Instant>,
}

impl Reach {
    /// An attempt succeeded.
    pub(super) fn succeeded(&self, epoch: u64) {
        *self.of(epoch) = Failures { epoch, ..Failures::default() };
    }

    /// An attempt failed that began then. Returns how many have failed in a row; those that ran side by side count as one.
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
    async fn attempts_in_turn_count_and_those_of_one_crowd_do_not() {
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
        assert_eq!(reach.failed(1, Instant::now()), 1, "one that gets in ends the row");
        assert_eq!(reach.failed(2, Instant::now()), 1, "another guest, another row");
    }
}
