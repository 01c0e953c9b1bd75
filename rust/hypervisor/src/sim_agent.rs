//! A guest's agent in memory, for tests.

use crate::agent::{GuestAgent, answer_timeout, no_answer};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{Kind, Report};
use futures_util::future::{BoxFuture, ready};
use std::{fmt, sync::Arc};

/// An agent that answers as a test specifies.
pub struct SimAgent<F>(F);

/// An agent that has lost its connection: every request fails at once.
pub fn detached() -> Arc<dyn GuestAgent> {
    Arc::new(SimAgent(|_| Some(Err(Report::new(Kind::Guest, "the guest's agent does not answer any more")))))
}

/// An agent that answers every request.
pub fn that_says(answer: impl Fn(Ask) -> Answer + Send + Sync + 'static) -> Arc<dyn GuestAgent> {
    Arc::new(SimAgent(move |ask| Some(Ok(answer(ask)))))
}

/// An agent that leaves requests without an answer where `answer` returns `None`; they time out.
pub fn that_may_say(answer: impl Fn(Ask) -> Option<Answer> + Send + Sync + 'static) -> Arc<dyn GuestAgent> {
    Arc::new(SimAgent(move |ask| answer(ask).map(Ok)))
}

impl<F: Fn(Ask) -> Option<Result<Answer, Report>> + Send + Sync> GuestAgent for SimAgent<F> {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Report>> {
        let time_limit = answer_timeout(&ask);
        match (self.0)(ask) {
            Some(answer) => Box::pin(ready(answer)),
            None => Box::pin(async move {
                tokio::time::sleep(time_limit).await;
                Err(no_answer(time_limit))
            }),
        }
    }
}

impl<F> fmt::Debug for SimAgent<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimAgent")
    }
}
