//! What all connections of one machine's guests share.

use crate::{
    case_hack::Verdicts,
    figures::{Record, UpstreamState},
    holdings::Holdings,
    ledger::Ledger,
    pace::Pace,
    register::Register,
    settings::StoreSettings,
    upstream::{Upstream, UpstreamError},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: StoreSettings,
    pub(crate) logical_dir: Arc<str>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) verdicts: Mutex<Verdicts>,
    pub(crate) record: Mutex<Record>,
    pub(crate) sessions: Register,
    pub(crate) pace: Pace,
    pub(crate) holdings: Arc<Holdings>,
}

impl Inner {
    // What is behind these locks is whole at every moment, so a panic elsewhere has not spoilt it.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the host's daemon; the outcome is noted for the figures.
    pub(crate) async fn upstream(&self) -> Result<Upstream, UpstreamError> {
        let settings = &self.settings;
        let patience = settings.limits.upstream_answer;
        let upstream = Upstream::connect(&settings.daemon_socket, Arc::clone(&self.logical_dir), patience).await;
        self.record().upstream(match &upstream {
            Ok(upstream) => UpstreamState::Answers { version: upstream.version().to_owned() },
            Err(e) => UpstreamState::Fails { why: e.to_string() },
        });
        upstream
    }

    /// Gets the ledger onto the disk. A crash of the computer spoils the disk of a guest that is running, so it matters only
    /// for what guests were told who ended well.
    pub(crate) async fn make_durable(&self) {
        let Some(file) = self.ledger().handle() else { return };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        if let Ok(Err(e)) = synced {
            tracing::warn!("cannot write the record of what the guest knows of the host's store: {e}");
        }
    }
}
