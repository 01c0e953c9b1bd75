//! The program in a guest that answers questions of the host. A guest need not have one.

use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long an agent may take to answer.
pub fn patience(ask: &Ask) -> Duration {
    match ask {
        // Nix in the guest has to work for these.
        Ask::Forget { .. } | Ask::LeaveStore | Ask::Trim => Duration::from_secs(120),
        _ => Duration::from_secs(10),
    }
}

/// The error of an agent that did not answer in [`patience`].
pub fn no_answer(patience: Duration) -> Report {
    Report::new(Kind::Guest, format!("the guest's agent did not answer within {patience:?}"))
}

/// A guest's agent. It may outlive its guest; then every question fails.
pub trait GuestAgent: fmt::Debug + Send + Sync {
    /// Asks it. Fails if it is gone, does not answer within [`patience`], or cannot do what it is asked for.
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Report>>;
}

impl<T: GuestAgent + ?Sized> GuestAgent for Arc<T> {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Report>> {
        T::ask(self, ask)
    }
}

impl dyn GuestAgent + '_ {
    /// Sets the guest's clock to the host's.
    pub async fn set_clock(&self) -> Result<(), Report> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.ask(Ask::SetClock { unix_nanos }).await.map(drop)
    }

    /// How many builds run in the guest.
    pub async fn builds(&self) -> Result<u32, Report> {
        match self.ask(Ask::Builds).await? {
            Answer::Builds { running } => Ok(running),
            other => Err(Report::new(
                Kind::Guest,
                format!("the guest's agent was asked for its builds and answered {other:?}"),
            )),
        }
    }
}
