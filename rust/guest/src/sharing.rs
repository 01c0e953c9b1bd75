//! The host's store in one machine's guest: when the gate is open, which paths are held, and what happens on failures.
//!
//! ```text
//!  boot ─▶ Ready: a new disk knows nothing ─▶ gate open ──────────────────────┐
//!                                                                             ▼
//!  connection ─▶ the first: all known paths are held, ─▶ a fresh view of the share ─▶ served
//!                the guest forgets vanished ones
//!                     └──────────── any failure ────────────┴─▶ left: gate closed, one warning, the guest copies
//! ```
//!
//! Rule: a connection is served only if everything that the guest knows of the host's store is true. If that fails, the
//! guest stops using the host's store until its next boot. If that fails too, it serves no connection: the next client
//! causes a kill and a new boot.

mod identity;
#[cfg(test)]
mod tests;

use super::agent::Readiness;
use dvn_config::BuilderConfig;
use dvn_host::{blocking, machine_dir::MachineDir};
use dvn_hypervisor::{Guest, GuestAgent};
use dvn_nix::{HostStore, Limits, Session, StoreSettings};
use dvn_protocol::{
    HostPorts,
    messages::{Ask, DataDisk, MAX_LINE},
};
use dvn_types::{
    Kind, MachineName, Report,
    wire::{RefusedPath, StoreSharing, StoreStatus},
};
use identity::Identity;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

/// The store directory in path names, independent of where its files are.
const LOGICAL: &str = "/nix/store";

/// Number of paths that the guest must see after each fresh view.
const SAMPLE: usize = 3;

/// Interval and number of attempts to reach a host's daemon that has gone, before the guest stops using the host's
/// store.
const SEEK: Duration = Duration::from_millis(500);
const SEEKS: usize = 20;

/// One machine's use of the host's store.
pub struct Sharing {
    name: MachineName,
    gate: HostStore,
    file: PathBuf,
    identity: Mutex<Identity>,
    boot: Mutex<Boot>,
    /// The session while clients use the guest. Locked while one is opened: no connection is served before.
    hold: tokio::sync::Mutex<Weak<Hold>>,
}

/// State of this boot's guest.
#[derive(Default)]
struct Boot {
    /// Whether it builds on the host's store.
    in_use: bool,
    /// Why it does not.
    why_not: Option<String>,
    /// Held also without connections, for builds that continue without one. [`Sharing::rest_if`] releases it.
    kept: Option<Arc<Hold>>,
    /// Serves the gate to it.
    _served: Option<AbortOnDropHandle<()>>,
}

/// While one exists, all paths that the guest knows are held on the host.
pub struct Hold {
    session: Mutex<Arc<Session>>,
    _released: DropGuard,
}

impl Sharing {
    /// Reads the state of earlier daemons. `None` if the configuration does not share the store.
    pub fn new(name: &MachineName, config: &BuilderConfig, dir: &MachineDir) -> Result<Option<Arc<Sharing>>, Report> {
        if !config.share_store {
            return Ok(None);
        }
        let state_dir = dir.make_store_state()?;
        let gate = || {
            HostStore::new(StoreSettings {
                daemon_socket: config.store_daemon.clone(),
                store_dir: config.store_dir.clone(),
                logical_dir: LOGICAL.to_owned(),
                state_dir: state_dir.clone(),
                limits: Limits::default(),
            })
        };
        let file = state_dir.join("record");
        let restored = match Identity::read(&file).filter(|left| left.is_of(config)) {
            Some(identity) => gate().map(|gate| Some((gate, identity))),
            None => Ok(None),
        };
        let (gate, identity) = match restored {
            Ok(Some(restored)) => restored,
            // There is no state, or it is damaged or of another store. The guest's disk notices the new name.
            nothing => {
                if let Err(report) = nothing {
                    tracing::warn!(machine = %name, "starting over the list of store paths that the guest knows: {report}");
                }
                dir.remove_store_state()?;
                dir.make_store_state()?;
                let identity = Identity::new(config);
                identity.write(&file)?;
                (gate()?, identity)
            }
        };
        Ok(Some(Arc::new(Sharing {
            name: name.clone(),
            gate,
            file,
            identity: Mutex::new(identity),
            boot: Mutex::default(),
            hold: tokio::sync::Mutex::default(),
        })))
    }

