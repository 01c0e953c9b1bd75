//! The agent: the program in a guest that answers the host's requests. A guest need not have one.

use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Time limit for the agent's answer to a request.
pub fn answer_timeout(ask: &Ask) -> Duration {
    match ask {
        // Nix in the guest has to work for these.
        Ask::Forget { .. } | Ask::LeaveStore | Ask::Trim => Duration::from_secs(120),
        _ => Duration::from_secs(10),
    }
}

/// The error for an agent that did not answer within [`answer_timeout`].
pub fn no_answer(time_limit: Duration) -> Report {
    Report::new(Kind::Guest, format!("the guest's agent did not answer within {time_limit:?}"))
}

/// A guest's agent. It may outlive its guest; every request then fails.
pub trait GuestAgent: fmt::Debug + Send + Sync {
    /// Sends a request. Fails if the agent is gone, does not answer within [`answer_timeout`], or cannot do it.
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

    /// The number of builds that run in the guest.
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
