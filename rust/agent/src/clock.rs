//! The wall clock.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Tolerance of the clock in nanoseconds. The host's time is as old as its message, so a correct clock is ahead of it.
const BEHIND: i128 = 100_000_000;
const AHEAD: i128 = 500_000_000;

/// Sets the clock unless it is right: builds would see each correction, and some would go back in time.
pub fn set(unix_nanos: u64) -> Result<(), String> {
    if is_right(clock_gettime(ClockId::Realtime), unix_nanos) {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: i64::try_from(unix_nanos / 1_000_000_000).map_err(|e| e.to_string())?,
        tv_nsec: (unix_nanos % 1_000_000_000) as _,
    };
    clock_settime(ClockId::Realtime, time).map_err(|e| format!("the clock cannot be set: {e}"))
}

fn is_right(here: Timespec, host: u64) -> bool {
    let here = i128::from(here.tv_sec) * 1_000_000_000 + i128::from(here.tv_nsec);
    (-BEHIND..=AHEAD).contains(&(here - i128::from(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_set_and_message_delay_is_tolerated() {
        let host = 1_800_000_000_900_000_000;
        let off = |nanos: i64| {
            let here = i64::try_from(host).unwrap() + nanos;
            is_right(Timespec { tv_sec: here / 1_000_000_000, tv_nsec: (here % 1_000_000_000) as _ }, host)
        };
        assert!(off(0) && off(200_000_000) && off(-50_000_000));
        assert!(!off(600_000_000) && !off(-200_000_000) && !off(3_600_000_000_000) && !off(-3_600_000_000_000));
        assert!(
            !is_right(Timespec { tv_sec: 0, tv_nsec: 0 }, host)
                && !is_right(Timespec { tv_sec: 0, tv_nsec: 0 }, u64::MAX)
        );
    }
}
