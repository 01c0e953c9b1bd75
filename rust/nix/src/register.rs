//! The sessions that are open: whoever tells a guest of a path has them hold it.

use crate::path::StorePath;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Paths to hold, and who waits for it.
pub(crate) type Order = (StorePath, oneshot::Sender<()>);

/// The sessions that are open.
#[derive(Debug, Default)]
pub struct Register(Mutex<Vec<mpsc::WeakSender<Order>>>);

impl Register {
    /// Adds a session.
    pub(crate) fn join(&self, orders: &mpsc::Sender<Order>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|orders| orders.strong_count() > 0);
        all.push(orders.downgrade());
    }

    /// Has every session hold a path, which the caller must be holding meanwhile.
    pub async fn hold(&self, path: &StorePath) {
        let open: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(mpsc::WeakSender::upgrade).collect()
        };
        for orders in open {
            let (done, wait) = oneshot::channel();
            // A session that is lost says so itself.
            if orders.send((path.clone(), done)).await.is_ok() {
                let _ = wait.await;
            }
        }
    }
}
