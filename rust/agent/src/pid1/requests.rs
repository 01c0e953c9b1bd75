//! Performs the host's requests.

use super::{accounts::BuildUsers, disk, figures, host_store::HostStore, shares};
use crate::pid1::tasks::Outcome;
use dvn_protocol::{
    ShareMount,
    messages::{Answer, Ask},
};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::sync::{Mutex, TryLockError};

/// Tolerance of the clock in nanoseconds. The host's time is as old as its message, so a correct clock is ahead of it.
const BEHIND: i128 = 100_000_000;
const AHEAD: i128 = 500_000_000;

/// The state that answers depend on.
pub struct Requests {
    /// The users that run builds.
    pub builders: BuildUsers,
    /// The shares that are mounted.
    pub shares: Vec<ShareMount>,
    /// The host's store, if the guest builds on it.
    pub store: Option<HostStore>,
}

impl Requests {
    /// Performs a request. [`Ask::ShutDown`] is only acknowledged: the answer must be sent first.
    pub fn answer(&self, ask: &Ask) -> Result<Answer, String> {
        match ask {
            Ask::SetClock { unix_nanos } => set_clock(*unix_nanos),
            Ask::Builds => Ok(Answer::Builds { running: figures::builds(&self.builders) }),
            Ask::Figures => figures::figures(),
            Ask::Trim => trim(),
            Ask::FreshView { expected } => self.fresh_view(expected).map(|()| Answer::Done),
            Ask::Forget { paths } => self.store()?.forget(paths).map(|()| Answer::Done),
            Ask::LeaveStore => self.store()?.leave(&self.builders).map(|()| Answer::Done),
            Ask::ShutDown => Ok(Answer::Done),
        }
    }

    /// Whether a request may take long, so that others must not wait for it.
    pub fn is_slow(ask: &Ask) -> bool {
        matches!(ask, Ask::Trim | Ask::FreshView { .. } | Ask::Forget { .. } | Ask::LeaveStore)
    }

    /// Whether the guest builds on the host's store.
    pub fn on_host_store(&self) -> bool {
        self.store.as_ref().is_some_and(HostStore::in_use)
    }

    fn store(&self) -> Outcome<&HostStore> {
        self.store.as_ref().ok_or_else(|| "this guest does not build on the host's store".to_owned())
    }

    fn fresh_view(&self, expected: &[String]) -> Outcome<()> {
        let store = if self.on_host_store() || !expected.is_empty() { Some(self.store()?) } else { None };
        store.map_or(Ok(()), HostStore::refresh)?;
        shares::refresh(&self.shares)?;
        shares::probe(&self.shares)?;
        store.map_or(Ok(()), |store| store.expect(expected))
    }
}

fn trim() -> Result<Answer, String> {
    static TRIMMING: Mutex<()> = Mutex::new(());
    let _one = match TRIMMING.try_lock() {
        Err(TryLockError::WouldBlock) => return Err("the data disk is being trimmed already".to_owned()),
        // A panic in another thread has left nothing half done here.
        free => free,
    };
    disk::trim().map(|bytes| Answer::Trimmed { bytes }).map_err(|e| format!("the data disk cannot be trimmed: {e}"))
}

/// Sets the clock unless it is right: builds would see each correction, and some would go back in time.
fn set_clock(unix_nanos: u64) -> Result<Answer, String> {
    if is_right(clock_gettime(ClockId::Realtime), unix_nanos) {
        return Ok(Answer::Done);
    }
    let time = Timespec {
        tv_sec: i64::try_from(unix_nanos / 1_000_000_000).map_err(|e| e.to_string())?,
        tv_nsec: (unix_nanos % 1_000_000_000) as _,
    };
    clock_settime(ClockId::Realtime, time).map(|()| Answer::Done).map_err(|e| format!("the clock cannot be set: {e}"))
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
