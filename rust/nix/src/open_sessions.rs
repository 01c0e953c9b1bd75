//! The open sessions. A connection that is about to describe a path to the guest asks them to hold it first.

use crate::path::StorePath;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// A path to hold, and where to report that it is held.
pub(crate) type HoldRequest = (StorePath, oneshot::Sender<()>);

/// The open sessions.
#[derive(Debug, Default)]
pub struct OpenSessions(Mutex<Vec<mpsc::WeakSender<HoldRequest>>>);

impl OpenSessions {
    /// Adds a session.
    pub(crate) fn join(&self, requests: &mpsc::Sender<HoldRequest>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|requests| requests.strong_count() > 0);
        all.push(requests.downgrade());
    }

    /// Makes every session hold a path. The caller must hold it meanwhile.
    pub async fn hold(&self, path: &StorePath) {
        let open: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(mpsc::WeakSender::upgrade).collect()
        };
        for requests in open {
            let (done, wait) = oneshot::channel();
            // A lost session reports that itself.
            if requests.send((path.clone(), done)).await.is_ok() {
                let _ = wait.await;
            }
        }
    }
}
