//! State shared by all connections of one machine's guests.

use crate::{
    case_hack::Verdicts,
    figures::{Record, UpstreamState},
    known_paths::KnownPaths,
    open_sessions::OpenSessions,
    rate_limit::RateLimit,
    settings::StoreSettings,
    temp_roots::TempRoots,
    upstream::{Upstream, UpstreamError},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: StoreSettings,
    pub(crate) logical_dir: Arc<str>,
    pub(crate) known_paths: Mutex<KnownPaths>,
    pub(crate) verdicts: Mutex<Verdicts>,
    pub(crate) record: Mutex<Record>,
    pub(crate) sessions: OpenSessions,
    pub(crate) rate_limit: RateLimit,
    pub(crate) temp_roots: Arc<TempRoots>,
}

impl Inner {
    // Values behind these locks are consistent at every moment, so a panic elsewhere has not damaged them.
    pub(crate) fn known_paths(&self) -> MutexGuard<'_, KnownPaths> {
        self.known_paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to the host's daemon. Stores the outcome for the figures.
    pub(crate) async fn upstream(&self) -> Result<Upstream, UpstreamError> {
        let settings = &self.settings;
        let answer_timeout = settings.limits.upstream_answer;
        let upstream = Upstream::connect(&settings.daemon_socket, Arc::clone(&self.logical_dir), answer_timeout).await;
        self.record().upstream(match &upstream {
            Ok(upstream) => UpstreamState::Answers { version: upstream.version().to_owned() },
            Err(e) => UpstreamState::Fails { why: e.to_string() },
        });
        upstream
    }

    /// Syncs the known paths to the disk. A crash of the computer also invalidates a running guest's disk, so a sync
    /// matters only for guests that stopped cleanly.
    pub(crate) async fn make_durable(&self) {
        let Some(file) = self.known_paths().handle() else { return };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        if let Ok(Err(e)) = synced {
            tracing::warn!("cannot sync the list of store paths that the guest knows: {e}");
        }
    }
}