    /// The name of the record of known paths.
    pub fn record(&self) -> String {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).record.clone()
    }

    /// Starts over after the machine's disk and directory were deleted.
    pub fn begin_anew(&self, config: &BuilderConfig, dir: &MachineDir) -> Result<(), Report> {
        dir.make_store_state()?;
        let identity = Identity::new(config);
        identity.write(&self.file)?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        self.gate.forget_all()
    }

    /// Records that the guest which boots cannot build on the host's store.
    pub fn impossible(&self, why: &str) {
        tracing::warn!(machine = %self.name, "the host's store is not shared with the guest: {why}");
        self.set(Boot { why_not: Some(why.to_owned()), ..Boot::default() });
    }

    /// Call it when a guest is ready, before its first use.
    pub fn begin(&self, guest: &Arc<dyn Guest>, token: String, readiness: &Readiness) -> Result<(), Report> {
        if readiness.data_disk != DataDisk::Kept {
            blocking(|| self.gate.forget_all())?;
        }
        if !readiness.host_store {
            if self.boot().why_not.is_none() {
                self.impossible("the guest could not mount it; its console says why");
            }
            return Ok(());
        }
        let listener = guest.listen(HostPorts::HIGH.store)?.and(guest.listen(HostPorts::FIRST.store)?);
        self.gate.reopen();
        let gate = self.gate.clone();
        let served = AbortOnDropHandle::new(tokio::spawn(async move { gate.serve(listener, token).await }));
        self.set(Boot { in_use: true, why_not: None, kept: None, _served: Some(served) });
        Ok(())
    }

    /// Call it before a connection is served. While the returned value exists, the guest may rely on the host's store.
    pub async fn enter(self: &Arc<Self>, agent: Option<&Arc<dyn GuestAgent>>) -> Result<Option<Arc<Hold>>, Report> {
        // The share is only used if an agent confirms it.
        let Some(agent) = agent.filter(|_| self.boot().in_use) else { return Ok(None) };
        let entered = async {
            let Some(hold) = self.hold(agent).await? else { return Ok(None) };
            let expected = self.gate.trusted_paths().into_iter().take(SAMPLE).collect();
            agent.ask(Ask::FreshView { expected }).await?;
            Ok(Some(hold))
        };
        match entered.await {
            Ok(hold) => Ok(hold),
            Err(report) => self.leave(&**agent, &report).await.map(|()| None),
        }
    }

    /// Releases what is held only for the guest, unless it is used at this moment: by a connection, or by a build.
    pub fn rest_if(&self, unused: impl FnOnce() -> bool) {
        let kept = {
            // A connection takes what it needs under the same lock, and has its lease by then.
            let mut boot = self.boot();
            if unused() { boot.kept.take() } else { None }
        };
        drop(kept);
    }

    /// The present session, or a new one. None if the guest has stopped using the host's store meanwhile.
    async fn hold(self: &Arc<Self>, agent: &Arc<dyn GuestAgent>) -> Result<Option<Arc<Hold>>, Report> {
        let mut current = self.hold.lock().await;
        if !self.boot().in_use {
            return Ok(None);
        }
        if let Some(hold) = current.upgrade() {
            if hold.session().is_lost() {
                hold.renew(self.open(&**agent).await?);
            }
            self.boot().kept = Some(Arc::clone(&hold));
            return Ok(Some(hold));
        }
        let released = CancellationToken::new();
        let session = Mutex::new(Arc::new(self.open(&**agent).await?));
        let hold = Arc::new(Hold { session, _released: released.clone().drop_guard() });
        *current = Arc::downgrade(&hold);
        self.boot().kept = Some(Arc::clone(&hold));
        tokio::spawn(Arc::clone(self).keep(Arc::downgrade(&hold), released, Arc::clone(agent)));
        Ok(Some(hold))
    }

    /// Opens a session, and makes the guest forget vanished paths.
    async fn open(&self, agent: &dyn GuestAgent) -> Result<Session, Report> {
        let session = self.gate.open_session().await?;
        if !session.vanished.is_empty() {
            tracing::info!(machine = %self.name, paths = session.vanished.len(), "the guest forgets what the host has lost");
        }
        for paths in batches(&session.vanished) {
            agent.ask(Ask::Forget { paths: paths.to_vec() }).await?;
            blocking(|| self.gate.forgotten(paths))?;
        }
        Ok(session)
    }

    /// Renews a session that is lost while the guest is used, for instance because the host's daemon restarted.
    async fn keep(self: Arc<Self>, hold: Weak<Hold>, released: CancellationToken, agent: Arc<dyn GuestAgent>) {
        let mut failures = 0;
        while let Some(session) = hold.upgrade().map(|hold| hold.session()) {
            tokio::select! {
                () = session.lost() => drop(session),
                () = released.cancelled() => return,
            }
            let alone = self.hold.lock().await;
            let Some(held) = hold.upgrade() else { return };
            // A new connection may have renewed it meanwhile.
            let opened = if held.session().is_lost() { self.open(&*agent).await.map(Some) } else { Ok(None) };
            match opened {
                Ok(session) => {
                    session.into_iter().for_each(|session| held.renew(session));
                    failures = 0;
                }
                Err(_) if failures < SEEKS => {
                    failures += 1;
                    drop((alone, held));
                    sleep(SEEK).await;
                }
                Err(report) => {
                    drop(alone);
                    if let Err(report) = self.leave(&*agent, &report).await {
                        tracing::error!(machine = %self.name, "{report}");
                    }
                    return;
                }
            }
        }
    }

    /// Stops using the host's store: from now on this guest copies.
    async fn leave(&self, agent: &dyn GuestAgent, cause: &Report) -> Result<(), Report> {
        let _alone = self.hold.lock().await;
        if !self.boot().in_use {
            return Ok(());
        }
        // Logs a warning, once; the status keeps showing the reason.
        self.gate.close(&cause.message);
        let left = agent.ask(Ask::LeaveStore).await;
        left.map_err(|report| {
            let message =
                format!("the guest could not stop using the host's store: {report}; it had to, because {cause}");
            Report::new(Kind::Guest, message).hint("see why: darwin-vz-nix logs --console")
        })?;
        blocking(|| self.gate.forget_all())?;
        self.set(Boot { why_not: Some(cause.message.clone()), ..Boot::default() });
        Ok(())
    }

    /// State for the status display.
    pub fn status(&self, copied_bytes: u64) -> StoreStatus {
        let figures = self.gate.figures();
        let sharing = match figures.closed.or_else(|| self.boot().why_not.clone()) {
            Some(why) => StoreSharing::Left { why },
            None => StoreSharing::On,
        };
        StoreStatus {
            sharing,
            shared_paths: figures.shared_paths,
            shared_bytes: figures.shared_bytes,
            copied_bytes,
            refused: figures.refused.into_iter().map(|(path, why)| RefusedPath { path, why }).collect(),
        }
    }

    fn boot(&self) -> std::sync::MutexGuard<'_, Boot> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, boot: Boot) {
        *self.boot() = boot;
    }
}

impl Hold {
    fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn renew(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(session);
    }
}

/// Splits a list into parts that fit into a line of the agent protocol.
fn batches(mut paths: &[String]) -> impl Iterator<Item = &[String]> {
    std::iter::from_fn(move || {
        // Two quotation marks and a comma each, and some space for the rest of the line.
        let mut room = MAX_LINE - 256;
        let fits = |path: &&String| {
            let left = room.checked_sub(path.len() + 3);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let (batch, rest) = paths.split_at(paths.iter().take_while(fits).count());
        paths = rest;
        (!batch.is_empty()).then_some(batch)
    })
}
