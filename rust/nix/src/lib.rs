//! The gate: read-only access for a guest to the host's Nix store. A guest can query which paths are valid, and nothing
//! else.
//!
//! ```text
//!  guest's Nix (local-overlay-store)            one HostStore per machine                      host's Nix daemon
//!    │ lower-store=unix://…                                                                          ▲
//!    ▼                                                                                               │
//!  agent ── vsock 1025, token ─▶ server: read, decide, ask anew ─ admission ── upstream ─────────────┤ one for each
//!                                                        │   │                                       │
//!                                          verdicts ◀────┘   └──▶ known_paths ◀── session ── upstream ┘ one for each
//! ```
//!
//! The files reach the guest as a read-only share; through the gate its Nix learns which of them it may use. The gate
//! forwards no bytes: it decodes each request, decides on it, and sends a request of its own to the host's daemon.
//!
//! Rules:
//!
//! 1. A path is valid for a guest only while a connection to the host's daemon holds it: the connection that answers.
//! 2. A path is in [known_paths] before the guest gets its description, which its Nix keeps.
//! 3. A path is invalid in every answer if its closure has a changed name (`case_hack`) or if it is not in the share.
//! 4. Of what a guest sends, only checked names of store paths reach the host's daemon.
//!
//! This crate does not depend on a hypervisor: it is given streams.

mod accept;
mod admission;
mod case_hack;
mod connection;
mod figures;
mod journal;
mod known_paths;
mod open_sessions;
mod operation;
mod path;
mod rate_limit;
mod server;
mod session;
mod settings;
mod state;
mod temp_roots;
mod upstream;
pub mod wire;

#[cfg(test)]
mod tests;

pub use figures::{StoreFigures, UpstreamState};
pub use path::StorePath;
pub use session::Session;
pub use settings::{Limits, StoreSettings};

use case_hack::Verdicts;
use dvn_hypervisor::GuestListener;
use dvn_types::Report;
use figures::Record;
use known_paths::KnownPaths;
use open_sessions::OpenSessions;
use rate_limit::RateLimit;
use state::Inner;
use std::sync::{Arc, Mutex};
use temp_roots::TempRoots;

/// One machine's gate to the host's store. Cheap to clone. It lives as long as the daemon and serves many guests in
/// turn.
#[derive(Clone, Debug)]
pub struct HostStore {
    inner: Arc<Inner>,
}

impl HostStore {
    /// Reads the files of earlier daemons; connects to nothing. Fails with [`dvn_types::Kind::State`] if the files
    /// cannot be read or written, or if the list of known paths is damaged: then recreate the guest's disk and delete
    /// the list.
    pub fn new(settings: StoreSettings) -> Result<HostStore, Report> {
        let known_paths = KnownPaths::open(&settings.state_dir.join("store-ledger"))?;
        let verdicts = Verdicts::open(&settings.state_dir.join("store-verdicts"))?;
        let rate_limit = RateLimit::new(settings.limits.rate);
        let temp_roots = TempRoots::new(settings.limits.held);
        Ok(HostStore {
            inner: Arc::new(Inner {
                logical_dir: settings.logical_dir.as_str().into(),
                settings,
                known_paths: Mutex::new(known_paths),
                verdicts: Mutex::new(verdicts),
                record: Mutex::new(Record::default()),
                sessions: OpenSessions::default(),
                rate_limit,
                temp_roots,
            }),
        })
    }

    /// Serves one guest's connections, each in its own task, until the guest is gone or the future is dropped. A
    /// connection's first line must be `{"token":"…"}` with this token; all others are closed.
    pub async fn serve(&self, listener: GuestListener, token: String) {
        accept::serve(&self.inner, listener, token).await;
        self.inner.make_durable().await;
    }

    /// Holds, on the host, every path that the guest knows, and finds those that have vanished. Call it before an idle
    /// guest begins to work. The guest must not build until it has forgotten the [`Session::vanished`] paths and all
    /// that it built with them. The session also holds each path that the guest learns of later.
    ///
    /// If the gate is closed, all known paths have vanished. Fails with [`dvn_types::Kind::Host`] if the host's daemon
    /// does not answer; then the state of the known paths is unknown, and the guest must not build with them.
    pub async fn open_session(&self) -> Result<Session, Report> {
        session::open(&self.inner).await
    }

    /// Removes vanished paths that the guest has forgotten. Ignores texts that are not store paths, paths that have not
    /// vanished, and paths that the guest has learnt of again since.
    pub fn forgotten(&self, paths: &[String]) -> Result<(), Report> {
        let dir = &self.inner.logical_dir;
        let paths: Vec<_> = paths.iter().filter_map(|path| StorePath::parse(dir, path.as_bytes()).ok()).collect();
        self.inner.known_paths().remove_vanished(&paths)
    }

    /// Removes all known paths: the guest's disk was recreated or deleted. Call it while no guest works.
    pub fn forget_all(&self) -> Result<(), Report> {
        self.inner.known_paths().clear()
    }

    /// Full paths of everything that the guest knows and has not forgotten.
    pub fn trusted_paths(&self) -> Vec<String> {
        let known_paths = self.inner.known_paths();
        known_paths.iter().map(|(path, ..)| path.within(&self.inner.logical_dir)).collect()
    }

    /// Closes the gate: from now on no path is valid for the guest, which copies what it needs instead. Open
    /// connections continue. The guest must forget what it knew before, [`HostStore::trusted_paths`].
    pub fn close(&self, why: &str) {
        if self.inner.record().close(why) {
            tracing::warn!("the host's store is no longer shared with the guest: {why}");
        }
    }

    /// Opens the gate again, for a guest with a new share.
    pub fn reopen(&self) {
        self.inner.record().reopen();
    }

    /// False while the gate is closed.
    pub fn is_open(&self) -> bool {
        self.inner.record().closed().is_none()
    }

    /// The figures for a status display.
    pub fn figures(&self) -> StoreFigures {
        let mut figures = self.inner.record().figures();
        let known_paths = self.inner.known_paths();
        figures.shared_paths = known_paths.iter().count() as u64;
        figures.shared_bytes = known_paths.iter().map(|(_, contents, _)| contents.nar_size).sum();
        figures
    }
}
