//! What the host can ask for, done.

use super::{Outcome, accounts::BuildUsers, disk, figures, host_store::HostStore, shares};
use darwin_vz_agent::{
    ShareMount,
    protocol::{Answer, Ask},
};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::sync::{Mutex, TryLockError};

/// What answers need to know.
pub struct Requests {
    /// Who runs builds.
    pub builders: BuildUsers,
    /// The shares that are mounted.
    pub shares: Vec<ShareMount>,
    /// The host's store, if the guest builds on it.
    pub store: Option<HostStore>,
}

impl Requests {
    /// Does what is asked. [`Ask::ShutDown`] is only agreed to: the answer must be sent before.
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

    /// Whether an answer may take its time, so that others must not wait for it.
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
        // One that panicked has left nothing half done here.
        free => free,
    };
    disk::trim().map(|bytes| Answer::Trimmed { bytes }).map_err(|e| format!("the data disk cannot be trimmed: {e}"))
}

fn set_clock(unix_nanos: u64) -> Result<Answer, String> {
    let time = Timespec {
        tv_sec: i64::try_from(unix_nanos / 1_000_000_000).map_err(|e| e.to_string())?,
        tv_nsec: (unix_nanos % 1_000_000_000) as _,
    };
    clock_settime(ClockId::Realtime, time).map(|()| Answer::Done).map_err(|e| format!("the clock cannot be set: {e}"))
}
