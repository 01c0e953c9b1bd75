//! Performs the host's requests.

use super::{accounts::BuildUsers, disk, figures, host_store::HostStore, shares};
use crate::{clock, pid1::tasks::Outcome};
use dvn_protocol::{
    ShareMount,
    messages::{Answer, Ask},
};
use std::sync::{Mutex, TryLockError};

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
            Ask::SetClock { unix_nanos } => clock::set(*unix_nanos).map(|()| Answer::Done),
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
