//! The gate: the host's Nix store as a guest may see it, which is to ask what is valid and nothing else.
//!
//! ```text
//!  guest's Nix (local-overlay-store)            one HostStore per machine                      host's Nix daemon
//!    │ lower-store=unix://…                                                                          ▲
//!    ▼                                                                                               │
//!  agent ── vsock 1025, token ──▶ door: read, decide, ask anew ── admission ── upstream ─────────────┤ one for each
//!                                                        │   │                                       │
//!                                          verdicts ◀────┘   └────▶ ledger ◀──── session ── upstream ┘ one for each
//! ```
//!
//! The files themselves reach the guest as a read-only share; this is how its Nix learns which of them it may use. Bytes are
//! never passed through: each request is decoded, decided on, and asked anew in the gate's own words.
//!
//! The rules here:
//!
//! 1. A guest is told that a path is valid only while the path is held on the host, by the connection that tells it.
//! 2. What the guest is told of for good is in the [ledger] before it is told.
//! 3. A path with changed names in its closure (`case_hack`), or that isn't where the share is, is not valid in any answer.
//! 4. Nothing that a guest sends reaches the host's daemon but the names of store paths, checked.
//!
//! This module knows nothing of hypervisors: it is given streams.

mod admission;
mod case_hack;
mod connection;
mod door;
mod figures;
mod holdings;
mod journal;
mod ledger;
mod operation;
mod pace;
mod path;
mod reception;
mod register;
mod session;
mod settings;
mod state;
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
use holdings::Holdings;
use ledger::Ledger;
use pace::Pace;
use register::Register;
use state::Inner;
use std::sync::{Arc, Mutex};

/// One machine's gate to the host's store. Cheap to clone; it lives as long as the daemon, through many guests.
#[derive(Clone, Debug)]
pub struct HostStore {
    inner: Arc<Inner>,
}

impl HostStore {
    /// Reads what earlier daemons have left. Contacts nobody. Fails with [`dvn_types::Kind::State`] if the files cannot
    /// be read or written, or if the ledger is damaged: then the guest's disk must be made anew, and the ledger deleted.
    pub fn new(settings: StoreSettings) -> Result<HostStore, Report> {
        let ledger = Ledger::open(&settings.state_dir.join("store-ledger"))?;
        let verdicts = Verdicts::open(&settings.state_dir.join("store-verdicts"))?;
        let pace = Pace::new(settings.limits.rate);
        let holdings = Holdings::new(settings.limits.held);
        Ok(HostStore {
            inner: Arc::new(Inner {
                logical_dir: settings.logical_dir.as_str().into(),
                settings,
                ledger: Mutex::new(ledger),
                verdicts: Mutex::new(verdicts),
                record: Mutex::new(Record::default()),
                sessions: Register::default(),
                pace,
                holdings,
            }),
        })
    }

    /// Serves one guest's connections, each in a task of its own, until the guest is gone; dropping the future ends them,
    /// too. A connection's first line must be `{"token":"…"}` with this token; all others are closed.
    pub async fn serve(&self, listener: GuestListener, token: String) {
        reception::serve(&self.inner, listener, token).await;
        self.inner.make_durable().await;
    }

    /// To be called before a guest that was idle begins to work: holds, on the host, everything that the guest was ever told
    /// of, and finds what is no longer there. Until the guest has forgotten the [`Session::vanished`] paths, and all that it
    /// built with them, it must not build. From then on everything it is told of is held by the session, too.
    ///
    /// If the gate is closed every path that the guest was told of has vanished. Fails with [`dvn_types::Kind::Host`] if
    /// the host's daemon does not answer; then nothing can be said of what the guest relies on, and it must not build with it.
    pub async fn open_session(&self) -> Result<Session, Report> {
        session::open(&self.inner).await
    }

    /// The guest has forgotten these, which a session found vanished. Others are left as they are: those that are no store
    /// paths, those that have not vanished, and those that the guest has been told of again in between.
    pub fn forgotten(&self, paths: &[String]) -> Result<(), Report> {
        let dir = &self.inner.logical_dir;
        let paths: Vec<_> = paths.iter().filter_map(|path| StorePath::parse(dir, path.as_bytes()).ok()).collect();
        self.inner.ledger().strike(&paths)
    }

    /// The guest's disk was made anew, or is gone: it relies on nothing any more. To be called when no guest works.
    pub fn forget_all(&self) -> Result<(), Report> {
        self.inner.ledger().clear()
    }

    /// Every path, in full, that the guest was told of and has not forgotten.
    pub fn trusted_paths(&self) -> Vec<String> {
        let ledger = self.inner.ledger();
        ledger.told().map(|(path, ..)| path.within(&self.inner.logical_dir)).collect()
    }

    /// Closes the gate: from now on no path is valid to the guest, which then copies what it needs. Connections go on.
    /// What it was told of before is in [`HostStore::trusted_paths`]; it has to forget that.
    pub fn close(&self, why: &str) {
        if self.inner.record().close(why) {
            tracing::warn!("the host's store is no longer shared with the guest: {why}");
        }
    }

    /// Opens the gate again, for a guest with a share that was made anew.
    pub fn reopen(&self) {
        self.inner.record().reopen();
    }

    /// False once the gate has been closed.
    pub fn is_open(&self) -> bool {
        self.inner.record().closed().is_none()
    }

    /// What a status shows.
    pub fn figures(&self) -> StoreFigures {
        let mut figures = self.inner.record().figures();
        let ledger = self.inner.ledger();
        figures.shared_paths = ledger.told().count() as u64;
        figures.shared_bytes = ledger.told().map(|(_, told, _)| told.nar_size).sum();
        figures
    }
}
